"""What every part of the scheduler works at: the state, the capacity, the settings, and the effects of the event at hand.

A decision becomes true here: `persist` applies a fact to the state at once, by the same fold as a replay, and asks for it
to be made durable. Decides nothing itself.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from fetchmld.core import arrays
from fetchmld.core.caches import Caches
from fetchmld.core.errors import FetchmlError
from fetchmld.core.lines import Lines
from fetchmld.core.messages import DropStaging, Effect, EventType, Fact, Persist, Reply, TaskChanged
from fetchmld.core.model import DatasetSpec, EndReport, Resources, Task, TaskId, Worker, WorkerId
from fetchmld.core.placement import Placement
from fetchmld.core.ready import Queue
from fetchmld.core.reservations import Holds
from fetchmld.core.state import State


@dataclass(slots=True, frozen=True)
class Policy:
    """The settings that decide. Times in seconds of the logical clock."""

    ageing_tau_s: float = 600.0
    suspect_after_s: float = 3.0
    offline_after_s: float = 15.0
    requeue_after_s: float = 600.0
    grace_s: float = 10.0  # between the SIGTERM and the SIGKILL of a stopped task
    reservation_lead_s: float = 3600.0  # how long before its start a reservation gathers
    gpu_release_after_s: float = 600.0  # a GPU in quarantine that is well for so long is used again; 0: never by itself
    user_gpus_max: int = 0  # GPUs that one user may have reserved at a time; 0: any number
    unsatisfiable: Literal["queue", "fail"] = "queue"  # what happens to a request that no worker could ever meet
    plans_max: int = 1  # blocked tasks that are planned at a time, 1 to PLANS_MAX
    stage_datasets: bool = False  # are datasets fetched before a task with GPUs is placed?
    backfill: bool = True  # may a task start before one that is ahead of it and blocked? If not: strict order
    offline_workers_s: float = 604_800.0  # a worker that is offline for so long is forgotten; 0: never


@dataclass(slots=True)
class StagingWait:
    """A queued task that waits for `workers` to fetch its datasets; `said`: how far that is. See `staging`."""

    workers: set[WorkerId]
    specs: list[DatasetSpec]
    since_t: float
    said: str


class Desk:
    """One event at a time: `begin` it, let the parts do their work, and take its `effects`."""

    def __init__(self, policy: Policy, queue: Queue | None = None, state: State | None = None) -> None:
        self.policy = policy
        self.state = State() if state is None else state
        self.holds = Holds(self.state, policy.reservation_lead_s)
        self.caches = Caches()
        ages, plans = (policy.ageing_tau_s, policy.grace_s), (policy.plans_max, policy.backfill)
        self.placement = Placement(self.state, self.holds, self.caches, *ages, *plans, queue)
        self.lines = Lines(self.state, self.placement, policy.ageing_tau_s)
        self.effects: list[Effect] = []
        self.now = 0.0
        self.able: dict[Resources, list[Worker]] = {}  # what `explain` found out since the last event
        self.staging: dict[TaskId, StagingWait] = {}
        self.due: deque[TaskId] = deque()  # tasks that may be eligible now, or never: something they wait for ended

    def begin(self, now: float) -> None:
        self.now = now
        self.effects = []
        self.able.clear()

    def persist(self, fact: Fact) -> None:
        """Make `fact` true, and ask for it to be made durable."""
        fact.clock_us = int(self.now * 1e6)
        self.state.apply(fact)
        self.effects.append(Persist(fact))

    def record(
        self,
        event: Any,
        event_type: EventType,
        action: str,
        resource: str,
        user_id: str,
        metadata: dict[str, Any],
        *,
        error: str = "",
        ip: str = "",
    ) -> None:
        """`persist` a fact that follows from what `event` says, at its wall time, with the trace id of its request."""
        if trace_id := getattr(event, "trace_id", ""):
            metadata["trace_id"] = trace_id
        self.persist(Fact(event_type, action, resource, user_id, not error, ip, error, metadata, event.at_us))

    def finish(
        self,
        task: Task,
        action: str,
        error: str,
        report: EndReport,
        at_us: int,
        by: dict[str, str] | None = None,
        ip: str = "",
    ) -> None:
        """The task is over, and its array with the last of its elements. Who depends on it becomes due.

        `by`: where somebody asked for that, who, and under which trace id.
        """
        self.due.extend(self.state.dependents.get(task.id, ()))
        self.unstage(task.id)
        metadata: dict[str, Any] = {"attempt": task.attempt, "report": report}
        metadata.update(by or {})
        if task.array_id:
            metadata["priority"] = task.priority
        if task.array is not None:
            metadata["array"] = arrays.view(task.array)
        self.persist(Fact("job_completed", action, task.id, task.user_id, not error, ip, error, metadata, at_us))
        self.effects.append(TaskChanged(task.id))
        if task.array_id:
            self.end_array(self.state.tasks[task.array_id], at_us)

    def unstage(self, task_id: TaskId) -> None:
        """The task is queued no longer, or never was: nobody need fetch for it."""
        if (wait := self.staging.pop(task_id, None)) is not None:
            self.effects += [DropStaging(worker_id, task_id) for worker_id in sorted(wait.workers)]

    def end_array(self, parent: Task, at_us: int) -> None:
        """An element ended, or the array was closed: it is over, or another element may start."""
        array = arrays.array_of(parent)
        if array.ended < array.size:
            self.due.append(parent.id)
            return
        self.lines.shut(parent)
        action, error = arrays.outcome(parent)
        self.finish(parent, action, error, {}, at_us)

    def record_close(self, fact: Fact) -> None:
        """`persist` a fact that closes an array. Who depends on an element that it ends becomes due."""
        array = arrays.array_of(self.state.tasks[TaskId(fact.resource)])
        fact.metadata["elements"] = 0 if array.closed else array.unnamed
        for index in arrays.unnamed(array) if self.state.dependents and not array.closed else ():
            self.due.extend(self.state.dependents.get(arrays.element_id(fact.resource, index), ()))
        self.persist(fact)

    def reply(self, ticket: int, value: Any = None) -> None:
        if ticket:
            self.effects.append(Reply(ticket, value))

    def fail(self, ticket: int, error: FetchmlError) -> None:
        if ticket:
            self.effects.append(Reply(ticket, error=error))

    def changed(self, task_id: TaskId) -> None:
        self.effects.append(TaskChanged(task_id))

    def aged(self, task: Task) -> float:
        """The task's aged priority now, as it was at its start once it has started; never below its priority."""
        if task.status != "queued":
            return max(task.aged_at_start, float(task.priority))
        waits = self.state.tasks[task.array_id].waits_for if task.array_id else task.waits_for
        since = self.now if waits else task.submit_t  # who is held does not age
        return task.priority + max(0.0, self.now - since) / self.policy.ageing_tau_s
