"""Whether the index says what the segments say: every event row, then every task and experiment row.

`history_quick` says first whether there is anything to find. Then event rows are compared with the segments, and task rows
with a fold over the event rows that were just found right. Reads in order and in batches, so that memory stays bounded
whatever the length of the ledger. Works on any connection to an index, also on one that was opened read-only without a
daemon.
"""

from pathlib import Path
from typing import Final, TypedDict

import duckdb
import pyarrow as pa

from fetchmld.store import boundary, event_rows, experiment_rows, task_rows
from fetchmld.store.blocks import next_block
from fetchmld.store.history_boundary import carried_block
from fetchmld.store.history_folded import Columns, folded, rows_by_id, rows_of
from fetchmld.store.history_quick import all_right, same_carried
from fetchmld.store.segment import LedgerDamaged
from fetchmld.store.tail import Tail

BATCH_EVENTS: Final = 5_000
SNAPSHOT_TRIES_MAX: Final = 100

Connection = duckdb.DuckDBPyConnection

_LAST_SEQ: Final = task_rows.SCHEMA.names.index("last_seq")


class Check(TypedDict):
    """`first_bad`: the lowest sequence number whose event, or whose task's newest event, the index has wrong; or -1, which
    with `valid` false means that the segments are too damaged to compare with.

    `checked`: how many events the index held. `damaged`: the file itself could not be read.
    """

    valid: bool
    first_bad: int
    problem: str
    checked: int
    damaged: bool


class _Findings:
    """The lowest bad sequence number so far, and what is wrong there."""

    def __init__(self) -> None:
        self.seq = -1
        self.problem = ""

    def note(self, seq: int, problem: str) -> None:
        if self.seq < 0 or seq < self.seq:
            self.seq, self.problem = seq, problem


def check_rows(db: Connection, ledger_dir: Path) -> Check:
    """Compare all that the index behind `db` holds with the segments in `ledger_dir`. Changes nothing.

    `db` is idle and stays so meanwhile. The index may be behind the segments; what it lacks is not looked at.
    """
    found = _Findings()
    upto, damaged, why = 0, False, ""
    other = db.cursor()
    try:
        upto = _same_snapshot(db, other)
        if (begins := _first_seq(db)) != (first := boundary.first_seq(ledger_dir)):
            if begins < first:  # it was not shortened since the last prune: the next start does that
                return Check(valid=True, first_bad=-1, problem="", checked=0, damaged=False)
            found.note(first, f"its table meta says that it begins at event {begins}")
        elif not _all_right(db, other, ledger_dir, upto):
            compared, why = _check_events(db, ledger_dir, upto, found)
            _check_tasks(db, other, upto, compared if found.seq < 0 else found.seq, found)
    except LedgerDamaged as damage:
        why = f"not compared: {damage.why}"
    except duckdb.Error as error:
        damaged = True
        found.note(0, f"the index cannot be read: {str(error).splitlines()[0]}")
    finally:
        _let_go(db, other)
    if why and found.seq < 0:  # the chain's own fault, and the chain's own check says exactly where it begins
        return Check(valid=False, first_bad=-1, problem=why, checked=upto, damaged=False)
    return Check(valid=found.seq < 0, first_bad=found.seq, problem=found.problem, checked=upto, damaged=damaged)


def _first_seq(db: Connection) -> int:
    ((first_seq,),) = db.execute("SELECT first_seq FROM meta").fetchall()
    return int(first_seq)


def _all_right(db: Connection, other: Connection, ledger_dir: Path, upto: int) -> bool:
    try:
        return all_right(db, other, ledger_dir, upto)
    except LedgerDamaged:
        return False  # how far it can be compared, the slow way finds


def _same_snapshot(one: Connection, other: Connection) -> int:
    """Begin a transaction on each, both of the same state of the index; how many events that holds."""
    for _ in range(SNAPSHOT_TRIES_MAX):
        counts = []
        for connection in (one, other):
            connection.begin()
            counts.append(connection.execute("SELECT next_seq FROM meta").fetchall())
        if counts[0] == counts[1] and len(counts[0]) == 1:
            return int(counts[0][0][0])
        for connection in (one, other):
            connection.rollback()
    raise duckdb.Error("its meta table does not hold exactly one row")


def _let_go(db: Connection, other: Connection) -> None:
    for connection in (db, other):
        try:
            connection.rollback()
        except duckdb.Error:
            pass  # it had not begun, or is broken
    other.close()


# ---- events and experiments ---------------------------------------------------------------------------------------


