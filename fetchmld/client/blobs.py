"""The bytes of snapshots, to the daemon and back."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import BinaryIO, Final

from fetchmld.client.calls import Answer, Call, api_error, path, read_nothing
from fetchmld.client.line import Line

SYNCED_BYTES_PER_S: Final = 10e6  # what a slow disk takes: an upload is answered once it is on the disk


async def put_blob(line: Line, digest: str, content: BinaryIO, size: int) -> None:
    """Send the next `size` bytes of `content`, whose BLAKE3 is `digest`."""
    target = path("/v1/blobs/{}", digest)
    headers = line.headers({"Content-Type": "application/octet-stream", "Content-Length": str(size)})
    timeout_s = line.timeout_s + size / SYNCED_BYTES_PER_S
    Call("PUT", target, read_nothing).result(await line.transport.ask("PUT", target, headers, content, timeout_s))


async def blob(line: Line, digest: str) -> AsyncGenerator[bytes]:
    """The content of a blob that the caller sent, piece by piece."""
    headers = line.headers({"Accept": "*/*"})
    pieces = line.transport.stream(path("/v1/blobs/{}", digest), headers, line.timeout_s)
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Answer):
                raise api_error(piece)
            yield piece
