"""The durable state, as a fold over the facts.

`State.apply` is the only thing that changes what is durable, live as in a replay, so replaying the record gives exactly
the state that was. It decides nothing: a fact is the truth, whatever the state was before. What a crash may forget
(phases, heartbeats, the queue, who is suspect) is kept by `scheduler`, not here.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from fetchmld.core import arrays
from fetchmld.core.lifecycle import ENDED, STARTED, advance
from fetchmld.core.messages import Fact
from fetchmld.core.model import (
    ENDED_RESERVATIONS_MAX,
    INTENTS_MAX,
    RECENT_TASKS_MAX,
    Array,
    Capacity,
    Condition,
    Deed,
    Experiment,
    Gpu,
    Key,
    Plugin,
    Reservation,
    Tally,
    Task,
    TaskId,
    TaskStatus,
    UserId,
    Worker,
    WorkerId,
    resources_of,
)


@dataclass(slots=True, eq=False)
class State:
    """Everything that the record says is true now. Ended tasks stay only while they are among the newest.

    All of it is fields with types that `store.state_form` can write and read back.
    """

    seq: int = 0  # sequence number of the next fact
    submit_count: int = 0
    clock_us: int = 0  # logical time of the newest fact
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)  # of `tasks`, kept along so that nobody has to count them
    recent: OrderedDict[TaskId, Task] = field(default_factory=OrderedDict)
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)  # by the SHA-256 of the key
    experiments: dict[str, Experiment] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)  # live, and the newest ended ones
    reservation_count: int = 0
    plugins: dict[str, Plugin] = field(default_factory=dict)  # that were ever configured, by name
    dependents: dict[TaskId, list[TaskId]] = field(default_factory=dict)  # who waits for this live task to end
    intents: OrderedDict[str, Deed] = field(default_factory=OrderedDict)  # by the intent's key, oldest first

    def apply(self, fact: Fact) -> None:
        """Take one fact in. Facts of actions that change no state (logins, file accesses) only move the count."""
        change = _CHANGES.get(fact.action)
        if change is not None and fact.action.startswith("task."):
            place = arrays.place_of(fact.resource)
            self._weigh(fact.resource, place, -1)
            change(self, fact)
            self._weigh(fact.resource, place, +1)
        elif change is not None:
            change(self, fact)
        self.seq += 1
        self.clock_us = max(self.clock_us, fact.clock_us)
        if self.intents:
            _forget_intents(self)

    def _weigh(self, task_id: str, place: tuple[TaskId, int] | None, sign: int) -> None:
        """Take the task, and the array that it is an element of, out of the tally or into it."""
        for task in (self.tasks.get(TaskId(task_id)), None if place is None else self.tasks.get(place[0])):
            if task is not None:
                weigh(self.tally, task, sign)

    def task(self, task_id: TaskId) -> Task | None:
        """The task, live or among the newest ended ones; an element that no fact has named is made from its array."""
        return self.tasks.get(task_id) or self.recent.get(task_id) or self._unnamed(task_id)

    def live(self, task_id: TaskId) -> Task | None:
        """The task if it has not ended, elements that no fact has named included."""
        task = self.tasks.get(task_id) or self._unnamed(task_id)
        return None if task is None or task.status in ENDED else task

    def _unnamed(self, task_id: TaskId) -> Task | None:
        place = arrays.place_of(task_id)
        parent = None if place is None else self.tasks.get(place[0]) or self.recent.get(place[0])
        if place is None or parent is None or parent.array is None or place[1] >= parent.array.size:
            return None
        return None if parent.array.is_named(place[1]) else arrays.element(parent, place[1])

    def elements(self, parent: Task) -> list[Task]:
        """The live elements of the array that facts have named, in order."""
        return [self.tasks[arrays.element_id(parent.id, index)] for index in sorted(arrays.array_of(parent).live)]

    def durable(self) -> dict[str, Any]:
        """All that a replay must give again, as plain data. A started task is "started", whatever its phase."""
        return {
            "seq": self.seq,
            "submit_count": self.submit_count,
            "tasks": {task_id: _durable_task(task) for task_id, task in self.tasks.items()},
            "recent": {task_id: _durable_task(task) for task_id, task in self.recent.items()},
            "workers": {worker_id: _durable_worker(worker) for worker_id, worker in self.workers.items()},
            "keys": dict(self.keys),
            "experiments": dict(self.experiments),
            "reservations": {name: _fields(found) for name, found in self.reservations.items()},
            "reservation_count": self.reservation_count,
            "plugins": {name: _fields(found) for name, found in self.plugins.items()},
            "dependents": {task_id: list(waiting) for task_id, waiting in self.dependents.items()},
            "intents": list(self.intents.items()),
        }


def weigh(tally: Tally, task: Task, sign: int) -> None:
    """Add the task's share to the tally, or take it away: elements that nobody has named are the array's share."""
    if task.array is not None:
        tally.queued[task.resources.kind] += 0 if task.array.closed else sign * task.array.unnamed
    elif task.status == "queued":
        tally.queued[task.resources.kind] += sign
    else:
        tally.running += sign


def _durable_task(task: Task) -> dict[str, Any]:
    fields = _fields(task)
    fields["status"] = "started" if task.status in STARTED else task.status
    fields["array"] = None if task.array is None else _fields(task.array)
    return fields


def _durable_worker(worker: Worker) -> dict[str, Any]:
    fresh = {"status", "heartbeat_at", "heartbeat_t", "detail", "gpu_use"}
    fields = {name: getattr(worker, name) for name in Worker.__slots__ if name not in fresh}
    fields["offline"] = worker.status == "offline"
    return fields


def _fields(thing: Task | Reservation | Plugin | Array) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in thing.__slots__}


# ---- one function per action --------------------------------------------------------------------------------------


def _submitted(state: State, fact: Fact) -> None:
    task_id, meta = TaskId(fact.resource), fact.metadata
    array = arrays.new(meta["request"])
    state.tasks[task_id] = Task(
        id=task_id,
        user_id=UserId(fact.user_id),
        request=meta["request"],
        resources=resources_of(meta["request"]),
        submit_seq=state.submit_count,
        created_at=fact.at_us / 1e6,
        submit_t=fact.clock_us / 1e6,
        priority=meta["priority"],
        waits_for=dict(meta.get("waits_for", {})),
        doomed=meta.get("doomed", ""),
        last_seq=state.seq,
        array=array,
    )
    for needed in state.tasks[task_id].waits_for:
        state.dependents.setdefault(needed, []).append(task_id)
    state.submit_count += 1 + (array.size if array is not None else 0)
    _remember_intent(state, fact)


def _named(state: State, fact: Fact) -> Task:
    """The live task that the fact is about. The first fact about an element makes it a task of its own."""
    task_id = TaskId(fact.resource)
    task = state.tasks.get(task_id)
    if task is None:
        task = state.live(task_id)
        assert task is not None, f"{fact.action} of {task_id}, which is not live"
        array = _array(state, task)
        arrays.name(array, task.index)
        array.live.add(task.index)
        state.tasks[task_id] = task
    return task


def _array(state: State, element: Task) -> Array:
    return arrays.array_of(state.tasks[element.array_id])


def _reprioritised(state: State, fact: Fact) -> None:
    """Of an array it holds for all its elements that have not ended."""
    task = _named(state, fact)
    task.last_seq = state.seq
    for each in [task] if task.array is None else [task, *state.elements(task)]:
        each.priority = fact.metadata["priority"]


def _array_started(state: State, fact: Fact) -> None:
    task = state.tasks[TaskId(fact.resource)]
    advance(task, "preparing")
    advance(task, "running")
    task.aged_at_start = fact.metadata["aged"]
    task.started_at = fact.at_us / 1e6
    task.start_t = fact.clock_us / 1e6
    task.last_seq = state.seq


def _array_closed(state: State, fact: Fact) -> None:
    task = state.tasks[TaskId(fact.resource)]
    task.last_seq = state.seq
    _close(state, task, fact.error, fact)


def _close(state: State, parent: Task, error: str, fact: Fact) -> None:
    array = arrays.array_of(parent)
    over = [] if array.closed else arrays.unnamed(array)
    arrays.close(array, error, fact.at_us / 1e6)
    for index in over if state.dependents else ():
        if arrays.element_id(parent.id, index) in state.dependents:
            _tell_dependents(state, arrays.element(parent, index), fact.clock_us / 1e6)


def _started(state: State, fact: Fact) -> None:
    task, meta = _named(state, fact), fact.metadata
    advance(task, "preparing")
    if task.array_id:
        _array(state, task).running += 1
    task.attempt = meta["attempt"]
    task.assignments = meta["assignments"]
    task.aged_at_start = meta["aged"]
    task.started_at = fact.at_us / 1e6
    task.start_t = fact.clock_us / 1e6
    task.hold_until_t = 0.0
    task.last_seq = state.seq
    for assignment in task.assignments:
        _hold(state.workers[WorkerId(assignment["worker_id"])], task, assignment["gpus"])


def _requeued(state: State, fact: Fact) -> None:
    """Back to the queue. An infrastructure failure keeps its age; a failure of its own ages anew after the hold."""
    task, meta = state.tasks[TaskId(fact.resource)], fact.metadata
    _release_all(state, task)
    advance(task, "queued")
    if task.array_id:
        _array(state, task).running -= 1
    task.assignments = []
    now_t = fact.clock_us / 1e6
    task.hold_until_t = now_t + meta["hold_s"]
    task.avoid = meta.get("avoid", "")
    if "log" in meta:
        task.earlier.append({"attempt": meta["attempt"], "log": meta["log"]})
    if meta["infrastructure"]:
        task.infra_failures += 1
        task.submit_t += meta["hold_s"]
    else:
        task.own_failures += 1
        task.submit_t = task.hold_until_t
    task.last_seq = state.seq


def _cancel_requested(state: State, fact: Fact) -> None:
    """Of an array: those that were never named end at once, the others are to."""
    task = state.tasks[TaskId(fact.resource)]
    task.last_seq = state.seq
    for each in [task] if task.array is None else [task, *state.elements(task)]:
        each.cancel_by = each.cancel_by or fact.user_id
    if task.array is not None:
        _close(state, task, arrays.cancelled_by(fact.user_id), fact)


def _ended(state: State, fact: Fact) -> None:
    task = _named(state, fact)
    del state.tasks[task.id]
    _release_all(state, task)
    if task.array_id:
        _note_element_end(state, task, fact)
    advance(task, "completed" if fact.action == "task.completed" else "failed")
    task.error = fact.error
    task.reason = "cancelled" if fact.action == "task.cancelled" else ""
    task.report = fact.metadata["report"] or None
    task.ended_at = fact.at_us / 1e6
    task.last_seq = state.seq
    state.recent[task.id] = task
    _tell_dependents(state, task, fact.clock_us / 1e6)
    while len(state.recent) > RECENT_TASKS_MAX:
        state.recent.popitem(last=False)


def _note_element_end(state: State, task: Task, fact: Fact) -> None:
    array = _array(state, task)
    array.running -= task.status in STARTED
    arrays.note_end(array, task.index, cast(arrays.EndAction, fact.action), fact.error)


def _tell_dependents(state: State, task: Task, now_t: float) -> None:
    """Who waited for this end may be eligible now, or never. A held task does not age, so its time begins here."""
    for dependent in [state.tasks[one] for one in state.dependents.pop(task.id, ()) if one in state.tasks]:
        condition = dependent.waits_for.pop(task.id)
        if not meets(task.status, condition):
            dependent.doomed = unmet(task.id, task.status, condition)
        elif not dependent.waits_for:
            for each in [dependent] if dependent.array is None else [dependent, *state.elements(dependent)]:
                each.submit_t = now_t


def meets(status: TaskStatus, condition: Condition) -> bool:
    """Whether a task that ended with `status` is what a dependent asked for."""
    return condition == "any" or (status == "completed") == (condition == "ok")


def unmet(task_id: TaskId, status: TaskStatus, condition: Condition) -> str:
    """In words: why a dependent of this ended task can never start."""
    return f"task {task_id} ended {status}, and {'completed' if condition == 'ok' else 'failed'} was required"


def _deleted(state: State, fact: Fact) -> None:
    """An array takes all its elements with it; an element that was never named is named by this."""
    task_id = TaskId(fact.resource)
    place = arrays.place_of(task_id)
    parent = None if place is None else state.tasks.get(place[0]) or state.recent.get(place[0])
    if place is not None and parent is not None and parent.array is not None and not parent.array.is_named(place[1]):
        arrays.name(parent.array, place[1])
    task = state.recent.pop(task_id, None)
    if task is not None and task.array is not None:
        for index in range(task.array.size):
            state.recent.pop(arrays.element_id(task_id, index), None)


def _worker_joined(state: State, fact: Fact) -> None:
    worker_id, meta = WorkerId(fact.resource), fact.metadata
    capacity = capacity_of(meta["capacity"])
    worker = state.workers.get(worker_id)
    if worker is None:
        worker = state.workers[worker_id] = Worker(worker_id, capacity, "", "", connected_at=fact.at_us / 1e6)
    elif worker.status == "offline":
        worker.connected_at = fact.at_us / 1e6
        advance(worker, "draining" if worker.draining else "active")
    worker.capacity, worker.boot_id, worker.hostname = capacity, meta["boot_id"], meta["hostname"]
    _recount(state, worker)


def _worker_offline(state: State, fact: Fact) -> None:
    worker = state.workers[WorkerId(fact.resource)]
    advance(worker, "offline")
    worker.offline_t = fact.clock_us / 1e6


def _worker_forgotten(state: State, fact: Fact) -> None:
    del state.workers[WorkerId(fact.resource)]


def _worker_drained(state: State, fact: Fact) -> None:
    worker = state.workers[WorkerId(fact.resource)]
    worker.draining = True
    if worker.status in ("active", "suspect"):
        advance(worker, "draining")


def _worker_undrained(state: State, fact: Fact) -> None:
    worker = state.workers[WorkerId(fact.resource)]
    worker.draining = False
    if worker.status == "draining":
        advance(worker, "active")


def _gpu_quarantined(state: State, fact: Fact) -> None:
    worker = state.workers[WorkerId(fact.resource)]
    worker.quarantined[fact.metadata["uuid"]] = fact.metadata["cause"]
    _recount(state, worker)


def _gpu_released(state: State, fact: Fact) -> None:
    worker = state.workers[WorkerId(fact.resource)]
    del worker.quarantined[fact.metadata["uuid"]]
    _recount(state, worker)


def _reserved(state: State, fact: Fact) -> None:
    meta = fact.metadata
    state.reservation_count += 1
    state.reservations[fact.resource] = Reservation(
        id=fact.resource,
        number=state.reservation_count,
        user_id=UserId(fact.user_id),
        gpu_count=meta["gpu_count"],
        gpu_type=meta["gpu_type"],
        node_count=meta["node_count"],
        created_at=fact.at_us / 1e6,
        starts_at=meta["starts_at"],
        expires_at=meta["expires_at"],
        starts_t=meta["starts_t"],
        expires_t=meta["expires_t"],
    )
    _remember_intent(state, fact)


def _reservation_claimed(state: State, fact: Fact) -> None:
    advance(state.reservations[fact.resource], "claimed")


def _reservation_over(state: State, fact: Fact) -> None:
    reservation = state.reservations[fact.resource]
    advance(reservation, "expired")
    reservation.released_by = fact.metadata.get("by", "")
    over = [name for name, found in state.reservations.items() if found.status == "expired"]
    for name in over[:-ENDED_RESERVATIONS_MAX]:
        del state.reservations[name]


def _key_created(state: State, fact: Fact) -> None:
    meta = fact.metadata
    user, made_at = UserId(meta["user_id"]), fact.at_us / 1e6
    key = Key(fact.resource, user, meta["role"], meta["sha256"], meta["expires_at"], made_at)
    state.keys[key.sha256] = key


def _key_revoked(state: State, fact: Fact) -> None:
    key = state.keys[fact.metadata["sha256"]]
    state.keys[key.sha256] = replace(key, revoked_at=fact.at_us / 1e6)


def _experiment_created(state: State, fact: Fact) -> None:
    state.experiments[fact.resource] = Experiment(
        id=fact.resource,
        name=fact.metadata["name"],
        description=fact.metadata["description"],
        status="active",
        commit_id=fact.metadata.get("commit_id", ""),
        created_at=fact.at_us / 1e6,
        user_id=fact.user_id,
    )
    _remember_intent(state, fact)


def _plugin_updated(state: State, fact: Fact) -> None:
    """Configured, disabled, or back to what it was: `config` is how it is to run from here on."""
    meta = fact.metadata
    plugin = state.plugins.get(fact.resource)
    if plugin is None:
        plugin = state.plugins[fact.resource] = Plugin(fact.resource, len(state.plugins) + 1, meta["config"])
    plugin.config, plugin.revision = meta["config"], meta["revision"]
    plugin.last_revision = max(plugin.last_revision, plugin.revision)
    plugin.problem, plugin.changed_at = fact.error, fact.at_us / 1e6
    if plugin.status != meta["status"]:
        advance(plugin, meta["status"])


def _plugin_seen(state: State, fact: Fact) -> None:
    plugin = state.plugins[fact.resource]
    plugin.problem, plugin.changed_at = fact.error, fact.at_us / 1e6
    if plugin.status != fact.metadata["status"]:
        advance(plugin, fact.metadata["status"])


def _plugin_used(state: State, fact: Fact) -> None:
    task = _named(state, fact)
    task.plugins = {**task.plugins, fact.metadata["plugin"]: fact.metadata["use"]}
    task.last_seq = state.seq


def _experiment_updated(state: State, fact: Fact) -> None:
    names = ("name", "description", "status", "commit_id")
    changes = {name: fact.metadata[name] for name in names if name in fact.metadata}
    state.experiments[fact.resource] = cast(Experiment, {**state.experiments[fact.resource], **changes})


def _remember_intent(state: State, fact: Fact) -> None:
    """A request that is sent again under the same Idempotency-Key is to find what it made the first time."""
    if intent := fact.metadata.get("intent"):
        state.intents.pop(intent["key"], None)
        state.intents[intent["key"]] = Deed(fact.resource, intent["body"], max(state.clock_us, fact.clock_us))


def _forget_intents(state: State) -> None:
    """Those that are old by the newest fact's clock, and the oldest beyond the bound."""
    while state.intents:
        oldest = next(iter(state.intents.values()))
        if len(state.intents) <= INTENTS_MAX and state.clock_us < oldest.forget_at_us:
            return
        state.intents.popitem(last=False)


