"""The scheduler: `handle(event, now) -> effects`, one short `_on_*` per thing that can happen.

Each handler decides by putting facts on record (`Desk.persist` applies them to the state at once, by the same fold as a
replay) and by asking for deeds. The caller makes the facts of a batch durable before it performs any other effect of it.
`now` is the logical clock, in seconds; wall time comes with the events and is for showing only. No clock, no randomness,
no I/O here. Who is eligible is decided in `waiting`, who starts where in `placement`, what an end means in `ends`,
reservations in `booking`.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from fetchmld.core import arrays, experiments, intents, invariants, keys, plugins, views
from fetchmld.core.booking import Bookings
from fetchmld.core.caches import keys_of
from fetchmld.core.desk import Desk, Policy
from fetchmld.core.ends import Ends, hash_seed
from fetchmld.core.errors import Conflict, Invalid, NotFound
from fetchmld.core.explain import explain, why_never
from fetchmld.core.gangs import rendezvous
from fetchmld.core.gpus import Gpus
from fetchmld.core.lifecycle import PHASES, STARTED, TASK, advance
from fetchmld.core.messages import (
    AcknowledgeEnd,
    AttemptEnded,
    CancelRequested,
    DatasetAccessed,
    DrainChanged,
    Effect,
    Event,
    ExperimentCreated,
    ExperimentUpdated,
    Fact,
    FactNoted,
    GpuReleaseAsked,
    HeartbeatReceived,
    KeyCreated,
    KeyRevoked,
    Launch,
    LaunchOrder,
    LiveAttempt,
    PhaseReported,
    PluginConfigured,
    PluginReverted,
    PluginSeen,
    PluginUsed,
    PriorityChanged,
    ReservationAsked,
    ReservationReleased,
    StagingHeard,
    StopAttempt,
    TaskSubmitted,
    TimePassed,
    WorkerJoined,
)
from fetchmld.core.model import (
    PRIORITY_DEFAULT,
    Assignment,
    Counts,
    Explanation,
    ReservationView,
    Task,
    TaskId,
    TaskView,
    Worker,
    WorkerId,
    WorkerView,
)
from fetchmld.core.placement import PLACE_MAX, Nodes, Placement
from fetchmld.core.promises import Planned
from fetchmld.core.ready import Queue
from fetchmld.core.services import ServiceList
from fetchmld.core.state import State, capacity_data
from fetchmld.core.waiting import Waiting

__all__ = ["Policy", "Scheduler", "hash_seed"]


class Scheduler:
    """The whole policy over one `State`. Build it, `replay` the record, then `handle` events in order.

    `state` is where the replay begins, if not before the first fact: the fold of those that it leaves out.
    """

    def __init__(self, policy: Policy, queue: Queue | None = None, state: State | None = None) -> None:
        self.policy = policy
        self.dropped_reports = 0  # reports of attempts that are over: fenced off
        self._desk = Desk(policy, queue, state)
        self._waiting = Waiting(self._desk)
        self._ends = Ends(self._desk, self._waiting)
        self._gpus = Gpus(self._desk)
        self._bookings = Bookings(self._desk, self._waiting)
        self._services = ServiceList()

    @property
    def state(self) -> State:
        return self._desk.state

    @property
    def _placement(self) -> Placement:
        return self._desk.placement

    @property
    def _now(self) -> float:
        return self._desk.now

    # -- the door

    def replay(self, facts: Iterable[Fact], now: float) -> None:
        """Rebuild the state from the record. Workers are `suspect` until they say hello again."""
        self._desk.begin(now)
        for fact in facts:
            self.state.apply(fact)
        for task in self.state.tasks.values():
            if task.status == "queued" or task.array is not None:
                self._waiting.restore(task)
        self._services.rebuild(self.state)
        for worker in self.state.workers.values():
            worker.heartbeat_t = now
            if worker.status == "active":
                advance(worker, "suspect")

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in what happened at logical time `now`; say what to do. `Persist` effects come in the order of facts."""
        self._desk.begin(now)
        _HANDLERS[type(event)](self, event)
        return self._desk.effects

    # -- tasks

    def _on_submitted(self, event: TaskSubmitted) -> None:
        if intents.was_met(self._desk, event):
            return
        try:
            waits_for, doomed = self._waiting.dependencies(event)
            self._waiting.check_reservation(event)
        except Invalid as error:
            self._desk.fail(event.ticket, error)
            return
        metadata: dict[str, Any] = {
            "request": event.request,
            "priority": event.request.get("priority", PRIORITY_DEFAULT),
        }
        more = {"waits_for": waits_for, "doomed": doomed, **intents.metadata(event.intent)}
        metadata.update({name: value for name, value in more.items() if value})
        self._desk.record(
            event, "job_queued", "task.submit", event.task_id, event.user_id, metadata, ip=event.ip_address
        )
        if "jupyter" in event.request:
            self._services.add(event.task_id)
        self._waiting.admit(self.state.tasks[event.task_id], event.at_us)
        self._place(event.at_us)
        if event.ticket:
            self._desk.reply(event.ticket, self.view(event.task_id))
        self._desk.changed(event.task_id)

    def _on_priority_changed(self, event: PriorityChanged) -> None:
        task = self.state.live(event.task_id)
        if task is None:
            ended = self.state.task(event.task_id) is not None or event.known_ended
            what = "has ended; its priority means nothing now"
            error = Conflict(f"task {event.task_id} {what}") if ended else NotFound(f"no task {event.task_id}")
            self._desk.fail(event.ticket, error)
            return
        if task.priority != event.priority:
            self._reprioritise(task, event)
        self._desk.reply(event.ticket, self.view(task.id))

    def _reprioritise(self, task: Task, event: PriorityChanged) -> None:
        metadata = {"priority": event.priority, "was": task.priority, "by": event.user_id}
        kind: Any = "job_queued" if task.status == "queued" else "job_started"
        with self._waiting.moving(task):
            self._desk.record(event, kind, "task.reprioritise", task.id, task.user_id, metadata, ip=event.ip_address)
        self._placement.forget_plans()
        self._place(event.at_us)
        self._desk.changed(task.id)

    def _on_cancel_requested(self, event: CancelRequested) -> None:
        task = self.state.live(event.task_id)
        if task is None:
            self._delete(event)
        elif task.array is not None:
            self._cancel_array(task, event)
        elif task.status == "queued":
            self._cancel_queued(task, event)
        else:
            self._cancel_started(task, event)
        self._place(event.at_us)

    def _delete(self, event: CancelRequested) -> None:
        if self.state.task(event.task_id) is None and not event.known_ended:
            self._desk.fail(event.ticket, NotFound(f"no task {event.task_id}"))
            return
        by = {"by": event.user_id}
        self._desk.record(event, "job_completed", "task.deleted", event.task_id, event.user_id, by, ip=event.ip_address)
        self._desk.reply(event.ticket)

    def _cancel_queued(self, task: Task, event: CancelRequested) -> None:
        self._waiting.leave(task)
        error = f"CANCELLED: by {event.user_id} while queued"
        by = _asker(event)
        self._desk.finish(task, "task.cancelled", error, {}, event.at_us, by, event.ip_address)
        self._desk.reply(event.ticket)

    def _cancel_started(self, task: Task, event: CancelRequested) -> None:
        if not task.cancel_by:
            by = {"by": event.user_id, "attempt": task.attempt}
            self._desk.record(
                event, "job_completed", "task.cancel_requested", task.id, event.user_id, by, ip=event.ip_address
            )
        self._desk.reply(event.ticket)
        self._stop(task, "CANCELLED", f"by {task.cancel_by} while {task.status}")

    def _cancel_array(self, task: Task, event: CancelRequested) -> None:
        """Those that wait end with this; those that run are stopped."""
        if not task.cancel_by:
            by = _asker(event)
            fact = Fact("job_completed", "task.cancel_requested", task.id, event.user_id, metadata=by)
            fact.ip_address, fact.at_us = event.ip_address, event.at_us
            self._waiting.close(task, fact)
        self._desk.reply(event.ticket)
        for element in self.state.elements(task):
            self._stop(element, "CANCELLED", f"by {element.cancel_by} while {element.status}")

    def _stop(self, task: Task, word: str, detail: str) -> None:
        for node in task.assignments:
            self._desk.effects.append(StopAttempt(WorkerId(node["worker_id"]), task.id, task.attempt, word, detail))

    # -- starting

    def _place(self, at_us: int) -> None:
        """Start whatever can start, and plan the first task that cannot."""
        self._waiting.settle(at_us)
        self._bookings.hold()
        while True:
            most = 1 if self._desk.lines.any else PLACE_MAX  # who stands for others has to be followed by the next
            placed, blocked = self._placement.take(self._now, most)
            for task, nodes in placed:
                self._start(task, nodes, at_us)
            if blocked is not None:
                if self._placement.may_be_left(blocked):
                    return
                self._answer_blocked(blocked, at_us)
            elif not placed:
                return

    def _answer_blocked(self, task: Task, at_us: int) -> None:
        if "reservation_id" in task.request:
            self._placement.skip(task)  # its capacity is its own: nobody can delay it, so it needs no plan
        elif self._placement.plan(task, self._now) or self._placement.stop_avoiding(task):
            return
        elif self.policy.unsatisfiable == "fail" and (reason := self._never(task)):
            unsatisfiable = task if task.id in self.state.tasks else self.state.tasks[task.array_id]
            self._waiting.give_up(unsatisfiable, "UNSATISFIABLE", reason, at_us)
            self._waiting.settle(at_us)
        else:
            self._placement.skip(task)

    def _never(self, task: Task) -> str:
        """Why no worker that we know of could ever take the task; "" if one could or none is known."""
        known = [worker for worker in self.state.workers.values() if worker.status != "offline"]
        return why_never(task.resources, known) if known else ""

    def _start(self, task: Task, nodes: Nodes, at_us: int) -> None:
        self._bookings.claim(task, at_us)
        assignments = [self._assignment(task, rank, *node) for rank, node in enumerate(nodes)]
        if len(assignments) > 1:
            first = self.state.workers[WorkerId(assignments[0]["worker_id"])]
            assignments[0]["rendezvous"] = rendezvous(self.state, first, task.attempt + 1)
        metadata = {"attempt": task.attempt + 1, "assignments": assignments, "aged": self._desk.aged(task)}
        if task.array_id:
            metadata["priority"] = task.priority
            self._begin_array(self.state.tasks[task.array_id], at_us)
        fact = Fact("job_started", "task.start", task.id, task.user_id, metadata=metadata, at_us=at_us)
        self._desk.persist(fact)
        task = self.state.tasks[task.id]
        if task.array_id:
            self._desk.lines.leave(task)
            self._desk.lines.settle(self.state.tasks[task.array_id])
        for node in assignments:
            self._launch(task, node)
        self._desk.changed(task.id)

    def _begin_array(self, task: Task, at_us: int) -> None:
        """Its first element is about to start."""
        if task.status == "queued":
            aged = {"aged": self._desk.aged(task)}
            fact = Fact("job_started", "task.array_started", task.id, task.user_id, metadata=aged, at_us=at_us)
            self._desk.persist(fact)
            self._desk.changed(task.id)

    def _assignment(self, task: Task, rank: int, worker_id: WorkerId, gpu_type: int) -> Assignment:
        worker = self.state.workers[worker_id]
        node = Assignment(rank=rank, worker_id=worker_id, gpus=self._placement.pick_gpus(task, worker, gpu_type))
        if task.resources.node_count > 1:
            node["boot_id"] = worker.boot_id
        return node

    def _launch(self, task: Task, node: Assignment) -> None:
        order = LaunchOrder(
            task_id=task.id,
            attempt=task.attempt,
            rank=node["rank"],
            user_id=task.user_id,
            request=task.request,
            assignments=task.assignments,
        )
        if task.array_id:
            order["element"] = arrays.place_in(self.state.tasks[task.array_id], task.index)
        self._desk.effects.append(Launch(WorkerId(node["worker_id"]), order))

    # -- reservations

    def _on_reservation_asked(self, event: ReservationAsked) -> None:
        if self._bookings.ask(event):
            self._place(event.at_us)
            self._desk.reply(event.ticket, self.reservation_view(event.reservation_id))

    def _on_reservation_released(self, event: ReservationReleased) -> None:
        if self._bookings.release(event):
            self._place(event.at_us)
            self._desk.reply(event.ticket)

    # -- workers

    def _on_drain_changed(self, event: DrainChanged) -> None:
        worker = self.state.workers.get(event.worker_id)
        if worker is None:
            self._desk.fail(event.ticket, NotFound(f"there is no worker {event.worker_id[:64]!r}"))
            return
        if worker.draining != event.wanted:
            action = "worker.drain" if event.wanted else "worker.undrain"
            metadata = {"running": len(worker.tasks)}
            self._desk.record(event, "scheduler_drain", action, worker.id, event.user_id, metadata, ip=event.ip_address)
            self._open_or_shut(worker)
            self._place(event.at_us)
        self._desk.reply(event.ticket, views.worker_view(self._desk, worker))

    def _on_gpu_release(self, event: GpuReleaseAsked) -> None:
        worker = self._gpus.release(event)
        if worker is not None:
            self._reopen(worker)
            self._place(event.at_us)
            self._desk.reply(event.ticket, views.worker_view(self._desk, worker))

    def _reopen(self, worker: Worker) -> None:
        """Its GPUs are not what they were."""
        if self._placement.is_open(worker.id):
            self._placement.open(worker)

    def _open_or_shut(self, worker: Worker) -> None:
        if worker.status == "active":
            self._placement.open(worker)
        else:
            self._placement.shut(worker.id)

    def _on_worker_joined(self, event: WorkerJoined) -> None:
        worker = self.state.workers.get(event.worker_id)
        rebooted = worker is not None and worker.boot_id != event.boot_id
        if worker is None or rebooted or worker.status == "offline" or worker.capacity != event.capacity:
            self._record_join(event)
        worker = self.state.workers[event.worker_id]
        if worker.status == "suspect":
            advance(worker, "active")
        worker.heartbeat_t, worker.heartbeat_at, worker.detail = self._now, event.at_us / 1e6, event.detail
        self._desk.caches.replace(worker.id, event.datasets)
        self._gpus.hear(worker, event.gpu_faults, event.at_us)
        self._open_or_shut(worker)
        self._reconcile(worker, event, rebooted)
        self._waiting.staging.again(worker.id)
        self._place(event.at_us)

    def _record_join(self, event: WorkerJoined) -> None:
        metadata = {
            "boot_id": event.boot_id,
            "hostname": event.hostname,
            "capacity": capacity_data(event.capacity),
        }
        self._desk.record(event, "scheduler_drain", "worker.join", event.worker_id, "", metadata, ip=event.ip_address)

    def _reconcile(self, worker: Worker, event: WorkerJoined, rebooted: bool) -> None:
        """Make the worker's attempts and ours the same: stop what it should not have, start what it lost."""
        there = {(live.task_id, live.attempt): live for live in event.attempts}
        for task in [self.state.tasks[task_id] for task_id in sorted(worker.tasks)]:
            live = there.pop((task.id, task.attempt), None)
            if live is not None:
                self._resume(task, live, worker)
            elif rebooted or self._was_rebooted(task, worker):
                self._ends.lose(task, worker.id, f"worker {worker.id} was restarted", event.at_us)
            elif self._ends.gangs.failure(task):
                self._ends.lose(task, worker.id, f"worker {worker.id} has it no longer", event.at_us)
            else:
                self._relaunch(task, worker)
        for live in there.values():
            stale = "this attempt is not the task's current one"
            self._desk.effects.append(StopAttempt(worker.id, live.task_id, live.attempt, "WORKER_LOST", stale))

    def _was_rebooted(self, task: Task, worker: Worker) -> bool:
        """Whether the worker was restarted since it was given its part of this gang, and we forgot to say so."""
        return any(
            node["worker_id"] == worker.id and node.get("boot_id", worker.boot_id) != worker.boot_id
            for node in task.assignments
        )

    def _resume(self, task: Task, live: LiveAttempt, worker: Worker) -> None:
        if worker.id == task.assignments[0]["worker_id"]:
            self._set_phase(task, live.phase)
        if task.cancel_by:
            self._stop(task, "CANCELLED", f"by {task.cancel_by}")
        self._gpus.stop_holder(task, worker)
        self._ends.stop_again(task, worker.id)

    def _relaunch(self, task: Task, worker: Worker) -> None:
        """The worker never got this attempt, or forgot it before it began: the same attempt, once more."""
        for node in task.assignments:
            if node["worker_id"] == worker.id:
                self._launch(task, node)
        self._gpus.stop_holder(task, worker)
        if task.cancel_by:
            self._stop(task, "CANCELLED", f"by {task.cancel_by}")

    def _on_heartbeat(self, event: HeartbeatReceived) -> None:
        worker = self.state.workers.get(event.worker_id)
        if worker is None or worker.status == "offline":
            return  # it has to say hello first
        worker.heartbeat_t, worker.heartbeat_at = self._now, event.at_us / 1e6
        if event.datasets_added or event.datasets_dropped:
            self._desk.caches.change(worker.id, event.datasets_added, event.datasets_dropped)
        worker.gpu_use = event.gpu_use or worker.gpu_use
        failed = self._gpus.hear(worker, event.gpu_faults, event.at_us)
        if worker.status == "suspect":
            advance(worker, "active")
            self._placement.open(worker)
            self._place(event.at_us)
        elif failed:
            self._reopen(worker)
            self._place(event.at_us)

    def _on_phase(self, event: PhaseReported) -> None:
        task = self._current(event.worker_id, event.task_id, event.attempt)
        if task is None or task.assignments[0]["worker_id"] != event.worker_id:
            return  # a gang's phase is that of rank 0
        if PHASES.index(event.phase) > PHASES.index(task.status):
            self._set_phase(task, event.phase)  # what was said on an earlier connection may be read late

    def _set_phase(self, task: Task, phase: Any) -> None:
        if task.status != phase and phase in TASK[task.status]:
            advance(task, phase)
            self._desk.changed(task.id)

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
        self._desk.persist(fact)
        if event.success:
            self._note_cached(task, event)

    def _on_staging(self, event: StagingHeard) -> None:
        self._waiting.staged(self._waiting.staging.heard(event.worker_id, event.task_id, event.said, event.is_over))
        if event.task_id in self.state.tasks:
            self._desk.changed(event.task_id)
        self._place(event.at_us)

    def _note_cached(self, task: Task, event: DatasetAccessed) -> None:
        """The worker has it now, so the next task goes there, also before the next heartbeat."""
        specs = [spec for spec in task.request.get("dataset_specs", ()) if spec["name"] == event.name]
        keys = [key for spec in specs for key in keys_of(spec, event.sha256)]
        self._desk.caches.change(event.worker_id, dict.fromkeys(keys, event.total_bytes), ())

    # -- ends

    def _on_attempt_ended(self, event: AttemptEnded) -> None:
        task = self._current(event.worker_id, event.task_id, event.attempt)
        if task is not None:
            report = self._gpus.blame(task, self.state.workers[event.worker_id], event.report)
            self._note_artifacts(task, event)
            self._ends.on_node(task, event.worker_id, report, event.seed, event.at_us)
            self._place(event.at_us)
            if task.resources.node_count > 1:
                return  # acknowledged once the attempt is over on all nodes
        self._desk.effects.append(AcknowledgeEnd(event.worker_id, event.task_id, event.attempt))

    def _note_artifacts(self, task: Task, event: AttemptEnded) -> None:
        """What the attempt left on this node is on record by the hash of its manifest, which names all of it."""
        left = event.report.get("artifacts")
        if left is None:
            return
        fact = Fact("file_access", "artifact.write", left["manifest"], task.user_id, at_us=event.at_us)
        about = {"task_id": task.id, "attempt": task.attempt, "worker_id": event.worker_id, "rank": event.rank}
        fact.metadata = {**about, "files": left["file_count"], "bytes": left["total_bytes"]}
        self._desk.persist(fact)

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

    # -- the rest

    def _on_fact(self, event: FactNoted) -> None:
        self._desk.persist(event.fact)
        self._desk.reply(event.ticket, self.state.seq - 1)

    def _on_time_passed(self, event: TimePassed) -> None:
        for worker in list(self.state.workers.values()):
            self._watch(worker, event.at_us)
            if self._gpus.release_due(worker, event.at_us):
                self._reopen(worker)
        self._bookings.expire(event.at_us)
        self._waiting.wake()
        self._place(event.at_us)

    def _watch(self, worker: Worker, at_us: int) -> None:
        """One step at a time: after a pause of our own (a suspended machine) the workers get their turn to speak."""
        silent_s = self._now - worker.heartbeat_t
        if worker.status == "active" and silent_s >= self.policy.suspect_after_s:
            advance(worker, "suspect")
            self._placement.shut(worker.id)
        elif worker.status in ("suspect", "draining") and silent_s >= self.policy.offline_after_s:
            metadata = {"silent_s": round(silent_s, 3)}
            fact = Fact("scheduler_drain", "worker.offline", worker.id, success=False, metadata=metadata, at_us=at_us)
            self._desk.persist(fact)
            self._waiting.staged(self._waiting.staging.lost(worker.id))
        elif worker.status == "offline":
            self._watch_offline(worker, silent_s, at_us)

    def _watch_offline(self, worker: Worker, silent_s: float, at_us: int) -> None:
        for task_id in sorted(worker.tasks) if silent_s >= self.policy.requeue_after_s else ():
            detail = f"worker {worker.id} silent for {silent_s:.0f} s"
            self._ends.lose(self.state.tasks[task_id], worker.id, detail, at_us)
        self._forget_if_due(worker, at_us)

    def _forget_if_due(self, worker: Worker, at_us: int) -> None:
        """One that is away for long is listed no more. A drained one stays: it must not come back as if it were not."""
        offline_s, kept_s = self._now - worker.offline_t, self.policy.offline_workers_s
        if not 0 < kept_s <= offline_s or worker.draining or worker.tasks or self._desk.holds.of(worker.id):
            return
        fact = Fact(
            "scheduler_drain", "worker.forget", worker.id, metadata={"offline_s": round(offline_s)}, at_us=at_us
        )
        self._desk.persist(fact)
        self._desk.caches.replace(worker.id, {})

    # -- views

    def view(self, task_id: TaskId) -> TaskView | None:
        """The task as of the last event, live or among the newest ended ones."""
        task = self.state.task(task_id)
        return None if task is None else views.task_view(self._desk, task)

    def explain(self, task_id: TaskId, at_us: int) -> Explanation | None:
        """Why the task is not running and when it will; None for one that is not live. `at_us` is the wall time now."""
        task = self.state.live(task_id)
        return None if task is None else explain(self._desk, task, at_us)

    def worker_views(self) -> list[WorkerView]:
        """Every known worker, oldest first."""
        return [views.worker_view(self._desk, worker) for worker in self.state.workers.values()]

    def service_views(self) -> list[TaskView]:
        """The Jupyter servers, live or among the newest ended tasks, newest first."""
        found = [self.view(task_id) for task_id in self._services.newest(self.state)]
        return [view for view in found if view is not None]

    def reservation_view(self, reservation_id: str) -> ReservationView | None:
        """The reservation, live or among the newest ended ones."""
        found = self.state.reservations.get(reservation_id)
        return None if found is None else views.reservation_view(self._desk, found)

    def reservation_views(self) -> list[ReservationView]:
        """Every reservation that `reservation_view` has, newest first."""
        return [views.reservation_view(self._desk, found) for found in reversed(self.state.reservations.values())]

    def counts(self) -> Counts:
        """Live numbers: queued, running, workers by status, reservations."""
        return views.counts(self.state)

    def planned(self) -> list[Planned]:
        """The plans for the first blocked tasks, in order."""
        return self._placement.planned(self._now)

    @property
    def late_starts(self) -> int:
        """First blocked tasks that started after the time they were first promised."""
        return self._placement.late_starts

    def check(self, about: Collection[str] | None = None) -> None:
        """Assert every invariant of the state, or those about these tasks and workers. Called after each event in tests."""
        invariants.check(self._desk, self._waiting, about)


