"""From a state to numbers for the ready queue, and back to workers and GPUs.

Owns the numbering (tasks by submission, workers by the order in which they were first seen, GPU types by bit, pools by
reservation), which workers may be given work, and when a blocked task is planned. Says who starts where; what happens then
is the scheduler's. Reads the state, never changes it.
"""

from dataclasses import dataclass
from itertools import islice
from math import ceil, inf
from typing import Final

from fetchmld.core.caches import Caches
from fetchmld.core.capacity import is_large_enough
from fetchmld.core.leads import Leads
from fetchmld.core.model import Resources, Task, TaskId, TaskRequest, Worker, WorkerId
from fetchmld.core.outlook import Outlook
from fetchmld.core.plan import Amount, Node
from fetchmld.core.promises import Planned, Promises, Rank
from fetchmld.core.ready import ANY_GPU_TYPE, COMMON_POOL, NO_GPU, NO_TASK, Hold, Queue, make_queue, static_key
from fetchmld.core.reservations import Holds
from fetchmld.core.state import State

GPU_TYPES_MAX: Final = 64  # bits of the native mask; a type beyond them can be offered but not asked for by name
PLACE_MAX: Final = 256  # tasks started by one call at most
IDLE_SHAPES_MAX: Final = 256  # requests kept that no task has: a new one has every worker looked at
REPLAN_AFTER_S: Final = 60.0  # a plan whose time is past by this much rested on tasks that outlived their limit

Nodes = list[tuple[WorkerId, int]]  # a worker and a GPU type bit for each node


@dataclass(slots=True)
class _Shape:
    """A request, and how many tasks wait or run with it."""

    number: int
    key: tuple[object, ...]
    users: int = 0
    able: tuple[int, bool] = (-1, False)  # as of which change of workers, and whether enough could ever take it


@dataclass(slots=True)
class _Ready:
    task: Task
    shape: _Shape
    avoiding: bool  # its shape excludes the worker that it was lost with


