"""The ready queue: which queued task starts next, and on which workers.

This is the specification in plain Python; `_fastqueue.FastQueue` says the same natively, and one test suite drives both.
It knows numbers only: a task is its submit number, a worker its join number, a GPU type a bit, a pool of capacity a
number (0 is everybody's, the others belong to reservations), a shape (all tasks with the same request) a small index. It
makes no plan of its own: it says which task is blocked, and keeps free what the policy planned for it.

The order. A task of priority p, submitted at t, has at time `now` the aged priority `p + (now - t) / tau`. With one tau
for all, everybody ages alike and the order never changes: the key `p - t / tau` is static, larger first, ties by submit
number. Nothing is ever re-sorted.

The choice. The heads of the shapes are walked in key order; one that fits starts at once. Workers that the task prefers
most come first (only tasks of a `near` shape are asked, see `rank_by`), then those left with the fewest GPUs, then with
the fewest cores, then the oldest, so that whole nodes stay free for large tasks and the same state always gives the same
answer. A gang takes the best of them, all distinct, or none. All GPUs of one task on one node are of one type: of those
with enough, the one with the fewest free, then the lowest bit.

The plans. A head that does not fit ends the walk and is reported, so that the policy can plan it (`plan`) or say that no
worker could ever take it (`skip`); once `plans_max` tasks are planned, those after them are walked past. Whoever comes
after a planned task in the order may use a worker that its plan holds only within the plan's spare, or if it ends before
the plan's time. Whoever comes before it is not bound: if that one starts on a held worker the plan is void, and its task
will be reported anew.

What is kept. Capacity of the common pool may be kept for later (`keep`), for a reservation that has not begun. It binds
everybody of that pool, whatever the rank, as a plan does: within its spare, or over before its time.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Final, Protocol

NO_GPU: Final = -1
NO_TASK: Final = -1
COMMON_POOL: Final = 0
EVERY_POOL: Final = -1
PLANS_MAX: Final = 16  # planned tasks of one queue, at most
KEEPS_MAX: Final = 32  # times `keep` of one queue, at most
FIRST: Final = (-inf, NO_TASK)  # the rank before all others
GPU_TYPES_MAX: Final = 64
ANY_GPU_TYPE: Final = (1 << GPU_TYPES_MAX) - 1

GpuCounts = list[tuple[int, int]]  # (type bit, count), each bit once
Hold = tuple[int, int, int, GpuCounts, int, int]  # (worker, then what is spare: cores, GB, GPUs, batch, service slots)
Preference = Callable[[int], Mapping[int, int]]  # of a task: worker -> by how much it prefers it
Placed = tuple[int, list[tuple[int, int]]]  # (task, and for each node: worker, GPU type bit or NO_GPU)


class Queue(Protocol):
    """What both twins offer. `ReadyQueue` says what each method means."""

    def shape(
        self,
        cpu: int,
        memory_gb: int,
        gpu: int,
        gpu_types: int,
        service: bool,
        /,
        nodes: int = 1,
        pool: int = COMMON_POOL,
        limit_s: float = 0,
        excluded: Sequence[int] = (),
        near: bool = False,
    ) -> int: ...

    def forget(self, shape: int, /) -> None: ...

    def rank_by(self, preference: Preference, /) -> None: ...

    def push(self, task: int, shape: int, key: float, /) -> None: ...

    def remove(self, task: int, /) -> bool: ...

    def position(self, task: int, /) -> int: ...

    def set_worker(
        self,
        worker: int,
        cpu: int,
        memory_gb: int,
        batch: int,
        service: int,
        gpus: GpuCounts,
        pool: int = COMMON_POOL,
        /,
    ) -> None: ...

    def drop_worker(self, worker: int, pool: int = EVERY_POOL, /) -> None: ...

    def release(self, worker: int, shape: int, gpu_type: int, /) -> None: ...

    def place(self, limit: int, now: float, /) -> tuple[list[Placed], int]: ...

    def could_pass(self, task: int, /) -> bool: ...

    def plan(self, task: int, at: float, holds: list[Hold], everything: bool = False, /) -> None: ...

    def unplan(self, task: int = NO_TASK, /) -> None: ...

    def planned(self) -> list[int]: ...

    def keep(self, name: int, at: float, holds: list[Hold], /) -> None: ...

    def unkeep(self, name: int, /) -> None: ...

    def skip(self, task: int, /) -> None: ...

    def __len__(self) -> int: ...


def static_key(priority: int, submit_t: float, ageing_tau_s: float) -> float:
    """The key that orders tasks as their aged priority does, at every moment. `submit_t` in seconds of logical time."""
    return priority - submit_t / ageing_tau_s


@dataclass(slots=True, frozen=True)
class _Shape:
    """What one node of the task asks for, and how many nodes, where, and for how long at most."""

    cpu: int
    memory_gb: int
    gpu: int
    gpu_types: int  # bit mask; tasks without GPUs carry 0
    service: bool
    nodes: int
    pool: int
    limit_s: float  # 0: may run for ever
    excluded: tuple[int, ...]
    near: bool


@dataclass(slots=True)
class _Free:
    """What a worker has left. `gpus` maps the bit number of a type to the count free."""

    cpu: int
    memory_gb: int
    batch: int
    service: int
    gpus: dict[int, int] = field(default_factory=dict)

    def types_for(self, shape: _Shape) -> set[int]:
        """The GPU types that one node of `shape` could use here; only NO_GPU if it needs none; empty if it does not fit."""
        slots = self.service if shape.service else self.batch
        if slots < 1 or self.cpu < shape.cpu or self.memory_gb < shape.memory_gb:
            return set()
        if shape.gpu == 0:
            return {NO_GPU}
        return {bit for bit, free in self.gpus.items() if shape.gpu_types >> bit & 1 and free >= shape.gpu}

    def take(self, shape: _Shape, gpu_type: int, sign: int) -> None:
        """Claim (`sign` 1) or give back (-1) what one node of `shape` holds."""
        self.cpu -= sign * shape.cpu
        self.memory_gb -= sign * shape.memory_gb
        if shape.service:
            self.service -= sign
        else:
            self.batch -= sign
        if gpu_type != NO_GPU:
            self.gpus[gpu_type] = self.gpus.get(gpu_type, 0) - sign * shape.gpu


@dataclass(slots=True)
class _Plan:
    """When the planned task will start at the latest, and what others may use of its workers until then."""

    task: int
    pool: int
    rank: tuple[float, int]
    at: float  # inf: no time is known, it gathers what comes free
    everything: bool  # it holds all there is, and spares nothing
    spare: dict[int, _Free]

    def binds(self, shape: _Shape, rank: tuple[float, int], now: float) -> bool:
        """Whether a head of this shape and rank must leave alone what the plan holds."""
        ends_before = shape.limit_s > 0 and self.at < inf and now + shape.limit_s <= self.at
        return rank > self.rank and shape.pool == self.pool and not ends_before

    def spared(self, worker: int, shape: _Shape, types: set[int]) -> set[int]:
        """Which of these GPU types a node of a shape that is bound may use there."""
        if self.everything:
            return set()
        return types & self.spare[worker].types_for(shape) if worker in self.spare else types


class ReadyQueue:
    """The reference twin. Task, worker, pool and shape numbers are the caller's; all counts are whole; times in seconds."""

    def __init__(self, plans_max: int = 1) -> None:
        self._plans_max = checked_plans_max(plans_max)
        self._plans: list[_Plan] = []  # in the order of their tasks
        self._keeps: dict[int, _Plan] = {}  # plans of nobody
        self._shapes: dict[_Shape, int] = {}
        self._by_index: list[_Shape | None] = []
        self._unused: list[int] = []  # indices of forgotten shapes
        self._lines: list[list[tuple[float, int]]] = []  # of ranks: (-key, task), ascending
        self._live: dict[int, tuple[int, float]] = {}  # task -> (shape, key)
        self._pools: dict[int, dict[int, _Free]] = {}  # pool -> worker -> what is free
        self._skipped: set[int] = set()
        self._preference: Preference = lambda _task: {}

    # -- waiting tasks

    def shape(
        self,
        cpu: int,
        memory_gb: int,
        gpu: int,
        gpu_types: int,
        service: bool,
        /,
        nodes: int = 1,
        pool: int = COMMON_POOL,
        limit_s: float = 0,
        excluded: Sequence[int] = (),
        near: bool = False,
    ) -> int:
        """The index of this request's shape, the same for the same request until it is forgotten.

        `cpu`, `memory_gb`, `gpu` and one slot are per node; `gpu_types` is a mask of type bits; `limit_s` bounds the run
        time from above (0: nothing does); workers in `excluded` are never used; `near`: its tasks prefer some workers.
        """
        if nodes < 1:
            raise ValueError(f"a shape has at least 1 node, not {nodes}")
        types = gpu_types if gpu else 0
        shape = _Shape(cpu, memory_gb, gpu, types, service, nodes, pool, limit_s, _distinct(excluded), near)
        if shape not in self._shapes:
            self._shapes[shape] = self._unused.pop() if self._unused else self._new_index()
            self._by_index[self._shapes[shape]] = shape
        return self._shapes[shape]

    def _new_index(self) -> int:
        self._by_index.append(None)
        self._lines.append([])
        return len(self._lines) - 1

    def forget(self, shape: int, /) -> None:
        """Nobody will name this shape again: what it took is free, and its index may be another's.

        Raises ValueError while tasks of it wait, IndexError if there is no such shape.
        """
        gone = self._known(shape)
        if self._lines[shape]:
            raise ValueError(f"tasks of shape {shape} wait")
        del self._shapes[gone]
        self._by_index[shape] = None
        self._skipped.discard(shape)
        self._unused.append(shape)

    def rank_by(self, preference: Preference, /) -> None:
        """Ask `preference` about each task of a `near` shape when it may start. Workers not in its answer count 0, and
        so do those below 0. It must not call the queue."""
        self._preference = preference

    def push(self, task: int, shape: int, key: float, /) -> None:
        """Make `task` ready. Raises ValueError if it already is, IndexError if there is no such shape."""
        if task in self._live:
            raise ValueError(f"task {task} is in the queue already")
        if isnan(key):
            raise ValueError(f"the key of task {task} is not a number")
        self._known(shape)
        self._live[task] = (shape, key)
        insort(self._lines[shape], (-key, task))

    def remove(self, task: int, /) -> bool:
        """Take `task` out, and its plan with it; False if it was not in."""
        entry = self._live.pop(task, None)
        if entry is None:
            return False
        self._end_plan(task)
        line = self._lines[entry[0]]
        del line[bisect_left(line, (-entry[1], task))]
        return True

    def position(self, task: int, /) -> int:
        """How many tasks are ahead of `task` in the order, over all shapes; -1 if it is not in."""
        if task not in self._live:
            return -1
        mine = (-self._live[task][1], task)
        return sum(bisect_left(line, mine) for line in self._lines)

    def __len__(self) -> int:
        return len(self._live)

    # -- workers

    def set_worker(
        self,
        worker: int,
        cpu: int,
        memory_gb: int,
        batch: int,
        service: int,
        gpus: GpuCounts,
        pool: int = COMMON_POOL,
        /,
    ) -> None:
        """Say what `worker` has free in `pool`: new, or changed by something else than `place` and `release`."""
        if worker < 0:
            raise ValueError(f"a worker has a number from 0 on, not {worker}")
        self._pools.setdefault(pool, {})[worker] = _free(cpu, memory_gb, batch, service, gpus)
        self._skipped.clear()

    def drop_worker(self, worker: int, pool: int = EVERY_POOL, /) -> None:
        """Place nothing more on `worker`, in this pool or in any; unknown ones are ignored."""
        for each in list(self._pools) if pool == EVERY_POOL else [pool]:
            self._pools.get(each, {}).pop(worker, None)
        self._skipped.clear()

    def release(self, worker: int, shape: int, gpu_type: int, /) -> None:
        """Give back, to the shape's pool, what one node of a placed task held. Ignored where the worker was dropped."""
        wanted = self._known(shape)
        if gpu_type != NO_GPU:
            _check_gpu_type(gpu_type)
        free = self._pools.get(wanted.pool, {}).get(worker)
        if free is not None:
            free.take(wanted, gpu_type, -1)

    # -- starting

    def place(self, limit: int, now: float, /) -> tuple[list[Placed], int]:
        """Start up to `limit` tasks: take them out and claim their capacity, node by node.

        Returns them, and the task that ended the walk because it does not fit, has no plan, and fewer than `plans_max`
        ahead of it have one; NO_TASK if there is none. Answer that with `plan` or `skip` and call again.
        """
        placed: list[Placed] = []
        passed = set(
            self._skipped
        )  # starting others only takes capacity: what did not fit still does not, in this call
        while len(placed) < limit:
            heads = [(line[0], i) for i, line in enumerate(self._lines) if line and i not in passed]
            if not heads:
                break
            rank, index = min(heads)
            shape = self._known(index)
            binding = [plan for plan in (*self._plans, *self._keeps.values()) if plan.binds(shape, rank, now)]
            prefers = self._preference(rank[1]) if shape.near else {}
            nodes = self._choose(shape, binding, prefers)
            if nodes:
                self._start(index, rank, nodes, binding)
                placed.append((rank[1], nodes))
            elif self._is_to_be_planned(rank):
                return placed, rank[1]
            else:
                passed.add(index)
        return placed, NO_TASK

    def _is_to_be_planned(self, rank: tuple[float, int]) -> bool:
        ahead = sum(plan.rank <= rank for plan in self._plans)
        return ahead < self._plans_max and all(plan.rank != rank for plan in self._plans)

    def could_pass(self, task: int, /) -> bool:
        """Whether, were there no plans and nothing kept, the head of some shape that comes after `task` fits now.

        Raises ValueError if the task is not in.
        """
        _, key = self._entry(task)
        later = [i for i, line in enumerate(self._lines) if line and line[0] > (-key, task) and i not in self._skipped]
        return any(self._choose(self._known(index), [], {}) for index in later)

    def _choose(self, shape: _Shape, binding: list[_Plan], prefers: Mapping[int, int]) -> list[tuple[int, int]]:
        """The best workers with their GPU types, one for each node; empty if there are too few."""
        fitting = []
        for worker, free in self._pools.get(shape.pool, {}).items():
            types = set() if worker in shape.excluded else free.types_for(shape)
            for plan in binding:
                types = plan.spared(worker, shape, types)
            if types:
                gpu_type = min(types, key=lambda bit: (free.gpus.get(bit, 0), bit))
                rank = (-max(0, prefers.get(worker, 0)), sum(free.gpus.values()), free.cpu, worker)
                fitting.append((rank, gpu_type))
        best = heapq.nsmallest(shape.nodes, fitting)
        return [(rank[3], gpu_type) for rank, gpu_type in best] if len(best) == shape.nodes else []

    def _start(self, index: int, rank: tuple[float, int], nodes: list[tuple[int, int]], binding: list[_Plan]) -> None:
        shape = self._known(index)
        del self._lines[index][0]
        del self._live[rank[1]]
        for worker, gpu_type in nodes:
            self._pools[shape.pool][worker].take(shape, gpu_type, 1)
        for plan in (*self._plans, *self._keeps.values()):
            self._note_start(plan, shape, rank, nodes, plan in binding)

    def _note_start(
        self, plan: _Plan, shape: _Shape, rank: tuple[float, int], nodes: list[tuple[int, int]], bound: bool
    ) -> None:
        """What a start means for a plan: it is fulfilled, void, or has less to spare."""
        held = [node for node in nodes if shape.pool == plan.pool and node[0] in plan.spare]
        if rank == plan.rank or (rank < plan.rank and held):
            self._plans.remove(plan)
        elif bound:
            for worker, gpu_type in held:
                plan.spare[worker].take(shape, gpu_type, 1)

    # -- what the policy says about a task that does not fit

    def plan(self, task: int, at: float, holds: list[Hold], everything: bool = False, /) -> None:
        """Let `task` be planned for `at`, on the workers of `holds`; a plan that it had is replaced.

        Each hold says how much of what is free on that worker the plan does not need, from now through `at`. Whoever ends
        before `at` need not keep to it; nobody ends before inf (a plan without a time). With `everything` there is
        nothing to spare on any worker. The plan is about the pool of the task's shape. It is gone when its task starts or
        is removed, or when `plans_max` others are planned that are ahead of it. Raises ValueError if the task is not in.
        """
        index, key = self._entry(task)
        spare = _spare(holds)
        self._end_plan(task)
        self._plans.append(_Plan(task, self._known(index).pool, (-key, task), at, everything, spare))
        self._plans.sort(key=lambda plan: plan.rank)
        del self._plans[self._plans_max :]
        self._skipped.discard(index)

    def unplan(self, task: int = NO_TASK, /) -> None:
        """Drop the plan of `task`, or all of them; ignored where there is none."""
        if task == NO_TASK:
            self._plans.clear()
        else:
            self._end_plan(task)

    def planned(self) -> list[int]:
        """The tasks that have a plan, in order."""
        return [plan.task for plan in self._plans]

    def keep(self, name: int, at: float, holds: list[Hold], /) -> None:
        """Keep, of the common pool, what these holds do not spare: nobody uses it who may run beyond `at`.

        What was kept by that name is kept no longer. Raises ValueError where KEEPS_MAX other names are in use.
        """
        spare = _spare(holds)
        if name not in self._keeps and len(self._keeps) == KEEPS_MAX:
            raise ValueError(f"a queue keeps capacity for {KEEPS_MAX} names at most")
        self._keeps[name] = _Plan(NO_TASK, COMMON_POOL, FIRST, at, False, spare)

    def unkeep(self, name: int, /) -> None:
        """Keep nothing by that name; ignored where nothing is."""
        self._keeps.pop(name, None)

    def _end_plan(self, task: int) -> None:
        self._plans = [plan for plan in self._plans if plan.task != task]

    def skip(self, task: int, /) -> None:
        """No worker there is could ever take this task: walk past its shape until a worker is set or dropped.

        Plans for tasks of this shape are gone. Raises ValueError if the task is not in.
        """
        index, _ = self._entry(task)
        self._skipped.add(index)
        self._plans = [plan for plan in self._plans if self._live[plan.task][0] != index]

    def _entry(self, task: int) -> tuple[int, float]:
        if task not in self._live:
            raise ValueError(f"task {task} is not in the queue")
        return self._live[task]

    def _known(self, index: int) -> _Shape:
        shape = self._by_index[index] if 0 <= index < len(self._by_index) else None
        if shape is None:
            raise IndexError(f"no shape {index}")
        return shape


