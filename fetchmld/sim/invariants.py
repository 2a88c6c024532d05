"""What must hold after every event, looked at from outside: the record, the nodes and the head beside each other.

`core.check()` asserts what the scheduler's state can say of itself; here is what only a look at everything at once can
tell. A failure is an AssertionError that names the rule.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final

from fetchmld.core.arrays import element, place_of
from fetchmld.core.capacity import ends_by
from fetchmld.core.lifecycle import STARTED
from fetchmld.core.messages import Effect, Event, Fact, HeartbeatReceived, Launch, Persist, TimePassed
from fetchmld.core.model import Capacity, Dependency, Resources, Task, TaskId, TaskRequest, Worker, WorkerId
from fetchmld.core.placement import latest_end, limit_class
from fetchmld.core.scheduler import Policy, Scheduler
from fetchmld.core.state import State
from fetchmld.sim.head import Watcher
from fetchmld.sim.node import Node, gpus_on
from fetchmld.sim.runner import Process

OVER: Final = frozenset({"reservation.expire", "reservation.release"})
ENDS: Final = frozenset({"task.completed", "task.failed", "task.cancelled"})
PRIORITY_MAX: Final = 10
HOLD_SLACK_US: Final = 2  # facts round times down
FULL_EVERY: Final = 256  # commits between two looks at the whole durable state
CORE_EVERY: Final = 16  # events that changed something between two looks at all of the core


class Rules(Watcher):
    """The judge of a head with this `policy`. `nodes` and `runners_die` are set by the cluster that it watches."""

    def __init__(self, policy: Policy) -> None:
        self.nodes: dict[str, Node] = {}
        self.runners_die = False  # only then may nobody know how something ended
        self.shadow = State()  # folded from what is durable, by nobody but us
        self.events = self.starts = self.commits = 0
        self._tau_s = policy.ageing_tau_s
        self._keeps_all = policy.unsatisfiable == "queue"
        self._submitted: dict[str, TaskRequest] = {}
        self._held_until_us: dict[str, int] = {}
        self._ended: dict[str, bool] = {}  # whether it completed
        self._over: set[str] = set()  # reservations
        self._started: set[tuple[str, int, int]] = set()
        self._attempts: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}  # the workers of each task's last start
        self._able: dict[tuple[Resources, int], tuple[Capacity, bool]] = {}
        self._changes = 0
        self._element_ends: defaultdict[str, Counter[str]] = defaultdict(Counter)  # of each array
        self._seen_seq = -1
        self._ticked_t = 0.0  # holds that ended by then are over: only a tick ends them

    # -- the head decides

    def decided(self, core: Scheduler, event: Event, effects: list[Effect]) -> None:
        self.events += 1
        kind = type(event)
        if kind is TimePassed:
            self._ticked_t = core_now(core)
        if not effects and (kind is HeartbeatReceived or kind is TimePassed) and core.state.seq == self._seen_seq:
            return  # nothing has changed
        self._seen_seq = core.state.seq
        facts = [effect.fact for effect in effects if isinstance(effect, Persist)]
        self._check_core(core, event, facts)
        for fact in facts:
            if fact.action == "task.start":
                self._check_start(core, core.state.tasks.get(TaskId(fact.resource)))
            elif fact.error.startswith("UNSATISFIABLE"):
                self._check_never(core, core.state.task(TaskId(fact.resource)))
        self._check_head_of_queue(core)

    def _check_core(self, core: Scheduler, event: Event, facts: list[Fact]) -> None:
        """Whatever the event was about, after each; everything after each that ends something, and now and then."""
        self._changes += 1
        about = {getattr(event, "worker_id", ""), getattr(event, "task_id", "")}
        whole = self._changes % CORE_EVERY == 0
        for fact in facts:
            about.add(fact.resource)
            if fact.action == "task.start":
                places = self._places[fact.resource] = [node["worker_id"] for node in fact.metadata["assignments"]]
                about.update(places)
            elif fact.action in ENDS:
                whole = True  # others may have depended on it
            else:
                about.update(self._places.get(fact.resource, ()))
        core.check(None if whole else about)

    def _check_start(self, core: Scheduler, task: Task | None) -> None:
        if task is None:
            return
        wanted, nodes = task.resources, task.assignments
        workers = [node["worker_id"] for node in nodes]
        assert len(nodes) == wanted.node_count == len(set(workers)), f"{task.id} runs on {workers}, not as a whole gang"
        for node in nodes:
            worker = core.state.workers[WorkerId(node["worker_id"])]
            types = {gpu.type for gpu in worker.capacity.gpus if gpu.index in set(node["gpus"])}
            assert len(set(node["gpus"])) == wanted.gpu, f"{task.id} asked for {wanted.gpu} GPUs and got {node['gpus']}"
            assert worker.status == "active", f"{task.id} starts on {worker.id}, which is {worker.status}"
            assert _is_of(types, wanted), f"{task.id} asked for {wanted.gpu_type} and got {types}"
            free = (worker.cpu_free, worker.memory_free_gb, worker.batch_free, worker.service_free)
            assert min(free) >= 0, f"{task.id} starts on {worker.id}, which holds more than it has: {free}"
        assert not task.waits_for, f"{task.id} starts before {list(task.waits_for)}, on which it depends"
        drained = [worker for worker in workers if core.state.workers[WorkerId(worker)].draining]
        assert not drained, f"{task.id} starts on {drained}, which is to be drained"
        self._check_ageing(core, task)
        for node in nodes:
            self._check_kept(core, task, WorkerId(node["worker_id"]))

    def _check_kept(self, core: Scheduler, task: Task, worker_id: WorkerId) -> None:
        """Who may outlive the start of a reservation leaves it its GPUs: long uses and shares are no more than there is."""
        for name, share in _shares(core, worker_id).items():
            reservation = core.state.reservations[name]
            now, grace_s = core_now(core), core.policy.grace_s
            is_long = latest_end(task.request, task.start_t, grace_s) > reservation.starts_t > now
            if not is_long or not task.resources.gpu or task.request.get("reservation_id"):
                continue
            worker = core.state.workers[worker_id]
            of_type = {gpu.index for gpu in worker.capacity.gpus if gpu.type == share[0]}
            used = sum(
                len(of_type & set(node["gpus"]))
                for other in (core.state.tasks[t] for t in worker.tasks)
                for node in other.assignments
                if node["worker_id"] == worker_id and ends_by(other, now, grace_s) > reservation.starts_t
            )
            takes = any(of_type & set(n["gpus"]) for n in task.assignments if n["worker_id"] == worker_id)
            left = len(of_type) - used
            assert not takes or left >= share[1], (
                f"{task.id} may outlive the start of {name}, which is left {left} GPUs"
            )

    def _check_ageing(self, core: Scheduler, task: Task) -> None:
        """The promise: nobody of priority p is passed by one of its own kind that came (10 - p) tau later."""
        line = _line(task, core.policy.grace_s)
        for other in self._waiting(core):
            if _line(other, core.policy.grace_s) == line:
                late_s = task.submit_t - other.submit_t - (PRIORITY_MAX - other.priority) * self._tau_s
                assert late_s <= 1e-6, f"{task.id} passes {other.id}, {late_s:.3f} s beyond the promise"

    def _check_never(self, core: Scheduler, task: Task | None) -> None:
        """Refused for ever: then no worker that is known to be there could run it, were it empty."""
        assert task is not None, "what is refused is remembered for a while"
        known = [worker for worker in core.state.workers.values() if worker.status != "offline"]
        able = [worker.id for worker in known if fits_empty(task.resources, worker.capacity)]
        assert not self._keeps_all, f"{task.id} is refused, and was to be kept"
        assert len(able) < task.resources.node_count, f"{task.id} is refused, and {able} could run it"

    def _check_head_of_queue(self, core: Scheduler) -> None:
        """The first in the order that some worker could ever hold does not fit now; else it would have been started."""
        if any(reservation.status != "expired" for reservation in core.state.reservations.values()):
            return  # some of what is free is kept
        workers = [worker for worker in core.state.workers.values() if worker.status == "active"]
        waiting = list(self._waiting(core))
        waiting.sort(key=lambda t: (t.submit_t / self._tau_s - t.priority, t.submit_seq))
        for task in waiting:
            wanted, count = task.resources, task.resources.node_count
            able = [worker for worker in workers if self._fits_empty(wanted, worker.usable)]
            others = [worker for worker in able if worker.id != task.avoid]
            usable = others if len(others) >= count else able
            assert sum(_fits_now(wanted, worker) for worker in usable) < count, f"{task.id} waits though it fits"
            if len(able) >= count:
                return

    def _fits_empty(self, wanted: Resources, capacity: Capacity) -> bool:
        """`fits_empty`, remembered; by identity, which is quicker than to hash a capacity."""
        found = self._able.get((wanted, id(capacity)))
        if found is None or found[0] is not capacity:
            found = self._able[wanted, id(capacity)] = capacity, fits_empty(wanted, capacity)
        return found[1]

    def _waiting(self, core: Scheduler) -> Iterable[Task]:
        """Who could start if there were room. Of the elements that no fact has named, the first stands for all."""
        for task in core.state.tasks.values():
            parent = core.state.tasks[task.array_id] if task.array_id else task
            array = parent.array
            may = array is None or (array.running < array.max_parallel and not parent.waits_for and not parent.doomed)
            if not may:
                continue
            if task.array is not None:
                if task.array.unnamed and not task.array.closed:
                    yield element(task, task.array.first)
            elif task.status == "queued" and self._is_ready(task):
                yield task

    def _is_ready(self, task: Task) -> bool:
        return task.hold_until_t <= self._ticked_t and not task.waits_for and not task.doomed

    # -- facts become durable

    def committed(self, core: Scheduler, facts: list[Fact]) -> None:
        self.commits += 1
        touched: set[str] = set()
        for fact in facts:
            touched.update(place[0] for place in [place_of(fact.resource)] if place)
            self._check_fact(fact)
            self.shadow.apply(fact)
            touched.add(fact.resource)
            touched.update(node["worker_id"] for node in fact.metadata.get("assignments", ()))
            kept = self.shadow.reservations.get(fact.resource)
            assert core.state.reservations.get(fact.resource) == kept or fact is not facts[-1], (
                f"{fact.resource}: {kept}"
            )
        if self.commits % FULL_EVERY == 0:
            self._compare_all(core)
        else:
            self._compare(core, touched)

    def _check_fact(self, fact: Fact) -> None:
        unknown = "EXIT_UNKNOWN" in (fact.error[:12], fact.metadata.get("cause"))
        assert self.runners_die or not unknown, f"{fact.resource}: {fact.action} EXIT_UNKNOWN, and no runner was killed"
        if fact.action == "task.submit":
            self._submitted[fact.resource] = fact.metadata["request"]
        if fact.action == "task.start":
            assert fact.metadata["attempt"] == self._attempts[fact.resource] + 1, f"{fact.resource}: attempts only grow"
            assert fact.resource not in self._ended, f"{fact.resource} starts after its end"
            self._attempts[fact.resource] += 1
            self._check_gpus(fact)
            place = place_of(fact.resource)
            for needed in self._submitted[place[0] if place else fact.resource].get("depends_on", ()):
                self._check_needed(fact.resource, needed)
            held_us = self._held_until_us.get(fact.resource, 0) - fact.clock_us
            assert held_us <= HOLD_SLACK_US, f"{fact.resource} starts while it is held, {held_us / 1e6:.3f} s early"
        elif fact.action == "reservation.claim":
            assert fact.resource not in self._over, f"{fact.resource} is claimed after its end"
        elif fact.action in OVER:
            assert fact.resource not in self._over, f"{fact.resource} ends twice"
            self._over.add(fact.resource)
        elif fact.action in ENDS:
            assert fact.resource not in self._ended, f"{fact.resource} ends twice"
            self._ended[fact.resource] = fact.action == "task.completed"
            self._check_dead(fact)
            self._check_array_end(fact)
        elif fact.action == "task.requeue":
            self._held_until_us[fact.resource] = fact.clock_us + int(fact.metadata["hold_s"] * 1e6)
            self._check_dead(fact)

    def _check_gpus(self, fact: Fact) -> None:
        """Nobody is given a GPU that is in quarantine."""
        for node in fact.metadata["assignments"]:
            worker = self.shadow.workers[WorkerId(node["worker_id"])]
            failed = {gpu.index for gpu in worker.capacity.gpus if gpu.uuid in worker.quarantined}
            assert not failed & set(node["gpus"]), f"{fact.resource} starts on {node}, and {failed} are in quarantine"

    def _check_needed(self, task_id: str, needed: Dependency) -> None:
        """What the started task depends on has ended, and as it asked."""
        completed = self._ended.get(needed["task_id"])
        met = completed is not None and needed["condition"] in ("any", "ok" if completed else "failed")
        assert met, f"{task_id} starts, and {needed} is not so"

    def _check_array_end(self, fact: Fact) -> None:
        """An array ends once all its elements have, and says what they said."""
        place = place_of(fact.resource)
        if place is not None:
            self._element_ends[place[0]][fact.action] += 1
        said = fact.metadata.get("array")
        if said is None:
            return
        ends, parent = self._element_ends[fact.resource], self.shadow.tasks[TaskId(fact.resource)]
        closed = said.get("closed_count", 0)
        assert ends.total() + closed == said["size"], (
            f"{fact.resource} ends with {ends} and {closed} that never started"
        )
        assert said["completed"] == ends["task.completed"], f"{fact.resource}: {said}, and on record are {ends}"
        good = fact.action == "task.completed"
        assert good == (said["completed"] == said["size"]), f"{fact.resource}: {fact.action} with {said}"
        assert parent.array is not None, f"{fact.resource} ends as an array"
        assert not parent.array.live, f"{fact.resource} ends before {parent.array.live}"

    def _check_dead(self, fact: Fact) -> None:
        """What is put on record as over is over: nothing of it runs anywhere."""
        for process in self._live():
            over = process.key.task_id == fact.resource
            assert not over, f"{fact.resource}: {fact.action} {fact.error!r} while attempt {process.key.attempt} lives"

    def _compare(self, core: Scheduler, touched: Iterable[str]) -> None:
        """The live state of whatever the batch was about is what the record says."""
        for name in touched:
            for live, kept in ((core.state.tasks, self.shadow.tasks), (core.state.recent, self.shadow.recent)):
                ours, theirs = live.get(TaskId(name)), kept.get(TaskId(name))
                same = ours is theirs or (ours and theirs and _of_task(ours) == _of_task(theirs))
                assert same, f"{name}: the record says {theirs}, the state {ours}"
            ours_w, theirs_w = core.state.workers.get(WorkerId(name)), self.shadow.workers.get(WorkerId(name))
            alike = ours_w is theirs_w or (ours_w and theirs_w and _of_worker(ours_w) == _of_worker(theirs_w))
            assert alike, f"{name}: the record says {theirs_w}, the state {ours_w}"

    def _compare_all(self, core: Scheduler) -> None:
        assert core.state.durable() == self.shadow.durable(), "the state is not what its record says"

    def check_all(self, core: Scheduler) -> None:
        """Everything there is to check, whatever changed last."""
        self._compare_all(core)
        core.check()

    def rebuilt(self, core: Scheduler, now: float) -> None:
        self._seen_seq, self._ticked_t = -1, now
        self.check_all(core)

    # -- the head speaks

    def speaks(self, effect: Effect) -> None:
        if isinstance(effect, Launch):
            task_id, attempt = effect.order["task_id"], effect.order["attempt"]
            assert self._attempts[task_id] >= attempt, f"{task_id}/{attempt} is launched before it is on record"

    def accepted(self, task_id: str) -> None:
        """A user was told that the task is accepted."""
        assert task_id in self._submitted, f"{task_id} was acknowledged and is not on record"

    # -- a node starts something

    def started(self, node: Node, process: Process) -> None:
        self.starts += 1
        key = process.key
        once = (key.task_id, key.attempt, process.rank)
        assert once not in self._started, f"{key} is started a second time"
        self._started.add(once)
        others = [p for p in self._live() if p is not process and p.key.task_id == key.task_id]
        stale = [p.key for p in others if p.key.attempt != key.attempt]
        assert not stale, f"{key} starts while {stale} lives"
        self._check_held(node)
        self._check_parallel(process)

    def _check_parallel(self, process: Process) -> None:
        """Of one array no more run than may, counted from the processes that are really there."""
        if "element" not in process.order:
            return
        array_id = process.order["element"]["array_id"]
        alive = {p.key.task_id for p in self._live() if p.order.get("element", {}).get("array_id") == array_id}
        parent = self.shadow.task(TaskId(array_id))
        most = parent.array.max_parallel if parent is not None and parent.array is not None else 0
        assert len(alive) <= most, f"{sorted(alive)} run at once, and max_parallel is {most}"

    def _check_held(self, node: Node) -> None:
        """Held <= capacity, counted from the processes that are really there."""
        held: Counter[str] = Counter()
        gpus: Counter[int] = Counter()
        for process in node.runner.live.values():
            request = process.order["request"]
            held["cpu"] += request.get("cpu", 1)
            held["memory_gb"] += request.get("memory_gb", 0)
            held[request.get("kind", "batch")] += 1
            gpus.update(gpus_on(process, node.name))
        capacity = node.full_capacity
        has = {"cpu": capacity.cpu, "memory_gb": capacity.memory_gb}
        has |= {"batch": capacity.batch_slots, "service": capacity.service_slots}
        for what, count in held.items():
            assert count <= has[what], f"{node.name} runs {count} {what} of {has[what]}"
        twice = [index for index, count in gpus.items() if count > 1]
        assert not twice, f"{node.name}: GPUs {twice} are used by two attempts at once"

    def _live(self) -> Iterable[Process]:
        return [process for node in self.nodes.values() for process in node.runner.live.values()]

    # -- the end

    def unended(self, core: Scheduler) -> list[str]:
        """The startable tasks that have not ended; empty when all is done."""
        capacities = [worker.capacity for worker in core.state.workers.values() if worker.status == "active"]
        left = []
        for task in core.state.tasks.values():
            could = sum(fits_empty(task.resources, capacity) for capacity in capacities) >= task.resources.node_count
            runs = task.status in STARTED and task.array is None
            waits = (core.state.tasks[task.array_id] if task.array_id else task).waits_for
            if runs or ((could or not self._keeps_all) and not waits):
                left.append(f"{task.id} ({task.status}, attempt {task.attempt}, {task.resources})")
        return left


def core_now(core: Scheduler) -> float:
    """The logical time of the newest event."""
    return core._now


def _shares(core: Scheduler, worker_id: WorkerId) -> dict[str, tuple[str, int]]:
    """The GPUs, type and number, that each reservation counts on there."""
    return {r.id: (target.gpu_type, r.gpu_count) for r, target in core._desk.holds.of(worker_id)}


def _line(task: Task, grace_s: float) -> tuple[object, ...]:
    """What tells tasks apart that do not stand in one line; between lines backfill may let one pass."""
    return (task.resources, limit_class(task.request, grace_s), task.request.get("reservation_id", ""), task.avoid)


def _is_of(types: set[str], wanted: Resources) -> bool:
    return not wanted.gpu or (len(types) == 1 and (not wanted.gpu_type or types <= set(wanted.gpu_type.split("|"))))


def _fits_now(wanted: Resources, worker: Worker) -> bool:
    slots = worker.service_free if wanted.kind == "service" else worker.batch_free
    if slots < 1 or worker.cpu_free < wanted.cpu or worker.memory_free_gb < wanted.memory_gb:
        return False
    types = Counter(gpu.type for gpu in worker.capacity.gpus if gpu.index in worker.gpus_free)
    return not wanted.gpu or any(n >= wanted.gpu and _is_of({name}, wanted) for name, n in types.items())


def fits_empty(wanted: Resources, capacity: Capacity) -> bool:
    """Whether one node of the request fits on a worker of that capacity with nothing else on it."""
    slots = capacity.service_slots if wanted.kind == "service" else capacity.batch_slots
    if slots < 1 or capacity.cpu < wanted.cpu or capacity.memory_gb < wanted.memory_gb:
        return False
    types = Counter(gpu.type for gpu in capacity.gpus)
    return not wanted.gpu or any(n >= wanted.gpu and _is_of({name}, wanted) for name, n in types.items())


_FRESH: Final = frozenset({"status", "heartbeat_at", "heartbeat_t", "detail", "gpu_use"})


def _durable_fields(kind: type[Task] | type[Worker]) -> Callable[[Any], tuple[Any, ...]]:
    """What the record must know of a thing of this kind."""
    return attrgetter(*(name for name in kind.__slots__ if name not in _FRESH))


_of_task, _of_worker = _durable_fields(Task), _durable_fields(Worker)