_CHANGES: Final[dict[str, Callable[[State, Fact], None]]] = {
    "task.submit": _submitted,
    "task.start": _started,
    "task.requeue": _requeued,
    "task.reprioritise": _reprioritised,
    "task.array_started": _array_started,
    "task.array_closed": _array_closed,
    "task.cancel_requested": _cancel_requested,
    "task.completed": _ended,
    "task.failed": _ended,
    "task.cancelled": _ended,
    "task.deleted": _deleted,
    "worker.join": _worker_joined,
    "worker.offline": _worker_offline,
    "worker.forget": _worker_forgotten,
    "worker.drain": _worker_drained,
    "worker.undrain": _worker_undrained,
    "gpu.quarantine": _gpu_quarantined,
    "gpu.release": _gpu_released,
    "reservation.create": _reserved,
    "reservation.claim": _reservation_claimed,
    "reservation.expire": _reservation_over,
    "reservation.release": _reservation_over,
    "key.create": _key_created,
    "key.revoke": _key_revoked,
    "experiment.create": _experiment_created,
    "plugin.update": _plugin_updated,
    "plugin.disable": _plugin_updated,
    "plugin.state": _plugin_seen,
    "task.attach": _plugin_used,
    "experiment.update": _experiment_updated,
}


# ---- what is held on a worker -------------------------------------------------------------------------------------


