"""What Ray's raylet runs in place of whole interpreters: a script of the standard library, started with -I -S in 20 ms.

Run by path, in one of four roles, each the first argument:

`late`      becomes the command that arrives on its standard input (fields ended by NUL). So a process's pid is known
            before its arguments are: the zygote must know the raylet's pid before the raylet can be started.
`idle`      stands where Ray wants a dashboard agent, and ends with its parent.
`on-demand` `HOST PORT COMMAND...` listens on the port of an agent that is seldom needed; at the first connection it becomes
            that agent. The caller's first try fails and its retry, a second later, is answered.
`worker`    `SOCKET COMMAND...` asks the zygote on SOCKET to become this worker; without a zygote it becomes the command.

It must not import anything but the standard library, and knows nothing of FetchML.
"""

import json
import os
import select
import socket
import sys

ZYGOTE_TIMEOUT_S = 5.0
RUNTIME_ENV_ARGUMENT = "--serialized-runtime-env-context"  # such a worker may want another interpreter: never forked


def main(role: str, arguments: list[str]) -> None:
    if role == "late":
        become_what_is_read()
    elif role == "idle":
        wait_for_parent([])
    elif role == "on-demand":
        wait_and_become(arguments[0], int(arguments[1]), arguments[2:])
    elif role == "worker":
        if not ask_zygote(arguments[0], arguments[1:]):
            os.execv(arguments[1], arguments[1:])
    else:
        sys.exit(f"ray_boot: no role {role!r}")


def become_what_is_read() -> None:
    command = [field.decode() for field in sys.stdin.buffer.read().split(b"\0")[:-1]]
    if not command:
        return  # whoever was to tell us has ended
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execv(command[0], command)


def wait_for_parent(others: list[socket.socket]) -> bool:
    """Wait for the parent's end or for news on one of `others`; True for the latter."""
    parent = os.getppid()
    try:
        pidfd = os.pidfd_open(parent)
    except ProcessLookupError:
        return False
    if os.getppid() != parent:
        return False
    ready = select.select([pidfd, *(other.fileno() for other in others)], [], [])[0]
    os.close(pidfd)
    return pidfd not in ready


def wait_and_become(host: str, port: int, command: list[str]) -> None:
    with socket.create_server((host, port)) as listener:
        wanted = wait_for_parent([listener])
    if wanted:
        os.execv(command[0], command)


def ask_zygote(path: str, command: list[str]) -> bool:
    """Hand our arguments, environment, directory and standard streams to the zygote; True once a fork of it has them."""
    if any(argument.startswith(RUNTIME_ENV_ARGUMENT) for argument in command):
        return False
    wish = {"argv": command[1:], "env": dict(os.environ), "cwd": os.getcwd()}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(ZYGOTE_TIMEOUT_S)
            peer.connect(path)
            socket.send_fds(peer, [json.dumps(wish).encode()], [0, 1, 2])
            return bool(peer.recv(16))
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
