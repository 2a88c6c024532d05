"""`python load/queue/steps.py`: the native queue from Python, beside a C++ program with the same index.

Both take the same steps over the same workload: one of the running tasks ends, and the first waiting one that fits is
started (`release`, `place`, and `plan` whenever another task is first blocked). Before that the workers are filled and
as many tasks wait as asked for; each start is followed, outside the measure, by one more submission. The two must give
the same answers, which a digest over all placements shows.

A time is the mean of all steps but the slowest hundredth (on a shared machine those are the times that somebody else
ran), and includes the clock's own reading on both sides. Each run is a process of its own, rounds take all cases in turn,
the two programs one after the other, and a ratio is the median of the rounds' ratios (the least and the greatest are
printed beside it). Then the position of a waiting task is asked for, as `explain` does. Exits 1 where a bound is not met.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

from fetchmld._fastqueue import FastQueue
from fetchmld.core.ready import NO_TASK, static_key

HERE: Final = Path(__file__).resolve().parent
SHAPES: Final = 50
SEED: Final = 7
AGEING_TAU_S: Final = 600.0
PLACE_MAX: Final = 256
HOLD_COUNT: Final = 8
RATIO_MAX: Final = 2.5
GROWTH_MAX: Final = 1.5
TASK_BYTES_MAX: Final = 200
POSITION_US_MAX: Final = 100
POSITIONS: Final = 1000
_TIMES: Final = ("mean_ns", "p50_ns", "p99_ns")


@dataclass(slots=True, frozen=True)
class Case:
    tasks: int
    workers: int
    steps: int


class Workload:
    """What both programs are given: shapes, workers, tasks by submission, and which running task ends at each step."""

    def __init__(self, case: Case) -> None:
        dice = random.Random(SEED)
        self.case = case
        self.shapes: list[tuple[int, int, int, int]] = []
        while len(self.shapes) < SHAPES:
            shape = _shape(dice, len(self.shapes))
            if shape not in self.shapes:
                self.shapes.append(shape)
        self.workers = [_worker(dice) for _ in range(case.workers)]
        count = case.tasks + case.steps + 64 * case.workers  # no worker runs more than it has cores
        weights = [3 if i < 10 else 1 for i in range(SHAPES)]
        self.task_shapes = array("q", dice.choices(range(SHAPES), weights, k=count))
        self.keys = array("d", (static_key(1 + dice.randrange(10), i * 0.001, AGEING_TAU_S) for i in range(count)))
        self.picks = array("q", (dice.getrandbits(40) for _ in range(case.steps)))

    def write(self, path: Path) -> None:
        """As peer.cpp reads it: all of it 64-bit numbers."""
        sizes = [SHAPES, self.case.workers, self.case.tasks, len(self.keys), self.case.steps]
        with path.open("wb") as file:
            array("q", sizes).tofile(file)
            array("q", (n for cpu, memory, gpu, kind in self.shapes for n in (cpu, memory, gpu, kind))).tofile(file)
            for cpu, memory, gpus in self.workers:
                array("q", [cpu, memory, cpu, *gpus, sum(gpus)]).tofile(file)
            for column in (self.keys, self.task_shapes, self.picks):
                column.tofile(file)


def _shape(dice: random.Random, index: int) -> tuple[int, int, int, int]:
    """Cores, GB, GPUs, GPU type: ten without GPUs, the others with 1, 2, 4 or 8 of one of four types."""
    cpu, memory_gb = 1 << dice.randrange(5), 4 << dice.randrange(5)
    if index < 10:
        return cpu, memory_gb, 0, -1
    gpu = 1 << dice.randrange(4)
    return max(cpu, gpu), memory_gb, gpu, index % 4


def _worker(dice: random.Random) -> tuple[int, int, list[int]]:
    """Cores, GB, GPUs of each type: one type, two types, or none."""
    cpu, memory_gb = 32 << dice.randrange(2), 128 << dice.randrange(3)
    gpus = [[8, 0, 0, 0], [0, 8, 0, 0], [0, 0, 8, 0], [0, 0, 0, 4], [4, 4, 0, 0], [0, 0, 0, 0]]
    return cpu, memory_gb, gpus[dice.randrange(6)]


class Steps:
    """The queue under that workload."""

    def __init__(self, workload: Workload, hold_count: int) -> None:
        self.workload = workload
        self.queue = FastQueue()
        self.holds: list[tuple[int, int, int, list[tuple[int, int]], int, int]] = [
            (worker, 0, 0, [], 0, 0) for worker in range(hold_count)
        ]
        self.next = 0
        self.digest = 0
        self.running: list[tuple[int, int, int]] = []
        self.shapes = [
            self.queue.shape(cpu, memory_gb, gpu, 1 << kind if gpu else 0, False)
            for cpu, memory_gb, gpu, kind in workload.shapes
        ]
        for number, (cpu, memory_gb, gpus) in enumerate(workload.workers):
            counts = [(kind, count) for kind, count in enumerate(gpus) if count]
            self.queue.set_worker(number, cpu, memory_gb, cpu, 0, counts)

    def push(self, count: int) -> float:
        """Bytes that each of these tasks took."""
        before = _resident_bytes()
        push, shapes, keys = self.queue.push, self.workload.task_shapes, self.workload.keys
        for task in range(self.next, self.next + count):
            push(task, shapes[task], keys[task])
        self.next += count
        return (_resident_bytes() - before) / max(1, count)

    def fill(self) -> None:
        """Start what fits, and let as many wait again."""
        while True:
            placed, blocked = self.queue.place(PLACE_MAX, 0.0)
            self.note(placed)
            if blocked != NO_TASK:
                self.queue.plan(blocked, 1e9, [])
            elif not placed:
                break
        self.push(len(self.running))

    def note(self, placed: list[tuple[int, list[tuple[int, int]]]]) -> None:
        for task, [(worker, gpu_type)] in placed:
            self.running.append((worker, self.workload.task_shapes[task], gpu_type))
            self.digest = ((self.digest * 1099511628211) & 0xFFFFFFFFFFFFFFFF) ^ (task * 1000003 + worker)

    def run(self) -> list[int]:
        """Nanoseconds of each step."""
        queue, running, took = self.queue, self.running, []
        for pick in self.workload.picks:
            at = pick % len(running)
            worker, shape, gpu_type = running[at]
            running[at] = running[-1]
            running.pop()
            begun = perf_counter_ns()
            queue.release(worker, shape, gpu_type)
            placed, blocked = queue.place(1, 0.0)
            while blocked >= 0:
                queue.plan(blocked, 1e9, self.holds)
                placed, blocked = queue.place(1, 0.0)
            took.append(perf_counter_ns() - begun)
            if placed:
                self.note(placed)
                queue.push(self.next, self.workload.task_shapes[self.next], self.workload.keys[self.next])
                self.next += 1
        return took

    def position_us(self) -> float:
        """Microseconds that the position of a waiting task takes, on average over all of them."""
        took = []
        for task in random.Random(SEED).choices(range(self.next), k=POSITIONS):
            begun = perf_counter_ns()
            if self.queue.position(task) >= 0:
                took.append(perf_counter_ns() - begun)
        return statistics.fmean(took) / 1000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def measure(case: Case, hold_count: int) -> dict[str, Any]:
    """What this process finds for the native queue."""
    steps = Steps(Workload(case), hold_count)
    task_bytes = steps.push(case.tasks)
    steps.fill()
    before = steps.next
    took = steps.run()
    ordered, most = sorted(took), len(took) * 99 // 100
    return {
        "mean_ns": statistics.fmean(ordered[:most]),
        "p50_ns": ordered[len(took) // 2],
        "p99_ns": ordered[most],
        "placed": steps.next - before,
        "running": len(steps.running),
        "digest": steps.digest,
        "task_bytes": task_bytes,
        "position_us": steps.position_us(),
    }


# -- both, each in its own process

Pair = tuple[dict[str, Any], dict[str, Any]]  # what the C++ program and the native queue found


def build_peer() -> Path:
    """The C++ program, built where it is older than its source."""
    source, built = HERE / "peer.cpp", HERE.parent / "bin" / "peer"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(exist_ok=True)
        compiler = os.environ.get("CXX", "g++")
        subprocess.run([compiler, "-O2", "-std=c++17", "-o", str(built), str(source)], check=True)
    return built


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_native(case: Case, hold_count: int = 0) -> dict[str, Any]:
    sizes = [str(n) for n in (case.tasks, case.workers, case.steps, hold_count)]
    return run([sys.executable, str(Path(__file__).resolve()), "--child", *sizes])


def compare(cases: list[Case], rounds: int) -> list[list[Pair]]:
    """Both programs on every case, round by round: for each case, what they found. Raises where their answers differ."""
    peer = build_peer()
    found: list[list[Pair]] = [[] for _ in cases]
    with tempfile.TemporaryDirectory(prefix="fetchml-queue-") as directory:
        files = [Path(directory) / str(i) for i in range(len(cases))]
        for case, file in zip(cases, files, strict=True):
            Workload(case).write(file)
        for _ in range(rounds):
            for case, file, pairs in zip(cases, files, found, strict=True):
                theirs, ours = run([str(peer), str(file)]), run_native(case)
                if theirs["digest"] != ours["digest"]:
                    raise SystemExit(f"the two queues placed differently: {theirs} {ours}")
                pairs.append((theirs, ours))
    return found


def report(case: Case, pairs: list[Pair]) -> None:
    theirs, ours = ({name: statistics.median(pair[i][name] for pair in pairs) for name in _TIMES} for i in (0, 1))
    print(
        f"{case.tasks:>9,} waiting {pairs[0][1]['running']:>7,} running {case.workers:>6,} workers | "
        f"C++ {theirs['mean_ns']:5.0f} ns (p50 {theirs['p50_ns']:.0f}, p99 {theirs['p99_ns']:.0f}) | "
        f"from Python {ours['mean_ns']:5.0f} ns (p50 {ours['p50_ns']:.0f}, p99 {ours['p99_ns']:.0f}) | "
        f"ratio {_spread(_ratios(pairs))} | {pairs[0][1]['task_bytes']:.0f} bytes a task",
        flush=True,
    )


def _ratios(pairs: list[Pair]) -> list[float]:
    return [ours["mean_ns"] / theirs["mean_ns"] for theirs, ours in pairs]


def _growth(whole: list[Pair], smaller: list[Pair]) -> list[float]:
    rounds = zip(whole, smaller, strict=True)
    return [big["mean_ns"] / small["mean_ns"] for (_, big), (_, small) in rounds]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000, help="tasks that wait (default 1,000,000)")
    parser.add_argument("--workers", type=int, default=10_000, help="workers (default 10,000)")
    parser.add_argument("--steps", type=int, default=200_000, help="steps measured in each round (default 200,000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both programs (default 5)")
    parser.add_argument("--child", type=int, nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measure(Case(*asked.child[:3]), asked.child[3])))
        return
    whole = Case(asked.tasks, asked.workers, asked.steps)
    fewer_tasks = Case(asked.tasks // 10, asked.workers, asked.steps)
    fewer_workers = Case(asked.tasks, asked.workers // 10, asked.steps)
    cases = [whole, fewer_tasks, fewer_workers]
    found = compare(cases, asked.rounds)
    for case, pairs in zip(cases, found, strict=True):
        report(case, pairs)
    held = run_native(whole, HOLD_COUNT)
    print(
        f"with a plan that holds {HOLD_COUNT} workers: "
        f"{held['mean_ns']:.0f} ns (p50 {held['p50_ns']}, p99 {held['p99_ns']})"
    )
    raise SystemExit(0 if judge(*found) else 1)


def judge(whole: list[Pair], fewer_tasks: list[Pair], fewer_workers: list[Pair]) -> bool:
    """Print each figure beside its bound; whether all are met."""
    figures = [
        ("from Python / C++", _ratios(whole), RATIO_MAX),
        ("10 times the tasks", _growth(whole, fewer_tasks), GROWTH_MAX),
        ("10 times the workers", _growth(whole, fewer_workers), GROWTH_MAX),
        ("bytes a task", [ours["task_bytes"] for _, ours in whole], TASK_BYTES_MAX),
        ("us for a position", [ours["position_us"] for _, ours in whole], POSITION_US_MAX),
    ]
    for name, values, bound in figures:
        met = statistics.median(values) <= bound
        print(f"{name}: {_spread(values)}, at most {bound}: {'met' if met else 'NOT MET'}")
    return all(statistics.median(values) <= bound for _, values, bound in figures)


if __name__ == "__main__":
    main()
