"""`store.pruning` as a program whose calls can be made to fail: `python -m tests.fault.pruner DIR/ledger STEP ARGUMENT`.

Everything is imported before it says `ready` and waits for a line, so that what fails afterwards is the step's own.
"""

import sys

from fetchmld.store import pruning


def main() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    pruning.main()


if __name__ == "__main__":
    main()
