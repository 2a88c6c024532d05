"""Rows out of the index, as the API shows them. Values always travel as parameters, never inside the text."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import duckdb
import orjson

from fetchmld.core.arrays import element_id
from fetchmld.core.model import TaskView
from fetchmld.store import event_rows
from fetchmld.store.event_places import EventPlaces
from fetchmld.store.history_file import IndexDoubt
from fetchmld.store.history_lists import Listed, page_bounds
from fetchmld.store.task_rows import array_named_by, element_view, view_sum
from fetchmld.store.view_file import ViewFile

DAY_US: Final = 86_400_000_000
EXPERIMENTS_MAX: Final = 10_000

Connection = duckdb.DuckDBPyConnection


def task_views(db: Connection, views: ViewFile, wanted: Sequence[Listed]) -> list[TaskView]:
    """These tasks, in this order. Raises `IndexDoubt` where one has no row."""
    found = {one.submit_seq: views.get(one.slot, one.view_sum) for one in wanted}
    if missing := [one for one in wanted if found[one.submit_seq] is None]:
        rows = _rows_of_tasks(db, [one.submit_seq for one in missing])
        found.update(rows)
        with contextlib.suppress(OSError):
            for one in missing:
                if one.submit_seq in rows and view_sum(rows[one.submit_seq]) == one.view_sum:
                    views.mend(one.slot, rows[one.submit_seq])
    return [orjson.loads(view) if (view := found[one.submit_seq]) is not None else _lost(one) for one in wanted]


def _lost(one: Listed) -> TaskView:
    raise IndexDoubt(f"the task submitted by event {one.submit_seq} has no row")


def _rows_of_tasks(db: Connection, submit_seqs: Sequence[int]) -> dict[int, bytes]:
    rows = db.execute(
        "SELECT submit_seq, view FROM tasks WHERE rowid IN"  # two steps: the first one scans, so let it be one number
        " (SELECT rowid FROM tasks WHERE submit_seq BETWEEN ? AND ? AND submit_seq IN (SELECT unnest(?)))",
        [min(submit_seqs), max(submit_seqs), list(submit_seqs)],
    ).fetchall()
    return {seq: view.encode() for seq, view in rows}


_ELEMENTS: Final = """
    FROM range(?) element(i) LEFT JOIN (SELECT * FROM tasks WHERE array_id = ?) AS named ON named.array_index = element.i
    WHERE NOT coalesce(named.deleted, false) AND (? IS NULL OR coalesce(named.status, ?) = ?)"""


def element_page(db: Connection, query: Mapping[str, Any]) -> dict[str, Any]:
    """The elements of one array in their order, those that no fact has named included, for the API's `TaskQuery`."""
    array_id, status = query["array_id"], query.get("status")
    found = db.execute("SELECT view FROM tasks WHERE id = ? AND NOT deleted", [array_id]).fetchall()
    parent: Any = orjson.loads(found[0][0]) if found else {}
    if "array" not in parent or not _fits(parent, query):
        return {"tasks": [], "total": 0}
    unnamed = "failed" if "closed" in parent["array"] else "queued"
    values = [parent["array"]["size"], array_id, status, unnamed, status]
    ((total,),) = db.execute(f"SELECT count(*){_ELEMENTS}", values).fetchall()
    rows = db.execute(
        f"SELECT element.i, named.view{_ELEMENTS} ORDER BY element.i LIMIT ? OFFSET ?",
        [*values, *page_bounds(query)],
    ).fetchall()
    views = [
        element_view(parent, element_id(array_id, index)) if view is None else orjson.loads(view)
        for index, view in rows
    ]
    return {"tasks": views, "total": total}


def _fits(parent: TaskView, query: Mapping[str, Any]) -> bool:
    """Whether the array passes the filters that all its elements share."""
    request = parent["request"]
    shared = {
        "user_id": parent["user_id"],
        "node_count": request.get("node_count", 1),
        "reservation_id": request.get("reservation_id", ""),
        "experiment_id": request.get("experiment_id", ""),
    }
    plugins = set(query.get("plugins") or ())
    same = all(query.get(name) in (None, value) for name, value in shared.items())
    return same and plugins <= request.get("plugin_configs", {}).keys()


