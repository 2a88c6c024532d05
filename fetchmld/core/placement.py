"""From a state to numbers for the ready queue, and back to assignments.

Owns the numbering: tasks by submission, workers by the order in which they were first seen, GPU types by bit. Gangs and
plans come here with the whole policy; for now a task of several nodes waits.
"""

from collections.abc import Iterable
from typing import Final

from fetchmld.core.model import Assignment, Resources, Task, TaskId, Worker, WorkerId
from fetchmld.core.ready import ANY_GPU_TYPE, NO_GPU, Queue, make_queue, static_key

GPU_TYPES_MAX: Final = 64  # bits of the native mask; a type beyond them can be offered but not asked for by name
PLACE_MAX: Final = 256  # tasks started by one event at most; the next event goes on


class Placement:
    """The queue of one cluster. Says who starts where; what happens then is the scheduler's."""

    def __init__(self, ageing_tau_s: float, queue: Queue | None = None) -> None:
        self._tau_s = ageing_tau_s
        self._queue = make_queue() if queue is None else queue
        self._type_bits: dict[str, int] = {}
        self._numbers: dict[WorkerId, int] = {}
        self._workers: list[WorkerId] = []
        self._ready: dict[int, Task] = {}
        self._shapes: dict[Resources, int] = {}
        self._held: dict[
            TaskId, list[tuple[int, int, int]]
        ] = {}  # of started tasks: (worker, shape, GPU type) per node

    # -- waiting tasks

    def push(self, task: Task) -> None:
        """The task is queued and eligible now."""
        if task.resources.node_count == 1:
            self._ready[task.submit_seq] = task
            key = static_key(task.priority, task.submit_t, self._tau_s)
            self._queue.push(task.submit_seq, self._shape(task.resources), key)

    def remove(self, task: Task) -> None:
        """The task waits no longer; nothing happens if it was not in."""
        if self._queue.remove(task.submit_seq):
            del self._ready[task.submit_seq]

    def position(self, task: Task) -> int:
        """How many are ahead of it; -1 if it is not in."""
        return self._queue.position(task.submit_seq)

    def __len__(self) -> int:
        return len(self._queue)

    # -- workers

    def open(self, worker: Worker, tasks: Iterable[Task]) -> None:
        """`worker` may be given work, as much as it has free now; `tasks` are those that it has."""
        free: dict[int, int] = {}
        for gpu in worker.capacity.gpus:
            bit = self._type_bit(gpu.type)
            free[bit] = free.get(bit, 0) + (gpu.index in worker.gpus_free)
        self._queue.set_worker(
            self._number(worker.id),
            worker.cpu_free,
            worker.memory_free_gb,
            worker.batch_free,
            worker.service_free,
            list(free.items()),
        )
        for task in tasks:
            self._note_held(task, worker)

    def shut(self, worker_id: WorkerId) -> None:
        """Nothing new goes to this worker."""
        if worker_id in self._numbers:
            self._queue.drop_worker(self._numbers[worker_id])

    # -- starting and ending

    def take(self) -> list[tuple[Task, WorkerId, int]]:
        """Who starts now: task, worker, GPU type bit. Their capacity is claimed in the queue."""
        taken = []
        for number, worker, gpu_type in self._queue.place(PLACE_MAX):
            task = self._ready.pop(number)
            self._held[task.id] = [(worker, self._shape(task.resources), gpu_type)]
            taken.append((task, self._workers[worker], gpu_type))
        return taken

    def pick_gpus(self, worker: Worker, gpu_type: int, count: int) -> list[int]:
        """The lowest free indices of that type; the queue has made sure that there are enough."""
        if gpu_type == NO_GPU:
            return []
        free = [
            gpu.index
            for gpu in worker.capacity.gpus
            if gpu.index in worker.gpus_free and self._type_bit(gpu.type) == gpu_type
        ]
        return sorted(free)[:count]

    def release(self, task: Task) -> None:
        """A started task ended or goes back to the queue: what it held is free."""
        for worker, shape, gpu_type in self._held.pop(task.id, ()):
            self._queue.release(worker, shape, gpu_type)

    # -- numbers

    def _note_held(self, task: Task, worker: Worker) -> None:
        shape = self._shape(task.resources)
        self._held[task.id] = [
            (self._number(WorkerId(node["worker_id"])), shape, self._type_held(node, worker))
            for node in task.assignments
        ]

    def _type_held(self, node: Assignment, worker: Worker) -> int:
        held = set(node["gpus"])
        return next((self._type_bit(gpu.type) for gpu in worker.capacity.gpus if gpu.index in held), NO_GPU)

    def _number(self, worker_id: WorkerId) -> int:
        number = self._numbers.setdefault(worker_id, len(self._workers))
        if number == len(self._workers):
            self._workers.append(worker_id)
        return number

    def _type_bit(self, name: str) -> int:
        return self._type_bits.setdefault(name, min(len(self._type_bits), GPU_TYPES_MAX - 1))

    def _shape(self, wanted: Resources) -> int:
        shape = self._shapes.get(wanted)
        if shape is None:
            mask = 0
            for name in filter(None, wanted.gpu_type.split("|")):
                mask |= 1 << self._type_bit(name)
            shape = self._shapes[wanted] = self._queue.shape(
                wanted.cpu, wanted.memory_gb, wanted.gpu, mask or ANY_GPU_TYPE, wanted.kind == "service"
            )
        return shape