def capacity_of(data: dict[str, Any]) -> Capacity:
    """The capacity that `capacity_data` wrote."""
    gpus = tuple(Gpu(**gpu) for gpu in data["gpus"])
    return Capacity(data["cpu"], data["memory_gb"], data["batch_slots"], data["service_slots"], gpus)


def capacity_data(capacity: Capacity) -> dict[str, Any]:
    """A capacity as plain data, for a fact."""
    return {
        "cpu": capacity.cpu,
        "memory_gb": capacity.memory_gb,
        "batch_slots": capacity.batch_slots,
        "service_slots": capacity.service_slots,
        "gpus": [_gpu_data(gpu) for gpu in capacity.gpus],
    }


def _gpu_data(gpu: Gpu) -> dict[str, Any]:
    data = {"index": gpu.index, "type": gpu.type, "uuid": gpu.uuid}
    return {**data, "memory_mb": gpu.memory_mb} if gpu.memory_mb else data


def _hold(worker: Worker, task: Task, gpus: list[int]) -> None:
    wanted = task.resources
    worker.cpu_free -= wanted.cpu
    worker.memory_free_gb -= wanted.memory_gb
    worker.gpus_free.difference_update(gpus)
    if wanted.kind == "service":
        worker.service_free -= 1
    else:
        worker.batch_free -= 1
    worker.tasks.add(task.id)


