"""HyperQueue running `/bin/true`, in its kindest form: `python hyperqueue_peer.py lone|many|queued COUNT DIRECTORY`.

Its wheel has the library but not the `hq` program: server and worker share this process, there is no journal, and no
output is kept, so nothing is durable here. `wait_for_jobs` looks once a second only; the end is therefore seen by a last
program that makes a file, which is looked for every 0.2 ms. What follows at once on another waits for its next round of
scheduling (20 ms), so a pause lies between two that are measured alone. It listens on every address: `compare.py` gives
it a network of its own.

Prints one line of JSON: `lone_p50_ms`, `lone_p95_ms`; or `per_s`, `submitted_per_s`; or `bytes_per_task`.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Final

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

PROGRAM: Final = "/bin/true"
CORES: Final = 32
LOOK_S: Final = 0.0002
END_MAX_S: Final = 300.0
SETTLE_S: Final = 2.0
PAUSE_S: Final = 0.05


def job(count: int) -> Job:
    made = Job()
    for _ in range(count):
        made.program([PROGRAM], stdout=None, stderr=None)
    return made


def marker(mark: Path, priority: int = 0) -> Job:
    made = Job()
    made.program(["/usr/bin/touch", str(mark)], stdout=None, stderr=None, priority=priority)
    return made


def wait_for(mark: Path) -> float:
    """The moment at which the file was there."""
    deadline = time.monotonic() + END_MAX_S
    while not mark.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"HyperQueue did not end within {END_MAX_S:.0f} s")
        time.sleep(LOOK_S)
    return time.perf_counter()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    what, count, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    os.chdir(directory)
    mark = directory / "mark"
    told = os.fdopen(os.dup(1), "w")  # the library prints as it goes
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    cluster = LocalCluster(worker_config=None if what == "queued" else WorkerConfig(cores=CORES))
    client = cluster.client()
    found: dict[str, float] = {}
    if what == "lone":
        took_ms = []
        for _ in range(count):
            mark.unlink(missing_ok=True)
            begun = time.perf_counter()
            client.submit(marker(mark))
            took_ms.append((wait_for(mark) - begun) * 1e3)
            time.sleep(PAUSE_S)
        found = {"lone_p50_ms": statistics.median(took_ms), "lone_p95_ms": sorted(took_ms)[int(count * 0.95)]}
    elif what == "many":
        all_of_them = job(count)
        begun = time.perf_counter()
        client.submit(all_of_them)
        submitted = time.perf_counter()
        client.submit(marker(mark, priority=-1))
        found = {"per_s": count / (wait_for(mark) - begun), "submitted_per_s": count / (submitted - begun)}
    else:
        before = resident_bytes()
        client.submit(job(count))
        time.sleep(SETTLE_S)
        found = {"bytes_per_task": (resident_bytes() - before) / count}
    print(json.dumps(found), file=told, flush=True)
    os._exit(0)  # its threads do not end by themselves


if __name__ == "__main__":
    main()