def _free(cpu: int, memory_gb: int, batch: int, service: int, gpus: GpuCounts) -> _Free:
    for bit, _ in gpus:
        _check_gpu_type(bit)
    return _Free(cpu, memory_gb, batch, service, dict(gpus))


def _spare(holds: list[Hold]) -> dict[int, _Free]:
    return {
        worker: _free(cpu, memory_gb, batch, service, gpus) for worker, cpu, memory_gb, gpus, batch, service in holds
    }


def _check_gpu_type(bit: int) -> None:
    if not 0 <= bit < GPU_TYPES_MAX:
        raise ValueError(f"a GPU type is a bit in 0..{GPU_TYPES_MAX - 1}, not {bit}")


def _distinct(workers: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(workers)))


def checked_plans_max(count: int) -> int:
    """Raises ValueError where a queue cannot keep so many plans."""
    if not 1 <= count <= PLANS_MAX:
        raise ValueError(f"a queue keeps 1 to {PLANS_MAX} plans, not {count}")
    return count


def make_queue(plans_max: int = 1) -> Queue:
    """The native queue where it was built, else its twin. It plans up to `plans_max` blocked tasks at a time."""
    try:
        from fetchmld._fastqueue import FastQueue
    except ImportError:
        return ReadyQueue(plans_max)
    return FastQueue(plans_max)
