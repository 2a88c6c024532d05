"""The history: a DuckDB index over the ledger, behind lists, totals and single views of what is over.

It owns `index.duckdb` and holds nothing that the segments do not say, so on any doubt the file is moved aside and made
anew from them, and `rebuilt` says why. It never writes to the ledger. Blocking: one thread at a time calls its methods,
except `check` and those of
people's own questions (`ask`, `tasks_at`, `task_at`), for each of which there may be one more thread meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from fetchmld.core.chain import genesis_hash
from fetchmld.core.model import TaskView
from fetchmld.store import (
    boundary,
    experiment_rows,
    history_asof,
    history_boundary,
    history_pages,
    history_sql,
    task_rows,
)
from fetchmld.store.blocks import Block, Row, next_block, task_table, views_of
from fetchmld.store.boundary import Boundary, Pruned
from fetchmld.store.event_places import EventPlaces
from fetchmld.store.experiment_rows import ExperimentRow
from fetchmld.store.history_check import Check, check_rows
from fetchmld.store.history_file import SCHEMA_VERSION, IndexDoubt, IndexFile, doubting, move_aside
from fetchmld.store.history_lists import EventList, TaskList
from fetchmld.store.history_sql import Answer
from fetchmld.store.landmarks import read_genesis
from fetchmld.store.segment import LedgerDamaged, list_segments
from fetchmld.store.tail import Tail
from fetchmld.store.task_rows import TaskRow
from fetchmld.store.view_file import ViewFile

BATCH_EVENTS: Final = 122_880  # a row group of DuckDB's, which it writes to the file at once and not to its log first
LIVE_ROWS_MAX: Final = 20_000  # rows of unfinished tasks kept at hand; others are read back when a fact needs them


class History:
    """The index, in the file `index_path`, of the ledger in `ledger_dir`.

    Opening raises `Unavailable` while another process has the file open, LedgerDamaged where the boundary of a pruned
    record is. Everything from `first_seq` to below `next_seq` is indexed.
    `rebuilt`: why the file was begun anew, "" where it was in order.
    """

    def __init__(self, index_path: Path, ledger_dir: Path) -> None:
        self._path = index_path
        self._ledger_dir = ledger_dir
        self._file: IndexFile | None = None
        self._views: ViewFile | None = None
        self._tail: Tail | None = None
        self._live: dict[str, Row] = {}
        self._tasks, self._events = TaskList(), EventList()
        self._places = EventPlaces(ledger_dir)
        self._last_hash = b""
        self.next_seq = self.first_seq = 0
        self.rebuilt = ""
        try:
            self._open()
        except IndexDoubt as doubt:
            self.start_anew(doubt.message)

    # -- following the ledger

    def step(self, to_seq: int | None = None) -> bool:
        """Index the next batch of events, up to and including `to_seq`. False: it was all indexed already.

        `to_seq` is durable (acknowledged). None means all that is there, and is only for when nobody writes. Raises
        `IndexDoubt` where the events do not follow what is indexed or the file is damaged, `LedgerDamaged` where the
        segments are, OSError where they cannot be read.
        """
        if to_seq is not None and to_seq < self.next_seq:
            return False
        tail = self._tail or Tail(self._ledger_dir, from_seq=self.next_seq)
        self._tail = None  # after a failure a new one: this one has moved on then, and the index has not
        try:
            block = next_block(tail, to_seq, BATCH_EVENTS)
        except LedgerDamaged as damage:
            if damage.first_bad <= self.next_seq:
                raise
            tail = Tail(self._ledger_dir, from_seq=self.next_seq)
            block = next_block(tail, damage.first_bad - 1, BATCH_EVENTS)  # what lies before it is as good as ever
        if block.count:
            with doubting(self._path):
                self._index(block)
        self._tail = tail
        return block.count > 0

    def catch_up(self, to_seq: int | None = None) -> int:
        """Index everything up to and including `to_seq`, as `step` does. Returns `next_seq`."""
        while self.step(to_seq):
            pass
        return self.next_seq

    def _index(self, block: Block) -> None:
        first, next_seq, last_hash = block.first_seq, block.first_seq + block.count, block.last_hash
        self._refuse_gap(first, block.prev_hash)
        tasks, _ = block.fold(self._read_back(block.missing(self._live)), self._live)
        rows = sorted(tasks.values(), key=lambda row: row.submit_seq)
        events, table = block.events(), task_table(rows)
        table = table.append_column("slot", pa.array(self._put_views(rows, table), pa.uint64()))
        with self.file.transaction():
            self.file.insert("events", pa.Table.from_batches([events]))
            if block.places:
                self.file.insert("places", _places_table(block.places))
            self._replace_tasks(rows, first, table)
            self._fold_experiments(block)
            self.file.db.execute("UPDATE meta SET next_seq = ?, last_hash = ?", [next_seq, last_hash])
            if first == 0:
                self.file.db.execute("UPDATE meta SET installation = ?", [block.prev_hash])
        self.next_seq, self._last_hash = next_seq, last_hash
        self._events.add(events)
        self._places.add(block.places)
        self._tasks.put(table, first)
        self._keep_live(tasks)

    def _refuse_gap(self, seq: int, prev_hash: bytes) -> None:
        """The first of a batch must follow what is indexed; that the others follow it, the tail has seen to."""
        if seq != self.next_seq or (seq > 0 and prev_hash != self._last_hash):
            raise IndexDoubt(f"event {seq} does not follow event {self.next_seq - 1} as it was indexed")

    def _fold_experiments(self, block: Block) -> None:
        facts = experiment_rows.facts_of(block)
        if not facts:
            return
        with self.file.arriving(pa.table({"id": experiment_rows.ids_of(facts)})):
            named = "id IN (SELECT id FROM arriving)"
            found = self.file.db.execute(f"SELECT {experiment_rows.COLUMNS} FROM experiments WHERE {named}").fetchall()
            self.file.db.execute(f"DELETE FROM experiments WHERE {named}")
        before = {row[0]: ExperimentRow(*row) for row in found}
        rows = {**before, **experiment_rows.fold(before, facts)}
        self.file.insert("experiments", experiment_rows.to_arrow(rows.values()))

    # -- task rows

    def _read_back(self, missing: set[str]) -> dict[str, Row]:
        """The rows of these tasks, and of the arrays whose elements they may be, out of the index."""
        arrays = {array_id for task_id in missing if (array_id := task_rows.array_named_by(task_id))}
        wanted = sorted(missing | (arrays - self._live.keys()))
        if not wanted or not self.next_seq:
            return {}
        with self.file.arriving(pa.table({"id": pa.array(wanted, pa.string())})):
            found = self.file.db.execute(
                f"SELECT id, {task_rows.KEPT} FROM tasks WHERE id IN (SELECT id FROM arriving)"
            ).fetchall()
        return {task_id: TaskRow.read(*kept) for task_id, *kept in found}

    def _put_views(self, rows: Sequence[Row], table: pa.Table) -> list[int]:
        """Before the index says so: what a crash leaves between the two has another sum than the index says."""
        slots = [self._tasks.slot_of(row.submit_seq) for row in rows]
        return self.views.put(views_of(table), slots, [row.ended for row in rows])

    def _replace_tasks(self, rows: Sequence[Row], first_new: int, table: pa.Table) -> None:
        """Delete and insert: DuckDB's own update of a row does the same, and slower. The key follows the rows' order."""
        old = [row.submit_seq for row in rows if row.submit_seq < first_new]
        if old:
            with self.file.arriving(pa.table({"submit_seq": pa.array(old, pa.uint64())})):
                self.file.db.execute("DELETE FROM tasks USING arriving WHERE tasks.submit_seq = arriving.submit_seq")
        if rows:
            self.file.insert("tasks", table)

    def _keep_live(self, rows: Mapping[str, Row]) -> None:
        """Where there are too many, the newest queued ones go without: the oldest are likelier to start next."""
        for task_id, row in rows.items():
            if row.ended:
                self._live.pop(task_id, None)
            elif task_id in self._live or len(self._live) < LIVE_ROWS_MAX:
                self._live[task_id] = row

    # -- reading

    def task(self, task_id: str) -> TaskView | None:
        """The task as its newest indexed fact left it; None for an unknown one, or one taken out of the listings."""
        with doubting(self._path):
            return history_pages.one_task(self.file.db, task_id)

    def tasks(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """A page of tasks and the total, for the fields of the API's `TaskQuery`. Phases (preparing) are not known."""
        with doubting(self._path):
            if query.get("array_id") is not None:
                return history_pages.element_page(self.file.db, query)
            wanted, total = self._tasks.page(query)
            return {"tasks": history_pages.task_views(self.file.db, self.views, wanted), "total": total}

    def events(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """A page of audit events and the total, for the fields of the API's `EventQuery`."""
        with doubting(self._path):
            seqs, total = self._events.page(query)
            found = history_pages.segment_views(self._places, seqs)
            if missing := [seq for seq in seqs if seq not in found]:
                found.update(zip(missing, history_pages.event_views(self.file.db, missing), strict=True))
            return {"events": [found[seq] for seq in seqs], "total": total}

    def tasks_at(self, query: Mapping[str, Any], time_max_s: float) -> dict[str, Any]:
        """A page of tasks as they were at `query["at_us"]`, which reads every event up to then. Runs where `ask` does."""
        with doubting(self._path), history_sql.limited_time(self.file.asker, time_max_s):
            return history_asof.task_page(self.file.asker, query)

    def task_at(self, task_id: str, at_us: int, time_max_s: float) -> TaskView | None:
        """The task as it was at `at_us`; None where it was not there. Runs where `ask` does."""
        with doubting(self._path), history_sql.limited_time(self.file.asker, time_max_s):
            return history_asof.one_task(self.file.asker, task_id, at_us)

    def ended(self, now_us: int) -> dict[str, int]:
        """completed_today and failed_today (since the start of the UTC day), completed_24h."""
        with doubting(self._path):
            return history_pages.ended_counts(self.file.db, now_us)

    def changes(self, after: int, limit: int) -> list[tuple[int, str, str]] | None:
        """Number, action and task of the facts about tasks after `after`, oldest first; None where some were pruned."""
        with doubting(self._path):
            return history_pages.task_changes(self.file.db, after, limit)

    def experiments(self) -> list[dict[str, Any]]:
        """Every experiment, newest first."""
        with doubting(self._path):
            return history_pages.all_experiments(self.file.db)

    def experiment_tasks(self, experiment_id: str, limit: int, offset: int) -> dict[str, Any]:
        """A page of the experiment's tasks and the total, newest first; of arrays the elements that facts have named."""
        with doubting(self._path):
            return history_pages.experiment_tasks(self.file.db, experiment_id, limit, offset)

    def ask(self, sql: str, **bounds: Any) -> Answer:
        """People's SQL: see `history_sql.ask`, also for `bounds`."""
        return history_sql.ask(self.file.asker, sql, **bounds)

    def check(self) -> Check:
        """Compare every row with the segments, up to what is indexed now. Changes nothing, raises nothing of DuckDB's."""
        return check_rows(self.file.checker, self._ledger_dir)

    # -- the file

    @property
    def file(self) -> IndexFile:
        assert self._file is not None, "the history is closed"
        return self._file

    @property
    def views(self) -> ViewFile:
        assert self._views is not None, "the history is closed"
        return self._views

    def start_anew(self, why: str) -> None:
        """Move the file aside and begin an empty one. The caller then catches up; no `check` may be running."""
        self.close()
        move_aside(self._path)
        self._open()
        self.rebuilt = why

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        if self._tail is not None:
            self._tail.close()
        self._places.close()
        if self._views is not None:
            self._views.close()
        if self._file is not None:
            self._file.close()
        self._file = self._views = self._tail = None

    def _open(self) -> None:
        """Open the file, making it where there is none. Raises `IndexDoubt` unless it belongs to these segments."""
        self._file = IndexFile(self._path)
        self._views = ViewFile(self._path.with_suffix(".views"))
        begins = boundary.read(self._ledger_dir)
        with doubting(self._path):
            rows = self._meta()
        if len(rows) != 1 or rows[0][0] != SCHEMA_VERSION:
            raise IndexDoubt(f"its layout is not version {SCHEMA_VERSION}")
        _, installation, next_seq, last_hash, first_seq = rows[0]
        if begins is not None and 0 < next_seq < begins.first_seq:
            raise _ends_before(begins)
        if next_seq:
            self._doubt_what_differs(installation, next_seq - 1, last_hash, begins)
        if first_seq > (begins.first_seq if begins else 0):
            raise IndexDoubt(f"it begins at event {first_seq}, and the record before that")
        with doubting(self._path):
            self._load()
        if begins is not None and not next_seq:
            self._begin_later(history_boundary.fill)
        self.follow_boundary()

    def _meta(self) -> list[tuple[Any, ...]]:
        fields = "schema_version, installation, next_seq, last_hash, first_seq"
        return self.file.db.execute(f"SELECT {fields} FROM meta").fetchall()

    def _load(self) -> None:
        """Take in what the file holds."""
        ((_, _, self.next_seq, self._last_hash, self.first_seq),) = self._meta()
        self._live, self._tasks, self._events = {}, TaskList(), EventList()
        ((newest_slot,),) = self.file.db.execute("SELECT coalesce(max(slot), 0) FROM tasks").fetchall()
        if not self.next_seq:
            self.views.clear()
        self.views.reach(newest_slot)
        self._tasks.load(self.file.db)
        self._events.load(self.file.db)
        self._places.load(self.file.db)

    def follow_boundary(self) -> None:
        """Drop what was pruned since the last time. Raises `IndexDoubt` where the index had not reached that far.

        Cheap where nothing was. Raises LedgerDamaged, OSError.
        """
        self._places.close_gone()
        begins = boundary.read(self._ledger_dir)
        if begins is None or begins.first_seq <= self.first_seq:
            return
        if self.next_seq < begins.first_seq:
            raise _ends_before(begins)
        self._begin_later(history_boundary.shorten)

    def _begin_later(self, change: Callable[[IndexFile, Pruned], None]) -> None:
        pruned = boundary.load(self._ledger_dir)
        if pruned is not None:
            with doubting(self._path):
                change(self.file, pruned)
                self._load()
                self.views.free_before(history_boundary.first_slot(self.file))

    def _doubt_what_differs(
        self, installation: bytes, newest_seq: int, newest_hash: bytes, begins: Boundary | None
    ) -> None:
        try:
            grown_from = begins.genesis if begins else self._genesis()
            newest = begins.prev_hash if begins and begins.first_seq == newest_seq + 1 else self._hash_of(newest_seq)
        except LedgerDamaged:
            return  # no reason to doubt the copy
        if not grown_from:
            raise IndexDoubt("there is no ledger that it could belong to")
        if grown_from != installation:
            raise IndexDoubt("it belongs to another ledger")
        if not newest:
            raise IndexDoubt(f"its newest event, {newest_seq}, is not in the ledger")
        if newest != newest_hash:
            raise IndexDoubt(f"its newest event, {newest_seq}, is not the ledger's")

    def _genesis(self) -> bytes:
        """The hash that the ledger's chain grows from, which event 0 need not be there for; nothing where no ledger is."""
        try:
            return genesis_hash(read_genesis(self._ledger_dir))
        except ValueError as problem:
            raise LedgerDamaged(0, str(problem)) from problem
        except FileNotFoundError as problem:
            if list_segments(self._ledger_dir / "segments"):
                raise LedgerDamaged(0, "genesis.json is gone") from problem
            return b""

    def _hash_of(self, seq: int) -> bytes:
        """Nothing where the ledger does not have that event."""
        with closing(Tail(self._ledger_dir, from_seq=seq)) as tail:
            found = tail.read(None, 1)
        return found[0].event_hash if found else b""


def _ends_before(begins: Boundary) -> IndexDoubt:
    return IndexDoubt(f"it ends before event {begins.first_seq}, at which the record begins now")


def _places_table(places: list[tuple[int, int]]) -> pa.Table:
    seqs, offsets = zip(*places, strict=True)
    return pa.table({"seq": pa.array(seqs, pa.uint64()), "lies_at": pa.array(offsets, pa.uint64())})
