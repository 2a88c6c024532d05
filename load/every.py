"""`make bench`: every claim's benchmark, one after the other, and what became of each bound.

Each of them is a program of its own that prints figures beside their limit, taken in the same run, and ends with 1 where a
bound does not hold; here they run in their short form, some ten minutes in all. `--only WORD` runs those whose name has
the word. What another machine's noise does to a figure is for the reader: the load average stands beside each.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
RUN_MAX_S: Final = 600.0


@dataclass(slots=True, frozen=True)
class Benchmark:
    """A program below `load/`, with its arguments, and what it is to show."""

    claim: str
    words: tuple[str, ...]


BENCHMARKS: Final = (
    Benchmark("tasks: one alone, many at once; start and idle load", ("bench.py",)),
    Benchmark("requests beside a bare echo", ("api/throughput.py",)),
    Benchmark("the newest page of 200,000 tasks", ("api/lists.py", "--tasks", "200000")),
    Benchmark("streams to 1,000 followers", ("api/streams.py",)),
    Benchmark("slow clients hold nothing", ("door/slow.py", "--requests", "600")),
    Benchmark("50,000 durable events a second", ("ledger/append.py", "--rounds", "2", "--without-duckdb")),
    Benchmark("a verification beside the bare hashes", ("ledger/verify.py", "--events", "300000")),
    Benchmark("POST /v1/audit/verify of 100,000 events", ("ledger/online.py",)),
    Benchmark("pages of 300,000 events, and their totals", ("ledger/queries.py", "--events", "300000")),
    Benchmark("back after a death, 300,000 events", ("ledger/recovery.py", "--events", "300000", "--daemon")),
    Benchmark("the queue's step beside C++", ("queue/steps.py", "--rounds", "2", "--steps", "50000")),
    Benchmark("steps past a plan", ("queue/plans.py", "--rounds", "2", "--steps", "1000")),
    Benchmark("growth with tasks and workers", ("queue/scale.py", "--rounds", "3", "--steps", "2000")),
    Benchmark("starts with all isolation beside C", ("workers/spawning.py", "--count", "1000")),
    Benchmark("memory of running tasks, idle agent", ("workers/footprint.py", "--tasks", "200", "--idle-s", "15")),
    Benchmark("leftovers of 300 attempts", ("workers/leftovers.py", "--count", "300")),
    Benchmark("hostile tasks, 3 of each", ("workers/hostile.py", "--rounds", "3", "--quiet-s", "15")),
    Benchmark("pages through the proxy", ("proxy/pages.py", "--rounds", "3")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="those whose file or claim has it")
    given = parser.parse_args()
    chosen = [one for one in BENCHMARKS if given.only in one.claim or given.only in one.words[0]]
    if not chosen:
        parser.error(f"no benchmark has {given.only!r} in its name: {', '.join(one.words[0] for one in BENCHMARKS)}")
    rows = []
    for one in chosen:
        print(f"\n==== {one.claim}: load/{' '.join(one.words)}", flush=True)
        load, begun_t = os.getloadavg()[0], time.monotonic()
        try:
            words = [sys.executable, str(HERE / one.words[0]), *one.words[1:]]
            status = subprocess.run(words, timeout=RUN_MAX_S, check=False).returncode
        except subprocess.TimeoutExpired:
            status = 124
        rows.append((one, status, time.monotonic() - begun_t, load))
    print(f"\n{'':52}{'bounds':>10}{'took, s':>9}{'load':>7}")
    for one, status, took_s, load in rows:
        print(f"{one.claim:52}{'met' if status == 0 else f'exit {status}':>10}{took_s:>9.0f}{load:>7.1f}")
    return 0 if all(status == 0 for _, status, _, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
