"""The queue's numbers, the scheduler's status, and the workers."""

import asyncio
import time

from aiohttp import web

from fetchmld.api import access, wire
from fetchmld.api.answers import reply
from fetchmld.api.context import CALLER, HEAD
from fetchmld.api.head import Head
from fetchmld.core.errors import NotFound
from fetchmld.core.model import TaskId, WorkerView


async def queue(request: web.Request) -> web.Response:
    """GET /v1/queue."""
    head = request.app[HEAD]
    return reply(wire.queue_stats(await head.counts(), await head.ended()))


async def status(request: web.Request) -> web.Response:
    """GET /v1/scheduler/status."""
    head = request.app[HEAD]
    return reply(wire.scheduler_status(await head.counts(), await head.ended(), time.time()))


async def list_workers(request: web.Request) -> web.Response:
    """GET /v1/scheduler/workers."""
    views = await request.app[HEAD].workers()
    return reply([wire.worker(view, await _visible_tasks(request, view)) for view in views])


async def read_worker(request: web.Request) -> web.Response:
    """GET /v1/scheduler/workers/{workerId}."""
    worker_id = request.match_info["workerId"]
    for view in await request.app[HEAD].workers():
        if view["id"] == worker_id:
            return reply(wire.worker(view, await _visible_tasks(request, view)))
    raise NotFound(f"there is no worker {worker_id[:64]!r}")


async def drain(request: web.Request) -> web.Response:
    """DELETE /v1/scheduler/workers/{workerId}: nothing new goes there, what runs there runs out. Twice is the same."""
    await request.app[HEAD].drain(request[CALLER], request.match_info["workerId"], True)
    return web.Response(status=204)


async def undrain(request: web.Request) -> web.Response:
    """POST /v1/scheduler/workers/{workerId}/undrain: it takes work again."""
    view = await request.app[HEAD].drain(request[CALLER], request.match_info["workerId"], False)
    return reply(wire.worker(view, await _visible_tasks(request, view)))


async def release_gpu(request: web.Request) -> web.Response:
    """POST /v1/scheduler/workers/{workerId}/gpus/{index}/release: a GPU in quarantine is well again."""
    text = request.match_info["index"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise NotFound(f"there is no GPU {text[:64]!r}: it is a number, as `workers` shows it")
    view = await request.app[HEAD].release_gpu(request[CALLER], request.match_info["workerId"], int(text))
    return reply(wire.worker(view, await _visible_tasks(request, view)))


async def _visible_tasks(request: web.Request, view: WorkerView) -> list[str]:
    """The worker's active tasks that the caller may know of: all, or their own."""
    caller, head = request[CALLER], request.app[HEAD]
    if access.sees_all(caller):
        return view["active_tasks"]
    owned = await asyncio.gather(*(_is_owned(head, task_id, caller.user_id) for task_id in view["active_tasks"]))
    return [task_id for task_id, is_own in zip(view["active_tasks"], owned, strict=True) if is_own]


async def _is_owned(head: Head, task_id: str, user_id: str) -> bool:
    view = await head.task(TaskId(task_id))
    return view is not None and view["user_id"] == user_id
