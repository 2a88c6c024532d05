"""POST /v1/tasks and GET /v1/tasks/{id} over 32 connections, beside the bare echo: `python load/api/throughput.py`.

Every POST is acknowledged when its task is on disk. Bounds: 0.4 of the echo's rate with a p99 under 25 ms for POST, half of
the echo's rate for GET.
"""

import argparse
import statistics

from beside import BODY, Wire, daemon, drive, echo, judged, prepare, setting

CONNECTIONS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--for-s", type=float, default=3.0, help="of each measurement")
    options = parser.parse_args()
    print(setting())
    with daemon() as ours, echo() as bare:
        post, bare_post = (prepare("POST", "/v1/tasks", key, BODY) for key in (ours.key, ""))
        task_id = Wire(ours.port).ask(post)["id"]
        get, bare_get = (prepare("GET", f"/v1/tasks/{task_id}?output=0", key) for key in (ours.key, ""))
        kinds = {"POST /v1/tasks": (post, bare_post), "GET /v1/tasks/{id}": (get, bare_get)}
        shares: dict[str, list[float]] = {kind: [] for kind in kinds}
        p99s: dict[str, list[float]] = {kind: [] for kind in kinds}
        for request, port in ((bare_post, bare), (post, ours.port)):
            drive(port, request, CONNECTIONS, 1.0)
        for number in range(1, options.rounds + 1):
            for kind, (request, bare_request) in kinds.items():
                before = drive(bare, bare_request, CONNECTIONS, options.for_s)
                found = drive(ours.port, request, CONNECTIONS, options.for_s)
                after = drive(bare, bare_request, CONNECTIONS, options.for_s)
                limit = (before["per_s"] + after["per_s"]) / 2
                shares[kind].append(found["per_s"] / limit)
                p99s[kind].append(found["p99_ms"])
                line = f"{found['per_s']:8.0f}/s p50 {found['p50_ms']:.2f} p99 {found['p99_ms']:.2f} ms"
                print(
                    f"{number} {kind:20}{line} beside {limit:.0f}/s p99 {after['p99_ms']:.2f}: {shares[kind][-1]:.2f}"
                )
    good = [
        judged("POST, share of the echo (median)", statistics.median(shares["POST /v1/tasks"]), 0.4),
        judged("POST, p99 (median)", statistics.median(p99s["POST /v1/tasks"]), 25.0, is_most=True, unit="ms"),
        judged("GET, share of the echo (median)", statistics.median(shares["GET /v1/tasks/{id}"]), 0.5),
    ]
    raise SystemExit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
