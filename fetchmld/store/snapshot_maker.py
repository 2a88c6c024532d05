"""Makes a state snapshot beside a running daemon: `python -m fetchmld.store.snapshot_maker DIR/ledger SEQ [--check]`.

A process of its own, so that the scheduler neither stops nor shares its interpreter while 100,000 tasks are written down:
it reads the newest snapshot and the segments since, folds, writes, and ends. It sees what is on the disk only, so what it
writes is what a replay gives. `--check` first walks all that a start from the newest snapshot left out.

Prints one JSON line: {"seq": n} or {"first_bad": n, "why": ...} or {"error": ...}.
"""

import argparse
import gc
import os
from pathlib import Path
from typing import Any, Final

import orjson

from fetchmld.core.chain import genesis_hash
from fetchmld.core.state import State
from fetchmld.store import boundary, snapshots
from fetchmld.store.landmarks import Mark, read_genesis
from fetchmld.store.recovery import check_before
from fetchmld.store.segment import LedgerDamaged
from fetchmld.store.tail import Tail

_AT_ONCE: Final = 256
_NICENESS: Final = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fetchmld.store.snapshot_maker")
    parser.add_argument("ledger_dir", type=Path)
    parser.add_argument("to_seq", type=int, help="The newest event that is acknowledged.")
    parser.add_argument("--check", action="store_true", help="First walk what a start from the newest one left out.")
    given = parser.parse_args()
    os.nice(_NICENESS)
    gc.disable()  # it lives for a second and makes no garbage
    print(orjson.dumps(_result(given.ledger_dir, given.to_seq, given.check)).decode())


def _result(ledger_dir: Path, to_seq: int, check: bool) -> dict[str, Any]:
    try:
        return _made(ledger_dir, to_seq, check)
    except LedgerDamaged as damage:
        return {"first_bad": damage.first_bad, "why": damage.why}
    except (OSError, ValueError) as problem:
        return {"error": str(problem)}


def _made(ledger_dir: Path, to_seq: int, check: bool) -> dict[str, Any]:
    begins = boundary.read(ledger_dir)
    try:
        if check:
            check_skipped(ledger_dir)
        return {"seq": make(ledger_dir, to_seq)}
    except LedgerDamaged:
        if boundary.read(ledger_dir) == begins:
            raise
        return {"error": "the record was pruned meanwhile"}


def check_skipped(ledger_dir: Path) -> None:
    """Walk all before the newest snapshot. On damage no snapshot may hide it from the next start: all are removed."""
    found = snapshots.newest(ledger_dir)
    if found is None:
        return
    begins = boundary.read(ledger_dir)
    since = None if begins is None else begins.mark
    try:
        check_before(ledger_dir / "segments", genesis_hash(read_genesis(ledger_dir)), found.mark, since)
    except LedgerDamaged:
        if boundary.read(ledger_dir) == begins:
            snapshots.remove_all(ledger_dir)
        raise


def make(ledger_dir: Path, to_seq: int) -> int:
    """Write the snapshot behind event `to_seq`, the last of its batch; how many events it stands for.

    Raises LedgerDamaged, OSError.
    """
    base = snapshots.newest(ledger_dir)
    state, prev_hash = (State(), None) if base is None else (base.state(), base.mark.event_hash)
    if to_seq + 1 <= state.seq:
        return state.seq
    parent = os.getppid()
    tail = Tail(ledger_dir, state.seq, prev_hash)
    while tail.next_seq <= to_seq:
        events = tail.read(to_seq, _AT_ONCE)
        for event in events:
            state.apply(event.fact)
        if os.getppid() != parent:
            raise ValueError("whoever wanted it is gone")
    newest = events[-1]
    mark = Mark(newest.seq + 1, newest.event_hash, *tail.place, newest.fact.at_us, newest.fact.clock_us)
    snapshots.write(ledger_dir, mark, state)
    return mark.seq


if __name__ == "__main__":
    main()
