"""The ready queue: which queued task starts next, and on which worker.

This is the specification in plain Python; `_fastqueue.FastQueue` says the same natively, and one test suite drives both.
It knows numbers only: a task is its submit number, a worker its join number, a GPU type a bit, a shape (all tasks with
the same request) a small index.

The order. A task of priority p, submitted at t, has at time `now` the aged priority `p + (now - t) / tau`. With one tau
for all, everybody ages alike and the order never changes: the key `p - t / tau` is static, larger first, ties by submit
number. Nothing is ever re-sorted.

The choice. The heads of the shapes are walked in key order; the first that fits on a worker starts there. Among workers
that fit, the one left with the fewest GPUs wins, then the fewest cores, then the oldest, so that whole nodes stay free for
large tasks and the same state always gives the same answer. All GPUs of one task on one node are of one type.
"""

import heapq
from dataclasses import dataclass, field
from typing import Final, Protocol

NO_GPU: Final = -1
ANY_GPU_TYPE: Final = (1 << 64) - 1


class Queue(Protocol):
    """What both twins offer."""

    def shape(self, cpu: int, memory_gb: int, gpu: int, gpu_types: int, service: bool, /) -> int: ...

    def push(self, task: int, shape: int, key: float, /) -> None: ...

    def remove(self, task: int, /) -> bool: ...

    def position(self, task: int, /) -> int: ...

    def set_worker(
        self, worker: int, cpu: int, memory_gb: int, batch: int, service: int, gpus: list[tuple[int, int]], /
    ) -> None: ...

    def drop_worker(self, worker: int, /) -> None: ...

    def release(self, worker: int, shape: int, gpu_type: int, /) -> None: ...

    def place(self, limit: int, /) -> list[tuple[int, int, int]]: ...

    def __len__(self) -> int: ...


def static_key(priority: int, submit_t: float, ageing_tau_s: float) -> float:
    """The key that orders tasks as their aged priority does, at every moment. `submit_t` in seconds of logical time."""
    return priority - submit_t / ageing_tau_s


@dataclass(slots=True, frozen=True)
class _Shape:
    cpu: int
    memory_gb: int
    gpu: int
    gpu_types: int  # bit mask; tasks without GPUs carry 0
    service: bool


@dataclass(slots=True)
class _Free:
    """What a worker has left. `gpus` maps the bit number of a type to the count free."""

    cpu: int
    memory_gb: int
    batch: int
    service: int
    gpus: dict[int, int] = field(default_factory=dict)

    def type_for(self, shape: _Shape) -> int | None:
        """The GPU type that `shape` would use here: fewest free first, then lowest bit. None where it does not fit."""
        slots = self.service if shape.service else self.batch
        if slots < 1 or self.cpu < shape.cpu or self.memory_gb < shape.memory_gb:
            return None
        if shape.gpu == 0:
            return NO_GPU
        fitting = [(free, bit) for bit, free in self.gpus.items() if shape.gpu_types >> bit & 1 and free >= shape.gpu]
        return min(fitting)[1] if fitting else None

    def take(self, shape: _Shape, gpu_type: int, sign: int) -> None:
        """Claim (`sign` 1) or give back (-1) what one node of `shape` holds."""
        self.cpu -= sign * shape.cpu
        self.memory_gb -= sign * shape.memory_gb
        if shape.service:
            self.service -= sign
        else:
            self.batch -= sign
        if gpu_type != NO_GPU:
            self.gpus[gpu_type] -= sign * shape.gpu


class ReadyQueue:
    """The reference twin. Task, worker and shape numbers are the caller's; all counts are whole."""

    def __init__(self) -> None:
        self._shapes: dict[_Shape, int] = {}
        self._by_index: list[_Shape] = []
        self._heaps: list[list[tuple[float, int]]] = []
        self._live: dict[int, tuple[int, float]] = {}  # task -> (shape, key)
        self._workers: dict[int, _Free] = {}

    def shape(self, cpu: int, memory_gb: int, gpu: int, gpu_types: int, service: bool, /) -> int:
        """The index of this request's shape, the same for the same request. `gpu_types` is a mask of type bits."""
        shape = _Shape(cpu, memory_gb, gpu, gpu_types if gpu else 0, service)
        index = self._shapes.setdefault(shape, len(self._by_index))
        if index == len(self._by_index):
            self._by_index.append(shape)
            self._heaps.append([])
        return index

    def push(self, task: int, shape: int, key: float, /) -> None:
        """Make `task` ready. Raises ValueError if it already is."""
        if task in self._live:
            raise ValueError(f"task {task} is in the queue already")
        self._live[task] = (shape, key)
        heapq.heappush(self._heaps[shape], (-key, task))

    def remove(self, task: int, /) -> bool:
        """Take `task` out; False if it was not in."""
        entry = self._live.pop(task, None)
        if entry is None:
            return False
        heap = self._heaps[entry[0]]
        heap.remove((-entry[1], task))
        heapq.heapify(heap)
        return True

    def position(self, task: int, /) -> int:
        """How many tasks are ahead of `task` in the order, over all shapes; -1 if it is not in."""
        if task not in self._live:
            return -1
        mine = (-self._live[task][1], task)
        return sum((-key, other) < mine for other, (_, key) in self._live.items())

    def set_worker(
        self, worker: int, cpu: int, memory_gb: int, batch: int, service: int, gpus: list[tuple[int, int]], /
    ) -> None:
        """Say what `worker` has free: new, or changed by something else than `place` and `release`."""
        self._workers[worker] = _Free(cpu, memory_gb, batch, service, dict(gpus))

    def drop_worker(self, worker: int, /) -> None:
        """Place nothing more on `worker`; unknown ones are ignored."""
        self._workers.pop(worker, None)

    def release(self, worker: int, shape: int, gpu_type: int, /) -> None:
        """Give back what one node of a placed task held. Ignored for a worker that was dropped."""
        if worker in self._workers:
            self._workers[worker].take(self._by_index[shape], gpu_type, -1)

    def place(self, limit: int, /) -> list[tuple[int, int, int]]:
        """Start up to `limit` tasks: take them out, claim their capacity, and say (task, worker, GPU type bit or -1)."""
        placed: list[tuple[int, int, int]] = []
        blocked: set[int] = set()
        while len(placed) < limit:
            heads = [(h[0], i) for i, h in enumerate(self._heaps) if h and i not in blocked]
            if not heads:
                break
            (_, task), index = min(heads)
            choice = self._choose(self._by_index[index])
            if choice is None:
                blocked.add(index)  # placing others only takes capacity, so it stays blocked for this call
                continue
            worker, gpu_type = choice
            heapq.heappop(self._heaps[index])
            del self._live[task]
            self._workers[worker].take(self._by_index[index], gpu_type, 1)
            placed.append((task, worker, gpu_type))
        return placed

    def _choose(self, shape: _Shape) -> tuple[int, int] | None:
        best: tuple[int, int, int, int] | None = None
        for worker, free in self._workers.items():
            gpu_type = free.type_for(shape)
            if gpu_type is None:
                continue
            rank = (sum(free.gpus.values()) - shape.gpu, free.cpu - shape.cpu, worker, gpu_type)
            best = rank if best is None else min(best, rank)
        return None if best is None else (best[2], best[3])

    def __len__(self) -> int:
        return len(self._live)


def make_queue() -> Queue:
    """The native queue where it was built, else its twin."""
    try:
        from fetchmld._fastqueue import FastQueue
    except ImportError:
        return ReadyQueue()
    return FastQueue()
