"""What the facts say about one task, folded into the row that the index keeps of it.

Pure: facts in, rows out. The live state makes the same fold in `core.state`; this one keeps only what lists and single
views show, and keeps it for ended tasks too. Used to fill the index and to check it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import orjson
import pyarrow as pa
from blake3 import blake3

from fetchmld.core import arrays
from fetchmld.core.chain import canonical_json
from fetchmld.core.messages import Fact
from fetchmld.core.model import PRIORITY_DEFAULT, EarlierAttempt, TaskView

ENDED: Final = frozenset({"completed", "failed"})

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("user_id", pa.string()),
        ("submit_seq", pa.uint64()),
        ("created_us", pa.int64()),
        ("job_name", pa.string()),
        ("status", pa.string()),
        ("priority", pa.int32()),
        ("node_count", pa.int32()),
        ("reservation_id", pa.string()),
        ("experiment_id", pa.string()),
        ("plugins", pa.list_(pa.string())),
        ("started_us", pa.int64()),
        ("ended_us", pa.int64()),
        ("attempt", pa.int32()),
        ("worker_id", pa.string()),
        ("error", pa.string()),
        ("reason", pa.string()),
        ("array_id", pa.string()),
        ("array_index", pa.int32()),
        ("array_size", pa.int32()),
        ("units", pa.int32()),
        ("deleted", pa.bool_()),
        ("last_seq", pa.uint64()),
        ("view", pa.string()),
        ("view_sum", pa.uint64()),
    ]
)
KEPT: Final = "submit_seq, created_us, started_us, ended_us, deleted, view"  # the columns a row can be read back from


class TaskRow(NamedTuple):
    """A task as its newest fact left it. The view says the rest; times are kept once more here as whole microseconds."""

    submit_seq: int
    created_us: int
    started_us: int
    ended_us: int
    deleted: bool
    view: TaskView

    @property
    def ended(self) -> bool:
        return self.view["status"] in ENDED

    @property
    def units(self) -> int:
        """How many tasks end with this row: of an array, those elements that never had a row of their own."""
        if "array" not in self.view:
            return 1
        return self.view["array"].get("closed_count", 0)

    @classmethod
    def read(
        cls, submit_seq: int, created_us: int, started_us: int, ended_us: int, deleted: bool, view: str
    ) -> "TaskRow":
        """The row that the columns `KEPT` describe."""
        return cls(submit_seq, created_us, started_us, ended_us, deleted, orjson.loads(view))

    def columns(self) -> tuple[Any, ...]:
        """The row in the order of `SCHEMA`."""
        view = self.view
        request, assignments = view["request"], view["assignments"]
        text = canonical_json(view)
        return (
            view["id"],
            view["user_id"],
            self.submit_seq,
            self.created_us,
            request.get("job_name", ""),
            view["status"],
            view["priority"],
            request.get("node_count", 1),
            request.get("reservation_id", ""),
            request.get("experiment_id", ""),
            sorted(request.get("plugin_configs", ())),
            self.started_us,
            self.ended_us,
            view["attempt"],
            assignments[0]["worker_id"] if assignments else "",
            view["error"],
            view["reason"],
            view.get("array_id", ""),
            view.get("array_index", -1),
            view["array"]["size"] if "array" in view else 0,
            self.units,
            self.deleted,
            view["last_seq"],
            text,
            view_sum(text.encode()),
        )


def view_sum(view: bytes) -> int:
    """What a view is known by: the first 64 bits of its BLAKE3 hash."""
    return int.from_bytes(blake3(view).digest(8), "little")


def to_arrow(rows: Sequence[TaskRow]) -> pa.Table:
    """The rows as one Arrow table with `SCHEMA`."""
    columns = zip(*(row.columns() for row in rows), strict=True) if rows else [()] * len(SCHEMA)
    return pa.table([pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


FOLDED: Final = "seq, at_us, action, user_id, resource, error, metadata"  # the columns of an event that `fold` needs


def fact_of(at_us: int, action: str, user_id: str, resource: str, error: str, metadata: str | bytes) -> Fact:
    """What `fold` needs of an event: its columns `FOLDED` behind `seq`."""
    return Fact(cast(Any, ""), action, resource, user_id, True, "", error, orjson.loads(metadata), at_us)


def fold(row: TaskRow | None, seq: int, fact: Fact, parent: TaskRow | None = None) -> TaskRow | None:
    """The row of task `fact.resource` after event `seq`. None while nobody has submitted it.

    The first fact about an element of an array makes its row, from the array's own row `parent`, of which only what never
    changes is used.

    A fact is the truth whatever the row was before; fields that it lacks leave the row as it was, so that one odd event
    never stops the index.
    """
    if fact.action == "task.submit":
        return _submitted(seq, fact)
    change = _CHANGES.get(fact.action)
    if row is None and parent is not None and change is not None:
        row = _named(parent, seq, fact)
    if row is None or change is None:
        return row
    changed = change(row, fact)
    changed.view["last_seq"] = seq
    return changed


def _submitted(seq: int, fact: Fact) -> TaskRow:
    request = fact.metadata.get("request", {})
    priority = fact.metadata.get("priority", PRIORITY_DEFAULT)
    view = TaskView(
        id=fact.resource,
        user_id=fact.user_id,
        request=request,
        status="queued",
        priority=priority,
        priority_aged=float(priority),
        created_at=fact.at_us / 1e6,
        started_at=0.0,
        ended_at=0.0,
        attempt=0,
        retry_count=0,
        assignments=[],
        error="",
        reason="",
        wait_reason="",
        report=None,
        last_seq=seq,
    )
    array = arrays.new(request)
    if array is not None:
        view["array"] = arrays.view(array)
    return TaskRow(seq, fact.at_us, 0, 0, False, view)


def array_named_by(task_id: str) -> str:
    """The array that a row for this id would need, "" if it cannot be an element's."""
    place = arrays.place_of(task_id) if "-" in task_id else None
    return "" if place is None else place[0]


