"""A program that does nothing but write: `python -m tests.fault.writer DIR BATCHES`. It waits for a line, then appends.

Prints what happens as it happens: `ready`, `opened N`, `acknowledged N` (all events below N), `refused WHY`, `end`. Of a
refused batch one event is tried next, then the rest: what comes next need not fill a segment where the refused one did. An
open that the disk refused is tried again.
"""

import sys
import time
from pathlib import Path

from fetchmld.store.ledger import Ledger, LedgerUnavailable
from tests.store.ledger_samples import fill, open_ledger

TRIES_MAX = 200


def main() -> None:
    directory, batches = Path(sys.argv[1]), int(sys.argv[2])
    say("ready")
    sys.stdin.readline()
    ledger = opened(directory)
    say(f"opened {ledger.next_seq}")
    for number in range(batches):
        append(ledger, 1 + number * 7 % 5)
    for _ in range(TRIES_MAX):
        try:
            ledger.close()
            break
        except LedgerUnavailable as problem:
            say(f"refused {problem}")
    say("end")


def opened(directory: Path) -> Ledger:
    for _ in range(TRIES_MAX):
        try:
            return open_ledger(directory)
        except LedgerUnavailable as problem:
            say(f"refused {problem}")
    raise SystemExit("never opened")


def append(ledger: Ledger, size: int) -> None:
    goal, now = ledger.next_seq + size, size
    for _ in range(TRIES_MAX):
        try:
            fill(ledger, (now,))
            say(f"acknowledged {ledger.next_seq}")
            now = goal - ledger.next_seq
            if not now:
                return
        except LedgerUnavailable as problem:
            say(f"refused {problem}")
            now = 1
            time.sleep(0.001)
    raise SystemExit("never written")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
