"""`make load`: Locust's users against a daemon of its own, headless, and what has to hold afterwards.

Short by default (20 users, 30 s); the long form is `make load ARGS="--users 50 --minutes 10"`. It must hold: no answer of
500 and above and no other failure; the daemon's memory at the end at most `GROWTH_MAX` times what it was once all were
there; and every task that was accepted has ended.
"""

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from bench import Daemon
from wire import Wire, prepare

HERE: Final = Path(__file__).resolve().parent
GROWTH_MAX: Final = 1.25
ENDED: Final = ("completed", "failed")
END_MAX_S: Final = 120.0


def memory_mib(daemon: Daemon) -> float:
    """The memory (PSS) of the daemon's own processes, Ray's left out; of tasks, those that live long enough."""
    found = 0.0
    for process in daemon.processes():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found += 0.0 if process.is_rays else process.memory_mib()[0]
    return found


def locust(daemon: Daemon, folder: Path, users: int, for_s: int) -> "subprocess.Popen[bytes]":
    words = [
        sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"), "--headless", "--only-summary",
        "--users", str(users), "--spawn-rate", str(max(1, users // 5)), "--run-time", f"{for_s}s",
        "--host", f"http://127.0.0.1:{daemon.port}", "--csv", str(folder / "found"), "--exit-code-on-error", "1",
    ]  # fmt: skip
    return subprocess.Popen(words, env={**os.environ, "FETCHML_API_KEY": daemon.key})


def unfinished(wire: Wire, key: str) -> tuple[int, int]:
    """(how many tasks there are, how many of them have not ended) once they had time to."""
    until = time.monotonic() + END_MAX_S
    while True:
        status = wire.ask(prepare("GET", "/v1/scheduler/status", key))
        left = status["batch_queue_depth"] + status["service_queue_depth"] + status["tasks_running"]
        if not left or time.monotonic() > until:
            break
        time.sleep(0.2)
    total = _total(wire, key, "")
    ended = sum(_total(wire, key, f"&status={state}") for state in ENDED)
    return total, total - ended


def _total(wire: Wire, key: str, where: str) -> int:
    return int(wire.ask(prepare("GET", f"/v1/tasks?limit=1{where}", key))["total"])


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "found_stats.csv").open() as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    for_s = max(10, round(options.minutes * 60))
    with Daemon() as daemon, tempfile.TemporaryDirectory() as name:
        daemon.start()
        folder = Path(name)
        running = locust(daemon, folder, options.users, for_s)
        time.sleep(min(15.0, for_s / 3))
        first = memory_mib(daemon)
        failed = running.wait()
        last = memory_mib(daemon)
        total, left = unfinished(Wire(daemon.port), daemon.key)
        rows = table(folder)
    figures = report(rows, first, last, total, left)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    good = not failed and not left and last <= GROWTH_MAX * first
    raise SystemExit(0 if good else 1)


def report(rows: list[dict[str, str]], first: float, last: float, total: int, left: int) -> dict[str, Any]:
    print(f"\n{'request':36}{'count':>8}{'failed':>8}{'p50':>8}{'p95':>8}{'p99':>8} ms")
    for row in rows:
        name = f"{row['Type']} {row['Name']}".strip()
        numbers = [row[key] for key in ("Request Count", "Failure Count", "50%", "95%", "99%")]
        print(f"{name:36}" + "".join(f"{number:>8}" for number in numbers))
    print(
        f"memory of our processes: {first:.0f} MiB, at the end {last:.0f} MiB ({last / first:.2f}, at most {GROWTH_MAX})"
    )
    print(f"{total} tasks were accepted and are listed, {left} of them have not ended")
    whole = rows[-1]
    return {"requests": int(whole["Request Count"]), "failed": int(whole["Failure Count"]), "p95_ms": float(whole["95%"]),
            "first_mib": first, "last_mib": last, "tasks": total, "unfinished": left}  # fmt: skip


if __name__ == "__main__":
    main()
