"""The offline verifier: does what lies on the disk still say what was written?

It shares the byte format with the writer (`core.chain`, `store.segment`, `store.landmarks`) and nothing else. It reads
only, and needs no daemon. `docs/ledger-format.md` has the rules that it checks: `verify_walk` the chain's,
`verify_checkpoints` and `verify_merkle` those of what was signed, `verify_index` the index's.
"""

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fetchmld.verify_boundary import NAME as PRUNED
from fetchmld.verify_checkpoints import verify_ledger
from fetchmld.verify_index import IndexResult, verify_index
from fetchmld.verify_walk import SegmentResult

VALID: Final = 0
TAMPERED: Final = 1
VALID_UNVOUCHED: Final = 2  # nothing outside the machine says that this is the whole chain and not a rewritten one
UNREADABLE: Final = 3

_LIVE_TRIES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class OfflineReport:
    """What `fetchmld audit verify --data-dir` says: `code` is its exit status, `lines` its words."""

    code: int
    lines: tuple[str, ...]
    segments: SegmentResult | None
    index: IndexResult | None


def offline(data_dir: Path, outside: Sequence[str] = ()) -> OfflineReport:
    """Verify everything under `data_dir`, as `fetchmld audit verify --data-dir` does. Raises nothing that a disk can.

    `outside`: checkpoints that were kept elsewhere, as text. Raises ValueError where one of them is no checkpoint.
    """
    ledger_dir, index_path = data_dir / "ledger", data_dir / "index.duckdb"
    try:
        segments = _settled(ledger_dir, outside)
    except OSError as problem:
        return OfflineReport(UNREADABLE, (f"UNREADABLE: {problem}",), None, None)
    lines = [_segment_line(segments)]
    index, unreadable = None, False
    if segments.valid and index_path.exists():
        try:
            index = verify_index(ledger_dir, index_path, _derived)
            lines.append(_index_line(index))
        except OSError as problem:
            unreadable = not _is_written(ledger_dir)  # a running daemon has it open, and compares it when asked
            lines.append(f"index not compared: {problem}")
    code = main_code(segments, index, segments.vouched > 0)
    lines += _vouching(code, segments)
    return OfflineReport(UNREADABLE if unreadable else code, tuple(lines), segments, index)


def _vouching(code: int, segments: SegmentResult) -> list[str]:
    said = [segments.notice] if segments.notice else []
    if code == VALID:
        later = segments.total_events - segments.vouched
        said.append(f"The checkpoint from outside vouches for events 0 to {segments.vouched - 1}; {later} came later.")
    elif code == VALID_UNVOUCHED:
        said.append(
            "Nothing outside this machine vouches for the chain: name a checkpoint that was kept elsewhere "
            "(--checkpoint FILE), or compare the root with one noted elsewhere."
        )
    return said


def main_code(segments: SegmentResult, index: IndexResult | None, vouched: bool = False) -> int:
    """The exit status for these findings; `vouched` where a checkpoint from outside agrees with the root."""
    if not segments.valid or (index is not None and not index.valid):
        return TAMPERED
    return VALID if vouched else VALID_UNVOUCHED


def _settled(ledger_dir: Path, outside: Sequence[str]) -> SegmentResult:
    """Verify; while a daemon writes, its last frame may be half there, so look again as long as the end moves."""
    if not (ledger_dir / "segments").is_dir():
        raise FileNotFoundError(f"there is no ledger in {ledger_dir}")
    result = _unless_pruned(ledger_dir, outside)
    for _ in range(_LIVE_TRIES_MAX):
        if result.valid or not _is_written(ledger_dir):
            return result
        before, result = result, _unless_pruned(ledger_dir, outside)
        if result.first_bad == before.first_bad:
            return result
    return result


def _unless_pruned(ledger_dir: Path, outside: Sequence[str]) -> SegmentResult:
    """Verify; once more where a daemon removed the beginning meanwhile."""
    begins = _pruned(ledger_dir)
    try:
        result = verify_ledger(ledger_dir, outside=outside)
    except FileNotFoundError:
        if _pruned(ledger_dir) == begins:
            raise
        return verify_ledger(ledger_dir, outside=outside)
    if not result.valid and _pruned(ledger_dir) != begins:
        return verify_ledger(ledger_dir, outside=outside)
    return result


def _pruned(ledger_dir: Path) -> bytes:
    try:
        return (ledger_dir / PRUNED).read_bytes()
    except FileNotFoundError:
        return b""


def _is_written(ledger_dir: Path) -> bool:
    """Whether a daemon has the ledger open: it holds the lock."""
    try:
        descriptor = os.open(ledger_dir / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _derived(db: Any, ledger_dir: Path) -> tuple[int, str]:
    from fetchmld.store.history_check import check_rows

    check = check_rows(db, ledger_dir)
    return check["first_bad"], check["problem"]


def _segment_line(result: SegmentResult) -> str:
    if result.valid:
        signed = f", {result.checkpoints} signed checkpoints agree" if result.checkpoints else ""
        gone = f" (those before {result.first_seq} were pruned)" if result.first_seq else ""
        return f"valid: {result.total_events} events{gone}, root {result.root_hash.hex()}{signed}"
    return f"INVALID: first bad sequence number {result.first_bad}: {result.problem}"


def _index_line(result: IndexResult) -> str:
    if not result.valid:
        return f"INVALID index: first bad sequence number {result.first_bad}: {result.problem}"
    if result.old_until:
        return f"index: not compared: it still holds what was pruned before event {result.old_until}; start the daemon once"
    behind = f", {result.behind} events not indexed yet" if result.behind else ""
    return f"index: {result.checked} rows agree with the ledger{behind}"