def segment_views(places: EventPlaces, seqs: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Those of these events that the segments give, by their numbers."""
    views = {}
    for seq, event in places.read(seqs).items():
        with contextlib.suppress(ValueError):  # of a text or of metadata: the index has it as it can be shown
            views[seq] = event_rows.to_view(event_rows.texts_of(event))
    return views


def event_views(db: Connection, seqs: Sequence[int]) -> list[dict[str, Any]]:
    """These events, in this order. Raises `IndexDoubt` as above.

    They are found by their place, for rows are only ever appended, until the record is pruned: then by their numbers, of
    which the first step scans a column.
    """
    if not seqs:
        return []
    first, last = min(seqs), max(seqs)
    whole = last - first + 1 == len(seqs)
    ((pruned,),) = db.execute("SELECT first_seq > 0 FROM meta").fetchall()
    name = "seq" if pruned else "rowid"
    found_by = f"{name} BETWEEN ? AND ?" + ("" if whole else f" AND {name} IN (SELECT unnest(?))")
    if pruned:
        found_by = f"rowid IN (SELECT rowid FROM events WHERE {found_by})"
    rows = db.execute(
        f"SELECT {event_rows.COLUMNS} FROM events WHERE {found_by}",
        [first, last] if whole else [first, last, list(seqs)],
    ).fetchall()
    found = {row[0]: row for row in rows}
    return [event_rows.to_view(found[seq]) for seq in _all_there("event", seqs, found)]


def one_task(db: Connection, task_id: str) -> TaskView | None:
    """The task, unless it was taken out of the listings. An element goes with its array."""
    array_id = array_named_by(task_id)
    rows = db.execute("SELECT id, view, deleted FROM tasks WHERE id IN (?, ?)", [task_id, array_id]).fetchall()
    found = {name: (orjson.loads(view), deleted) for name, view, deleted in rows}
    view, deleted = found.get(task_id, (None, False))
    parent, gone = found.get(array_id, (None, False))
    if deleted or (gone and (view is None or "array_id" in view)):
        return None
    return view if view is not None or parent is None else element_view(parent, task_id)


def ended_counts(db: Connection, now_us: int) -> dict[str, int]:
    """How many tasks ended since the start of `now_us`'s UTC day, and in the 24 hours before it."""
    today_us, day_ago_us = now_us - now_us % DAY_US, now_us - DAY_US
    ((completed, failed, completed_24h),) = db.execute(
        """SELECT coalesce(sum(units) FILTER (status = 'completed' AND ended_us >= $today), 0)::BIGINT,
                  coalesce(sum(units) FILTER (status = 'failed' AND ended_us >= $today), 0)::BIGINT,
                  coalesce(sum(units) FILTER (status = 'completed'), 0)::BIGINT
           FROM tasks WHERE ended_us >= $day_ago AND status IN ('completed', 'failed')""",
        {"today": today_us, "day_ago": day_ago_us},
    ).fetchall()
    return {"completed_today": completed, "failed_today": failed, "completed_24h": completed_24h}


def task_changes(db: Connection, after: int, limit: int) -> list[tuple[int, str, str]] | None:
    """Number, action and task of the facts about tasks after `after`, oldest first; None where some were pruned."""
    ((pruned,),) = db.execute("SELECT first_seq > ? FROM meta", [max(after + 1, 0)]).fetchall()
    return (
        None
        if pruned
        else db.execute(
            "SELECT seq, action, resource FROM events WHERE seq > ? AND starts_with(action, 'task.') ORDER BY seq LIMIT ?",
            [after, limit],
        ).fetchall()
    )


def all_experiments(db: Connection) -> list[dict[str, Any]]:
    """Every experiment as the core's `Experiment`, newest first."""
    rows = db.execute(
        "SELECT id, name, description, status, commit_id, created_us / 1e6 AS created_at, user_id FROM experiments"
        " ORDER BY created_us DESC, id LIMIT ?",
        [EXPERIMENTS_MAX],
    ).fetchall()
    names = ("id", "name", "description", "status", "commit_id", "created_at", "user_id")
    return [dict(zip(names, row, strict=True)) for row in rows]


def experiment_tasks(db: Connection, experiment_id: str, limit: int, offset: int) -> dict[str, Any]:
    """The experiment's tasks, newest first; of arrays their elements, those that a fact has named."""
    among = "FROM tasks WHERE experiment_id = ? AND array_size = 0 AND NOT deleted"
    ((total,),) = db.execute(f"SELECT count(*) {among}", [experiment_id]).fetchall()
    rows = db.execute(
        f"SELECT view {among} ORDER BY submit_seq DESC, array_index DESC LIMIT ? OFFSET ?",
        [experiment_id, limit, offset],
    ).fetchall()
    return {"tasks": [orjson.loads(view) for (view,) in rows], "total": total}


def _all_there(what: str, wanted: Sequence[int], found: Mapping[int, Any]) -> Sequence[int]:
    for seq in wanted:
        if seq not in found:
            raise IndexDoubt(f"the {what} {seq} has no row")
    return wanted
