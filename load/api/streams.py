"""1,000 followers of the scheduler's stream, beside a bare fan-out: `python load/api/streams.py`.

Tasks are submitted in batches while all follow; each follower is to see each of them. What counts is deliveries per second
from the first event that any reader sees to the last reader's last one. In turns: the bare fan-out, ours, and ours
beside one follower that never reads. Bounds: 500,000 a second in the median, nobody missed anything, and the one that never
reads takes nothing from the others beyond what the rounds differ in (0.8 of the rate without).
"""

import argparse
import json
import resource
import statistics
import subprocess
import threading
from functools import partial

from beside import BODY, Daemon, Wire, built, daemon, echo, judged, prepare, request_file, setting

MARK = "event: task_update"
EVENT_BYTES = 620  # about what one of ours has
BATCH = 500


def followed(
    port: int, request: bytes, readers: int, stalled: int, events: int, go: "threading.Thread"
) -> dict[str, float]:
    """What all readers together saw, `go` being what makes the events; `stalled` more ask and never read."""
    with request_file(request) as name:
        words = [str(built("listen")), str(port), str(readers), str(stalled), str(events), MARK, name]
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
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    limit = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 65536), limit))
    print(setting())
    go = prepare("POST", f"/go?count={options.events}&size={EVENT_BYTES}&batch={BATCH}", "", {})
    found: dict[str, list[dict[str, float]]] = {"bare fan-out": [], "FetchML": [], "one stalled": []}
    with daemon() as ours:
        for _ in range(options.rounds):
            with echo() as at:  # it does not notice who left
                bare = at.port
                make_bare, make_ours = partial(tell, bare, go), partial(submit, ours, options.events)
                ways = {
                    "bare fan-out": (bare, prepare("GET", "/stream", ""), 0, make_bare),
                    "FetchML": (ours.port, follow_of(ours), 0, make_ours),
                    "one stalled": (ours.port, follow_of(ours), 1, make_ours),
                }
                for name, (port, request, stalled, make) in ways.items():
                    makes = threading.Thread(target=make)
                    said = followed(port, request, options.readers, stalled, options.events, makes)
                    found[name].append(said)
                    print(f"{name:14}{said['per_s']:12,.0f} deliveries/s, {said['bytes'] / 1e6:,.0f} MB in "
                          f"{said['seconds']:.2f} s, {said['short']:.0f} readers short", flush=True)  # fmt: skip
    rates = {name: statistics.median(said["per_s"] for said in rounds) for name, rounds in found.items()}
    short = sum(said["short"] for rounds in found.values() for said in rounds)
    print(f"FetchML is {rates['FetchML'] / rates['bare fan-out']:.2f} of the bare fan-out")
    good = [
        judged("deliveries/s", rates["FetchML"], 500_000),
        judged("beside one that never reads, of that", rates["one stalled"] / rates["FetchML"], 0.8),
        judged("readers that missed something", short, 0, is_most=True),
    ]
    raise SystemExit(0 if all(good) else 1)


def tell(port: int, request: bytes) -> None:
    Wire(port).ask(request)


def follow_of(ours: Daemon) -> bytes:
    return prepare("GET", "/v1/scheduler/status/stream", ours.key)


if __name__ == "__main__":
    main()
