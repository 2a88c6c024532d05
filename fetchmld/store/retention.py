"""What becomes of old segments: `python -m fetchmld.store.retention DIR/ledger --seal-after N`.

A process of its own beside a running daemon, so that compressing costs the writer nothing but idle cycles. It touches
only segments that another one follows, and each step leaves the ledger whole: killed at any moment, the next run goes on.

Prints one JSON line: {"sealed": n} or {"error": ...}.
"""

import argparse
import os
from pathlib import Path
from typing import Any, Final

import orjson

from fetchmld.store.sealed import SEALED, seal
from fetchmld.store.segment import list_segments

_NICENESS: Final = 15


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fetchmld.store.retention")
    parser.add_argument("ledger_dir", type=Path)
    parser.add_argument("--seal-after", type=int, required=True, help="So many segments stay as they were written.")
    given = parser.parse_args()
    os.nice(_NICENESS)
    print(orjson.dumps(_result(given.ledger_dir, given.seal_after)).decode())


def _result(ledger_dir: Path, seal_after: int) -> dict[str, Any]:
    try:
        return {"sealed": seal_old(ledger_dir, seal_after)}
    except OSError as problem:
        return {"error": str(problem)}


def unsealed(ledger_dir: Path, seal_after: int) -> list[Path]:
    """The segments that are due: all but the newest `seal_after`, and never the one that is written."""
    assert seal_after > 0, "the newest segment is the writer's"
    old = list_segments(ledger_dir / "segments")[:-seal_after]
    return [path for _, path in old if path.suffix != SEALED]


def seal_old(ledger_dir: Path, seal_after: int) -> int:
    """Seal what is due; how many that were. Raises OSError."""
    for left_over in (ledger_dir / "segments").glob(f"*{SEALED}.new"):
        left_over.unlink()
    parent, done = os.getppid(), 0
    for path in unsealed(ledger_dir, seal_after):
        seal(path)
        done += 1
        if os.getppid() != parent:
            break  # whoever wanted it is gone
    return done


if __name__ == "__main__":
    main()
