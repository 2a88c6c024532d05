"""Why a task waits, in plain words, from the state that decides. Planned starts come with plans."""

from fetchmld.core.model import Resources, Task, Worker
from fetchmld.core.state import State


def wait_reason(state: State, task: Task, now: float) -> str:
    """The binding constraint of a queued task; "" for any other. `now` in seconds of logical time."""
    if task.status != "queued":
        return ""
    if task.hold_until_t > now:
        return f"held for {task.hold_until_t - now:.0f} s before the next attempt"
    wanted = task.resources
    if wanted.node_count > 1:
        return f"asks for {wanted.node_count} nodes at once; this version places tasks of one node"
    workers = [worker for worker in state.workers.values() if worker.status == "active"]
    if not workers:
        return "no worker is connected"
    lacks = [_never(wanted, worker) for worker in workers]
    if all(lacks):
        return f"no worker is large enough: {min(filter(None, lacks), key=len)}"
    return min((_not_now(wanted, worker) for worker, lack in zip(workers, lacks, strict=True) if not lack), key=len)


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


def _not_now(wanted: Resources, worker: Worker) -> str:
    """What `worker`, large enough, has too little of at the moment."""
    slots = worker.service_free if wanted.kind == "service" else worker.batch_free
    for need, has, unit in (
        (wanted.gpu, _usable(wanted, worker, worker.gpus_free), "GPUs"),
        (wanted.cpu, worker.cpu_free, "cores"),
        (wanted.memory_gb, worker.memory_free_gb, "GB of memory"),
        (1, slots, f"{wanted.kind} slots"),
    ):
        if need > has:
            return f"needs {need} {unit}, worker {worker.id} has {max(has, 0)} free"
    return "next in line"


def _usable(wanted: Resources, worker: Worker, indices: set[int]) -> int:
    """The most GPUs of one wanted type among `indices` of `worker`."""
    types = set(filter(None, wanted.gpu_type.split("|")))
    counts: dict[str, int] = {}
    for gpu in worker.capacity.gpus:
        if gpu.index in indices and (not types or gpu.type in types):
            counts[gpu.type] = counts.get(gpu.type, 0) + 1
    return max(counts.values(), default=0)
