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
    """GET /v1/tasks/{taskId}/artifacts/{path}: the file, as it was left; with `Range` a part of it."""
    entry = await _entry(request)
    begin, end = _range(request, entry)
    chunks = request.app[HEAD].artifact(entry, begin)
    first = await anext(chunks, b"")  # before the status line, so that a missing file is still a clean error
    answer = web.StreamResponse(
        status=200 if end - begin == entry["bytes"] else 206, headers=_describe(entry, begin, end)
    )
    with request.app[STREAMS].one_more(request):
        await answer.prepare(request)
        left = end - begin
        await answer.write(first[:left])
        left -= len(first[:left])
        async for chunk in chunks:
            if not left:
                break
            await answer.write(chunk[:left])
            left -= len(chunk[:left])
        if left:
            raise Internal(f"artifact {entry['hash']}: {left} of {end - begin} bytes are not there")
        await answer.write_eof()
    return answer


def _range(request: web.Request, entry: ArtifactEntry) -> tuple[int, int]:
    """The first byte that is wanted, and the one behind the last. The whole file, where `If-Range` names another one."""
    size = entry["bytes"]
    if request.headers.get("If-Range", _etag(entry)) != _etag(entry):
        return 0, size
    try:
        wanted = request.http_range
    except ValueError:
        return 0, size  # in a unit or a form that we do not know: ignored, as RFC 9110 has it
    begin, end, _ = wanted.indices(size)
    if (wanted.start, wanted.stop) == (None, None):
        return 0, size
    if begin >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    return begin, end


async def _entry(request: web.Request) -> ArtifactEntry:
    view, path = await visible(request), request.match_info["path"]
    for entry in await request.app[HEAD].artifacts(view):
        if entry["path"] == path:
            return entry
    raise NotFound(f"task {view['id']} left no file {path[:256]!r}")


def _etag(entry: ArtifactEntry) -> str:
    return f'"{entry["hash"]}"'


def _describe(entry: ArtifactEntry, begin: int, end: int) -> dict[str, str]:
    name = quote(entry["path"].rpartition("/")[2], safe="")
    part = {"Content-Range": f"bytes {begin}-{end - 1}/{entry['bytes']}"} if end - begin != entry["bytes"] else {}
    return {
        **_HEADERS,
        **part,
        "Content-Length": str(end - begin),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "ETag": _etag(entry),
        "Accept-Ranges": "bytes",
    }
