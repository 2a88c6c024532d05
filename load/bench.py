"""`make bench`: what FetchML takes, each figure beside its limit, all within one run on one machine.

Starts a daemon of its own in a temporary directory with 64 slots, measures, stops it. Rates of processes are given as
a share of what a C loop over posix_spawn reaches just before and just after (`spawn.c`), so that a slow or a busy
machine cancels out. Processor time stands beside each: neighbours change it least. The load comes from one thread over
raw sockets (`wire.py`), since it shares the machine.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import processes
from wire import Wire, decoded, post_many, prepare

HERE: Final = Path(__file__).resolve().parent
SLOTS: Final = 64
CONNECTIONS: Final = 32
LOOP_PROCESSES, LOOP_WINDOW, LOOP_COUNT = 2, 8, 4000
PROGRAM: Final = "/bin/true"
IDLE_SETTLE_S: Final = 5.0
DRAIN_MAX_S: Final = 600.0
BATCH: Final = 1000  # tasks of one batch POST
SHARE_LEAST, LONE_MS_MOST, QUEUED_BYTES_MOST, GROWTH_MOST = 0.45, 0.7 * 5.4, 2000, 1.2  # HyperQueue's lone task: 5.4 ms


class Daemon:
    """A daemon of the bench's own, stopped and removed at the end."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fetchml-bench-"))
        self.port = free_port()
        self.command = [sys.executable, "-m", "fetchmld", "--data-dir", str(self.directory)]
        self.pid = 0
        self.key = ""

    def __enter__(self) -> "Daemon":
        return self

    def start(self) -> float:
        """Seconds from the command to its return, which is when the daemon is ready."""
        begun = time.monotonic()
        flags = ["--head", "--port", str(self.port), "--num-cpus", str(SLOTS)]
        free = {**os.environ, "FETCHMLD_RATE_PER_S": "0"}  # what the daemon can, not what it lets one key take
        subprocess.run([*self.command, "start", *flags], check=True, stdout=subprocess.DEVNULL, env=free)
        took_s = time.monotonic() - begun
        self.pid = json.loads((self.directory / "daemon.json").read_text())["pid"]
        self.key = (self.directory / "admin.key").read_text().strip()
        return took_s

    def processes(self) -> list[processes.Process]:
        marks = [str(self.directory), (self.directory / "run_dir").read_text().strip()]
        return processes.of_daemon(self.pid, marks)

    def spent_us(self) -> dict[str, float]:
        """Processor time of our own threads so far, of each process that is not Ray's."""
        own = [process for process in self.processes() if not process.is_rays]
        return {process.plain_name: process.cpu_s()[0] * 1e6 for process in own}

    def stop(self) -> None:
        subprocess.run([*self.command, "stop"], check=True, stdout=subprocess.DEVNULL)

    def __exit__(self, *_exc: object) -> None:
        subprocess.run([*self.command, "stop"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build_loop() -> Path:
    """The C loop, built where it is older than its source."""
    source, built = HERE / "spawn.c", HERE / "bin" / "spawn"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(exist_ok=True)
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", str(built), str(source)], check=True)
    return built


def limit(loop: Path) -> dict[str, float]:
    """One run of the C loop: starts per second, and the time of one alone."""
    words = [str(loop), str(LOOP_PROCESSES), str(LOOP_COUNT), str(LOOP_WINDOW), PROGRAM]
    said: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return said


def task_body(name: str) -> dict[str, Any]:
    return {"job_name": name, "entrypoint": PROGRAM}


def lone(daemon: Daemon, count: int) -> list[float]:
    """Milliseconds from POST to seeing `completed`, one task after the other on one connection."""
    wire, took_ms = Wire(daemon.port), []
    post = prepare("POST", "/v1/tasks", daemon.key, task_body("lone"))
    for _ in range(count):
        begun = time.perf_counter()
        task_id = wire.ask(post)["id"]
        ended = wire.ask(prepare("GET", f"/v1/tasks/{task_id}?wait_s=30&output=0", daemon.key))
        took_ms.append((time.perf_counter() - begun) * 1e3)
        if ended["status"] != "completed":
            raise SystemExit(f"the bench's own task did not complete: {ended}")
    wire.close()
    return took_ms


def burst(daemon: Daemon, count: int) -> tuple[float, float]:
    """`count` tasks by POSTs of their own: POSTs per second, and tasks per second from the first POST to the last end."""
    post = prepare("POST", "/v1/tasks", daemon.key, task_body("burst"))
    begun = time.perf_counter()
    answers = post_many(daemon.port, post, count, CONNECTIONS)
    posted_s = time.perf_counter() - begun
    ids = [decoded(answer)["id"] for answer in answers]
    return count / posted_s, count / (posted_s + until_ended(daemon, ids, begun + posted_s))


def burst_of_batches(daemon: Daemon, count: int) -> tuple[float, float]:
    """The same by batch POSTs, one after the other."""
    wire, ids = Wire(daemon.port), []
    sizes = [min(BATCH, count - at) for at in range(0, count, BATCH)]
    posts = [prepare("POST", "/v1/tasks/batch", daemon.key, [task_body("burst")] * size) for size in sizes]
    begun = time.perf_counter()
    for post in posts:
        ids += [outcome["task"]["id"] for outcome in wire.ask(post)]
    posted_s = time.perf_counter() - begun
    wire.close()
    return count / posted_s, count / (posted_s + until_ended(daemon, ids, begun + posted_s))


def until_ended(daemon: Daemon, ids: list[str], since: float) -> float:
    """Seconds since `since` (of the performance counter) until none is left; then each is read, and must be completed."""
    wire = Wire(daemon.port)
    until_idle(wire, daemon.key, ids[-1])
    took_s = time.perf_counter() - since
    for task_id in ids:
        task = wire.ask(prepare("GET", f"/v1/tasks/{task_id}?output=0", daemon.key))
        if task["status"] != "completed":
            raise SystemExit(f"a task of the burst did not complete: {task}")
    wire.close()
    return took_s


def until_idle(wire: Wire, key: str, last: str) -> None:
    """Return once nothing is queued or running. `last`: the task that is waited for first, since that costs nobody."""
    wait = prepare("GET", f"/v1/tasks/{last}?wait_s=30&output=0", key)
    ask = prepare("GET", "/v1/scheduler/status", key)
    deadline = time.monotonic() + DRAIN_MAX_S
    while wire.ask(wait)["status"] not in ("completed", "failed") and time.monotonic() < deadline:
        pass
    while time.monotonic() < deadline:
        now = wire.ask(ask)
        if not (now["batch_queue_depth"] or now["service_queue_depth"] or now["tasks_running"]):
            return
        time.sleep(0.002)
    raise SystemExit(f"tasks are still there after {DRAIN_MAX_S:.0f} s: {now}")


def between(loop: Path, measure: Callable[[], tuple[float, float]]) -> tuple[tuple[float, float], float]:
    """What was measured, and the limit as the mean of just before and just after."""
    before = limit(loop)["per_s"]
    found = measure()
    return found, (before + limit(loop)["per_s"]) / 2


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def report_lone(daemon: Daemon, loop: Path, count: int) -> dict[str, float]:
    lone(daemon, 20)
    bare = limit(loop)
    took = lone(daemon, count)
    median, p95 = statistics.median(took), percentile(took, 0.95)
    print(f"\nOne {PROGRAM}, POST to `completed` seen, {count} one after the other")
    line("median", median, "ms", bare["lone_p50_ms"], "ms from posix_spawn to reaped, in C", 2)
    print(f"{'':18}{verdict(median <= LONE_MS_MOST, f'at most {LONE_MS_MOST:.2f} ms, on a quiet machine')}")
    line("95th percentile", p95, "ms", bare["lone_p95_ms"], "ms", 2)
    return {"lone_median_ms": median, "lone_p95_ms": p95, "lone_limit_ms": bare["lone_p50_ms"]}


def report_bursts(daemon: Daemon, loop: Path, counts: dict[str, int], rounds: int) -> dict[str, float]:
    """Each way of submitting in turn, `rounds` times."""
    ways = {"posts": burst, "batches": burst_of_batches}
    words = {"posts": f"by POSTs of their own over {CONNECTIONS} connections", "batches": f"by POSTs of {BATCH} each"}
    shares: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(1, rounds + 1):
        for way, submit in ways.items():
            count = counts[way]
            if not count:
                continue
            (posts, ended), bare = between(loop, lambda submit=submit, count=count: submit(daemon, count))  # type: ignore[misc]
            shares[way].append(ended / bare)
            print(f"\n{count} x {PROGRAM} {words[way]}, first POST to last end")
            line(f"round {number}", ended, "tasks/s", bare, "starts/s of the C loop", 0)
            print(f"{'':18}{posts:9.0f} tasks/s accepted meanwhile")
    medians = {way: statistics.median(found) for way, found in shares.items() if found}
    for way, share in medians.items():
        print(f"median share, {way:8} {share:.2f} {verdict(share >= SHARE_LEAST, f'at least {SHARE_LEAST}')}")
    return {f"burst_share_{way}": share for way, share in medians.items()}


def report_growth(daemon: Daemon, sizes: list[int]) -> dict[str, float]:
    """What one task takes of the processor as there are more of them. (`growth.py` has many nodes, and more tasks.)"""
    print(f"\nProcessor time of our own threads for each of N x {PROGRAM} by batch, in us, by process")
    costs: dict[int, float] = {}
    for size in sizes:
        before = daemon.spent_us()
        burst_of_batches_only(daemon, size)
        spent = {name: (us - before.get(name, 0.0)) / size for name, us in daemon.spent_us().items()}
        costs[size] = sum(spent.values())
        parts = ", ".join(f"{name} {us:.0f}" for name, us in sorted(spent.items(), key=lambda one: -one[1]) if us >= 1)
        print(f"  {size:7}: {costs[size]:5.0f}   {parts}")
    for small, large in pairwise(sizes):
        ratio = costs[large] / costs[small]
        print(f"  {small} to {large}: {ratio:.2f} times {verdict(ratio < GROWTH_MOST, f'below {GROWTH_MOST}')}")
    return {f"task_us_of_{size}": cost for size, cost in costs.items()}


def burst_of_batches_only(daemon: Daemon, count: int) -> None:
    """Without looking at each afterwards: asking costs the daemon as well. Their number is looked at instead."""
    wire = Wire(daemon.port)
    completed = prepare("GET", "/v1/tasks?status=completed&limit=1", daemon.key)
    before = wire.ask(completed)["total"]
    for at in range(0, count, BATCH):
        size = min(BATCH, count - at)
        last = wire.ask(prepare("POST", "/v1/tasks/batch", daemon.key, [task_body("growth")] * size))[-1]["task"]["id"]
    until_idle(wire, daemon.key, last)
    if (found := wire.ask(completed)["total"] - before) != count:
        raise SystemExit(f"{found} of {count} tasks completed")
    wire.close()


def queued_bytes(daemon: Daemon, count: int) -> float:
    """What the scheduler's memory grows by for each of `count` tasks that wait, on a worker that is drained."""
    wire = Wire(daemon.port)
    worker_id = wire.ask(prepare("GET", "/v1/scheduler/workers", daemon.key))[0]["id"]
    wire.ask(prepare("DELETE", f"/v1/scheduler/workers/{worker_id}", daemon.key))
    (scheduler,) = [process for process in daemon.processes() if "ray::scheduler" in process.name]
    before = scheduler.memory_mib()[1]
    for at in range(0, count, BATCH):
        size = min(BATCH, count - at)
        wire.ask(prepare("POST", "/v1/tasks/batch", daemon.key, [task_body("waits")] * size))
    wire.close()
    return (scheduler.memory_mib()[1] - before) * 2**20 / count


def report_queued(daemon: Daemon, count: int) -> dict[str, float]:
    each = queued_bytes(daemon, count)
    print(
        f"\n{count} tasks wait: the scheduler, which holds the queue, has grown by {each:.0f} bytes for each ", end=""
    )
    print(verdict(each < QUEUED_BYTES_MOST, f"below {QUEUED_BYTES_MOST}"))
    return {"queued_bytes": each}


def verdict(holds: bool, bound: str) -> str:
    return f"({bound}: {'met' if holds else 'MISSED'})"


def report_idle(daemon: Daemon, for_s: float) -> dict[str, float]:
    time.sleep(IDLE_SETTLE_S)
    found = daemon.processes()
    share = processes.cpu_share(found, for_s)
    print(
        f"\nIdle for {for_s:.0f} s: % of one core in FetchML's threads and in Ray's; memory in MiB (PSS shares what is"
    )
    print(f"shared, RSS counts it each time)\n  {'process':38}{'own %':>8}{'Ray %':>8}{'PSS':>8}{'RSS':>8}")
    totals = {True: [0.0] * 4, False: [0.0] * 4}
    for process in sorted(found, key=lambda p: (p.is_rays, p.name)):
        if process.pid not in share:
            continue
        own, rays = share[process.pid]
        row = [100 * own, 100 * rays, *process.memory_mib()]
        totals[process.is_rays] = [a + b for a, b in zip(totals[process.is_rays], row, strict=True)]
        print_row(("Ray: " if process.is_rays else "") + process.name, row)
    print_row("FetchML's processes", totals[False])
    print_row("Ray's processes", totals[True])
    print(
        f"  idle, FetchML's own: {totals[False][0]:.2f} % of a core; Ray's: {totals[False][1] + totals[True][1]:.2f} %"
    )
    return {
        "idle_own_percent": totals[False][0],
        "idle_ray_percent": totals[False][1] + totals[True][1],
        "own_pss_mib": totals[False][2],
        "ray_pss_mib": totals[True][2],
    }


def print_row(name: str, row: list[float]) -> None:
    print(f"  {name:38}{row[0]:8.2f}{row[1]:8.2f}{row[2]:8.1f}{row[3]:8.1f}")


def line(name: str, value: float, unit: str, bare: float, bare_unit: str, digits: int) -> None:
    print(f"{name:18}{value:9.{digits}f} {unit:8} beside {bare:8.{digits}f} {bare_unit}: {value / bare:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lone", type=int, default=200, help="tasks one after the other")
    parser.add_argument("--burst", type=int, default=1000, help="tasks at once, by a POST each")
    parser.add_argument("--batch", type=int, default=10_000, help="tasks at once, by batch POSTs")
    parser.add_argument(
        "--growth", default="1000,10000", help="numbers of tasks to compare; 1000,10000,100000 takes minutes"
    )
    parser.add_argument("--queued", type=int, default=100_000, help="tasks that wait; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="bursts")
    parser.add_argument("--idle-s", type=float, default=20.0, help="seconds of idleness")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()

    loop = build_loop()
    cores = os.cpu_count()
    print(
        f"{cores} cores, load {os.getloadavg()[0]:.1f} before, Python {sys.version.split()[0]}; {SLOTS} slots offered"
    )
    with Daemon() as daemon:
        figures = {"first_start_s": daemon.start()}
        daemon.stop()
        figures["start_s"] = daemon.start()
        print(f"\nStart, command to ready: {figures['first_start_s']:.2f} s, again {figures['start_s']:.2f} s")
        figures |= report_idle(daemon, options.idle_s)
        figures |= report_lone(daemon, loop, options.lone)
        counts = {"posts": options.burst, "batches": options.batch}
        figures |= report_bursts(daemon, loop, counts, options.rounds)
        figures |= report_growth(daemon, [int(word) for word in options.growth.split(",") if word])
        if options.queued:
            figures |= report_queued(daemon, options.queued)
    if options.json:
        options.json.write_text(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
