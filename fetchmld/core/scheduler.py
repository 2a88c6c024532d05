"""The scheduler: `handle(event, now) -> effects`, one short `_on_*` per thing that can happen.

Each handler decides by putting facts on record (`_record` applies them to the state at once, by the same fold as a
replay) and by asking for deeds. The caller makes the facts of a batch durable before it performs any other effect of it.
`now` is the logical clock, in seconds; wall time comes with the events and is for showing only. No clock, no randomness,
no I/O here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from fetchmld.core.errors import Conflict, Invalid, NotFound
from fetchmld.core.explain import wait_reason
from fetchmld.core.lifecycle import STARTED, advance
from fetchmld.core.messages import (
    AcknowledgeEnd,
    AttemptEnded,
    CancelRequested,
    DatasetAccessed,
    Effect,
    Event,
    EventType,
    ExperimentCreated,
    Fact,
    FactNoted,
    HeartbeatReceived,
    KeyCreated,
    Launch,
    LaunchOrder,
    LiveAttempt,
    Persist,
    PhaseReported,
    Reply,
    StopAttempt,
    TaskChanged,
    TaskSubmitted,
    TimePassed,
    WorkerJoined,
)
from fetchmld.core.model import (
    PRIORITY_DEFAULT,
    Assignment,
    Counts,
    EndReport,
    Task,
    TaskId,
    TaskView,
    Worker,
    WorkerId,
    WorkerView,
)
from fetchmld.core.placement import Placement
from fetchmld.core.ready import Queue
from fetchmld.core.state import State, capacity_data

INFRA_RETRIES_MAX: Final = 3  # beyond max_retries
BACKOFF_FIRST_S: Final = 10.0
BACKOFF_MAX_S: Final = 360.0


@dataclass(slots=True, frozen=True)
class Policy:
    """The settings that decide. Times in seconds of the logical clock."""

    ageing_tau_s: float = 600.0
    suspect_after_s: float = 3.0
    offline_after_s: float = 15.0
    requeue_after_s: float = 600.0


class Scheduler:
    """The whole policy over one `State`. Build it, `replay` the record, then `handle` events in order."""

    def __init__(self, policy: Policy, queue: Queue | None = None) -> None:
        self.policy = policy
        self.state = State()
        self.dropped_reports = 0  # reports of attempts that are over: fenced off
        self._placement = Placement(policy.ageing_tau_s, queue)
        self._held: set[TaskId] = set()
        self._effects: list[Effect] = []
        self._now = 0.0

    # -- the door

    def replay(self, facts: Iterable[Fact], now: float) -> None:
        """Rebuild the state from the record. Workers are `suspect` until they say hello again."""
        for fact in facts:
            self.state.apply(fact)
        for task in self.state.tasks.values():
            if task.status == "queued":
                self._make_ready(task, now)
        for worker in self.state.workers.values():
            worker.heartbeat_t = now
            if worker.status == "active":
                advance(worker, "suspect")

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in what happened at logical time `now`; say what to do. `Persist` effects come in the order of facts."""
        self._now = now
        self._effects = []
        _HANDLERS[type(event)](self, event)
        return self._effects

    # -- tasks

    def _on_submitted(self, event: TaskSubmitted) -> None:
        metadata: dict[str, Any] = {
            "request": event.request,
            "priority": event.request.get("priority", PRIORITY_DEFAULT),
        }
        if event.trace_id:
            metadata["trace_id"] = event.trace_id
        self._record(event, "job_queued", "task.submit", event.task_id, event.user_id, metadata, ip=event.ip_address)
        self._make_ready(self.state.tasks[event.task_id], self._now)
        self._place(event.at_us)
        self._reply(event.ticket, self.view(event.task_id))
        self._effects.append(TaskChanged(event.task_id))

    def _on_cancel_requested(self, event: CancelRequested) -> None:
        task = self.state.tasks.get(event.task_id)
        if task is None:
            self._delete(event)
        elif task.status == "queued":
            self._cancel_queued(task, event)
        else:
            self._cancel_started(task, event)

    def _delete(self, event: CancelRequested) -> None:
        if event.task_id not in self.state.recent and not event.known_ended:
            self._fail(event.ticket, NotFound(f"no task {event.task_id}"))
            return
        by = {"by": event.user_id}
        self._record(event, "job_completed", "task.deleted", event.task_id, event.user_id, by, ip=event.ip_address)
        self._reply(event.ticket)

    def _cancel_queued(self, task: Task, event: CancelRequested) -> None:
        self._placement.remove(task)
        self._held.discard(task.id)
        metadata = {"attempt": task.attempt, "report": {}, "by": event.user_id}
        error = f"CANCELLED: by {event.user_id} while queued"
        self._record(
            event, "job_completed", "task.cancelled", task.id, task.user_id, metadata, error=error, ip=event.ip_address
        )
        self._reply(event.ticket)
        self._effects.append(TaskChanged(task.id))

    def _cancel_started(self, task: Task, event: CancelRequested) -> None:
        if not task.cancel_by:
            by = {"by": event.user_id, "attempt": task.attempt}
            self._record(
                event, "job_completed", "task.cancel_requested", task.id, event.user_id, by, ip=event.ip_address
            )
        self._reply(event.ticket)
        self._stop(task, "CANCELLED", f"by {task.cancel_by} while {task.status}")

    def _stop(self, task: Task, word: str, detail: str) -> None:
        for node in task.assignments:
            self._effects.append(StopAttempt(WorkerId(node["worker_id"]), task.id, task.attempt, word, detail))

    def _make_ready(self, task: Task, now: float) -> None:
        if task.hold_until_t > now:
            self._held.add(task.id)
        else:
            self._placement.push(task)

    # -- starting

    def _place(self, at_us: int) -> None:
        """Start whatever can start."""
        for task, worker_id, gpu_type in self._placement.take():
            worker = self.state.workers[worker_id]
            gpus = self._placement.pick_gpus(worker, gpu_type, task.resources.gpu)
            self._start(task, [Assignment(rank=0, worker_id=worker_id, gpus=gpus)], at_us)

    def _start(self, task: Task, assignments: list[Assignment], at_us: int) -> None:
        metadata = {"attempt": task.attempt + 1, "assignments": assignments, "aged": self._aged(task)}
        fact = Fact("job_started", "task.start", task.id, task.user_id, metadata=metadata, at_us=at_us)
        self._persist(fact)
        for node in assignments:
            self._launch(task, node)
        self._effects.append(TaskChanged(task.id))

    def _launch(self, task: Task, node: Assignment) -> None:
        order = LaunchOrder(
            task_id=task.id,
            attempt=task.attempt,
            rank=node["rank"],
            user_id=task.user_id,
            request=task.request,
            assignments=task.assignments,
        )
        self._effects.append(Launch(WorkerId(node["worker_id"]), order))

    # -- workers

    def _on_worker_joined(self, event: WorkerJoined) -> None:
        worker = self.state.workers.get(event.worker_id)
        rebooted = worker is not None and worker.boot_id != event.boot_id
        if worker is None or rebooted or worker.status == "offline" or worker.capacity != event.capacity:
            self._record_join(event)
        worker = self.state.workers[event.worker_id]
        if worker.status != "active":
            advance(worker, "active")
        worker.heartbeat_t, worker.heartbeat_at, worker.detail = self._now, event.at_us / 1e6, event.detail
        self._placement.open(worker, [self.state.tasks[task_id] for task_id in worker.tasks])
        self._reconcile(worker, event, rebooted)
        self._place(event.at_us)

    def _record_join(self, event: WorkerJoined) -> None:
        metadata = {
            "boot_id": event.boot_id,
            "hostname": event.hostname,
            "capacity": capacity_data(event.capacity),
        }
        self._record(event, "scheduler_drain", "worker.join", event.worker_id, "", metadata, ip=event.ip_address)

    def _reconcile(self, worker: Worker, event: WorkerJoined, rebooted: bool) -> None:
        """Make the worker's attempts and ours the same: stop what it should not have, start what it lost."""
        there = {(live.task_id, live.attempt): live for live in event.attempts}
        for task in [self.state.tasks[task_id] for task_id in sorted(worker.tasks)]:
            live = there.pop((task.id, task.attempt), None)
            if live is not None:
                self._resume(task, live)
            elif rebooted:
                self._lose(task, f"worker {worker.id} was restarted", event.at_us)
            else:
                self._relaunch(task, worker)
        for live in there.values():
            stale = "this attempt is not the task's current one"
            self._effects.append(StopAttempt(worker.id, live.task_id, live.attempt, "WORKER_LOST", stale))

    def _resume(self, task: Task, live: LiveAttempt) -> None:
        self._set_phase(task, live.phase)
        if task.cancel_by:
            self._stop(task, "CANCELLED", f"by {task.cancel_by}")

    def _relaunch(self, task: Task, worker: Worker) -> None:
        """The worker never got this attempt, or forgot it before it began: the same attempt, once more."""
        for node in task.assignments:
            if node["worker_id"] == worker.id:
                self._launch(task, node)
        if task.cancel_by:
            self._stop(task, "CANCELLED", f"by {task.cancel_by}")

    def _on_heartbeat(self, event: HeartbeatReceived) -> None:
        worker = self.state.workers.get(event.worker_id)
        if worker is None or worker.status == "offline":
            return  # it has to say hello first
        worker.heartbeat_t, worker.heartbeat_at = self._now, event.at_us / 1e6
        if worker.status == "suspect":
            advance(worker, "active")
            self._placement.open(worker, [self.state.tasks[task_id] for task_id in worker.tasks])
            self._place(event.at_us)

    def _on_phase(self, event: PhaseReported) -> None:
        task = self._current(event.worker_id, event.task_id, event.attempt)
        if task is not None:
            self._set_phase(task, event.phase)

    def _set_phase(self, task: Task, phase: Any) -> None:
        if task.status != phase:
            advance(task, phase)
            self._effects.append(TaskChanged(task.id))

    def _on_dataset(self, event: DatasetAccessed) -> None:
        task = self._current(event.worker_id, event.task_id, event.attempt)
        if task is None:
            return
        metadata = {
            "task_id": event.task_id,
            "attempt": event.attempt,
            "worker_id": event.worker_id,
            "name": event.name,
            "sha256": event.sha256,
            "bytes": event.total_bytes,
            "cached": event.cached,
        }
        fact = Fact("file_access", "dataset.read", event.source, task.user_id, event.success, error=event.error)
        fact.metadata, fact.at_us = metadata, event.at_us
        self._persist(fact)

    # -- ends

    def _on_attempt_ended(self, event: AttemptEnded) -> None:
        task = self._current(event.worker_id, event.task_id, event.attempt)
        if task is not None:
            self._settle(task, event.report, event.seed, event.at_us)
            self._place(event.at_us)
        self._effects.append(AcknowledgeEnd(event.worker_id, event.task_id, event.attempt))

    def _current(self, worker_id: WorkerId, task_id: TaskId, attempt: int) -> Task | None:
        """The task, if this worker speaks for its current attempt; else the report is fenced off and counted."""
        task = self.state.tasks.get(task_id)
        if (
            task is not None
            and task.attempt == attempt
            and task.status in STARTED
            and any(node["worker_id"] == worker_id for node in task.assignments)
        ):
            return task
        self.dropped_reports += 1
        return None

    def _settle(self, task: Task, report: EndReport, seed: int, at_us: int) -> None:
        """An attempt is over: put the end on record, or put the task back into the queue."""
        self._placement.release(task)
        error = _error_of(report, task)
        infrastructure = bool(report.get("infrastructure"))
        if not error:
            self._end(task, "task.completed", "", report, at_us)
        elif task.cancel_by:
            self._end(task, "task.cancelled", f"CANCELLED: by {task.cancel_by}", report, at_us)
        elif self._may_retry(task, infrastructure, report.get("word", "")):
            self._requeue(task, error, infrastructure, seed, at_us)
        else:
            self._end(task, "task.failed", error, report, at_us)
        self._effects.append(TaskChanged(task.id))

    def _end(self, task: Task, action: str, error: str, report: EndReport, at_us: int) -> None:
        metadata = {"attempt": task.attempt, "report": report}
        fact = Fact("job_completed", action, task.id, task.user_id, not error, error=error)
        fact.metadata, fact.at_us = metadata, at_us
        self._persist(fact)

    def _may_retry(self, task: Task, infrastructure: bool, word: str) -> bool:
        allowed = task.request.get("max_retries", 0)
        if infrastructure and word != "EXIT_UNKNOWN":
            return task.infra_failures < INFRA_RETRIES_MAX + allowed
        return word not in _FINAL_WORDS and task.own_failures < allowed

    def _requeue(self, task: Task, error: str, infrastructure: bool, seed: int, at_us: int) -> None:
        word, _, detail = error.partition(": ")
        failures = task.infra_failures if infrastructure else task.own_failures
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**failures)
        metadata = {
            "attempt": task.attempt,
            "cause": word,
            "detail": detail,
            "hold_s": round(ceiling * seed / 2**32, 3),  # full jitter
            "infrastructure": infrastructure,
        }
        fact = Fact("job_queued", "task.requeue", task.id, task.user_id, metadata=metadata, at_us=at_us)
        self._persist(fact)
        self._make_ready(task, self._now)

    def _lose(self, task: Task, detail: str, at_us: int) -> None:
        report = EndReport(word="WORKER_LOST", detail=detail, infrastructure=True)
        seed = hash_seed(task.id, task.attempt)
        self._settle(task, report, seed, at_us)

    # -- the rest

    def _on_fact(self, event: FactNoted) -> None:
        self._persist(event.fact)
        self._reply(event.ticket, self.state.seq - 1)

    def _on_key_created(self, event: KeyCreated) -> None:
        if event.sha256 in self.state.keys:
            self._fail(event.ticket, Conflict(f"key {event.key_id} exists already"))
            return
        metadata = {
            "user_id": event.user_id,
            "role": event.role,
            "sha256": event.sha256,
            "expires_at": event.expires_at,
        }
        self._record(event, "auth_attempt", "key.create", event.key_id, event.by, metadata)
        self._reply(event.ticket)

    def _on_experiment_created(self, event: ExperimentCreated) -> None:
        if event.experiment_id in self.state.experiments:
            self._fail(event.ticket, Invalid(f"experiment {event.experiment_id} exists already"))
            return
        metadata = {"name": event.name, "description": event.description}
        self._record(
            event,
            "file_access",
            "experiment.create",
            event.experiment_id,
            event.user_id,
            metadata,
            ip=event.ip_address,
        )
        self._reply(event.ticket, self.state.experiments[event.experiment_id])

    def _on_time_passed(self, event: TimePassed) -> None:
        for worker in self.state.workers.values():
            self._watch(worker, event.at_us)
        for task_id in [t for t in self._held if self.state.tasks[t].hold_until_t <= self._now]:
            self._held.discard(task_id)
            self._placement.push(self.state.tasks[task_id])
        self._place(event.at_us)

    def _watch(self, worker: Worker, at_us: int) -> None:
        """One step at a time: after a pause of our own (a suspended machine) the workers get their turn to speak."""
        silent_s = self._now - worker.heartbeat_t
        if worker.status == "active" and silent_s >= self.policy.suspect_after_s:
            advance(worker, "suspect")
            self._placement.shut(worker.id)
        elif worker.status == "suspect" and silent_s >= self.policy.offline_after_s:
            metadata = {"silent_s": round(silent_s, 3)}
            fact = Fact("scheduler_drain", "worker.offline", worker.id, success=False, metadata=metadata, at_us=at_us)
            self._persist(fact)
        elif worker.status == "offline" and silent_s >= self.policy.requeue_after_s:
            for task_id in sorted(worker.tasks):
                self._lose(self.state.tasks[task_id], f"worker {worker.id} silent for {silent_s:.0f} s", at_us)

    # -- effects

    def _record(
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
        self._persist(Fact(event_type, action, resource, user_id, not error, ip, error, metadata, event.at_us))

    def _persist(self, fact: Fact) -> None:
        fact.clock_us = int(self._now * 1e6)
        self.state.apply(fact)
        self._effects.append(Persist(fact))

    def _reply(self, ticket: int, value: Any = None) -> None:
        if ticket:
            self._effects.append(Reply(ticket, value))

    def _fail(self, ticket: int, error: Conflict | Invalid | NotFound) -> None:
        if ticket:
            self._effects.append(Reply(ticket, error=error))

    # -- views

    def _aged(self, task: Task) -> float:
        if task.status != "queued":
            return task.aged_at_start or float(task.priority)
        return task.priority + max(0.0, self._now - task.submit_t) / self.policy.ageing_tau_s

    def view(self, task_id: TaskId) -> TaskView | None:
        """The task as of the last event, live or among the newest ended ones."""
        task = self.state.task(task_id)
        if task is None:
            return None
        return TaskView(
            id=task.id,
            user_id=task.user_id,
            request=task.request,
            status=task.status,
            priority=task.priority,
            priority_aged=self._aged(task),
            created_at=task.created_at,
            started_at=task.started_at,
            ended_at=task.ended_at,
            attempt=task.attempt,
            retry_count=task.own_failures + task.infra_failures,
            assignments=task.assignments,
            error=task.error,
            reason=task.reason,
            wait_reason=wait_reason(self.state, task, self._now),
            report=task.report,
            last_seq=task.last_seq,
        )

    def worker_views(self) -> list[WorkerView]:
        """Every known worker, oldest first."""
        return [_worker_view(worker) for worker in self.state.workers.values()]

    def counts(self) -> Counts:
        """Live numbers: queued, running, workers by status."""
        tasks = self.state.tasks.values()
        queued = [task.resources.kind for task in tasks if task.status == "queued"]
        statuses = [worker.status for worker in self.state.workers.values()]
        return Counts(
            batch_queued=queued.count("batch"),
            service_queued=queued.count("service"),
            running=len(self.state.tasks) - len(queued),
            workers_total=len(statuses),
            workers_active=statuses.count("active") + statuses.count("suspect"),
            workers_draining=statuses.count("draining"),
        )

    # -- what must hold

    def check(self) -> None:
        """Assert every invariant of the state. Called after each event in tests."""
        for worker in self.state.workers.values():
            self._check_worker(worker)
        for task_id, task in self.state.tasks.items():
            assert task_id not in self.state.recent, f"task {task_id} is live and ended"
            assert (task.status in STARTED) == bool(task.assignments), f"task {task_id}: {task.status}, assignments"
            assert task.attempt >= (task.status in STARTED), f"task {task_id} runs without an attempt number"
        waiting = [t for t in self.state.tasks.values() if t.status == "queued" and t.resources.node_count == 1]
        assert len(self._placement) == len([t for t in waiting if t.id not in self._held]), "the queue is not the state"

    def _check_worker(self, worker: Worker) -> None:
        tasks = [self.state.tasks[task_id] for task_id in worker.tasks]
        held = [node["gpus"] for t in tasks for node in t.assignments if node["worker_id"] == worker.id]
        indices = [index for gpus in held for index in gpus]
        assert len(indices) == len(set(indices)), f"worker {worker.id}: a GPU is held twice: {sorted(indices)}"
        assert not worker.gpus_free & set(indices), f"worker {worker.id}: a held GPU counts as free"
        cpu = sum(t.resources.cpu for t in tasks)
        assert worker.cpu_free + cpu == worker.capacity.cpu, f"worker {worker.id}: cores do not add up"


_FINAL_WORDS: Final = frozenset({"NO_ENTRYPOINT", "ENTRYPOINT_NOT_FOUND", "ENTRYPOINT_NOT_EXECUTABLE", "TIME_LIMIT"})


def hash_seed(task_id: TaskId, attempt: int) -> int:
    """32 bits that differ from task to task, for the jitter of a retry that no shell's event brought randomness for."""
    seed = 2166136261
    for byte in f"{task_id}:{attempt}".encode():
        seed = (seed ^ byte) * 16777619 & 0xFFFFFFFF  # FNV-1a
    return seed


def _error_of(report: EndReport, task: Task) -> str:
    """The task's `error` for this end: WORD, then plain words; "" for a success."""
    if word := report.get("word"):
        return f"{word}: {report.get('detail', '')}"
    if signal := report.get("signal"):
        return f"SIGNALLED: attempt {task.attempt} was ended by signal {signal}"
    if (code := report.get("exit_code", 0)) != 0:
        return f"EXIT_NONZERO: attempt {task.attempt} ended with exit status {code}"
    return ""


def _worker_view(worker: Worker) -> WorkerView:
    capacity = worker.capacity
    return WorkerView(
        id=worker.id,
        hostname=worker.hostname,
        status=worker.status,
        connected_at=worker.connected_at,
        heartbeat_at=worker.heartbeat_at,
        cpu_cores=capacity.cpu,
        memory_gb=capacity.memory_gb,
        gpu_count=len(capacity.gpus),
        gpu_type="|".join(sorted({gpu.type for gpu in capacity.gpus})),
        cpu_free=worker.cpu_free,
        memory_free_gb=worker.memory_free_gb,
        gpu_free=len(worker.gpus_free),
        batch_free=worker.batch_free,
        batch_total=capacity.batch_slots,
        service_free=worker.service_free,
        service_total=capacity.service_slots,
        active_tasks=sorted(worker.tasks),
        detail=worker.detail,
    )


_HANDLERS: Final[dict[type[Any], Callable[[Scheduler, Any], None]]] = {
    TaskSubmitted: Scheduler._on_submitted,
    CancelRequested: Scheduler._on_cancel_requested,
    WorkerJoined: Scheduler._on_worker_joined,
    HeartbeatReceived: Scheduler._on_heartbeat,
    PhaseReported: Scheduler._on_phase,
    DatasetAccessed: Scheduler._on_dataset,
    AttemptEnded: Scheduler._on_attempt_ended,
    FactNoted: Scheduler._on_fact,
    KeyCreated: Scheduler._on_key_created,
    ExperimentCreated: Scheduler._on_experiment_created,
    TimePassed: Scheduler._on_time_passed,
}
