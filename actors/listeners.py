"""The sockets that the API listens on: the daemon's, which lends them to each head, so that they outlive it.

While no head is there (a second or two, when one is replaced) connections wait in the kernel's queue instead of being
refused. A head borrows the sockets over a unix socket in the run directory, which carries descriptors (SCM_RIGHTS).
Knows no TLS: whoever accepts brings that.
"""

import asyncio
import contextlib
import errno
import os
import socket
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from actors.data_dir import Refused

BACKLOG: Final = 1024  # connections that wait until somebody accepts them
NAME: Final = "listeners.sock"
SOCKETS_MAX: Final = 32  # that travel at a time; a host has a few addresses
BORROW_TIMEOUT_S: Final = 30.0  # the daemon may be busy with Ray


class Listeners:
    """Open from `listen` to `close`; lent while `lend` runs."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets

    @classmethod
    def listen(cls, host: str, ports: Iterable[int]) -> "Listeners":
        """Listen on every address of `host` and each of `ports`. Raises `Refused` where one cannot be had."""
        listeners = cls([])
        try:
            for port in ports:
                listeners.sockets += _listening(host, port)
        except BaseException:
            listeners.close()
            raise
        return listeners

    async def lend(self, run_dir: Path) -> None:
        """Give a copy of each to whoever asks at `run_dir`, until cancelled. Who may open the socket there may ask."""
        path = run_dir / NAME
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as desk:
            _bind_private(desk, path)
            desk.setblocking(False)
            try:
                while True:
                    head, _ = await asyncio.get_running_loop().sock_accept(desk)
                    with head, contextlib.suppress(OSError):  # it is gone, or the next one asks again
                        socket.send_fds(head, [b"l"], [one.fileno() for one in self.sockets])
            finally:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop listening, once the head that borrowed them has stopped as well."""
        for one in self.sockets:
            one.close()
        self.sockets = []


def borrow(run_dir: Path) -> list[socket.socket]:
    """The daemon's listening sockets, for a head to accept on. Blocks. Raises OSError where nobody lends any."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(BORROW_TIMEOUT_S)
        line.connect(str(run_dir / NAME))
        numbers = array("i")
        room = socket.CMSG_LEN(SOCKETS_MAX * numbers.itemsize)
        said, parts, flags, _ = line.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)  # recv_fds of Python 3.11 drops the flag
    for _level, _type, data in parts:
        numbers.frombytes(data)
    sockets = [socket.socket(fileno=number) for number in numbers]
    if said and not flags & socket.MSG_CTRUNC:
        return sockets
    for one in sockets:
        one.close()
    raise OSError(errno.EIO, "the daemon's listening sockets did not arrive whole", str(run_dir / NAME))


def _bind_private(desk: socket.socket, path: Path) -> None:
    path.unlink(missing_ok=True)  # of a daemon that was killed
    mask = os.umask(0o177)
    try:
        desk.bind(str(path))
    finally:
        os.umask(mask)
    desk.listen()


def _listening(host: str, port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
    except OSError as error:
        for one in sockets:
            one.close()
        raise Refused(_why_not(error, host, port)) from None
    return sockets


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program; stop it, or choose another (--port)"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than we have; choose one from 1024 on (--port)"
    return f"cannot listen on {host} port {port}: {error.strerror}; choose another address (--host)"
