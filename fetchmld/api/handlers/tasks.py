"""Tasks: submit, list, read, cancel."""

import asyncio
import re
from typing import Annotated, Any, Final, cast, get_args

from aiohttp import web
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access, query, wire
from fetchmld.api.answers import error_body, reply
from fetchmld.api.body import read_list, read_object
from fetchmld.api.context import ADMISSION, CALLER, CONFIG, HEAD, STREAMS, TRACE
from fetchmld.api.head import TaskQuery
from fetchmld.api.idempotency import REPLAYED, UnderWay, intent_of
from fetchmld.api.outputs import add_output
from fetchmld.api.validation import validate
from fetchmld.core.errors import Conflict, FetchmlError, Invalid, Repeated
from fetchmld.core.model import Intent, TaskId, TaskRequest, TaskStatus, TaskView

LIST_DEFAULT: Final = 50
NODES_MAX: Final = 4096  # that a task can have
BATCH_BYTES_MAX: Final = 16 * 2**20
BATCH_ITEMS_MAX: Final = 10_000
BATCH_SLICE: Final = 50  # items that are looked at in one go
_STATUSES: Final = cast(tuple[TaskStatus, ...], get_args(TaskStatus))
_Accepted = tuple[TaskRequest, Intent | None]
_TASK_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@with_config(ConfigDict(extra="forbid", strict=True))
class SetPriority(TypedDict):
    """The body of PATCH .../priority."""

    priority: Annotated[int, Field(ge=1, le=10)]


_SET_PRIORITY: Final[TypeAdapter[SetPriority]] = TypeAdapter(SetPriority)


async def create(request: web.Request) -> web.Response:
    """POST /v1/tasks: 201 once the task is on disk."""
    body = await read_object(request)
    with UnderWay(request, "tasks") as scope:
        asked = await request.app[ADMISSION].accept(request[CALLER], body, set())
        (found,) = await request.app[HEAD].submit(request[CALLER], [asked], [intent_of(scope, body)])
    task = await _made_before(request, found) if isinstance(found, Repeated) else found
    if isinstance(task, FetchmlError):
        raise task
    more = REPLAYED if isinstance(found, Repeated) else {}
    return reply(wire.task(task), 201, {"Location": f"/v1/tasks/{task['id']}", **more})


async def _made_before(request: web.Request, repeated: Repeated) -> TaskView | FetchmlError:
    """The task that the request's Idempotency-Key made, as it is now."""
    task_id = repeated.message
    found = await request.app[HEAD].task(TaskId(task_id))
    return found or Conflict(f"this key made task {task_id}, which was deleted meanwhile; use a new key for another")


async def create_many(request: web.Request) -> web.Response:
    """POST /v1/tasks/batch: an answer for each of a list, in its order, once all that were accepted are on disk."""
    items = await read_list(request, BATCH_BYTES_MAX, BATCH_ITEMS_MAX)
    with UnderWay(request, "tasks/batch") as scope:
        asked = await _accept_many(request, items, scope)
        good = [one for one in asked if not isinstance(one, FetchmlError)]
        requests, intents = [one for one, _ in good], [intent for _, intent in good]
        found = iter(await request.app[HEAD].submit(request[CALLER], requests, intents) if good else ())
    outcomes = [one if isinstance(one, FetchmlError) else next(found) for one in asked]
    settled = [await _made_before(request, one) if isinstance(one, Repeated) else one for one in outcomes]
    return reply([_outcome(request, one) for one in settled])


async def _accept_many(request: web.Request, items: list[Any], scope: str) -> list[_Accepted | FetchmlError]:
    asked: list[_Accepted | FetchmlError] = []
    known: set[str] = set()
    for place, item in enumerate(items):
        found = await request.app[ADMISSION].try_accept(request[CALLER], item, known)
        asked.append(found if isinstance(found, FetchmlError) else (found, intent_of(scope, item, place)))
        if len(asked) % BATCH_SLICE == 0:
            await asyncio.sleep(0)  # others have their turn
    return asked


def _outcome(request: web.Request, one: TaskView | FetchmlError) -> dict[str, Any]:
    if isinstance(one, FetchmlError):
        return {"status": one.status, "error": error_body(one, request[TRACE])}
    return {"status": 201, "task": wire.task(one)}


async def list_(request: web.Request) -> web.Response:
    """GET /v1/tasks: newest first. Who may not see all sees their own."""
    caller = request[CALLER]
    found = _query_of(request)
    if not access.sees_all(caller) and found.user_id != caller.user_id:
        return reply({"tasks": [], "total": 0, "limit": found.limit, "offset": found.offset})
    page = await request.app[HEAD].tasks(found)
    redacted, base = access.is_redacted(caller), str(request.url.origin())
    return reply(
        {
            "tasks": [wire.task(view, redacted=redacted, listed=True, base=base) for view in page["tasks"]],
            "total": page["total"],
            "limit": found.limit,
            "offset": found.offset,
        }
    )


async def read(request: web.Request) -> web.Response:
    """GET /v1/tasks/{taskId}: now, with `wait_s` once it has ended, with `at` as it was."""
    wait_s = query.seconds(request.query, "wait_s")
    with_output = query.flag(request.query, "output", True)
    if (at_us := query.instant_us(request.query, "at")) is not None:
        return await _read_at(request, at_us)
    view = await visible(request)
    if wait_s > 0 and not view["ended_at"]:
        with request.app[STREAMS].one_more(request):
            view = access.seen(request[CALLER], view["id"], await request.app[HEAD].wait(TaskId(view["id"]), wait_s))
    redacted = access.is_redacted(request[CALLER])
    base = str(request.url.origin()) if "plugin_configs" in view["request"] else ""  # only links to plugins need it
    out = wire.task(view, redacted=redacted, base=base)
    if with_output and not redacted:
        await add_output(out, request.app[HEAD], view)
    return reply(out)


async def _read_at(request: web.Request, at_us: int) -> web.Response:
    """The task as it was at a moment. Whoever may not know of it now, may not know of it then."""
    task_id, caller = request.match_info["taskId"], request[CALLER]
    if not _TASK_ID.fullmatch(task_id):
        raise access.no_such_task(task_id)
    view = access.seen(caller, task_id, await request.app[HEAD].task_at(TaskId(task_id), at_us))
    return reply(wire.task(view, redacted=access.is_redacted(caller)))


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
    nodes = query.clamped(given, "node_count", 0, 1, NODES_MAX + 1)
    if given.get("at") and given.get("array_id"):
        raise Invalid("at: the elements of an array are not listed as they were; ask for each by its id")
    own = None if access.sees_all(caller) else caller.user_id
    return TaskQuery(
        status=query.choice(given, "status", _STATUSES),
        user_id=query.text(given, "user_id") or own,
        node_count=nodes or None,
        reservation_id=query.text(given, "reservation_id"),
        experiment_id=query.text(given, "experiment_id"),
        plugins=query.plugins(given),
        at_us=query.instant_us(given, "at"),
        array_id=cast("TaskId | None", query.text(given, "array_id")),
        limit=limit,
        offset=offset,
    )
