"""Tasks: submit, list, read, cancel."""

import asyncio
import re
from typing import Annotated, Any, Final, cast, get_args

from aiohttp import web
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access, query, wire
from fetchmld.api.answers import error_body, reply
from fetchmld.api.attempts import of_attempt
from fetchmld.api.body import as_object, read_list, read_object
from fetchmld.api.context import CALLER, CONFIG, HEAD, INTAKE, STREAMS, TRACE
from fetchmld.api.head import Head, TaskQuery
from fetchmld.api.idempotency import REPLAYED, intent_of, under_way
from fetchmld.api.validation import validate
from fetchmld.core.errors import BadRequest, Conflict, FetchmlError, Invalid, NotFound, Repeated
from fetchmld.core.model import OUTPUT_TAIL_BYTES, PRIORITY_DEFAULT, Intent, TaskId, TaskRequest, TaskStatus, TaskView

LIST_DEFAULT: Final = 50
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
    with under_way(request, "tasks") as scope:
        asked = await accept(request, body, set())
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
    with under_way(request, "tasks/batch") as scope:
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
        asked.append(await _accept_one(request, item, known, intent_of(scope, item, place)))
        if len(asked) % BATCH_SLICE == 0:
            await asyncio.sleep(0)  # others have their turn
    return asked


async def _accept_one(
    request: web.Request, item: Any, known: set[str], intent: Intent | None
) -> _Accepted | FetchmlError:
    try:
        return await accept(request, as_object(item), known), intent
    except FetchmlError as error:
        if error.status >= 500:
            raise
        return error


def _outcome(request: web.Request, one: TaskView | FetchmlError) -> dict[str, Any]:
    if isinstance(one, FetchmlError):
        return {"status": one.status, "error": error_body(one, request[TRACE])}
    return {"status": 201, "task": wire.task(one)}


async def accept(request: web.Request, body: dict[str, Any], known: set[str]) -> TaskRequest:
    """What `body` asks for, if the caller may. `known`: experiments, snapshots and tasks that were looked up already."""
    caller = request[CALLER]
    asked = request.app[INTAKE].task_request(body)
    access.check_priority(caller, asked.get("priority", PRIORITY_DEFAULT), request.app[CONFIG].user_priority_max)
    if (experiment_id := asked.get("experiment_id")) and experiment_id not in known:
        await _check_experiment(request, experiment_id)
        known.add(experiment_id)
    if (snapshot_id := asked.get("snapshot_id")) and snapshot_id not in known:
        if not await request.app[HEAD].code.has(caller, snapshot_id):
            raise Invalid(f"snapshot_id: there is no snapshot {snapshot_id!r}; `fetchmld snapshots push DIR` makes one")
        known.add(snapshot_id)
    if "image" in asked and "image" not in known:
        await check_containers(request)
        known.add("image")
    for task_id in {needed["task_id"] for needed in asked.get("depends_on", ())} - known:
        await _check_dependency(request, task_id)
        known.add(task_id)
    return asked


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
    if (at_us := query.instant_us(request.query, "at")) is not None:
        return await _read_at(request, at_us)
    wait_s = query.seconds(request.query, "wait_s")
    with_output = query.flag(request.query, "output", True)
    view = await visible(request)
    if wait_s > 0 and not view["ended_at"]:
        with request.app[STREAMS].one_more(request):
            view = access.seen(request[CALLER], view["id"], await request.app[HEAD].wait(TaskId(view["id"]), wait_s))
    redacted = access.is_redacted(request[CALLER])
    out = wire.task(view, redacted=redacted, base=str(request.url.origin()))
    if with_output and not redacted and view["attempt"] > 0:
        await _add_output(out, request.app[HEAD], of_attempt(view))
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
    nodes = query.whole(given, "node_count", 0, 1, 4096)
    if "at" in given and "array_id" in given:
        raise BadRequest("at: the elements of an array are not listed as they were; ask for each by its id")
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


async def _check_experiment(request: web.Request, experiment_id: str) -> None:
    caller = request[CALLER]
    for found in await request.app[HEAD].experiments():
        if found["id"] == experiment_id and access.sees(caller, found):
            if found["status"] == "archived":
                raise Conflict(f"experiment_id: experiment {experiment_id} is archived; it takes no more tasks")
            return
    raise Invalid(f"experiment_id: there is no experiment {experiment_id!r}")


async def check_containers(request: web.Request) -> None:
    """An image needs a worker that can run one."""
    workers = await request.app[HEAD].workers()
    if not any(one["detail"].get("containers") for one in workers if one["status"] != "offline"):
        raise Invalid("image: no worker here can run one; that takes podman, docker or apptainer on the worker")


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
