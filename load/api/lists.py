"""GET /v1/tasks?limit=50 with a million tasks on record: `python load/api/lists.py` (minutes, most of it filling).

The record is filled over the API, in batches of 10,000, with tasks that wait; then the newest page is asked for on one
connection, while nothing else goes on. Bound: p95 under 15 ms.
"""

import argparse
import time

from beside import BODY, Wire, daemon, drive, judged, prepare, setting

BATCH = 10_000
ARRAY = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--for-s", type=float, default=5.0)
    options = parser.parse_args()
    print(setting())
    with daemon() as ours:
        wire, begun = Wire(ours.port), time.monotonic()
        small = {"job_name": "one", "gpu": 1, "entrypoint": "/bin/true"}
        for _ in range(options.tasks // BATCH):
            wire.ask(prepare("POST", "/v1/tasks/batch", ours.key, [small] * BATCH))
        wire.ask(prepare("POST", "/v1/tasks", ours.key, BODY))
        total = wire.ask(prepare("GET", "/v1/tasks?limit=1", ours.key))["total"]
        print(f"{total:,} tasks, after {time.monotonic() - begun:.0f} s")
        found = {}
        for where in ("?limit=50", f"?limit=50&offset={total // 2}", "?limit=50&status=queued"):
            request = prepare("GET", f"/v1/tasks{where}", ours.key)
            drive(ours.port, request, 1, 1.0)
            found[where] = said = drive(ours.port, request, 1, options.for_s)
            print(f"{where:34}p50 {said['p50_ms']:.2f} p95 {said['p95_ms']:.2f} p99 {said['p99_ms']:.2f} ms")
    met = judged("newest page of 50, p95", found["?limit=50"]["p95_ms"], 15.0, is_most=True, unit="ms")
    raise SystemExit(0 if met else 1)


if __name__ == "__main__":
    main()
