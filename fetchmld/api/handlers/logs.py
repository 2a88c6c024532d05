"""A task's log: bytes as they are, whole or followed, or as server-sent events whose ids are byte offsets."""

import asyncio
import codecs
from collections.abc import AsyncIterator
from typing import Final

import orjson
from aiohttp import web

from fetchmld.api import query
from fetchmld.api.attempts import of_attempt
from fetchmld.api.context import HEAD, STREAMS
from fetchmld.api.handlers.tasks import visible
from fetchmld.api.head import LogChunk
from fetchmld.api.streams import KEEP_ALIVE_S, is_gone
from fetchmld.core.errors import BadRequest, NotFound
from fetchmld.core.model import TaskId, TaskView

CHUNK_BYTES: Final = 64 * 1024
QUEUED_POLL_S: Final = 0.2
EVENTS_TYPE: Final = "text/event-stream"
_ATTEMPT_MAX: Final = 10**6


async def read(request: web.Request) -> web.StreamResponse:
    """GET /v1/tasks/{taskId}/logs."""
    offset = query.whole(request.query, "offset", 0, 0, query.OFFSET_MAX)
    attempt = query.whole(request.query, "attempt", 0, 1, _ATTEMPT_MAX)
    as_events = EVENTS_TYPE in request.headers.get("Accept", "")
    follow = query.flag(request.query, "follow", as_events)
    view = await visible(request)
    if "array" in view:
        raise NotFound(f"task {view['id']} is an array and has no log of its own; its elements do: {view['id']}-0")
    if attempt or not follow:  # following, one waits for the next attempt
        view = of_attempt(view, attempt)
    with request.app[STREAMS].one_more(request):
        if as_events:
            return await _as_events(request, view, _resumed(request, offset), follow)
        return await _as_bytes(request, view, offset, follow)


def _resumed(request: web.Request, offset: int) -> int:
    last = request.headers.get("Last-Event-ID")
    if last is None:
        return offset
    if not last.isascii() or not last.isdigit() or int(last[:20]) > query.OFFSET_MAX:
        raise BadRequest(f"Last-Event-ID {last[:64]!r}: must be the byte offset that an event's id gave")
    return int(last)


async def _as_bytes(request: web.Request, view: TaskView, offset: int, follow: bool) -> web.StreamResponse:
    chunks = _chunks(request, view, offset, follow)
    first = await anext(chunks)
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Log-Size": str(first.size)}
    if not follow and first.offset + len(first.data) >= first.size:
        return web.Response(body=first.data, headers=headers)
    answer = web.StreamResponse(headers=headers)
    await answer.prepare(request)
    await answer.write(first.data)
    async for chunk in chunks:
        await answer.write(chunk.data)
    await answer.write_eof()
    return answer


async def _as_events(request: web.Request, view: TaskView, offset: int, follow: bool) -> web.StreamResponse:
    """Each event: `id` the offset after its bytes, `data` {"text": …}; at the end one event named `end`."""
    chunks = _chunks(request, view, offset, follow)
    chunk = await anext(chunks)
    answer = web.StreamResponse(headers={"Content-Type": EVENTS_TYPE})
    await answer.prepare(request)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        text = decoder.decode(chunk.data)
        held_bytes = len(decoder.getstate()[0])  # the start of a character whose rest is yet to come
        offset = chunk.offset + len(chunk.data)
        await answer.write(_event(offset - held_bytes, text) if text else b": waiting\n\n")
        following = await anext(chunks, None)
        if following is None:
            break
        chunk = following
    if rest := decoder.decode(b"", final=True):
        await answer.write(_event(offset, rest))
    await answer.write(b"id: %d\nevent: end\ndata: %s\n\n" % (offset, orjson.dumps({"size": offset})))
    await answer.write_eof()
    return answer


def _event(offset: int, text: str) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (offset, orjson.dumps({"text": text}))


async def _chunks(request: web.Request, view: TaskView, offset: int, follow: bool) -> AsyncIterator[LogChunk]:
    """The log from `offset` on, at least one chunk. Following, an empty chunk says that nothing came for a while."""
    size = -1  # what there was at the start; without following, later bytes are left alone
    while True:
        wait_s = KEEP_ALIVE_S if follow else 0.0
        limit_bytes = CHUNK_BYTES if follow or size < 0 else min(CHUNK_BYTES, size - offset)
        chunk = await request.app[HEAD].logs(view, offset, limit_bytes, wait_s)
        size = max(size, chunk.size) if follow or size < 0 else size
        offset = chunk.offset + len(chunk.data)
        yield chunk
        if (chunk.ended if follow else offset >= size or not chunk.data) or is_gone(request):
            return
        if follow and not chunk.data:
            if not view["assignments"]:
                await asyncio.sleep(QUEUED_POLL_S)  # nowhere yet that could tell us when there is something
            refreshed = await _refreshed(request, view)
            if refreshed is None:
                return
            view = refreshed


async def _refreshed(request: web.Request, view: TaskView) -> TaskView | None:
    """The view to go on with: a queued task may have been started, a running one may have ended and its log moved.

    None where nothing can follow any more. An attempt that is being followed is never left for a newer one.
    """
    found = await request.app[HEAD].task(TaskId(view["id"]))
    if found is None or (found["ended_at"] and not found["assignments"]):
        return None
    if not view["assignments"]:
        return found
    return found if found["ended_at"] and found["attempt"] == view["attempt"] else view
