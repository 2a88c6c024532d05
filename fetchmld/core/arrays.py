"""Arrays: many tasks as one. What an element is, what its parameters are, and how the elements' ends become the array's.

One fact submits an array, whatever its size, so the record says once what was asked for. The array is a task that never
starts itself; its elements `<array id>-<index>` are the tasks that do. An element that nobody has named in a fact is
nowhere: `Array` counts it, and `element` makes it from its array whenever somebody asks. The first fact about it (its
start, mostly) makes it a task in the state like any other, with attempts, retries, a log and an end of its own. So an
array of 10,000 costs as much as one task until its elements run, a cancel of those that wait is one fact, and the
request is there once for all of them. In the ready queue the elements of an array are represented by the next one; that
is `lines`. All elements have the same request, so they are one shape, and one age: they differ by index only.

Elements that only `max_parallel` keeps from starting go on ageing: nothing but the user's own limit holds them, and the
place in the order is the array's, not the element's. They cannot use that age to take more than the limit at once.

An array ends with its last element, in the same batch of the record. It is closed when those that were never named are
not to start any more (a cancel, a dependency that failed, a reservation that is over): one fact ends all of them.
"""

import re
from typing import Final, Literal, cast

from fetchmld.core.messages import ElementPlace
from fetchmld.core.model import Array, ArrayRequest, ArrayView, ParamValue, Task, TaskId, TaskRequest

_ELEMENT: Final = re.compile(r"(.+)-(0|[1-9][0-9]{0,5})", re.ASCII)

EndAction = Literal["task.completed", "task.failed", "task.cancelled"]


def element_id(array_id: str, index: int) -> TaskId:
    return TaskId(f"{array_id}-{index}")


def place_of(task_id: str) -> tuple[TaskId, int] | None:
    """The array and the index that the id speaks of, if it is an element's; whether there is such an array is open."""
    match = _ELEMENT.fullmatch(task_id)
    return None if match is None else (TaskId(match[1]), int(match[2]))


def new(request: TaskRequest) -> Array | None:
    """What the task of this request has as an array; None where it asks for none."""
    asked = request.get("array")
    if asked is None:
        return None
    return Array(asked["size"], asked.get("max_parallel", asked["size"]), own_request(request))


def own_request(request: TaskRequest) -> TaskRequest:
    """What each element of the array asks for. Its params are not in it: an array may have a megabyte of them."""
    return cast(TaskRequest, {name: value for name, value in request.items() if name != "array"})


def values_of(asked: ArrayRequest, index: int) -> dict[str, ParamValue]:
    """The element's value of each param. Lists of `size` values are read side by side, others span a grid whose last
    name changes fastest."""
    params = asked.get("params", [])
    if all(len(param["values"]) == asked["size"] for param in params):
        return {param["name"]: param["values"][index] for param in params}
    values: dict[str, ParamValue] = {}
    for param in reversed(params):
        index, place = divmod(index, len(param["values"]))
        values[param["name"]] = param["values"][place]
    return {param["name"]: values[param["name"]] for param in params}


def place_in(parent: Task, index: int) -> ElementPlace:
    """What an attempt of the element is told about its place."""
    asked = parent.request["array"]
    return ElementPlace(array_id=parent.id, index=index, size=asked["size"], params=values_of(asked, index))


def array_of(task: Task) -> Array:
    """The array's own record of a task that is known to be one."""
    assert task.array is not None, f"task {task.id} is no array"
    return task.array


def element(parent: Task, index: int) -> Task:
    """The element as it is while no fact has named it: waiting, or ended with its array."""
    array = array_of(parent)
    made = Task(
        id=element_id(parent.id, index),
        user_id=parent.user_id,
        request=array.request,
        resources=parent.resources,
        submit_seq=parent.submit_seq + 1 + index,
        created_at=parent.created_at,
        submit_t=parent.submit_t,
        priority=parent.priority,
        last_seq=parent.last_seq,
        array_id=parent.id,
        index=index,
    )
    if array.closed:
        made.status, made.error, made.ended_at = "failed", array.closed, array.closed_at
        made.reason = "cancelled" if was_cancelled(array) else ""
    return made


def name(array: Array, index: int) -> None:
    """A fact has named the element: it is a task of its own from now on."""
    array.beyond.add(index)
    while array.first in array.beyond:
        array.beyond.discard(array.first)
        array.first += 1


def unnamed(array: Array) -> list[int]:
    """The indices that no fact has named, in order."""
    return [index for index in range(array.first, array.size) if index not in array.beyond]


def note_end(array: Array, index: int, how: EndAction, error: str) -> None:
    """A named element ended."""
    array.live.discard(index)
    if how == "task.completed":
        array.completed += 1
        return
    if how == "task.cancelled":
        array.cancelled += 1
    else:
        array.failed += 1
    _note_failure(array, index, error)


def close(array: Array, error: str, at: float) -> None:
    """Those that no fact has named never start. `error` as an element's; it begins with CANCELLED where it is a cancel."""
    if array.closed:
        return
    array.closed, array.closed_at, array.closed_count = error, at, array.unnamed
    if was_cancelled(array):
        array.cancelled += array.unnamed
    else:
        array.failed += array.unnamed
    if array.unnamed:
        _note_failure(array, array.first, error)


def cancelled_by(user_id: str) -> str:
    return f"CANCELLED: by {user_id} while queued"


def was_cancelled(array: Array) -> bool:
    return array.closed.startswith("CANCELLED:")


def _note_failure(array: Array, index: int, error: str) -> None:
    if array.first_failed < 0 or index < array.first_failed:
        array.first_failed, array.first_error = index, error


def outcome(parent: Task) -> tuple[EndAction, str]:
    """How the array ended, now that all elements have: the action of its last fact, and its error."""
    array = array_of(parent)
    if array.completed == array.size:
        return "task.completed", ""
    if array.unnamed == array.size:
        return ("task.cancelled" if array.cancelled else "task.failed"), array.closed
    first = f"the first is {array.first_failed}"
    if array.cancelled and (not array.failed or parent.cancel_by):
        by = f" by {parent.cancel_by}" if parent.cancel_by else ""
        also = f", {array.failed} failed" if array.failed else ""
        return "task.cancelled", f"CANCELLED: {array.cancelled} of {array.size} elements{by}{also}; {first}"
    return "task.failed", f"ELEMENT_FAILED: {array.failed} of {array.size} elements, {first}: {array.first_error}"


def view(array: Array) -> ArrayView:
    """How the elements stand."""
    seen = ArrayView(
        size=array.size,
        max_parallel=array.max_parallel,
        queued=array.queued,
        running=array.running,
        completed=array.completed,
        failed=array.failed,
        cancelled=array.cancelled,
    )
    if array.closed:
        seen["closed"], seen["closed_at"], seen["closed_count"] = array.closed, array.closed_at, array.closed_count
    return seen
