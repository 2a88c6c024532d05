"""Tasks: submit, list, read, cancel."""

import re
from typing import Annotated, Any, Final, cast, get_args

from aiohttp import web
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access, query, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, CONFIG, HEAD, INTAKE, STREAMS
from fetchmld.api.head import Head, TaskQuery
from fetchmld.api.validation import validate
from fetchmld.core.errors import FetchmlError, Invalid, NotFound
from fetchmld.core.model import OUTPUT_TAIL_BYTES, PRIORITY_DEFAULT, TaskId, TaskStatus, TaskView

LIST_DEFAULT: Final = 50
_STATUSES: Final = cast(tuple[TaskStatus, ...], get_args(TaskStatus))
_TASK_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@with_config(ConfigDict(extra="forbid", strict=True))
class SetPriority(TypedDict):
    """The body of PATCH .../priority."""

    priority: Annotated[int, Field(ge=1, le=10)]


_SET_PRIORITY: Final[TypeAdapter[SetPriority]] = TypeAdapter(SetPriority)


async def create(request: web.Request) -> web.Response:
    """POST /v1/tasks: 201 once the task is on disk."""
    body = await read_object(request)
    head, caller = request.app[HEAD], request[CALLER]
    asked = request.app[INTAKE].task_request(body)
    access.check_priority(caller, asked.get("priority", PRIORITY_DEFAULT), request.app[CONFIG].user_priority_max)
    if experiment_id := asked.get("experiment_id"):
        await _check_experiment(request, experiment_id)
    for needed in asked.get("depends_on", ()):
        await _check_dependency(request, needed["task_id"])
    (view,) = await head.submit(caller, [asked])
    return reply(wire.task(view), 201, {"Location": f"/v1/tasks/{view['id']}"})


async def list_(request: web.Request) -> web.Response:
    """GET /v1/tasks: newest first. Who may not see all sees their own."""
    caller = request[CALLER]
    found = _query_of(request)
    if not access.sees_all(caller) and found.user_id != caller.user_id:
        return reply({"tasks": [], "total": 0, "limit": found.limit, "offset": found.offset})
    page = await request.app[HEAD].tasks(found)
    redacted = access.is_redacted(caller)
    return reply(
        {
            "tasks": [wire.task(view, redacted=redacted) for view in page["tasks"]],
            "total": page["total"],
            "limit": found.limit,
            "offset": found.offset,
        }
    )


async def read(request: web.Request) -> web.Response:
    """GET /v1/tasks/{taskId}: now, or with `wait_s` once it has ended."""
    wait_s = query.seconds(request.query, "wait_s")
    with_output = query.flag(request.query, "output", True)
    view = await visible(request)
    if wait_s > 0 and not view["ended_at"]:
        with request.app[STREAMS].one_more():
            view = access.seen(request[CALLER], view["id"], await request.app[HEAD].wait(TaskId(view["id"]), wait_s))
    redacted = access.is_redacted(request[CALLER])
    out = wire.task(view, redacted=redacted)
    if with_output and not redacted and view["attempt"] > 0:
        await _add_output(out, request.app[HEAD], view)
    return reply(out)


async def explain(request: web.Request) -> web.Response:
    """GET /v1/tasks/{taskId}/explain: why it is not running, and when it will be."""
    view = await visible(request)
    found = await request.app[HEAD].explain(TaskId(view["id"]))
    return reply(wire.ended_explanation(view) if found is None else wire.explanation(found, request[CALLER]))


async def set_priority(request: web.Request) -> web.Response:
    """PATCH /v1/scheduler/jobs/{jobId}/priority, of a queued or a running task."""
    given: SetPriority = validate(_SET_PRIORITY, await read_object(request))
    view = await visible(request, "jobId")
    caller = request[CALLER]
    access.check_priority(caller, given["priority"], request.app[CONFIG].user_priority_max)
    return reply(wire.task(await request.app[HEAD].set_priority(caller, TaskId(view["id"]), given["priority"])))


async def delete(request: web.Request) -> web.Response:
    """DELETE /v1/tasks/{taskId}: cancels a live task, takes an ended one out of the listings."""
    view = await visible(request)
    await request.app[HEAD].cancel(request[CALLER], TaskId(view["id"]))
    return web.Response(status=204)


async def visible(request: web.Request, name: str = "taskId") -> TaskView:
    """The task that the path's part `name` names, if the caller may know of it. Raises NotFound."""
    task_id = request.match_info[name]
    if not _TASK_ID.fullmatch(task_id):
        raise access.no_such_task(task_id)
    return access.seen(request[CALLER], task_id, await request.app[HEAD].task(TaskId(task_id)))


def _query_of(request: web.Request) -> TaskQuery:
    given, caller = request.query, request[CALLER]
    limit, offset = query.page(given, LIST_DEFAULT)
    nodes = query.whole(given, "node_count", 0, 1, 4096)
    own = None if access.sees_all(caller) else caller.user_id
    return TaskQuery(
        status=query.choice(given, "status", _STATUSES),
        user_id=query.text(given, "user_id") or own,
        node_count=nodes or None,
        reservation_id=query.text(given, "reservation_id"),
        plugins=query.plugins(given),
        limit=limit,
        offset=offset,
    )


async def _check_experiment(request: web.Request, experiment_id: str) -> None:
    caller = request[CALLER]
    for found in await request.app[HEAD].experiments():
        if found["id"] == experiment_id and (access.sees_all(caller) or found["user_id"] == caller.user_id):
            return
    raise Invalid(f"experiment_id: there is no experiment {experiment_id!r}")


async def _check_dependency(request: web.Request, task_id: str) -> None:
    """A task may depend on those that its submitter may know of."""
    caller, found = request[CALLER], await request.app[HEAD].task(TaskId(task_id))
    if found is None or not (access.sees_all(caller) or found["user_id"] == caller.user_id):
        raise Invalid(f"depends_on: there is no task {task_id!r}")


async def _add_output(out: dict[str, Any], head: Head, view: TaskView) -> None:
    """The last 64 KiB of the log as text. A log that cannot be reached now does not hide the task."""
    try:
        chunk = await head.logs(view, 0, OUTPUT_TAIL_BYTES, 0.0)
        if chunk.size > chunk.offset + len(chunk.data):
            chunk = await head.logs(view, chunk.size - OUTPUT_TAIL_BYTES, OUTPUT_TAIL_BYTES, 0.0)
    except FetchmlError as error:
        if isinstance(error, NotFound) or error.status >= 500:
            return
        raise
    out["output"] = chunk.data.decode("utf-8", "replace")
