"""Ray tasks that each run `/bin/true` by subprocess: `python ray_peer.py lone|many|queued COUNT DIRECTORY`.

What a Ray user writes who wants a program run: one task per program, without a record, output or a REST interface.
Prints one line of JSON, as `hyperqueue_peer.py` does.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import ray

PROGRAM: Final = "/bin/true"
CPUS: Final = 2
SETTLE_S: Final = 3.0
OBJECT_STORE_BYTES: Final = 200 * 1024 * 1024


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator, unused-ignore]
def run_one() -> int:
    quiet = subprocess.DEVNULL
    return subprocess.run([PROGRAM], stdin=quiet, stdout=quiet, stderr=quiet, check=True).returncode


@ray.remote(num_cpus=1, resources={"never": 1})  # type: ignore[untyped-decorator, unused-ignore]
def wait_for_ever() -> None:
    pass


def resident_bytes() -> int:
    """Of this process and all below it: Ray's servers and workers are its children."""
    children: dict[int, list[int]] = {}
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = each.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(each.parent.name))
    total, left = 0, [os.getpid()]
    while left:
        pid = left.pop()
        left += children.get(pid, [])
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total


def main() -> None:
    what, count = sys.argv[1], int(sys.argv[2])
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    ray.init(
        num_cpus=CPUS,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    ray.get([run_one.remote() for _ in range(50)])
    found: dict[str, float] = {}
    if what == "lone":
        took_ms = []
        for _ in range(count):
            begun = time.perf_counter()
            ray.get(run_one.remote())
            took_ms.append((time.perf_counter() - begun) * 1e3)
        found = {"lone_p50_ms": statistics.median(took_ms), "lone_p95_ms": sorted(took_ms)[int(count * 0.95)]}
    elif what == "many":
        begun = time.perf_counter()
        waiting = [run_one.remote() for _ in range(count)]
        submitted = time.perf_counter()
        ray.get(waiting)
        found = {"per_s": count / (time.perf_counter() - begun), "submitted_per_s": count / (submitted - begun)}
    else:
        before = resident_bytes()
        kept = [wait_for_ever.remote() for _ in range(count)]
        time.sleep(SETTLE_S)
        found = {"bytes_per_task": (resident_bytes() - before) / len(kept)}
    print(json.dumps(found), file=told, flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
