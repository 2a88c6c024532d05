"""Workers as plans see them: what is free on each, and what comes back when, from what runs and from reservations."""

from collections.abc import Iterable
from math import inf
from typing import Final

from fetchmld.core.model import Task, Worker
from fetchmld.core.plan import Amount, Node, claim
from fetchmld.core.reservations import Holds, free_of
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
    for task_id in sorted(worker.tasks):
        task = state.tasks[task_id]
        until = max(ends_by(task, now, grace_s), expiry.get(task.request.get("reservation_id", ""), 0.0))
        node.returns += [(until, amount) for amount in held_by(task, worker)]
    return node


def held_by(task: Task, worker: Worker) -> Iterable[Amount]:
    """What a started task holds on this worker."""
    types = {gpu.index: gpu.type for gpu in worker.capacity.gpus}
    for assignment in task.assignments:
        if assignment["worker_id"] == worker.id:
            held = [types[index] for index in assignment["gpus"] if index in types]
            amount = claim(task.resources, "")
            amount.gpus = {kind: held.count(kind) for kind in set(held)}
            yield amount


def empty_node(worker: Worker) -> Node:
    """`worker` with nothing on it."""
    capacity = worker.capacity
    gpus: dict[str, int] = {}
    for gpu in capacity.gpus:
        gpus[gpu.type] = gpus.get(gpu.type, 0) + 1
    amount = Amount(capacity.cpu, capacity.memory_gb, capacity.batch_slots, capacity.service_slots, gpus)
    return Node(worker.id, amount)
