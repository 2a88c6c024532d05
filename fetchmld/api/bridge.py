"""A client's connection taken over as it is: bytes to and from a socket until either side ends.

What has been read and cannot be passed on waits in buffers of a bounded size; beyond them the sender is made to wait. An
idle line is left alone for as long as both ends hold it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any, Final, cast

from aiohttp import web
from multidict import CIMultiDict

PIECE_BYTES: Final = 2**17
HIGH_BYTES: Final = 2**18  # that wait in one direction


class _Inward:
    """What aiohttp hands all the client's bytes to, once the request was an upgrade."""

    def __init__(self, request: web.Request, writer: asyncio.StreamWriter) -> None:
        self._request = request
        self._writer = writer
        self._draining: asyncio.Task[None] | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self._writer.is_closing():
            return True, b""
        self._writer.write(data)
        transport = self._request.transport
        is_full = self._writer.transport.get_write_buffer_size() > HIGH_BYTES
        if is_full and self._draining is None and transport is not None:
            transport.pause_reading()
            self._draining = asyncio.create_task(self._drain(transport))
        return False, b""

    async def _drain(self, transport: asyncio.Transport) -> None:
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
        self._draining = None
        if not transport.is_closing():
            transport.resume_reading()

    def feed_eof(self) -> None:
        self._writer.close()


async def bridge(
    request: web.Request, headers: Mapping[str, str], far: socket.socket, first: bytes = b""
) -> web.StreamResponse:
    """Answer 101 with `headers`, and be nothing but a line to `far`, which is closed at the end. `first`: read already."""
    reader, writer = await asyncio.open_connection(sock=far, limit=PIECE_BYTES)
    answer = web.StreamResponse(status=101, headers=CIMultiDict(headers))
    answer.force_close()
    try:
        await answer.prepare(request)
        request.protocol.keep_alive(False)
        request.protocol.set_parser(cast(Any, _Inward(request, writer)))  # it feeds, and asks for no more
        piece = first
        while piece or (piece := await reader.read(PIECE_BYTES)):
            await answer.write(piece)
            piece = b""
    except ConnectionError:
        pass  # one of the two is gone, which is how it ends
    finally:
        writer.close()
        if request.transport is not None:
            request.transport.close()
    return answer
