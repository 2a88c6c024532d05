"""The tasks as they were at a moment: the same fold over the same events, ended earlier.

A moment is turned into a place in the ledger: behind the newest event whose time is not after it. What is shown is the
state that all events up to that place make, so it is one that really was, also where the clock was set back meanwhile.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import duckdb

from fetchmld.core.errors import BadRequest
from fetchmld.core.model import TaskView
from fetchmld.store import task_rows
from fetchmld.store.history_lists import page_bounds
from fetchmld.store.task_rows import TaskRow

Connection = duckdb.DuckDBPyConnection

_STATUS: Final = """CASE arg_max(action, seq) FILTER (action IN
    ('task.submit', 'task.start', 'task.array_started', 'task.requeue', 'task.completed', 'task.failed', 'task.cancelled'))
    WHEN 'task.start' THEN 'running' WHEN 'task.array_started' THEN 'running' WHEN 'task.completed' THEN 'completed'
    WHEN 'task.failed' THEN 'failed' WHEN 'task.cancelled' THEN 'failed' ELSE 'queued' END"""
_FILTERS: Final = {
    "status": "was.status = ?",
    "user_id": "tasks.user_id = ?",
    "node_count": "tasks.node_count = ?",
    "reservation_id": "tasks.reservation_id = ?",
    "experiment_id": "tasks.experiment_id = ?",
    "plugins": "list_has_all(tasks.plugins, ?)",
}


def task_page(db: Connection, query: Mapping[str, Any]) -> dict[str, Any]:
    """`{"tasks": [TaskView], "total": n}` at `query["at_us"]`, for the other fields of the API's `TaskQuery`."""
    upto = _place(db, query["at_us"])
    given = [name for name in _FILTERS if query.get(name) is not None]
    values = [list(query[name]) if name == "plugins" else query[name] for name in given]
    limit, offset = page_bounds(query)
    ((seqs, ids, total),) = db.execute(
        f"""WITH was AS (
                SELECT min(seq) FILTER (action = 'task.submit') AS submit_seq, {_STATUS} AS status
                FROM (FROM carried UNION ALL FROM events) WHERE seq <= ? AND starts_with(action, 'task.')
                GROUP BY resource HAVING NOT bool_or(action = 'task.deleted'))
            SELECT list(submit_seq ORDER BY submit_seq DESC)[? : ?], list(id ORDER BY submit_seq DESC)[? : ?], count(*)
            FROM was JOIN tasks USING (submit_seq) WHERE {" AND ".join(["true", *(_FILTERS[name] for name in given)])}""",
        [upto, *(offset + 1, offset + limit) * 2, *values],
    ).fetchall()
    views = _views(db, ids or [], min(seqs or [0]), upto)
    return {"tasks": [views[task_id] for task_id in ids or []], "total": total}


def one_task(db: Connection, task_id: str, at_us: int) -> TaskView | None:
    """The task as it was; None where it was not there yet, or not any more."""
    array_id = task_rows.array_named_by(task_id)
    views = _views(db, [task_id, array_id], 0, _place(db, at_us))
    if task_id in views or array_id not in views:
        return views.get(task_id)
    return task_rows.element_view(views[array_id], task_id)


def _place(db: Connection, at_us: int) -> int:
    """The newest event's number whose time is not after `at_us`, or -1. Raises BadRequest for what was pruned."""
    ((seq,),) = db.execute("SELECT max(seq) FROM events WHERE at_us <= ?", [at_us]).fetchall()
    ((first, before_us),) = db.execute("SELECT first_seq, before_us FROM meta").fetchall()
    if seq is None and first and at_us < before_us:
        raise BadRequest(f"at: the record begins at event {first}; what was before {_instant(before_us)} was pruned")
    return int(first) - 1 if seq is None else int(seq)


def _instant(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _views(db: Connection, ids: Sequence[str], from_seq: int, to_seq: int) -> dict[str, TaskView]:
    """These tasks, as the events from `from_seq` to `to_seq` made them."""
    found = db.execute(
        f"""SELECT {task_rows.FOLDED} FROM events WHERE rowid IN (
                SELECT rowid FROM events
                WHERE seq BETWEEN ? AND ? AND starts_with(action, 'task.') AND resource IN (SELECT unnest(?)))
            UNION ALL SELECT {task_rows.FOLDED} FROM carried
            WHERE starts_with(action, 'task.') AND resource IN (SELECT unnest(?))
            ORDER BY seq""",
        [from_seq, to_seq, list(ids), list(ids)],
    ).fetchall()
    rows: dict[str, TaskRow | None] = {}
    for seq, *columns in found:
        fact = task_rows.fact_of(*columns)
        parent = rows.get(task_rows.array_named_by(fact.resource))
        rows[fact.resource] = task_rows.fold(rows.get(fact.resource), seq, fact, parent)
    return {task_id: row.view for task_id, row in rows.items() if row is not None and not row.deleted}
