"""Pages and totals out of the index: filters to SQL. Values always travel as parameters, never inside the text.

A page is found in two steps. The first reads only the columns that it filters and sorts by and finds where the page
begins; the second reads whole rows, and only from there on, so that zone maps skip nearly everything.
"""

from collections.abc import Mapping
from typing import Any, Final

import duckdb
import orjson

from fetchmld.core.model import TaskView
from fetchmld.store import event_rows

PAGE_MAX: Final = 1_000
OFFSET_MAX: Final = 2**53
DAY_US: Final = 86_400_000_000
EXPERIMENTS_MAX: Final = 10_000

Connection = duckdb.DuckDBPyConnection

_TASK_FILTERS: Final = {
    "status": "status = ?",
    "user_id": "user_id = ?",
    "node_count": "node_count = ?",
    "reservation_id": "reservation_id = ?",
    "plugins": "list_has_all(plugins, ?)",
}
_EVENT_FILTERS: Final = {
    "from_us": "at_us >= ?",
    "to_us": "at_us <= ?",
    "event_type": "event_type = ?",
    "user_id": "user_id = ?",
}


def task_page(db: Connection, query: Mapping[str, Any]) -> dict[str, Any]:
    """`{"tasks": [TaskView], "total": n}` for the filters of the API's `TaskQuery`: newest first, ties by id."""
    where, values = _where(_TASK_FILTERS, query)
    where = f"NOT deleted{where}"
    total = _number(db, f"SELECT count(*) FROM tasks WHERE {where}", values)
    limit, offset = _bounds(query, total, limit_default=50)
    if not limit:
        return {"tasks": [], "total": total}
    oldest = _number(
        db,
        f"SELECT created_us FROM tasks WHERE {where} ORDER BY created_us DESC LIMIT 1 OFFSET ?",
        [*values, offset + limit - 1],
    )
    rows = db.execute(
        f"SELECT view FROM tasks WHERE {where} AND created_us >= ? ORDER BY created_us DESC, id LIMIT ? OFFSET ?",
        [*values, oldest, limit, offset],
    ).fetchall()
    return {"tasks": [orjson.loads(view) for (view,) in rows], "total": total}


def event_page(db: Connection, query: Mapping[str, Any], next_seq: int) -> dict[str, Any]:
    """`{"events": [EventRow], "total": n}` for the filters of the API's `EventQuery`: newest first."""
    where, values = _where(_EVENT_FILTERS, query)
    total = _number(db, f"SELECT count(*) FROM events WHERE true{where}", values) if where else next_seq
    limit, offset = _bounds(query, total, limit_default=100)
    if not limit:
        return {"events": [], "total": total}
    first, last = next_seq - offset - limit, next_seq - offset - 1  # without a filter, places and numbers are one
    if where:
        first, last = _seq_range(db, where, values, limit, offset)
    rows = db.execute(
        f"SELECT {event_rows.COLUMNS} FROM events WHERE seq BETWEEN ? AND ?{where} ORDER BY seq DESC LIMIT ?",
        [first, last, *values, limit],
    ).fetchall()
    return {"events": [event_rows.to_view(row) for row in rows], "total": total}


def one_task(db: Connection, task_id: str) -> TaskView | None:
    """The task, unless it was taken out of the listings."""
    rows = db.execute("SELECT view FROM tasks WHERE id = ? AND NOT deleted", [task_id]).fetchall()
    return orjson.loads(rows[0][0]) if rows else None


def ended_counts(db: Connection, now_us: int) -> dict[str, int]:
    """How many tasks ended since the start of `now_us`'s UTC day, and in the 24 hours before it."""
    today_us, day_ago_us = now_us - now_us % DAY_US, now_us - DAY_US
    ((completed, failed, completed_24h),) = db.execute(
        """SELECT count(*) FILTER (status = 'completed' AND ended_us >= $today),
                  count(*) FILTER (status = 'failed' AND ended_us >= $today),
                  count(*) FILTER (status = 'completed')
           FROM tasks WHERE ended_us >= $day_ago AND status IN ('completed', 'failed')""",
        {"today": today_us, "day_ago": day_ago_us},
    ).fetchall()
    return {"completed_today": completed, "failed_today": failed, "completed_24h": completed_24h}


def all_experiments(db: Connection) -> list[dict[str, Any]]:
    """Every experiment as the core's `Experiment`, newest first."""
    rows = db.execute(
        "SELECT id, name, description, status, created_us / 1e6 AS created_at, user_id FROM experiments"
        " ORDER BY created_us DESC, id LIMIT ?",
        [EXPERIMENTS_MAX],
    ).fetchall()
    return [
        dict(zip(("id", "name", "description", "status", "created_at", "user_id"), row, strict=True)) for row in rows
    ]


def _where(filters: Mapping[str, str], query: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The conditions for the filters that `query` gives, each with its leading AND, and their values."""
    given = [name for name in filters if query.get(name) is not None]
    return "".join(f" AND {filters[name]}" for name in given), [_value(query[name]) for name in given]


def _value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _bounds(query: Mapping[str, Any], total: int, limit_default: int) -> tuple[int, int]:
    """(rows on this page, rows before it), both within what there is."""
    offset = min(max(int(query.get("offset", 0)), 0), OFFSET_MAX)
    limit = min(max(int(query.get("limit", limit_default)), 0), PAGE_MAX)
    return max(min(limit, total - offset), 0), offset


def _seq_range(db: Connection, where: str, values: list[Any], limit: int, offset: int) -> tuple[int, int]:
    ((first, last),) = db.execute(
        f"SELECT min(seq), max(seq) FROM (SELECT seq FROM events WHERE true{where} ORDER BY seq DESC LIMIT ? OFFSET ?)",
        [*values, limit, offset],
    ).fetchall()
    return first, last


def _number(db: Connection, sql: str, values: list[Any]) -> int:
    ((number,),) = db.execute(sql, values).fetchall()
    return int(number)
