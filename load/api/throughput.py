"""POST /v1/tasks and GET /v1/tasks/{id} over 32 connections, beside the bare echo: `python load/api/throughput.py`.

Every POST is acknowledged when its task is on disk. Bounds: half of the echo's rate for both; for POST a p99 below 25 ms
and 2.5 times the echo's. What a request takes of the processor is said beside, for that depends less on who else is
busy: in the head, in the scheduler, in all of the daemon, and in the echo.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from beside import BODY, Echo, Wire, daemon, drive, echo, judged, prepare, setting
from processes import Process

CONNECTIONS: Final = 32


@dataclass(slots=True)
class Found:
    """Of one kind of request: a value for each round."""

    shares: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)
    p99_ratios: list[float] = field(default_factory=list)
    us: list[dict[str, float]] = field(default_factory=list)


def spent(ours: list[Process], bare: Echo) -> dict[str, float]:
    """Processor seconds so far."""
    each = [(process.name, sum(process.cpu_s())) for process in ours]
    named = {name: sum(s for one, s in each if one.startswith(f"ray::{name}")) for name in ("head", "scheduler")}
    return {**named, "daemon": sum(s for _, s in each), "echo": bare.cpu_s()}


def measured(ask: Callable[[], dict[str, Any]], cpu_s: Callable[[], dict[str, float]], for_s: float) -> dict[str, Any]:
    """What `ask` found, with what a request took of the processor, in microseconds."""
    before = cpu_s()
    found = ask()
    after = cpu_s()
    return {**found, "us": {name: (after[name] - before[name]) / (found["per_s"] * for_s) * 1e6 for name in after}}


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
        all_found = {kind: Found() for kind in kinds}
        for request, port in ((bare_post, bare.port), (post, ours.port)):
            drive(port, request, CONNECTIONS, 1.0)
        of_daemon = [process for process in ours.processes() if process.name.startswith(("ray::", "actors.daemon"))]

        def run(port: int, request: bytes) -> dict[str, Any]:
            once = lambda: drive(port, request, CONNECTIONS, options.for_s)  # noqa: E731
            return measured(once, lambda: spent(of_daemon, bare), options.for_s)

        for number in range(1, options.rounds + 1):
            for kind, (request, bare_request) in kinds.items():
                before, found, after = (
                    run(bare.port, bare_request),
                    run(ours.port, request),
                    run(bare.port, bare_request),
                )
                of_kind = all_found[kind]
                of_kind.shares.append(2 * found["per_s"] / (before["per_s"] + after["per_s"]))
                of_kind.p99s_ms.append(found["p99_ms"])
                of_kind.p99_ratios.append(2 * found["p99_ms"] / (before["p99_ms"] + after["p99_ms"]))
                of_kind.us.append({**found["us"], "echo": (before["us"]["echo"] + after["us"]["echo"]) / 2})
                line = f"{found['per_s']:8.0f}/s p50 {found['p50_ms']:.2f} p99 {found['p99_ms']:.2f} ms"
                beside = f"{after['per_s']:.0f}/s p99 {after['p99_ms']:.2f}"
                print(f"{number} {kind:20}{line} beside {beside}: {of_kind.shares[-1]:.2f}")
    for kind, of_kind in all_found.items():
        us = {name: statistics.median(one[name] for one in of_kind.us) for name in of_kind.us[0]}
        print(
            f"{kind}: {us['head']:.0f} us of the processor in the head, {us['scheduler']:.0f} in the scheduler, "
            f"{us['daemon']:.0f} in all of the daemon; the echo {us['echo']:.0f}"
        )
    posts, gets = all_found.values()
    good = [
        judged("POST, share of the echo (median)", statistics.median(posts.shares), 0.5),
        judged("POST, p99 (median)", statistics.median(posts.p99s_ms), 25.0, is_most=True, unit="ms"),
        judged("POST, p99 as multiple of the echo's (median)", statistics.median(posts.p99_ratios), 2.5, is_most=True),
        judged("GET, share of the echo (median)", statistics.median(gets.shares), 0.5),
    ]
    raise SystemExit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