def _asker(event: CancelRequested) -> dict[str, str]:
    said = {"by": event.user_id, "trace_id": event.trace_id}
    return {name: value for name, value in said.items() if value}


_HANDLERS: Final[dict[type[Any], Callable[[Scheduler, Any], None]]] = {
    TaskSubmitted: Scheduler._on_submitted,
    CancelRequested: Scheduler._on_cancel_requested,
    PriorityChanged: Scheduler._on_priority_changed,
    DrainChanged: Scheduler._on_drain_changed,
    GpuReleaseAsked: Scheduler._on_gpu_release,
    ReservationAsked: Scheduler._on_reservation_asked,
    ReservationReleased: Scheduler._on_reservation_released,
    WorkerJoined: Scheduler._on_worker_joined,
    HeartbeatReceived: Scheduler._on_heartbeat,
    PhaseReported: Scheduler._on_phase,
    StagingHeard: Scheduler._on_staging,
    DatasetAccessed: Scheduler._on_dataset,
    AttemptEnded: Scheduler._on_attempt_ended,
    FactNoted: Scheduler._on_fact,
    KeyCreated: lambda scheduler, event: keys.create(scheduler._desk, event),
    KeyRevoked: lambda scheduler, event: keys.revoke(scheduler._desk, event),
    ExperimentCreated: lambda scheduler, event: experiments.create(scheduler._desk, event),
    PluginConfigured: lambda scheduler, event: plugins.configure(scheduler._desk, event),
    PluginSeen: lambda scheduler, event: plugins.see(scheduler._desk, event),
    PluginReverted: lambda scheduler, event: plugins.revert(scheduler._desk, event),
    PluginUsed: lambda scheduler, event: plugins.use(scheduler._desk, event),
    ExperimentUpdated: lambda scheduler, event: experiments.update(scheduler._desk, event),
    TimePassed: Scheduler._on_time_passed,
}
