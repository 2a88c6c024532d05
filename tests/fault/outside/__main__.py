"""`python -m tests.fault.outside HISTORIES DATA_DIR`: what does not hold, a line each. 0: all holds, 1: something does not.

Shares no code with FetchML: it reads the record by docs/ledger-format.md, and what clients and jobs wrote down.
"""

import sys
from pathlib import Path

from tests.fault.outside.case import load
from tests.fault.outside.ledger import Broken
from tests.fault.outside.rules import problems_of, summary

SHOWN_MAX = 100


def main() -> int:
    histories, data_dir = map(Path, sys.argv[1:3])
    try:
        case = load(histories, data_dir)
    except Broken as broken:
        print(f"whole chain: {broken}")
        return 1
    found = problems_of(case)
    print(summary(case))
    for problem in found[:SHOWN_MAX]:
        print(problem)
    if len(found) > SHOWN_MAX:
        print(f"and {len(found) - SHOWN_MAX} more")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