class Placement:
    """The queue of one cluster. `ageing_tau_s`, `grace_s`, `plans_max` and `backfill` are the policy's.

    A `queue` that is given has to keep as many plans.
    """

    def __init__(
        self,
        state: State,
        holds: Holds,
        caches: Caches,
        ageing_tau_s: float,
        grace_s: float,
        plans_max: int = 1,
        backfill: bool = True,
        queue: Queue | None = None,
    ) -> None:
        self._state, self._holds = state, holds
        self._tau_s, self._grace_s, self._plans_max, self._backfill = ageing_tau_s, grace_s, plans_max, backfill
        self._caches = caches
        self._queue = make_queue(plans_max) if queue is None else queue
        self._queue.rank_by(self._preference)
        self.outlook = Outlook(state, holds, grace_s)
        self.leads = Leads(state, holds, self._queue, self.outlook, grace_s, self._hold)
        self._promises = Promises(self._queue, self.outlook, grace_s, self._hold)
        self._type_bits: dict[str, int] = {}
        self._numbers: dict[WorkerId, int] = {}
        self._workers: list[WorkerId] = []
        self._open: dict[WorkerId, Worker] = {}
        self._pools: dict[WorkerId, set[int]] = {}  # beside the common one, what the queue knows of a worker
        self._odd: set[WorkerId] = set()  # have lost some GPU that a task of theirs holds
        self._ready: dict[int, _Ready] = {}
        self._shapes: dict[tuple[object, ...], _Shape] = {}
        self._idle: dict[int, _Shape] = {}  # those without users, by number; the first has had none for longest
        self._held: dict[
            TaskId, tuple[_Shape, list[tuple[int, int]]]
        ] = {}  # of started ones: (worker, GPU type) per node
        self._changes = 0  # of which workers are open
        self._freed: set[WorkerId] = set()  # since the plans were made, or looked at
        self._left: Task | None = None  # blocked, and not planned while nobody behind it could start
        self.late_starts = 0  # first blocked tasks that started after the time they were first promised

    # -- waiting tasks

    def push(self, task: Task, may_avoid: bool = True) -> None:
        """The task is queued and eligible now. `may_avoid`: where others are, not on the worker it was lost with."""
        avoiding = may_avoid and bool(task.avoid) and self._has_others(task)
        ready = self._ready[task.submit_seq] = _Ready(task, self._use_shape(task, avoiding), avoiding)
        key = static_key(task.priority, task.submit_t, self._tau_s)
        self._queue.push(task.submit_seq, ready.shape.number, key)

    def stop_avoiding(self, task: Task) -> bool:
        """Nobody else could take it: let it go back to the worker it was lost with. False if it may already."""
        if not self._ready[task.submit_seq].avoiding:
            return False
        self.remove(task)
        self.push(task, may_avoid=False)
        return True

    def has(self, task: Task) -> bool:
        """Whether the task is in the queue."""
        return task.submit_seq in self._ready

    def remove(self, task: Task) -> bool:
        """The task waits no longer; False if it was not in."""
        if not self._queue.remove(task.submit_seq):
            return False
        self._leave_shape(self._ready.pop(task.submit_seq).shape)
        return True

    def position(self, task: Task) -> int:
        """How many are ahead of it; -1 if it is not in."""
        return self._queue.position(task.submit_seq)

    def __len__(self) -> int:
        return len(self._queue)

    # -- workers

    def open(self, worker: Worker) -> None:
        """`worker` may be given work, as much as it has free now."""
        self._open[worker.id] = worker
        self._changes += 1
        self.outlook.open(self._number(worker.id), worker)
        self._odd.discard(worker.id)
        self.refresh(worker.id)
        for task_id in worker.tasks:
            self._note_held(self._state.tasks[task_id], worker)
        self.forget_plans()

    def shut(self, worker_id: WorkerId) -> None:
        """Nothing new goes to this worker."""
        if self._open.pop(worker_id, None) is not None:
            self._queue.drop_worker(self._numbers[worker_id])
            self._pools.pop(worker_id, None)
            self._changes += 1
            self.outlook.shut(worker_id)
            self._promises.forget_on(worker_id)

    def is_open(self, worker_id: WorkerId) -> bool:
        return worker_id in self._open

    def refresh(self, worker_id: WorkerId) -> None:
        """Say anew what is free on an open worker, for everybody and for each reservation."""
        worker = self._open.get(worker_id)
        if worker is None:
            return
        number = self._number(worker_id)
        self.outlook.touch(worker_id)
        common, pools = self._holds.split(worker)
        self._queue.set_worker(*self._numbers_of(number, common))
        begun = {r.number: amount for r, amount in pools if self._holds.has_begun(r.id)}
        for pool in self._pools.get(worker_id, set()) - begun.keys():
            self._queue.drop_worker(number, pool)
        for pool, amount in begun.items():
            self._queue.set_worker(*self._numbers_of(number, amount), pool)
        self._pools[worker_id] = set(begun)

    def candidates(self, task: Task, wanted: Resources, now: float) -> list[Node]:
        """Every open worker that the waiting task could ever use, were `wanted` its request, as a plan sees it."""
        away = self.away(task)
        return [node for node in self.outlook.nodes(wanted, now) if node.worker_id != away]

    def away(self, task: Task) -> str:
        """The worker that a waiting task is kept from, as it was lost with it; "" where it may have any."""
        ready = self._ready.get(task.submit_seq)
        return task.avoid if ready is not None and ready.avoiding else ""

    # -- starting

    def take(self, now: float, most: int = PLACE_MAX) -> tuple[list[tuple[Task, Nodes]], Task | None]:
        """Who starts now and where, `most` of them, and the task that is blocked and has to be planned or passed by."""
        self._left = None
        if any(planned.plan.at + REPLAN_AFTER_S < now for planned in self._promises.standing()[:1]):
            self._promises.redo()
        placed, blocked = self._queue.place(most, now)
        taken = [self._taken(number, nodes, now) for number, nodes in placed]
        if blocked != NO_TASK:
            return taken, self._ready[blocked].task
        if not taken and self._backfill and self._is_held_up():
            self._look_at_freed(now)
            placed, blocked = self._queue.place(most, now)
            taken = [self._taken(number, nodes, now) for number, nodes in placed]
        return taken, None if blocked == NO_TASK else self._ready[blocked].task

    def _is_held_up(self) -> bool:
        """Whether a plan keeps somebody from starting, and may keep more than it has to."""
        standing = self._promises.standing()
        return bool(self._freed and standing) and self._queue.could_pass(standing[0].task.submit_seq)

    def _look_at_freed(self, now: float) -> None:
        """Until somebody would start by it, it does not matter what the plans could spare."""
        freed = self._freed & self._open.keys()
        self._freed.clear()
        self._promises.refresh(freed, now)

    def _taken(self, number: int, nodes: list[tuple[int, int]], now: float) -> tuple[Task, Nodes]:
        ready = self._ready.pop(number)
        task = ready.task
        self._held[task.id] = (ready.shape, nodes)
        self.late_starts += self._promises.was_late(task, now)
        if self._is_over_sooner(task, now):
            self._freed.update(self._workers[worker] for worker, _ in nodes)
        self._promises.note_start([self._workers[worker] for worker, _ in nodes])
        for worker, _ in nodes:
            self.outlook.touch(self._workers[worker])
            if "reservation_id" in task.request:  # it may outlive its reservation
                self._promises.forget_on(self._workers[worker])
        return task, [(self._workers[worker], gpu_type) for worker, gpu_type in nodes]

    def _is_over_sooner(self, task: Task, now: float) -> bool:
        """Whether the queue, which knows classes of time limits only, let it spend what some plan can spare after all."""
        limit_s = task.request.get("time_limit_s")
        if limit_s is None:
            return False
        at_latest = latest_end(task.request, now, self._grace_s)
        return any(now + limit_s + self._grace_s <= each.plan.at < at_latest for each in self._promises.standing())

    def pick_gpus(self, task: Task, worker: Worker, gpu_type: int) -> list[int]:
        """The lowest free indices of that type; the queue has made sure that there are enough."""
        if gpu_type == NO_GPU:
            return []
        if reservation_id := task.request.get("reservation_id"):
            return self._holds.use(reservation_id, worker.id, task.resources.gpu)
        held = self._holds.idle_gpus(worker.id)
        free = [
            gpu.index
            for gpu in worker.usable.gpus
            if gpu.index in worker.gpus_free and gpu.index not in held and self._type_bit(gpu.type) == gpu_type
        ]
        return sorted(free)[: task.resources.gpu]

    def release(self, task: Task) -> None:
        """A started task ended or went back to the queue; the state has it already."""
        pooled = "reservation_id" in task.request  # its pool may be gone
        if task.id not in self._held:
            return
        shape, nodes = self._held.pop(task.id)
        for number, gpu_type in nodes:
            worker_id = self._workers[number]
            self._freed.add(worker_id)
            self.outlook.touch(worker_id)
            if not pooled and self._is_plain(worker_id):
                self._queue.release(number, shape.number, gpu_type)
            else:
                self.refresh(worker_id)
        self._leave_shape(shape)

    def _is_plain(self, worker_id: WorkerId) -> bool:
        """Whether what a task gives back there is free for everybody, as it was before."""
        return not (self._pools.get(worker_id) or worker_id in self._odd or self._holds.of(worker_id))

    # -- plans

    def standing(self) -> list[Planned]:
        """The plans that stand, in order, as they were made."""
        return self._promises.standing()

    def planned(self, now: float) -> list[Planned]:
        """The plans that stand, in order, as they are now; that of a task that was left among them."""
        if self._left is not None and self.has(self._left):
            self.plan(self._left, now)
        self._left = None
        if self._freed and self._promises.standing():
            self._look_at_freed(now)
        return self._promises.standing()

    def ahead_of(self, task: Task) -> list[Planned]:
        """The standing plans of tasks that are before this one."""
        rank = self._rank(task)
        return [planned for planned in self._promises.standing() if planned.rank < rank]

    def room(self, node: Node, ahead: list[Planned], now: float) -> Amount | None:
        """What is free on that worker for somebody who outlives these plans; None for nothing."""
        return self._promises.room(node, ahead, now)

    def may_be_left(self, task: Task) -> bool:
        """Whether the blocked `task` needs no answer: it can start one day, and until something ends nobody else can.

        So on a full cluster nothing is planned at all, unless somebody asks.
        """
        if self._plans_max > 1 or "reservation_id" in task.request or not self._could_ever(task):
            return False
        if self._queue.could_pass(task.submit_seq):
            return False
        self._left = task
        return True

    def plan(self, task: Task, now: float) -> bool:
        """Plan the blocked `task`. False if too few of the open workers could ever take it."""
        if not self._promises.standing():
            self._freed.clear()
        return self._promises.make(task, self._rank(task), now, self.away(task), not self._backfill)

    def skip(self, task: Task) -> None:
        """Walk past the task until some worker changes."""
        self._queue.skip(task.submit_seq)

    def promised(self) -> set[WorkerId]:
        """The workers on which plans stand."""
        return {worker_id for planned in self._promises.standing() for worker_id in planned.plan.types}

    def redo_plans(self) -> None:
        """There is more to be had, as the plans said or earlier: what was promised holds."""
        self._promises.redo()

    def forget_plans(self) -> None:
        """What the plans rest on has changed."""
        self._promises.forget()

    def _could_ever(self, task: Task) -> bool:
        shape = self._ready[task.submit_seq].shape
        if shape.able[0] != self._changes:
            wanted, away = task.resources, self.away(task)
            fits = (worker for name, worker in self._open.items() if name != away and is_large_enough(wanted, worker))
            shape.able = self._changes, sum(1 for _ in islice(fits, wanted.node_count)) == wanted.node_count
        return shape.able[1]

    def _rank(self, task: Task) -> Rank:
        return -static_key(task.priority, task.submit_t, self._tau_s), task.submit_seq

    def _hold(self, worker_id: WorkerId, left: Amount) -> Hold:
        number, cpu, memory_gb, batch, service, gpus = self._numbers_of(self._number(worker_id), left)
        return number, cpu, memory_gb, gpus, batch, service

    # -- numbers

    def _note_held(self, task: Task, worker: Worker) -> None:
        places = [(WorkerId(node["worker_id"]), node["gpus"]) for node in task.assignments]
        held = [(self._number(name), self._type_held(name, gpus)) for name, gpus in places]
        known = self._held.get(task.id)
        self._held[task.id] = (self._use_shape(task, False) if known is None else known[0], held)
        indices = {gpu.index for gpu in worker.usable.gpus}
        if any(name == worker.id and not indices.issuperset(gpus) for name, gpus in places):
            self._odd.add(worker.id)

    def _type_held(self, worker_id: WorkerId, gpus: list[int]) -> int:
        capacity = self._state.workers[worker_id].capacity
        return next((self._type_bit(gpu.type) for gpu in capacity.gpus if gpu.index in gpus), NO_GPU)

    def _number(self, worker_id: WorkerId) -> int:
        number = self._numbers.setdefault(worker_id, len(self._workers))
        if number == len(self._workers):
            self._workers.append(worker_id)
        return number

    def _type_bit(self, name: str) -> int:
        return self._type_bits.setdefault(name, min(len(self._type_bits), GPU_TYPES_MAX - 1))

    def _numbers_of(self, number: int, amount: Amount) -> tuple[int, int, int, int, int, list[tuple[int, int]]]:
        gpus: dict[int, int] = {}
        for kind, count in amount.gpus.items():
            bit = self._type_bit(kind)
            gpus[bit] = gpus.get(bit, 0) + count
        return number, amount.cpu, amount.memory_gb, amount.batch, amount.service, list(gpus.items())

    def _use_shape(self, task: Task, avoiding: bool) -> _Shape:
        """The task's shape, with one user more."""
        shape = self._shape(task, avoiding)
        shape.users += 1
        self._idle.pop(shape.number, None)
        return shape

    def _leave_shape(self, shape: _Shape) -> None:
        """One user less. The shapes that had none for longest are forgotten, so that there are never too many."""
        shape.users -= 1
        if shape.users == 0:
            self._idle[shape.number] = shape
        if len(self._idle) > IDLE_SHAPES_MAX:
            oldest = self._idle.pop(next(iter(self._idle)))
            del self._shapes[oldest.key]
            self._queue.forget(oldest.number)

    def _shape(self, task: Task, avoiding: bool) -> _Shape:
        """The task's shape. `limit_s` is its class, so that few shapes come from many limits."""
        wanted, bound_s = task.resources, limit_class(task.request, self._grace_s)
        reservation = self._state.reservations.get(task.request.get("reservation_id", ""))
        pool = reservation.number if reservation is not None else COMMON_POOL
        excluded = (self._number(WorkerId(task.avoid)),) if avoiding else ()
        near = bool(task.request.get("dataset_specs"))
        key = (wanted, bound_s, pool, excluded, near)
        shape = self._shapes.get(key)
        if shape is None:
            mask = 0
            for name in filter(None, wanted.gpu_type.split("|")):
                mask |= 1 << self._type_bit(name)
            number = self._queue.shape(
                wanted.cpu,
                wanted.memory_gb,
                wanted.gpu,
                mask or ANY_GPU_TYPE,
                wanted.kind == "service",
                nodes=wanted.node_count,
                pool=pool,
                limit_s=bound_s,
                excluded=excluded,
                near=near,
            )
            shape = self._shapes[key] = _Shape(number, key)
        return shape

    def _has_others(self, task: Task) -> bool:
        """Whether there are enough workers beside the one that the task was lost with."""
        return len(self._open.keys() - {task.avoid}) >= task.resources.node_count

    def _preference(self, number: int) -> dict[int, int]:
        """How many bytes of the waiting task's datasets each worker has: the queue asks when it may start."""
        held = self._caches.bytes_held(self._ready[number].task.request.get("dataset_specs", ()))
        return {self._number(worker_id): much for worker_id, much in held.items()}


def latest_end(request: TaskRequest, now: float, grace_s: float) -> float:
    """When the task is over at the latest, were it to start now, as the queue reckons; inf if it may run for ever."""
    return now + bound_s if (bound_s := limit_class(request, grace_s)) else inf


def limit_class(request: TaskRequest, grace_s: float) -> int:
    """The least power of two, in seconds, within which the task is over; 0 where it may run for ever."""
    limit_s = request.get("time_limit_s")
    return 0 if limit_s is None else 1 << (ceil(limit_s + grace_s) - 1).bit_length()
