"""Finding and ending processes: by pidfd, never by a number that may meanwhile be somebody else's.

A process of ours is known by `RAY_TMPDIR` in its first environment, which names `ray` in the run directory. The runner and
the tasks do not carry it, so nothing here can hit them.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

REAP_ROUNDS_MAX: Final = 5  # a dying raylet may still start a worker; each round finds what the last one left
REAP_WAIT_S: Final = 2.0
MARK: Final = "RAY_TMPDIR"


def temp_dir(run_dir: Path) -> Path:
    """What Ray may do with as it likes: its drivers open this directory to everybody, so it is not the run directory."""
    return run_dir / "ray"


def marked(run_dir: Path) -> list[int]:
    """The pids of all live processes, but us, that were started for `run_dir`."""
    mine = {os.getpid(), os.getppid()}
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid not in mine and _carries(pid, run_dir)]


def _carries(pid: int, run_dir: Path) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={temp_dir(run_dir)}".encode() in file.read().split(b"\0")
    except OSError:  # it ended, or is another user's
        return False


def kill_marked(run_dir: Path) -> int:
    """Kill every process of `run_dir` and wait for their ends; how many there were. Raises TimeoutError if some live on."""
    killed = 0
    for _round in range(REAP_ROUNDS_MAX):
        found = marked(run_dir)
        if not found:
            return killed
        killed += len(found)
        _kill_all(found, run_dir)
    left = marked(run_dir)
    if left:
        raise TimeoutError(f"processes {left} of {run_dir} do not end, even by SIGKILL; look at their state in ps")
    return killed


def _kill_all(pids: list[int], run_dir: Path) -> None:
    pidfds = []
    for pid in pids:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            pidfds.append(pidfd)
            if _carries(pid, run_dir):  # asked again now that the number cannot change hands
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_for_all(pidfds, REAP_WAIT_S)
    for pidfd in pidfds:
        os.close(pidfd)


def wait_for_all(pidfds: list[int], timeout_s: float) -> bool:
    """Wait for the end of all; False where some live on after `timeout_s`."""
    left, deadline = set(pidfds), time.monotonic() + timeout_s
    while left:
        ended = select.select(list(left), [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ended:
            return False
        left -= set(ended)
    return True


@contextmanager
def free_ports(count: int, host: str) -> Iterator[list[int]]:
    """`count` ports of `host` that nobody holds, kept from others until the block ends.

    Between the end of the block and the use by somebody else another process may take one: be ready to try again.
    """
    sockets = [socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) for _ in range(count)]
    try:
        for held in sockets:
            held.bind((host, 0))
        yield [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