def _release_all(state: State, task: Task) -> None:
    """Give back all that the task's attempt holds, if it is started."""
    if task.status not in STARTED:
        return
    wanted = task.resources
    for assignment in task.assignments:
        worker = state.workers[WorkerId(assignment["worker_id"])]
        worker.cpu_free += wanted.cpu
        worker.memory_free_gb += wanted.memory_gb
        if assignment["gpus"]:  # some may have failed, or the worker came back without them
            worker.gpus_free.update({gpu.index for gpu in worker.usable.gpus} & set(assignment["gpus"]))
        if wanted.kind == "service":
            worker.service_free += 1
        else:
            worker.batch_free += 1
        worker.tasks.discard(task.id)


def _recount(state: State, worker: Worker) -> None:
    """Free capacity from the capacity and what is assigned; below zero where a worker came back smaller."""
    capacity = worker.usable = _less_quarantined(worker)
    worker.cpu_free, worker.memory_free_gb = capacity.cpu, capacity.memory_gb
    worker.batch_free, worker.service_free = capacity.batch_slots, capacity.service_slots
    worker.gpus_free = {gpu.index for gpu in capacity.gpus}
    worker.gpu_totals = {}
    for gpu in capacity.gpus:
        worker.gpu_totals[gpu.type] = worker.gpu_totals.get(gpu.type, 0) + 1
    for task_id in list(worker.tasks):
        task = state.tasks[task_id]
        for assignment in task.assignments:
            if assignment["worker_id"] == worker.id:
                _hold(worker, task, assignment["gpus"])


def _less_quarantined(worker: Worker) -> Capacity:
    well = tuple(gpu for gpu in worker.capacity.gpus if gpu.uuid not in worker.quarantined)
    return worker.capacity if len(well) == len(worker.capacity.gpus) else replace(worker.capacity, gpus=well)


def ended(task: Task) -> bool:
    """Whether the task is over."""
    return task.status in ENDED
