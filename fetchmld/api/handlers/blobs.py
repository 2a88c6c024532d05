"""Blobs: the content of the files of snapshots, by hash. Streamed both ways, never whole in memory."""

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from fetchmld.api.context import CALLER, CONFIG, HEAD, STREAMS
from fetchmld.core.errors import BodyTooLarge, Internal, Invalid
from fetchmld.manifest import is_hash

PIECE_BYTES: Final = 2**20
SNAPSHOT: Final = "snapshot_bytes_max"


async def put(request: web.Request) -> web.Response:
    """PUT /v1/blobs/{hash}: 204 once it is on disk. Sending what is there already changes nothing."""
    digest, bytes_max = request.match_info["hash"], request.app[CONFIG].snapshot_bytes_max
    if not is_hash(digest):
        raise Invalid(f"{digest[:80]!r} is no BLAKE3: 64 hexadecimal digits, lower case")
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max, SNAPSHOT)
    await request.app[HEAD].code.put_blob(request[CALLER], digest, pieces_of(request, bytes_max, SNAPSHOT))
    return web.Response(status=204)


async def pieces_of(request: web.Request, bytes_max: int, setting: str = "the limit") -> AsyncIterator[bytes]:
    """The body, in pieces worth a write each. Raises BodyTooLarge, and Stalled where none come for too long."""
    piece, total = bytearray(), 0
    while data := await request.content.readany():
        total += len(data)
        if total > bytes_max:
            raise _too_large(bytes_max, setting)
        piece += data
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _too_large(bytes_max: int, setting: str) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {setting}={bytes_max} bytes")


async def read(request: web.Request) -> web.StreamResponse:
    """GET /v1/blobs/{hash}: one that the caller sent."""
    digest = request.match_info["hash"]
    size, pieces = await request.app[HEAD].code.blob(request[CALLER], digest)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size), "ETag": f'"{digest}"'}
    answer = web.StreamResponse(headers={**headers, "Content-Security-Policy": "default-src 'none'; sandbox"})
    with request.app[STREAMS].one_more(request):
        await answer.prepare(request)
        sent_bytes = 0
        async for piece in pieces:
            await answer.write(piece)
            sent_bytes += len(piece)
        if sent_bytes != size:
            raise Internal(f"blob {digest}: sent {sent_bytes} of {size} bytes")
        await answer.write_eof()
    return answer
