"""What a task left in its output directory: the list, and each file's bytes."""

from typing import Final
from urllib.parse import quote

from aiohttp import web

from fetchmld.api.answers import reply
from fetchmld.api.context import HEAD, STREAMS
from fetchmld.api.handlers.tasks import visible
from fetchmld.api.head import ArtifactEntry
from fetchmld.core.errors import Internal, NotFound

_HEADERS: Final[dict[str, str]] = {
    "Content-Type": "application/octet-stream",
    "Content-Security-Policy": "default-src 'none'; sandbox",  # a job's HTML must never run as ours
}


async def list_(request: web.Request) -> web.Response:
    """GET /v1/tasks/{taskId}/artifacts: path, bytes and hash of each; empty until the task has ended."""
    entries = await request.app[HEAD].artifacts(await visible(request))
    return reply([{"path": e["path"], "bytes": e["bytes"], "hash": e["hash"]} for e in entries])


async def read(request: web.Request) -> web.StreamResponse:
    """GET /v1/tasks/{taskId}/artifacts/{path}: the file, as it was left."""
    entry = await _entry(request)
    chunks = request.app[HEAD].artifact(entry)
    first = await anext(chunks, b"")  # before the status line, so that a missing file is still a clean error
    answer = web.StreamResponse(headers={**_HEADERS, **_describe(entry)})
    with request.app[STREAMS].one_more(request):
        await answer.prepare(request)
        await answer.write(first)
        sent_bytes = len(first)
        async for chunk in chunks:
            await answer.write(chunk)
            sent_bytes += len(chunk)
        if sent_bytes != entry["bytes"]:
            raise Internal(f"artifact {entry['hash']}: sent {sent_bytes} of {entry['bytes']} bytes")
        await answer.write_eof()
    return answer


async def _entry(request: web.Request) -> ArtifactEntry:
    view, path = await visible(request), request.match_info["path"]
    for entry in await request.app[HEAD].artifacts(view):
        if entry["path"] == path:
            return entry
    raise NotFound(f"task {view['id']} left no file {path[:256]!r}")


def _describe(entry: ArtifactEntry) -> dict[str, str]:
    name = quote(entry["path"].rpartition("/")[2], safe="")
    return {
        "Content-Length": str(entry["bytes"]),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "ETag": f'"{entry["hash"]}"',
    }
