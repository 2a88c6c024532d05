"""The verifier's comparison of the index's event rows with the segments, read by its own hand."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fetchmld.store.sealed import read_segment
from fetchmld.store.segment import list_segments
from fetchmld.verify_boundary import read_begins
from fetchmld.verify_records import record_row, records

if TYPE_CHECKING:
    import duckdb

_ROWS_AT_ONCE: Final = 20_000
_COLUMNS: Final = (
    "seq",
    "at_us",
    "clock_us",
    "event_type",
    "action",
    "user_id",
    "resource",
    "success",
    "ip_address",
    "error",
    "prev_hash",
    "event_hash",
    "metadata",
)

CheckDerived = Callable[[Any, Path], tuple[int, str]]


@dataclass(frozen=True, slots=True)
class IndexResult:
    """`checked` rows agree with the segments. `behind`: events that the index does not have yet, which is no fault.

    `old_until`: it still holds what was pruned before this event, and is compared when the next start has dropped it.
    """

    valid: bool
    first_bad: int
    problem: str
    checked: int
    behind: int = 0
    old_until: int = 0


def verify_index(ledger_dir: Path, index_path: Path, check_derived: CheckDerived | None = None) -> IndexResult:
    """Compare the index's event rows with the segments, one by one, in the order of their numbers.

    The segments are taken as they are: verify them first. `check_derived`, given the open database and `ledger_dir`,
    compares what was derived from the events and returns (lowest bad number or -1, problem). Raises OSError where the
    index cannot be opened, as while another process writes it.
    """
    import duckdb

    try:
        db = duckdb.connect(str(index_path), read_only=True)
    except duckdb.Error as problem:
        raise OSError(f"the index {index_path} cannot be opened: {_first_line(problem)}") from problem
    with closing(db):
        try:
            result = _compare_rows(db, ledger_dir)
            if result.valid and check_derived is not None and not result.old_until:
                bad, problem_there = check_derived(db, ledger_dir)
                result = replace(result, valid=bad < 0, first_bad=bad, problem=problem_there)
        except duckdb.Error as problem:
            return IndexResult(False, 0, f"the index cannot be read: {_first_line(problem)}", 0)
    return result


def _compare_rows(db: "duckdb.DuckDBPyConnection", ledger_dir: Path) -> IndexResult:
    begins = read_begins(ledger_dir)
    first, newest = (begins.first_seq, begins.prev_hash) if begins else (0, b"")
    reached = db.execute("SELECT next_seq, last_hash, first_seq FROM meta").fetchall()
    if len(reached) != 1:
        return IndexResult(False, first, f"its table meta has {len(reached)} rows, not one", 0)
    next_seq, last_hash, first_seq = reached[0]
    if first_seq < first:
        return IndexResult(True, -1, "", 0, old_until=first)
    if first_seq > first:
        return IndexResult(False, first, f"its table meta says that it begins at event {first_seq}", 0)
    expected, at = _rows(ledger_dir, first), first
    for row in _index_rows(db):
        if row[0] != at and (at < next_seq or row[0] is None or row[0] < at):
            return IndexResult(False, *_out_of_order(row[0], at), at)
        if at >= next_seq or (right := next(expected, None)) is None:
            return IndexResult(False, row[0], "the index has a row that the ledger does not have", at)
        if row != right:
            return IndexResult(False, at, f"its row differs in {_differing(row, right)}", at)
        at, newest = at + 1, row[11]
    if at < next_seq:
        return IndexResult(False, at, f"its row is missing; the index says that it holds {next_seq}", at)
    if at and last_hash != newest:
        return IndexResult(False, at - 1, "the index's table meta names another hash for it", at)
    return IndexResult(True, -1, "", at - first, behind=sum(1 for _ in expected))


def _out_of_order(found: int | None, due: int) -> tuple[int, str]:
    if found is None:
        return due, "a row without a number stands where it is due"
    if found < due:
        return found, "it has more than one row"
    return due, "its row is missing"


def _index_rows(db: "duckdb.DuckDBPyConnection") -> Iterator[tuple[Any, ...]]:
    batches = db.sql(f"SELECT {', '.join(_COLUMNS)} FROM events ORDER BY seq").to_arrow_reader(_ROWS_AT_ONCE)
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _rows(ledger_dir: Path, first: int) -> Iterator[tuple[Any, ...]]:
    """What the index's rows must be, straight from the bytes. Ends where the segments are no longer readable."""
    for seq, path in list_segments(ledger_dir / "segments"):
        buffer, _ = read_segment(path) if seq >= first else (b"", "")
        for start, size in records(buffer):
            yield record_row(buffer, start, size)


def _differing(row: tuple[Any, ...], right: tuple[Any, ...]) -> str:
    return ", ".join(name for name, a, b in zip(_COLUMNS, row, right, strict=True) if a != b)


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
