"""Where a served program listens on its own machine, and how it is reached: `unix:/path` or `tcp:PORT` (loopback).

The program belongs to a user's job: what lies at the path may have been put there to have us, who may reach everything,
speak to somebody else. So whoever listens is asked of the kernel before a byte is sent.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final

PROBE_BYTES_MAX: Final = 64 * 1024
ANYBODY: Final = -1

_PEER = struct.Struct("3i")  # pid, uid, gid


class NotReached(Exception):
    """Nobody listens there, or not who should; says why."""


async def connect(endpoint: str, uid: int = ANYBODY) -> socket.socket:
    """A connection, non-blocking, to a program of the user `uid` (of a unix socket only). Raises `NotReached`."""
    scheme, _, place = endpoint.partition(":")
    sock = socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if scheme == "unix":
            await asyncio.get_running_loop().sock_connect(sock, place)
            _check_peer(sock, uid)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", int(place)))
    except OSError as error:
        sock.close()
        raise NotReached(f"nobody listens at {endpoint}: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _check_peer(sock: socket.socket, uid: int) -> None:
    _, found, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid not in (ANYBODY, found):
        raise NotReached(f"a program of user {found} listens there, not one of user {uid}")


async def probe(
    endpoint: str, path: str, headers: Mapping[str, str] | None = None, uid: int = ANYBODY, timeout_s: float = 5.0
) -> tuple[int, bytes]:
    """GET `path` there: the status, and the body's first 64 KiB. Raises `NotReached`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _probe(endpoint, path, headers or {}, uid)
    except TimeoutError:
        raise NotReached(f"no answer within {timeout_s:g} s") from None
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise NotReached(f"what answers there does not speak HTTP: {error}") from None


async def _probe(endpoint: str, path: str, headers: Mapping[str, str], uid: int) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(sock=await connect(endpoint, uid), limit=PROBE_BYTES_MAX)
    try:
        lines = [f"GET {path} HTTP/1.0", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.partition(b" ")[2][:3])
        body = b""
        while len(body) < PROBE_BYTES_MAX and (piece := await reader.read(PROBE_BYTES_MAX - len(body))):
            body += piece
        return status, body
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def user_of(uid: int) -> int:
    """Whose program it is that was started as `uid` (-1: as we are)."""
    return os.geteuid() if uid < 0 else uid