def _check_events(db: Connection, ledger_dir: Path, upto: int, found: _Findings) -> tuple[int, str]:
    """Compare up to the first bad event: what follows cannot be lower. How far that was, and why if not to the end.

    All `upto` events were acknowledged, so one that cannot be read is damage of the segments; what lies before it counts.
    """
    pruned = boundary.load(ledger_dir)
    first, carried = (pruned.boundary.first_seq, carried_block(pruned.carried)) if pruned else (0, carried_block(()))
    at, end, why = first, upto, ""
    experiments = experiment_rows.fold({}, experiment_rows.facts_of(carried))
    if not same_carried(db, carried):
        found.note(first, "its table carried is not what the boundary carries")
    tail = Tail(ledger_dir, from_seq=first)
    while at < end and found.seq < 0:
        try:
            block = next_block(tail, end - 1, min(BATCH_EVENTS, end - at))
        except LedgerDamaged as damage:
            end = max(at, damage.first_bad)
            why = f"not compared from event {end} on: the segments are damaged: {damage.why}"
            tail.close()
            tail = Tail(ledger_dir, from_seq=at)
            continue
        at += block.count
        _compare_events(db, pa.Table.from_batches([block.events()]), found)
        experiments.update(experiment_rows.fold(experiments, experiment_rows.facts_of(block)))
    tail.close()
    if found.seq < 0:
        _refuse_extra_events(db, first, upto, found)
    _compare_experiments(db, experiment_rows.to_arrow(experiments.values()), at, found)
    return end, why


def _compare_events(db: Connection, expected: pa.Table, found: _Findings) -> None:
    numbers = expected["seq"]
    actual = db.sql(
        f"SELECT {event_rows.COLUMNS} FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq",
        params=[numbers[0].as_py(), numbers[-1].as_py()],
    ).to_arrow_table()
    if not actual.equals(expected):
        seq = _lowest_difference(expected, actual, "seq")
        found.note(seq, f"the row of event {seq} is not what the segments say")


def _refuse_extra_events(db: Connection, first: int, upto: int, found: _Findings) -> None:
    ((count, beyond),) = db.execute(
        "SELECT count(*), min(seq) FROM events WHERE seq IS NULL OR seq < ? OR seq >= ?", [first, upto]
    ).fetchall()
    if count:
        found.note(upto if beyond is None else beyond, f"{count} event rows belong to no event")


def _compare_experiments(db: Connection, expected: pa.Table, below: int, found: _Findings) -> None:
    actual = db.sql(
        "SELECT * FROM experiments WHERE seq < ? OR seq IS NULL ORDER BY seq", params=[below]
    ).to_arrow_table()
    if not actual.equals(expected):
        seq = _lowest_difference(expected, actual, "seq")
        found.note(seq, f"the experiment row of event {seq} is not what the segments say")


def _lowest_difference(expected: pa.Table, actual: pa.Table, key: str) -> int:
    """The lowest key at which two tables, each sorted by `key`, differ. A row without a key counts as 0."""
    keys = (expected[key].to_pylist(), actual[key].to_pylist())
    rows = (rows_of(expected.to_batches()), rows_of(actual.to_batches()))
    for place, (one, other) in enumerate(zip(*rows, strict=False)):
        if one != other:
            return min(keys[0][place] or 0, keys[1][place] or 0)
    shorter, longer = sorted(keys, key=len)
    return longer[len(shorter)] or 0


# ---- tasks --------------------------------------------------------------------------------------------------------


def _check_tasks(db: Connection, other: Connection, upto: int, below: int, found: _Findings) -> None:
    """Compare task rows, by id, with a fold over the event rows before `below`.

    Where `below` is a bad event, tasks that it or a later one may have touched are left out: it is the lower finding.
    """
    expected, actual = folded(db, below), rows_by_id(other)
    want, have = next(expected, None), next(actual, None)
    while want is not None or have is not None:
        order = _order(want, have)
        if have is not None and order >= 0 and (below == upto or (have[_LAST_SEQ] or 0) < below):
            _compare_task(want if order == 0 else None, have, found)
        elif want is not None and order < 0:
            found.note(want[_LAST_SEQ], f"task {want[0]} has no row")
        want = next(expected, None) if order <= 0 else want
        have = next(actual, None) if order >= 0 else have


def _order(want: Columns | None, have: Columns | None) -> int:
    """Whose turn it is in the merge by id: -1 the expected row's, 1 the actual row's, 0 both. No id sorts last."""
    if want is None or have is None:
        return 1 if want is None else -1
    one, other = (False, want[0]), (have[0] is None, have[0] or "")
    return (one > other) - (one < other)


def _compare_task(want: Columns | None, have: Columns, found: _Findings) -> None:
    if want is None:
        found.note(have[_LAST_SEQ] or 0, f"the task row {have[0]} belongs to no task, or is there twice")
    elif want != have:
        names = [n for n, one, other in zip(task_rows.SCHEMA.names, want, have, strict=True) if one != other]
        found.note(want[_LAST_SEQ], f"the row of task {want[0]} is wrong in {', '.join(names)}")
