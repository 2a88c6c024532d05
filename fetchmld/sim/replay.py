"""A recorded workload through the real scheduler: no agents, no faults; a task runs for the time that was recorded.

The scheduler decides every start as it would in a cluster; only the clock is virtual. The ageing promise is asserted at
each start. Waits are measured from submission to the first start.
"""

import heapq
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, cast

from fetchmld.core.messages import AttemptEnded, Effect, Event, Launch, TaskSubmitted, WorkerJoined
from fetchmld.core.model import Capacity, EndReport, TaskId, TaskRequest, UserId, WorkerId
from fetchmld.core.placement import limit_class
from fetchmld.core.scheduler import Policy, Scheduler
from fetchmld.sim.traces import Trace, TraceTask

PRIORITY_MAX: Final = 10
EPOCH_S: Final = 1_700_000_000
USER: Final = UserId("trace")


@dataclass(slots=True, frozen=True)
class Options:
    """How the trace is played. `compress` divides the times between submissions; `limit_factor` declares time limits."""

    policy: Policy
    compress: float = 1.0
    limit_factor: float = 1.5  # of the recorded run time, where the trace has no limit of its own; 0 = none


@dataclass(slots=True)
class Played:
    """What happened. Waits in seconds, one per started task; `use` is (time, GPUs used, tasks waiting) at each change."""

    tasks: list[TraceTask]
    waits: dict[int, float] = field(default_factory=dict)
    use: list[tuple[float, int, int]] = field(default_factory=list)
    gpus_total: int = 0
    idle_s: float = 0.0  # GPU-seconds free while somebody waits who asks for no more GPUs than are free
    used_s: float = 0.0  # GPU-seconds used
    busy_s: float = 0.0  # from the first submission to the last end
    late_starts: int = 0  # blocked tasks that started after the time of their first plan
    events: int = 0
    core_s: float = 0.0  # real seconds spent in the scheduler


class Player:
    """One play of one trace."""

    def __init__(self, trace: Trace, options: Options) -> None:
        self._trace, self._options = trace, options
        self._core = Scheduler(options.policy)
        self._now = 0.0
        self._ends: list[tuple[float, int, int]] = []  # time, task, node of the attempt (its rank)
        self._workers: dict[tuple[int, int], WorkerId] = {}
        self._gpus_free = 0
        self._waiting: Counter[int] = Counter()  # tasks by the GPUs that they ask for in all
        self._promises: dict[object, list[tuple[float, int]]] = {}  # of each shape: (nobody later than, task), a heap
        self._shapes: dict[int, object] = {}  # of tasks that have not started
        self.played = Played(trace.tasks)

    def play(self) -> Played:
        """From the first submission to the last end. Raises AssertionError if the ageing promise is broken."""
        for number, capacity in enumerate(self._trace.nodes):
            self._join(number, capacity)
        self._gpus_free = self.played.gpus_total
        submits = self._submits()
        count, index = len(submits), 0
        while index < count or self._ends:
            if index < count and (not self._ends or submits[index] <= self._ends[0][0]):
                self._advance(submits[index])
                self._submit(index)
                index += 1
            else:
                when, task, rank = heapq.heappop(self._ends)
                self._advance(when)
                self._end(task, rank)
        self.played.late_starts = self._core.late_starts
        self.played.busy_s = self._now - (submits[0] if submits else 0.0)
        return self.played

    def _submits(self) -> list[float]:
        first = self._trace.tasks[0].submit_s if self._trace.tasks else 0.0
        return [(task.submit_s - first) / self._options.compress for task in self._trace.tasks]

    def _advance(self, to: float) -> None:
        """Account for the time that passes until the next event."""
        passed_s, self._now = to - self._now, to
        if passed_s <= 0:
            return
        played, free = self.played, self._gpus_free
        played.used_s += (played.gpus_total - free) * passed_s
        if free and any(0 < asked <= free for asked, count in self._waiting.items() if count):
            played.idle_s += free * passed_s

    def _handle(self, event: Event) -> None:
        began = time.perf_counter()
        effects = self._core.handle(event, self._now)
        self.played.core_s += time.perf_counter() - began
        self.played.events += 1
        self._see(effects)

    def _at_us(self) -> int:
        return int((EPOCH_S + self._now) * 1e6)

    # -- events

    def _join(self, number: int, capacity: Capacity) -> None:
        self.played.gpus_total += len(capacity.gpus)
        name = f"node-{number}"
        self._handle(WorkerJoined(WorkerId(name), "boot", name, capacity, [], self._at_us()))

    def _submit(self, index: int) -> None:
        task = self._trace.tasks[index]
        self._waiting[task.gpu * task.node_count] += 1
        request = self._request(task)
        shape = self._shapes[index] = self._shape(task, request)
        late = self._now + (PRIORITY_MAX - task.priority) * self._options.policy.ageing_tau_s
        heapq.heappush(self._promises.setdefault(shape, []), (late, index))
        self._handle(TaskSubmitted(TaskId(str(index)), USER, request, self._at_us()))
        self._note_use()

    def _request(self, task: TraceTask) -> TaskRequest:
        request = {"job_name": "trace", "cpu": task.cpu, "priority": task.priority}
        limit_s = self._limit_s(task)
        more = {
            "memory_gb": task.memory_gb,
            "gpu": task.gpu,
            "gpu_type": task.gpu_type,
            "node_count": task.node_count if task.node_count > 1 else 0,
            "time_limit_s": limit_s,
        }
        return cast(TaskRequest, request | {name: value for name, value in more.items() if value})

    def _limit_s(self, task: TraceTask) -> int:
        return task.time_limit_s or int(task.run_s * self._options.limit_factor + 0.999)

    def _shape(self, task: TraceTask, request: TaskRequest) -> object:
        """What tells tasks apart that are not in one line: the request, and the class of its time limit."""
        limit = limit_class(request, self._options.policy.grace_s)
        return (task.cpu, task.memory_gb, task.gpu, task.gpu_type, task.node_count, limit)

    def _end(self, index: int, rank: int) -> None:
        task = self._trace.tasks[index]
        self._gpus_free += task.gpu
        worker = self._workers.pop((index, rank))
        self._handle(AttemptEnded(worker, TaskId(str(index)), 1, rank, EndReport(exit_code=0), 0, self._at_us()))
        self._note_use()

    def _see(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Launch):
                index, rank = int(effect.order["task_id"]), effect.order["rank"]
                task = self._trace.tasks[index]
                self._gpus_free -= task.gpu
                self._workers[index, rank] = effect.worker_id
                heapq.heappush(self._ends, (self._now + task.run_s, index, rank))
                if index not in self.played.waits:
                    self._started(index, task)

    def _started(self, index: int, task: TraceTask) -> None:
        submitted = (task.submit_s - self._trace.tasks[0].submit_s) / self._options.compress
        self.played.waits[index] = self._now - submitted
        self._waiting[task.gpu * task.node_count] -= 1
        promises = self._promises[self._shapes.pop(index)]
        while promises and promises[0][1] in self.played.waits:
            heapq.heappop(promises)
        if promises:
            late, other = promises[0]
            assert submitted <= late + 1e-6, f"task {index} passes task {other}, beyond the ageing promise"

    def _note_use(self) -> None:
        used, waiting = self.played.gpus_total - self._gpus_free, self._waiting.total()
        use = self.played.use
        if use and use[-1][0] == self._now:
            use.pop()
        use.append((self._now, used, waiting))


def play(trace: Trace, options: Options) -> Played:
    """Play `trace` once."""
    return Player(trace, options).play()
