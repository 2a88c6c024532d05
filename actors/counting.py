"""What the scheduler counts of its own work for `/metrics`: tasks by what became of them, waits, and its ledger's time."""

import time
from collections import Counter
from collections.abc import Iterable

from fetchmld.core.messages import Fact
from fetchmld.core.model import TaskId
from fetchmld.core.scheduler import Scheduler
from fetchmld.core.state import State
from fetchmld.measures import MOMENTS_S, SPANS_S, SchedulerMeasures, Spread

_ENDS = {"task.completed": "COMPLETED", "task.cancelled": "CANCELLED"}


class Counting:
    """Since the process began."""

    def __init__(self) -> None:
        self.lag_s = Spread(MOMENTS_S)
        self._started = 0
        self._ended: Counter[str] = Counter()
        self._requeued: Counter[str] = Counter()
        self._wait_s, self._run_s = Spread(SPANS_S), Spread(SPANS_S)
        self._acknowledge_s, self._append_s = Spread(MOMENTS_S), Spread(MOMENTS_S)

    def appended(self, took_s: float) -> None:
        """One batch was written and synced."""
        self._append_s.take(took_s)

    def acknowledged(self, arrived: float) -> None:
        """A batch with changes, whose oldest message arrived then (monotonic), was made durable and answered."""
        self._acknowledge_s.take(time.monotonic() - arrived)

    def count(self, facts: Iterable[Fact], state: State) -> None:
        """Facts that are durable now."""
        for fact in facts:
            if not fact.action.startswith("task."):
                continue
            if fact.action == "task.start":
                self._started += 1
                if (task := state.task(TaskId(fact.resource))) is not None:
                    self._wait_s.take(max(0.0, fact.at_us / 1e6 - task.created_at))
            elif fact.action == "task.requeue":
                self._requeued[str(fact.metadata.get("cause", "UNKNOWN"))] += 1
            elif fact.action in ("task.completed", "task.failed", "task.cancelled"):
                self._count_end(fact, state)

    def _count_end(self, fact: Fact, state: State) -> None:
        task = state.task(TaskId(fact.resource))
        if task is not None and task.array is not None:
            return  # its elements are what ran
        self._ended[_ENDS.get(fact.action) or fact.error.partition(":")[0]] += 1
        if task is not None and task.started_at:
            self._run_s.take(max(0.0, fact.at_us / 1e6 - task.started_at))

    def data(self, core: Scheduler) -> SchedulerMeasures:
        gpus = Counter(str(gpu["status"]) for worker in core.worker_views() for gpu in worker["gpus"])
        return SchedulerMeasures(
            started=self._started,
            ended=dict(self._ended),
            requeued=dict(self._requeued),
            wait_s=self._wait_s.data(),
            run_s=self._run_s.data(),
            acknowledge_s=self._acknowledge_s.data(),
            append_s=self._append_s.data(),
            loop_lag_s=self.lag_s.data(),
            gpus=dict(gpus),
        )
