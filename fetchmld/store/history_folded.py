"""The index's task rows in the order of their ids: as the event rows say they should be, and as they are."""

from collections.abc import Generator, Iterable
from typing import Any, Final

import duckdb
import pyarrow as pa

from fetchmld.store import task_rows
from fetchmld.store.task_rows import TaskRow

BATCH_ROWS: Final = 5_000

Connection = duckdb.DuckDBPyConnection
Columns = tuple[Any, ...]


def folded(db: Connection, below: int, these: str = "IS NOT NULL") -> Generator[Columns]:
    """The row that each task should have after the events before `below`. `these`: a condition in SQL on its id."""
    reader = db.sql(
        f"""SELECT {task_rows.FOLDED} FROM (FROM carried UNION ALL FROM events)
            WHERE starts_with(action, 'task.') AND seq < ? AND resource {these} ORDER BY resource, seq""",
        params=[below],
    ).to_arrow_reader(BATCH_ROWS)
    row: TaskRow | None = None
    array: TaskRow | None = None  # the newest; its id is the beginning of its elements', so that these follow it
    current: str | None = None
    for seq, *columns in rows_of(reader):
        fact = task_rows.fact_of(*columns)
        task_id = fact.resource
        if task_id != current and row is not None:
            yield row.columns()
        if task_id != current:
            array = row if row is not None and "array" in row.view else array
            row, current = None, task_id
        row = task_rows.fold(row, seq, fact, array)
    if row is not None:
        yield row.columns()


def rows_by_id(db: Connection, these: str = "") -> Generator[Columns]:
    """The rows that there are. `these`: a condition in SQL on the id, else all, also such as have none."""
    columns, where = ", ".join(task_rows.SCHEMA.names), these and f"WHERE id {these}"
    return rows_of(db.sql(f"SELECT {columns} FROM tasks {where} ORDER BY id").to_arrow_reader(BATCH_ROWS))


def rows_of(batches: Iterable[pa.RecordBatch]) -> Generator[Columns]:
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
