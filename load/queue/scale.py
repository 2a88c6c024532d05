"""What one scheduler carries: `python load/queue/scale.py`, in one process, without Ray or a disk.

Two tables, of processor time in the core (`Scheduler.handle`) with the native queue. First, the life of a task (submitted,
launched, running, ended) while 1,000 to 1,000,000 others wait for 1,000 workers of 8 GPUs that are all taken. Then a
heartbeat (its GPUs' use with it) and the tick that comes once a second, with 1 to 10,000 such workers, and the share of
one core that all of them take together at one heartbeat a second each. Memory is resident, before and after.

Bound: ten times the tasks, and four times the workers, cost at most 1.2 times as much each. Exits 1 where that does
not hold in the median of the rounds. `docs/scale.md` says what follows from it.
"""

import argparse
import gc
import os
import statistics
import sys
from collections import deque
from math import inf
from pathlib import Path
from time import thread_time_ns
from typing import Final, cast

from fetchmld.core.messages import (
    AttemptEnded,
    Effect,
    HeartbeatReceived,
    Launch,
    PhaseReported,
    TaskSubmitted,
    TimePassed,
    WorkerJoined,
)
from fetchmld.core.model import Capacity, EndReport, Gpu, GpuUse, TaskId, TaskRequest, UserId, WorkerId
from fetchmld.core.scheduler import Policy, Scheduler

GPUS: Final = 8
GROWTH_MAX: Final = 1.2
SHAPES: Final = 50
USER: Final = UserId("ada")
NEVER: Final = Policy(suspect_after_s=inf, offline_after_s=inf, requeue_after_s=inf)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Cluster:
    """Full: a task of one GPU runs on each of all GPUs."""

    def __init__(self, workers: int) -> None:
        self.core, self.count, self.now = Scheduler(NEVER), 0, 0.0
        self.running: deque[tuple[str, WorkerId]] = deque()
        self.workers = [WorkerId(f"w{number:05}") for number in range(workers)]
        for worker in self.workers:
            gpus = tuple(Gpu(i, "A100", f"GPU-{worker}-{i}") for i in range(GPUS))
            self.core.handle(WorkerJoined(worker, "boot", "host", Capacity(64, 256, 64, 2, gpus), [], 0), 0.0)
        for _ in range(workers * GPUS):
            self.submit()

    def submit(self) -> None:
        """One task; what it asks of memory differs, so that they have many shapes."""
        self.count += 1
        request = {"job_name": "job", "gpu": 1, "memory_gb": self.count % SHAPES % 16, "priority": self.count % 11}
        task = TaskSubmitted(TaskId(f"t{self.count}"), USER, cast(TaskRequest, request), 0)
        self.note(self.core.handle(task, self.now))

    def note(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Launch):
                self.running.append((effect.order["task_id"], effect.worker_id))

    def lives(self, count: int) -> float:
        """Microseconds for one whole life of a task: one is submitted, another is launched, says that it runs, and ends."""
        begun = thread_time_ns()
        for _ in range(count):
            self.now += 0.01
            task, worker = self.running.popleft()
            ended = AttemptEnded(worker, TaskId(task), 1, 0, EndReport(exit_code=0), 0, 0)
            self.note(self.core.handle(ended, self.now))
            task, worker = self.running[-1]
            self.core.handle(PhaseReported(worker, TaskId(task), 1, "running", 0), self.now)
            self.submit()
        return (thread_time_ns() - begun) / count / 1e3

    def heartbeats(self, count: int) -> float:
        """Microseconds for one."""
        use = {f"GPU-{{}}-{i}": GpuUse(used_mb=70_000, utilization=95, processes=1) for i in range(GPUS)}
        beats = [
            HeartbeatReceived(worker, 0, gpu_use={name.format(worker): one for name, one in use.items()})
            for worker in self.workers[:1000]
        ]
        begun = thread_time_ns()
        for number in range(count):
            self.core.handle(beats[number % len(beats)], self.now)
        return (thread_time_ns() - begun) / count / 1e3

    def ticks(self, count: int) -> float:
        """Microseconds for one."""
        begun = thread_time_ns()
        for _ in range(count):
            self.now += 1.0
            self.core.handle(TimePassed(0), self.now)
        return (thread_time_ns() - begun) / count / 1e3


def by_tasks(sizes: list[int], rounds: int, steps: int) -> list[float]:
    """Prints the table; the growth from each size to the next."""
    print(f"{'waiting':>10} {'a life, us':>12} {'growth':>8} {'bytes a task':>14}")
    clusters: list[Cluster] = []
    grown: list[float] = []
    bytes_each: list[float] = []
    for size in sizes:
        cluster = Cluster(1000)
        gc.collect()
        before = resident_bytes()
        for _ in range(size):
            cluster.submit()
        gc.collect()
        bytes_each.append((resident_bytes() - before) / size)
        clusters.append(cluster)
    gc.freeze()  # as the scheduler's process does
    took: list[list[float]] = [[] for _ in sizes]
    for _ in range(rounds):
        for at, cluster in enumerate(clusters):
            took[at].append(cluster.lives(steps))
    for at, size in enumerate(sizes):
        growth = statistics.median(a / b for a, b in zip(took[at], took[at - 1], strict=True)) if at else 1.0
        grown.append(growth)
        print(f"{size:>10,} {statistics.median(took[at]):>12.1f} {growth:>8.2f} {bytes_each[at]:>14,.0f}")
    return grown


def by_workers(sizes: list[int], rounds: int, steps: int) -> list[float]:
    """Prints the table; the growth of a life from each size to the next."""
    head = f"{'workers':>10} {'a life, us':>12} {'growth':>8} {'heartbeat, us':>14} {'tick, us':>10}"
    print(f"\n{head} {'of a core':>10} {'KiB a worker':>13}")
    clusters: list[Cluster] = []
    kib_each: list[float] = []
    for size in sizes:
        gc.collect()
        before = resident_bytes()
        clusters.append(Cluster(size))
        kib_each.append((resident_bytes() - before) / size / 1024)
        for _ in range(1000):
            clusters[-1].submit()
    gc.freeze()
    lives: list[list[float]] = [[] for _ in sizes]
    beats: list[list[float]] = [[] for _ in sizes]
    ticks: list[list[float]] = [[] for _ in sizes]
    for _ in range(rounds):
        for at, cluster in enumerate(clusters):
            lives[at].append(cluster.lives(steps))
            beats[at].append(cluster.heartbeats(steps))
            ticks[at].append(cluster.ticks(10))
    grown: list[float] = []
    for at, size in enumerate(sizes):
        growth = statistics.median(a / b for a, b in zip(lives[at], lives[at - 1], strict=True)) if at else 1.0
        grown.append(growth)
        beat, tick = statistics.median(beats[at]), statistics.median(ticks[at])
        share = (beat * size + tick) / 1e6
        row = f"{size:>10,} {statistics.median(lives[at]):>12.1f} {growth:>8.2f} {beat:>14.1f} {tick:>10.1f}"
        print(f"{row} {share:>10.1%} {kib_each[at]:>13.1f}")
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024, 4096, 10_000])
    given = parser.parse_args()
    grown = by_tasks(given.tasks, given.rounds, given.steps) + by_workers(given.workers, given.rounds, given.steps)
    worst = max(grown)
    print(f"\ngrowth at most {worst:.2f} a step (bound {GROWTH_MAX}): {'met' if worst <= GROWTH_MAX else 'missed'}")
    return 0 if worst <= GROWTH_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
