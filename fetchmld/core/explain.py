"""Why a task waits, in plain words, from the state that decides. Planned starts come with plans."""

from fetchmld.core.desk import Desk
from fetchmld.core.model import Resources, Task, Worker


def wait_reason(desk: Desk, task: Task) -> str:
    """The binding constraint of a queued task; "" for any other."""
    if task.status != "queued":
        return ""
    if reason := _held(desk, task):
        return reason
    wanted = task.resources
    workers = [worker for worker in desk.state.workers.values() if worker.status == "active"]
    if not workers:
        return "no worker is connected" + _shut_ones(desk)
    lacks = [_never(wanted, worker) for worker in workers]
    able = [worker for worker, lack in zip(workers, lacks, strict=True) if not lack]
    if not able:
        return f"no worker is large enough: {_never(wanted, max(workers, key=_size))}" + _shut_ones(desk)
    if len(able) < wanted.node_count:
        return f"asks for {wanted.node_count} nodes at once, {len(able)} of the workers are large enough" + _shut_ones(
            desk
        )
    missing = [_not_now(desk, wanted, worker) for worker in able]
    ready = missing.count("")
    if ready < wanted.node_count:
        least = min((text for text in missing if text), key=len)
        return least if wanted.node_count == 1 else f"needs {wanted.node_count} nodes, {ready} have room; {least}"
    return _ahead(desk, task)


def _size(worker: Worker) -> tuple[int, int, int]:
    return len(worker.capacity.gpus), worker.capacity.cpu, worker.capacity.memory_gb


def _held(desk: Desk, task: Task) -> str:
    """Why the task is not even in line; "" if it is."""
    if task.waits_for:
        return "waits for " + ", ".join(f"task {name} ({condition})" for name, condition in task.waits_for.items())
    if task.hold_until_t > desk.now:
        return f"held for {task.hold_until_t - desk.now:.0f} s before the next attempt"
    reservation = desk.state.reservations.get(task.request.get("reservation_id", ""))
    if reservation is None:
        return ""
    if reservation.starts_t > desk.now:
        return f"reservation {reservation.id} begins in {reservation.starts_t - desk.now:.0f} s"
    held = sum(desk.holds.held(reservation.id).values())
    total = reservation.gpu_count * reservation.node_count
    return (
        f"reservation {reservation.id} holds {held} of its {total} GPUs, its other tasks' included; not enough is free"
    )


def _shut_ones(desk: Desk) -> str:
    """Those that are left out of the account, so that nobody wonders."""
    shut = [f"{worker.id} is {worker.status}" for worker in desk.state.workers.values() if worker.status != "active"]
    return f" ({', '.join(shut[:3])}{', ...' if len(shut) > 3 else ''})" if shut else ""


def _ahead(desk: Desk, task: Task) -> str:
    """It would fit, and does not start: somebody before it has the right to what is free."""
    planned = desk.placement.planned()
    if planned is None or planned.task is task:
        return "next in line"
    return f"what is free is kept for task {planned.task.id}, which is before it"


def _never(wanted: Resources, worker: Worker) -> str:
    """What `worker` lacks even when it is empty; "" if nothing."""
    capacity = worker.capacity
    slots = capacity.service_slots if wanted.kind == "service" else capacity.batch_slots
    gpus = _usable(wanted, worker, {gpu.index for gpu in capacity.gpus})
    kind = wanted.gpu_type or "any type"
    for need, has, unit in (
        (wanted.gpu, gpus, f"GPUs of {kind}"),
        (wanted.cpu, capacity.cpu, "cores"),
        (wanted.memory_gb, capacity.memory_gb, "GB of memory"),
        (1, slots, f"{wanted.kind} slots"),
    ):
        if need > has:
            return f"asks for {need} {unit}, worker {worker.id} has {has}"
    return ""


def _not_now(desk: Desk, wanted: Resources, worker: Worker) -> str:
    """What `worker`, large enough, has too little of at the moment; "" if nothing."""
    open_gpus = worker.gpus_free - desk.holds.idle_gpus(worker.id)
    slots = worker.service_free if wanted.kind == "service" else worker.batch_free
    for need, has, unit in (
        (wanted.gpu, _usable(wanted, worker, open_gpus), "GPUs"),
        (wanted.cpu, worker.cpu_free, "cores"),
        (wanted.memory_gb, worker.memory_free_gb, "GB of memory"),
        (1, slots, f"{wanted.kind} slots"),
    ):
        if need > has:
            return f"needs {need} {unit}, worker {worker.id} has {max(has, 0)} free"
    return ""


def _usable(wanted: Resources, worker: Worker, indices: set[int]) -> int:
    """The most GPUs of one wanted type among `indices` of `worker`."""
    types = set(filter(None, wanted.gpu_type.split("|")))
    counts: dict[str, int] = {}
    for gpu in worker.capacity.gpus:
        if gpu.index in indices and (not types or gpu.type in types):
            counts[gpu.type] = counts.get(gpu.type, 0) + 1
    return max(counts.values(), default=0)
