"""Workers as plans see them: what is free on each, and what comes back when, from what runs and from reservations."""

from math import inf
from typing import Final

from fetchmld.core.model import Resources, Task, Worker
from fetchmld.core.plan import Amount, Node, by_time, lowest
from fetchmld.core.reservations import Holds, free_of, suits
from fetchmld.core.state import State

OVERDUE_S: Final = 60.0  # a task that outlives its declared end by more than this has no known end


def ends_by(task: Task, now: float, grace_s: float) -> float:
    """The logical time by which a started task has to be over, as it declared; inf if it did not, or outlived it by far."""
    limit_s = task.request.get("time_limit_s")
    if limit_s is None:
        return inf
    declared = task.start_t + limit_s + grace_s
    return inf if declared + OVERDUE_S < now else declared


def node_of(state: State, holds: Holds, worker: Worker, now: float, grace_s: float, with_lending: bool = True) -> Node:
    """`worker` for somebody without a reservation, who may run for ever: what reservations keep comes back when they
    expire. Those that have not begun are left out where so asked."""
    node = Node(worker.id, free_of(worker))
    expiry, is_lent = {}, False
    for reservation, target in holds.of(worker.id):
        kept = holds.wanted(reservation, target, worker)
        if not holds.lends(reservation.id):
            node.free = node.free.plus(kept, -1)
            expiry[reservation.id] = reservation.expires_t
        elif with_lending:
            node.returns.append((reservation.starts_t, Amount().plus(kept, -1)))
            is_lent = True
        else:
            continue
        node.returns.append((reservation.expires_t, kept))
    types = {gpu.index: gpu.type for gpu in worker.usable.gpus}
    for task_id in sorted(worker.tasks):
        task = state.tasks[task_id]
        until = ends_by(task, now, grace_s)
        if expiry:
            until = max(until, expiry.get(task.request.get("reservation_id", ""), 0.0))
        for assignment in task.assignments:
            if assignment["worker_id"] == worker.id:
                node.returns.append((until, _held(task.resources, assignment["gpus"], types)))
    node.returns.sort(key=by_time)
    return lowest(node) if is_lent else node


def _held(wanted: Resources, indices: list[int], types: dict[int, str]) -> Amount:
    """What one node of a started task holds; `types` are those of the worker's GPUs by index."""
    gpus: dict[str, int] = {}
    for index in indices:
        if (kind := types.get(index)) is not None:
            gpus[kind] = gpus.get(kind, 0) + 1
    service = wanted.kind == "service"
    return Amount(wanted.cpu, wanted.memory_gb, int(not service), int(service), gpus)


def is_large_enough(wanted: Resources, worker: Worker) -> bool:
    """Whether one node of the task fits on the empty worker."""
    capacity = worker.capacity
    slots = capacity.service_slots if wanted.kind == "service" else capacity.batch_slots
    if slots < 1 or capacity.cpu < wanted.cpu or capacity.memory_gb < wanted.memory_gb:
        return False
    if wanted.gpu == 0:
        return True
    return any(n >= wanted.gpu and suits(wanted.gpu_type, kind) for kind, n in worker.gpu_totals.items())