def element_view(parent: TaskView, task_id: str, *, as_closed: bool = True) -> TaskView | None:
    """The element as it is while no fact has named it: waiting, or, `as_closed`, ended with its array. None if the array
    has no such element."""
    place = arrays.place_of(task_id)
    if place is None or "array" not in parent or place[0] != parent["id"] or place[1] >= parent["array"]["size"]:
        return None
    asked = parent["request"]["array"]
    view = parent.copy()
    del view["array"]
    view["id"], view["array_id"], view["array_index"] = task_id, *place
    view["request"], view["params"] = arrays.own_request(parent["request"]), arrays.values_of(asked, place[1])
    view["status"], view["error"], view["reason"], view["started_at"], view["ended_at"] = "queued", "", "", 0.0, 0.0
    view["priority_aged"] = float(view["priority"])
    if as_closed and (closed := parent["array"].get("closed")):
        view["status"], view["error"], view["ended_at"] = "failed", closed, parent["array"]["closed_at"]
        view["reason"] = "cancelled" if closed.startswith("CANCELLED:") else ""
    return view


def _named(parent: TaskRow, seq: int, fact: Fact) -> TaskRow | None:
    view = element_view(parent.view, fact.resource, as_closed=fact.action == "task.deleted")
    if view is None:
        return None
    view["priority"] = fact.metadata.get("priority", parent.view["request"].get("priority", PRIORITY_DEFAULT))
    view["priority_aged"] = float(view["priority"])
    return TaskRow(seq, parent.created_us, 0, round(view["ended_at"] * 1e6), False, view)


def _started(row: TaskRow, fact: Fact) -> TaskRow:
    view, meta = row.view.copy(), fact.metadata
    view["status"] = "running"
    view["priority"] = meta.get("priority", view["priority"])
    view["attempt"] = meta.get("attempt", view["attempt"])
    view["assignments"] = meta.get("assignments", view["assignments"])
    view["priority_aged"] = meta.get("aged", view["priority_aged"])
    view["started_at"] = fact.at_us / 1e6
    return TaskRow(row.submit_seq, row.created_us, fact.at_us, row.ended_us, row.deleted, view)


def _requeued(row: TaskRow, fact: Fact) -> TaskRow:
    view = row.view.copy()
    view["status"] = "queued"
    view["retry_count"] += 1
    if "log" in fact.metadata:
        earlier = EarlierAttempt(attempt=fact.metadata.get("attempt", view["attempt"]), log=fact.metadata["log"])
        view["earlier"] = [*view.get("earlier", ()), earlier]
    return row._replace(view=view)


def _reprioritised(row: TaskRow, fact: Fact) -> TaskRow:
    view = row.view.copy()
    view["priority"] = fact.metadata.get("priority", view["priority"])
    view["priority_aged"] = max(view["priority_aged"], float(view["priority"]))
    return row._replace(view=view)


def _cancel_requested(row: TaskRow, fact: Fact) -> TaskRow:
    return _closed(row, fact, arrays.cancelled_by(fact.user_id))


def _array_closed(row: TaskRow, fact: Fact) -> TaskRow:
    return _closed(row, fact, fact.error)


def _closed(row: TaskRow, fact: Fact, error: str) -> TaskRow:
    """Of an array: what became of the elements that were never named."""
    view = row.view.copy()
    if "array" in view and "closed" not in view["array"]:
        count = fact.metadata.get("elements", 0)
        view["array"] = {**view["array"], "closed": error, "closed_at": fact.at_us / 1e6, "closed_count": count}
    return row._replace(view=view)


def _ended(row: TaskRow, fact: Fact) -> TaskRow:
    view = row.view.copy()
    view["status"] = "completed" if fact.action == "task.completed" else "failed"
    view["error"] = fact.error
    view["reason"] = "cancelled" if fact.action == "task.cancelled" else ""
    view["attempt"] = fact.metadata.get("attempt", view["attempt"])
    view["report"] = fact.metadata.get("report") or None
    view["ended_at"] = fact.at_us / 1e6
    view["priority"] = fact.metadata.get("priority", view["priority"])
    if "array" in view:
        view["array"] = {**view["array"], **fact.metadata.get("array", {})}
    return TaskRow(row.submit_seq, row.created_us, row.started_us, fact.at_us, row.deleted, view)


def _attached(row: TaskRow, fact: Fact) -> TaskRow:
    view, meta = row.view.copy(), fact.metadata
    if "plugin" in meta and "use" in meta:
        view["plugins"] = {**view.get("plugins", {}), meta["plugin"]: meta["use"]}
    return row._replace(view=view)


def _deleted(row: TaskRow, fact: Fact) -> TaskRow:
    return row._replace(deleted=True, view=row.view.copy())


_CHANGES: Final[dict[str, Callable[[TaskRow, Fact], TaskRow]]] = {
    "task.start": _started,
    "task.attach": _attached,
    "task.array_started": _started,
    "task.array_closed": _array_closed,
    "task.requeue": _requeued,
    "task.reprioritise": _reprioritised,
    "task.cancel_requested": _cancel_requested,
    "task.completed": _ended,
    "task.failed": _ended,
    "task.cancelled": _ended,
    "task.deleted": _deleted,
}
FOLDED_ACTIONS: Final = frozenset(action.encode() for action in ("task.submit", *_CHANGES))
