"""`POST /v1/audit/verify` as a client sees it: `python load/ledger/online.py [--events 100000] [--rounds 10]`.

A daemon runs on a record of tasks that were submitted, started and ended. Each round asks it to verify everything: chain,
tree, checkpoints, and that the index says the same. Beside it, in the same run, a bare loop of the same hashes in this
process. `processor` is what the audit's and the history's process spent on it. Exits 1 where a round was not valid or the
median is not under a second.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from record import write_record
from running import Daemon, running
from verify import bare_all, records

sys.path.insert(0, str(Path(__file__).parent.parent))
from processes import Process, of_daemon

BOUND_S: Final = 1.0
CAUGHT_UP_MAX_S: Final = 120.0
LIVE: Final = 1_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=100, help="events in a frame")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fetchml-online-") as made:
        directory = Path(made) / "data"
        directory.mkdir()
        write_record(directory / "ledger", given.events, LIVE, batch_facts=given.batch)
        segments = list(records(directory / "ledger"))
        with running(directory) as daemon:
            verify(daemon)  # the index catches up, the tree follows
            actors = [one for one in of_daemon(0, [str(directory)]) if "audit" in one.name or "history" in one.name]
            rounds = [one_round(daemon, segments, actors) for _ in range(given.rounds)]
    median = statistics.median(rounds)
    print(f"median {median:.3f} s, slowest {max(rounds):.3f} s; bound {BOUND_S} s")
    return int(median >= BOUND_S)


def one_round(daemon: Daemon, segments: Any, actors: list[Process]) -> float:
    begun = time.perf_counter()
    bare_all(segments)
    bare_s = time.perf_counter() - begun
    spent_s = sum(cpu_s(actor) for actor in actors)
    begun = time.perf_counter()
    found = verify(daemon)
    took_s = time.perf_counter() - begun
    spent_s = sum(cpu_s(actor) for actor in actors) - spent_s
    print(f"{found['total_events']} events: {took_s:.3f} s, processor {spent_s:.2f} s, bare loop {bare_s:.3f} s")
    return took_s


def cpu_s(process: Process) -> float:
    """Of all its threads, also of those that have ended, in hundredths."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def verify(daemon: Daemon) -> dict[str, Any]:
    url = f"http://127.0.0.1:{daemon.port}/v1/audit/verify"
    request = urllib.request.Request(url, b"", {"X-API-Key": daemon.key}, method="POST")
    with urllib.request.urlopen(request, timeout=CAUGHT_UP_MAX_S) as answer:
        found: dict[str, Any] = json.load(answer)
    if not found["valid"]:
        raise SystemExit(f"not valid: {found}")
    return found


if __name__ == "__main__":
    sys.exit(main())
