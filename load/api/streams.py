"""1,000 followers of the scheduler's stream, and one that never reads, beside a bare fan-out: `python load/api/streams.py`.

Tasks are submitted in batches while all follow; each follower is to see each of them. What counts is deliveries per second
from the first event that any reader sees to the last reader's last one. Bound: 500,000 a second, and
nobody missed anything.
"""

import argparse
import json
import resource
import subprocess
import threading

from beside import BODY, Daemon, Wire, built, daemon, echo, judged, prepare, request_file, setting

MARK = "event: task_update"
EVENT_BYTES = 620  # about what one of ours has
BATCH = 500


def followed(port: int, request: bytes, readers: int, events: int, go: "threading.Thread") -> dict[str, float]:
    """What all readers together saw, `go` being what makes the events."""
    with request_file(request) as name:
        words = [str(built("listen")), str(port), str(readers), str(events), MARK, name]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as listening:
            assert listening.stdout is not None
            if listening.stdout.readline() != "ready\n":
                raise SystemExit("not every reader was answered")
            go.start()
            said: dict[str, float] = json.loads(listening.stdout.readline())
    go.join()
    said["per_s"] = said["seen"] / max(said["seconds"], 1e-9)
    return said


def submit(ours: Daemon, events: int) -> None:
    wire = Wire(ours.port)
    for _ in range(events // BATCH):
        wire.ask(prepare("POST", "/v1/tasks/batch", ours.key, [BODY] * BATCH))
    wire.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--events", type=int, default=2000)
    options = parser.parse_args()
    limit = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 65536), limit))
    print(setting())
    counts = (options.readers, options.events)
    with echo() as bare:
        go = prepare("POST", f"/go?count={options.events}&size={EVENT_BYTES}&batch={BATCH}", "", {})
        makes = threading.Thread(target=lambda: Wire(bare).ask(go))
        alone = followed(bare, prepare("GET", "/stream", ""), *counts, makes)
    with daemon() as ours:
        follow = prepare("GET", "/v1/scheduler/status/stream", ours.key)
        makes = threading.Thread(target=submit, args=(ours, options.events))
        found = followed(ours.port, follow, *counts, makes)
    for name, said in (("bare fan-out", alone), ("FetchML", found)):
        print(f"{name:14}{said['per_s']:12,.0f} deliveries/s, {said['bytes'] / 1e6:,.0f} MB in {said['seconds']:.2f} s, "
              f"{said['short']:.0f} readers short")  # fmt: skip
    good = [
        judged("deliveries/s", found["per_s"], 500_000),
        judged("readers that missed something", found["short"], 0, is_most=True),
    ]
    raise SystemExit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
