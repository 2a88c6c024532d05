"""Objects by the BLAKE3 of their bytes: what machines that joined bring to the head and take from it.

For the machines alone: no user is asked for here, so nothing could be kept from those whose it is not.
"""

from typing import Final

from aiohttp import web

from fetchmld.api.context import HEAD, STREAMS
from fetchmld.api.handlers.blobs import pieces_of
from fetchmld.core.errors import NotFound

BYTES_MAX: Final = 64 * 2**30  # as much as the artifacts of one task may have
_HEADERS: Final[dict[str, str]] = {
    "Content-Type": "application/octet-stream",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


async def read(request: web.Request) -> web.StreamResponse:
    """GET /v1/objects/{hash}: its bytes; with `If-None-Match: "hash"` only 304, where it is there."""
    objects, digest = request.app[HEAD].objects, request.match_info["hash"]
    etag = {"ETag": f'"{digest}"'}
    if any(tag.value == digest for tag in request.if_none_match or ()):
        if await objects.has(digest):
            return web.Response(status=304, headers=etag)
        raise NotFound(f"no object {digest} is stored here")
    headers = {**_HEADERS, **etag, "Content-Length": str(await objects.size(digest))}
    answer = web.StreamResponse(headers=headers)
    with request.app[STREAMS].one_more(request):
        await answer.prepare(request)
        async for piece in objects.pieces(digest):
            await answer.write(piece)
        await answer.write_eof()
    return answer


async def put(request: web.Request) -> web.Response:
    """PUT /v1/objects/{hash}: 204 once it is on the disk; 422 where the bytes have another hash. Twice is the same."""
    with request.app[STREAMS].one_more(request):
        await request.app[HEAD].objects.put(request.match_info["hash"], pieces_of(request, BYTES_MAX))
    return web.Response(status=204)
