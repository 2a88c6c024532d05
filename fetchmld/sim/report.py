"""What a played workload says: waits, use, starvation, fragmentation, as plain data for --json and for people."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypedDict

from fetchmld.sim.replay import Played
from fetchmld.sim.traces import Trace, TraceTask

PERCENTILES: Final = (50, 95, 99)
STEPS: Final = 120  # points of the use over time


class Waits(TypedDict):
    """Seconds from submission to start of one group of tasks."""

    count: int
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


def waits(values: Iterable[float]) -> Waits:
    """Nearest-rank percentiles; zeros for nobody."""
    found = sorted(values)
    p50, p95, p99 = (_percentile(found, percent) for percent in PERCENTILES)
    return Waits(count=len(found), p50_s=p50, p95_s=p95, p99_s=p99, max_s=found[-1] if found else 0.0)


def _percentile(found: Sequence[float], percent: int) -> float:
    return found[max(0, -(-len(found) * percent // 100) - 1)] if found else 0.0


def report(trace: Trace, played: Played, wall_s: float) -> dict[str, Any]:
    """Everything, JSON-ready. Seconds unless the name says otherwise; shares from 0 to 1."""
    tasks, total_s = played.tasks, played.gpus_total * played.busy_s
    longest = max(played.waits, key=lambda index: played.waits[index], default=-1)
    return {
        "tasks": len(tasks),
        "nodes": len(trace.nodes),
        "gpus": played.gpus_total,
        "left_out": dict(trace.left_out),
        "unknown_columns": trace.unknown_columns,
        "span_s": played.busy_s,
        "waits": waits(played.waits.values()),
        "waits_by_priority": _by(played, lambda task: task.priority),
        "waits_by_gpus": _by(played, lambda task: task.gpu * task.node_count),
        "starvation": {
            "never_started": len(tasks) - len(played.waits),
            "later_than_first_plan": played.late_starts,
            "longest_wait_s": played.waits.get(longest, 0.0),
            "longest_wait_task": tasks[longest].name if longest >= 0 else "",
        },
        "gpu_use": played.used_s / total_s if total_s else 0.0,
        "fragmentation": played.idle_s / total_s if total_s else 0.0,
        "gpu_use_over_time": over_time(played),
        "decisions": len(played.waits),
        "decisions_per_s": len(played.waits) / played.core_s if played.core_s else 0.0,
        "events_per_s": played.events / played.core_s if played.core_s else 0.0,
        "wall_s": wall_s,
    }


def _by(played: Played, key: Callable[[TraceTask], int]) -> dict[str, Waits]:
    groups: dict[int, list[float]] = {}
    for index, wait_s in played.waits.items():
        groups.setdefault(key(played.tasks[index]), []).append(wait_s)
    return {str(name): waits(groups[name]) for name in sorted(groups)}


def over_time(played: Played, steps: int = STEPS) -> list[dict[str, float]]:
    """Means over equal parts of the time: `at_s` is a part's middle, `used` GPUs, `waiting` tasks."""
    if not played.use or played.busy_s <= 0:
        return []
    begin, step_s = played.use[0][0], played.busy_s / steps
    used, waiting = [0.0] * steps, [0.0] * steps
    nexts = [*(at for at, _, _ in played.use[1:]), begin + played.busy_s]
    for (at, gpus, tasks), until in zip(played.use, nexts, strict=True):
        for part, share_s in _parts(at - begin, until - begin, step_s, steps):
            used[part] += gpus * share_s / step_s
            waiting[part] += tasks * share_s / step_s
    return [{"at_s": (i + 0.5) * step_s, "used": used[i], "waiting": waiting[i]} for i in range(steps)]


def _parts(begin: float, end: float, step_s: float, steps: int) -> Iterable[tuple[int, float]]:
    """The parts that [begin, end) lies in, and how long it is in each."""
    part = min(int(begin / step_s), steps - 1)
    while begin < end and part < steps:
        until = end if part == steps - 1 else min(end, (part + 1) * step_s)
        yield part, max(0.0, until - begin)
        begin, part = until, part + 1
