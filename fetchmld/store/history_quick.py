"""The quick look at an index: whether all of it is what the segments say, yes or no.

Blocks of rows are made anew from the records and compared column by column, and tasks are folded along the way, so that
everything is read once and in order. What is wrong, and where, is not its business: `history_check` finds that out row by
row when the answer is no.

A task's row is compared when the task has ended. What happens to it afterwards (it is deleted, mostly) shows in the row by
a newer event; such rows, and those beyond `LIVE_ROWS_MAX` unfinished ones, are left for the end, by their ids.
"""

from collections.abc import Mapping
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fetchmld.store import boundary, event_rows, experiment_rows, task_rows
from fetchmld.store.blocks import Block, Row, next_block, task_table
from fetchmld.store.experiment_rows import ExperimentRow
from fetchmld.store.history_boundary import carried_block
from fetchmld.store.history_folded import folded, rows_by_id
from fetchmld.store.tail import Tail

BATCH_EVENTS: Final = 50_000
LIVE_ROWS_MAX: Final = 50_000

Connection = duckdb.DuckDBPyConnection

_TASK_COLUMNS: Final = ", ".join(task_rows.SCHEMA.names)
_THESE: Final = "IN (SELECT id FROM arriving)"


def all_right(db: Connection, other: Connection, ledger_dir: Path, upto: int) -> bool:
    """Whether every row is what the events below `upto` give, and there is no other. Raises `LedgerDamaged` where those
    cannot be read, OSError, and what DuckDB raises. Both connections see the same state of the index."""
    pruned = boundary.load(ledger_dir)
    first, carried = (pruned.boundary.first_seq, pruned.carried) if pruned else (0, ())
    tasks, at, block = _Tasks(db, other, upto, first > 0), first, carried_block(carried)
    if not same_carried(db, block) or (block.count and not tasks.follow(block)):
        return False
    experiments = experiment_rows.fold({}, experiment_rows.facts_of(block))
    with closing(Tail(ledger_dir, from_seq=first)) as tail:
        while at < upto:
            block = next_block(tail, upto - 1, min(BATCH_EVENTS, upto - at))
            if not _same_events(db, block) or not tasks.follow(block):
                return False
            experiments.update(experiment_rows.fold(experiments, experiment_rows.facts_of(block)))
            at += block.count
    return tasks.finish() and _nothing_else(db, upto - first) and _same_experiments(db, experiments)


def _same_events(db: Connection, block: Block) -> bool:
    wanted = f"SELECT {event_rows.COLUMNS} FROM events WHERE seq BETWEEN ? AND ?"
    found = db.sql(wanted, params=[block.first_seq, block.first_seq + block.count - 1]).to_arrow_table()
    return bool(found.equals(pa.Table.from_batches([block.events()])))


def same_carried(db: Connection, block: Block) -> bool:
    """Whether the carried records are those of the boundary."""
    found = db.sql(f"SELECT {event_rows.COLUMNS} FROM carried ORDER BY seq").to_arrow_table()
    expected = [block.events()] if block.count else []
    return bool(found.equals(pa.Table.from_batches(expected, event_rows.SCHEMA)))


def _nothing_else(db: Connection, count: int) -> bool:
    return db.execute("SELECT count(*) FROM events").fetchall() == [(count,)]


def _same_experiments(db: Connection, expected: Mapping[str, ExperimentRow]) -> bool:
    found = db.sql("SELECT * FROM experiments ORDER BY seq").to_arrow_table()
    return bool(found.equals(experiment_rows.to_arrow(expected.values())))


class _Tasks:
    """Folds the facts about tasks, and compares each row once it is complete."""

    def __init__(self, db: Connection, other: Connection, upto: int, pruned: bool) -> None:
        self._db, self._other, self._upto, self._pruned = db, other, upto, pruned
        self._live: dict[str, Row] = {}
        self._later: set[str] = set()  # ids of rows that are compared at the end
        self._right = 0

    def follow(self, block: Block) -> bool:
        """Take in the next events. False where a row is wrong."""
        changed, lost = block.fold({}, self._live, self._later)
        for task_id in lost:
            if not (self._pruned or task_rows.array_named_by(task_id)):
                return False  # its row was right before this
            self._later.add(task_id)
        self._live.update(changed)
        right = self._compare({task_id: row for task_id, row in changed.items() if row.ended})
        while len(self._live) > LIVE_ROWS_MAX:
            self._later.add(self._live.popitem()[0])
        return right

    def _compare(self, rows: dict[str, Row]) -> bool:
        """Compare these rows, except those that tell of newer events than these do."""
        if not rows:
            return True
        ordered = sorted(rows.values(), key=lambda row: row.submit_seq)
        expected, found = task_table(ordered), self._found([row.submit_seq for row in ordered])
        if not found.equals(expected):
            if len(found) != len(expected):
                return False
            newer = pc.greater(found["last_seq"], expected["last_seq"]).fill_null(False)
            self._later.update(expected["id"].filter(newer).to_pylist())
            same = pc.invert(newer)
            if not found.filter(same).equals(expected.filter(same)):
                return False
        for task_id in rows:
            del self._live[task_id]
            if task_id not in self._later:
                self._right += 1
        return True

    def _found(self, submit_seqs: list[int]) -> pa.Table:
        self._db.register("arriving", pa.table({"submit_seq": pa.array(submit_seqs, pa.uint64())}))
        try:
            return self._db.sql(
                f"""SELECT {_TASK_COLUMNS} FROM tasks WHERE rowid IN (
                        SELECT rowid FROM tasks
                        WHERE submit_seq BETWEEN ? AND ? AND submit_seq IN (SELECT submit_seq FROM arriving))
                    ORDER BY submit_seq""",
                params=[submit_seqs[0], submit_seqs[-1]],
            ).to_arrow_table()
        finally:
            self._db.unregister("arriving")

    def finish(self) -> bool:
        """Compare what is left. False where a row is wrong, or there is one too many."""
        left = dict(self._live)
        while left:
            part = dict(left.popitem() for _ in range(min(len(left), BATCH_EVENTS)))
            if not self._compare(part):
                return False
        compared = self._compare_later()
        ((rows,),) = self._db.execute("SELECT count(*) FROM tasks").fetchall()
        return compared is not None and rows == self._right + compared

    def _compare_later(self) -> int | None:
        """How many rows that were not counted yet are right; None where one of them is wrong."""
        if not self._later:
            return 0
        parents = {array_id for task_id in self._later if (array_id := task_rows.array_named_by(task_id))}
        ids = pa.table({"id": pa.array(sorted(self._later | parents), pa.string())})
        for connection in (self._db, self._other):
            connection.register("arriving", ids)
        try:
            count = 0
            with (
                closing(folded(self._db, self._upto, _THESE)) as should,
                closing(rows_by_id(self._other, _THESE)) as there,
            ):
                for want, have in zip_longest(should, there):
                    if want is None or want != have:
                        return None
                    count += want[0] in self._later  # else it is an array that was compared before
            return count
        finally:
            for connection in (self._db, self._other):
                connection.unregister("arriving")
