"""Workers as plans see them: what is free on each, and what comes back when, from what runs and from reservations."""

from collections.abc import Iterable
from math import inf
from typing import Final

from fetchmld.core.model import Resources, Task, Worker
from fetchmld.core.plan import Amount, Node, claim
from fetchmld.core.reservations import Holds, free_of, suits
from fetchmld.core.state import State

OVERDUE_S: Final = 60.0  # a task that outlives its declared end by more than this has no known end


def ends_by(task: Task, now: float, grace_s: float) -> float:
    """The logical time at which a started task is over at the latest, as it declared; inf if it did not."""
    limit_s = task.request.get("time_limit_s")
    if limit_s is None:
        return inf
    declared = task.start_t + limit_s + grace_s
    return inf if declared + OVERDUE_S < now else max(declared, now)


def node_of(state: State, holds: Holds, worker: Worker, now: float, grace_s: float) -> Node:
    """`worker` for somebody without a reservation: what reservations keep comes back when they expire."""
    node = Node(worker.id, free_of(worker))
    expiry = {}
    for reservation, target in holds.of(worker.id):
        kept = holds.wanted(reservation, target, worker)
        node.free = node.free.plus(kept, -1)
        node.returns.append((reservation.expires_t, kept))
        expiry[reservation.id] = reservation.expires_t
    types = {gpu.index: gpu.type for gpu in worker.capacity.gpus}
    for task_id in sorted(worker.tasks):
        task = state.tasks[task_id]
        until = max(ends_by(task, now, grace_s), expiry.get(task.request.get("reservation_id", ""), 0.0))
        node.returns += [(until, amount) for amount in held_by(task, worker, types)]
    return node


def held_by(task: Task, worker: Worker, types: dict[int, str]) -> Iterable[Amount]:
    """What a started task holds on this worker; `types` are those of its GPUs by index."""
    for assignment in task.assignments:
        if assignment["worker_id"] == worker.id:
            amount = claim(task.resources, "")
            amount.gpus = {}
            for index in assignment["gpus"]:
                if (kind := types.get(index)) is not None:
                    amount.gpus[kind] = amount.gpus.get(kind, 0) + 1
            yield amount


def empty_node(worker: Worker) -> Node:
    """`worker` with nothing on it."""
    capacity, gpus = worker.capacity, dict(worker.gpu_totals)
    amount = Amount(capacity.cpu, capacity.memory_gb, capacity.batch_slots, capacity.service_slots, gpus)
    return Node(worker.id, amount)


def is_large_enough(wanted: Resources, worker: Worker) -> bool:
    """Whether one node of the task fits on the empty worker."""
    capacity = worker.capacity
    slots = capacity.service_slots if wanted.kind == "service" else capacity.batch_slots
    if slots < 1 or capacity.cpu < wanted.cpu or capacity.memory_gb < wanted.memory_gb:
        return False
    if wanted.gpu == 0:
        return True
    return any(n >= wanted.gpu and suits(wanted.gpu_type, kind) for kind, n in worker.gpu_totals.items())
