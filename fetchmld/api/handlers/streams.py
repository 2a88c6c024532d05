"""Streams: one task, or the whole scheduler, as server-sent events; tasks over a WebSocket.

A stream begins with how things are (`snapshot`) and goes on with what changes. A client that comes back with the id of the
last event it saw gets what it missed instead, also across a restart of ours, and where that is too much `resync`: look at
the lists again, and follow from here.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import WSMsgType, web

from fetchmld.api import access, query, wire
from fetchmld.api.context import CALLER, CONFIG, HEAD, HUB, STREAMS
from fetchmld.api.feed import Follower, Scope, change_frame, frame
from fetchmld.api.handlers.tasks import visible
from fetchmld.api.streams import KEEP_ALIVE_S, is_gone
from fetchmld.core.errors import BadRequest
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import TaskView

EVENTS_TYPE: Final = "text/event-stream"
SUBPROTOCOL: Final = "fetchml.v1"
_MESSAGE_BYTES_MAX: Final = 4096  # a client has nothing to say but pong
_HEARTBEAT_S: Final = 30.0


async def scheduler_status(request: web.Request) -> web.StreamResponse:
    """GET /v1/scheduler/status/stream."""
    scope = _scope(request, with_workers=True)
    last = _last_event_id(request)
    with request.app[STREAMS].one_more(request):
        async with request.app[HUB].follow(scope, "sse") as follower:
            first = await (_snapshot(request, follower) if last is None else _missed(request, follower, last))
            return await _send(request, follower, first)


async def job(request: web.Request) -> web.StreamResponse:
    """GET /v1/scheduler/jobs/{jobId}/stream: until the task has ended. 204 tells a client that saw the end to stop."""
    view = await visible(request, "jobId")
    last = _last_event_id(request)
    if view["status"] in ENDED and last is not None and last >= view["last_seq"]:
        return web.Response(status=204)
    with request.app[STREAMS].one_more(request):
        async with request.app[HUB].follow(_scope(request, view["id"]), "sse") as follower:
            if last is None:
                view = await visible(request, "jobId")
                follower.skip_to(view["last_seq"])
                follower.go_on_from([view])
                first = [frame("sse", "snapshot", {"task": _task(request, view)}, view["last_seq"])]
                first += [_end_of(request, view)] if view["status"] in ENDED else []
            else:
                first = await _missed(request, follower, last)
            return await _send(request, follower, first)


def _end_of(request: web.Request, view: TaskView) -> bytes:
    """The last event of a task that had ended before anybody asked."""
    return frame("sse", "task_complete", {"task": _task(request, view)}, view["last_seq"])


def _task(request: web.Request, view: TaskView) -> dict[str, Any]:
    return wire.task(view, redacted=access.is_redacted(request[CALLER]))


async def websocket(request: web.Request) -> web.StreamResponse:
    """GET /ws: every change of the caller's tasks. Begins with `resync`: list them now, the rest will come.

    `?after=<seq>` resumes after that event instead; `?workers=true` tells of workers and the queue's numbers as well.
    """
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise web.HTTPUpgradeRequired(headers={"Upgrade": "websocket"})
    after = query.whole(request.query, "after", -1, 0, query.OFFSET_MAX)
    socket = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,), heartbeat=_HEARTBEAT_S, max_msg_size=_MESSAGE_BYTES_MAX, compress=False
    )
    with request.app[STREAMS].one_more(request):
        scope = _scope(request, with_workers=query.flag(request.query, "workers", False))
        async with request.app[HUB].follow(scope, "ws") as follower:
            first = [frame("ws", "resync", {}, follower.after)]
            if after >= 0:
                first = await _missed(request, follower, after)
            await socket.prepare(request)
            listening = asyncio.create_task(_listen(socket, follower))
            try:
                await _send_messages(socket, follower, first)
            finally:
                listening.cancel()
                await socket.close()
    return socket


async def _listen(socket: web.WebSocketResponse, follower: Follower) -> None:
    """Reads what the client says, which is pong, until it hangs up."""
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            break
    follower.is_over = True
    follower.wake.set()


async def _send_messages(socket: web.WebSocketResponse, follower: Follower, first: list[bytes]) -> None:
    pieces = first
    while True:
        for piece in pieces:
            await socket.send_frame(piece, WSMsgType.TEXT)
        if follower.is_over and not follower.pending:
            return
        pieces = await follower.take(KEEP_ALIVE_S) or ([] if follower.is_over else [frame("ws", "ping", {})])


def _scope(request: web.Request, task_id: str = "", *, with_workers: bool = False) -> Scope:
    caller = request[CALLER]
    own = "" if task_id or access.sees_all(caller) else caller.user_id
    return Scope(task_id, own, access.is_redacted(caller), with_workers)


def _last_event_id(request: web.Request) -> int | None:
    given = request.headers.get("Last-Event-ID")
    if given is None or given == "":
        return None
    if not given.isascii() or not given.isdigit() or int(given[:20]) > query.OFFSET_MAX:
        raise BadRequest(f"Last-Event-ID {given[:64]!r}: must be the id of an event of this stream")
    return int(given)


async def _snapshot(request: web.Request, follower: Follower) -> list[bytes]:
    head = request.app[HEAD]
    status = wire.scheduler_status(await head.counts(), await head.ended(), time.time())
    workers = [wire.worker(view, []) for view in await head.workers()]
    return [frame("sse", "snapshot", {"status": status, "workers": workers}, max(follower.after, 0))]


async def _missed(request: web.Request, follower: Follower, last: int) -> list[bytes]:
    """What the client has not seen of what was before it came back."""
    scope, framing = follower.scope, follower.framing
    if last >= follower.after:
        follower.skip_to(last)
        return []
    missed = await request.app[HEAD].changes_since(last)
    if missed is None:
        return [frame(framing, "resync", {}, follower.after)]
    told = [change for change in missed if change["seq"] <= follower.after and scope.has(change["task"])]
    follower.go_on_from(change["task"] for change in told)
    return [change_frame(framing, change, scope.redacted) for change in told]


async def _send(request: web.Request, follower: Follower, first: list[bytes]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": EVENTS_TYPE, "X-Accel-Buffering": "no"})
    await answer.prepare(request)
    async for piece in _pieces(request, follower, first):
        await answer.write(piece)
    await answer.write_eof()
    return answer


async def _pieces(request: web.Request, follower: Follower, first: list[bytes]) -> AsyncIterator[bytes]:
    """All that is to be written, a comment where there is nothing, up to the stream's end."""
    limit_s = request.app[CONFIG].stream_max_s or float("inf")
    until = time.monotonic() + limit_s
    pieces = first or [b": resumed\n\n"]
    while True:
        yield (whole := b"".join(pieces))
        is_end = bool(follower.scope.task_id) and b"event: task_complete\n" in whole
        left_s = until - time.monotonic()
        if is_end or left_s <= 0 or is_gone(request) or (follower.is_over and not follower.pending):
            return
        pieces = await follower.take(min(KEEP_ALIVE_S, left_s)) or [b": waiting\n\n"]
