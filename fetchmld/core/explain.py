"""Why a task waits, who holds what it lacks, and when it starts: from the code and the state that decide."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Final

from fetchmld.core.capacity import ends_by
from fetchmld.core.desk import Desk
from fetchmld.core.model import Explanation, Holder, PlannedStart, Resources, Task, Worker
from fetchmld.core.plan import Node, fitting_type, spare
from fetchmld.core.reservations import suits

HOLDERS_SHOWN_MAX: Final = 20
EXAMINED_MAX: Final = 64  # workers, of those that are large enough, whose free capacity a short answer looks at
PRIORITY_MAX: Final = 10


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
    able = _able(desk, wanted, workers)
    if not able:
        return f"no worker is large enough: {_never(wanted, max(workers, key=_size))}" + _shut_ones(desk)
    if len(able) < wanted.node_count:
        return f"asks for {wanted.node_count} nodes at once, {len(able)} of the workers are large enough" + _shut_ones(
            desk
        )
    examined = able[:EXAMINED_MAX] if wanted.node_count == 1 else able
    missing = [_not_now(desk, wanted, worker) for worker in examined]
    ready = missing.count("")
    if ready < wanted.node_count:
        least = min((text for text in missing if text), key=len)
        return least if wanted.node_count == 1 else f"needs {wanted.node_count} nodes, {ready} have room; {least}"
    return _ahead(desk, task)


def _able(desk: Desk, wanted: Resources, workers: list[Worker]) -> list[Worker]:
    """Those that are large enough; found once for all tasks that are asked about between two events."""
    found = desk.able.get(wanted)
    if found is None:
        found = desk.able[wanted] = [worker for worker in workers if not _never(wanted, worker)]
    return found


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
    gpus = max((n for kind, n in worker.gpu_totals.items() if suits(wanted.gpu_type, kind)), default=0)
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


# ---- the long answer ----------------------------------------------------------------------------------------------


def explain(desk: Desk, task: Task, at_us: int) -> Explanation:
    """All that there is to say about a task that waits. `at_us` is the wall time now, to show logical times by."""
    offset = at_us / 1e6 - desk.now
    out = Explanation(
        task_id=task.id,
        status=task.status,
        priority=task.priority,
        priority_aged=desk.aged(task),
        reason=wait_reason(desk, task) or f"it is {task.status}",
        estimate="",
    )
    if task.status != "queued":
        return out
    out["estimate"] = "no estimate"
    position = desk.placement.position(task)
    if position >= 0:
        out["position"] = position
        bound_t = task.submit_t + (PRIORITY_MAX - task.priority) * desk.policy.ageing_tau_s
        out["no_later_arrival_passes_after"] = bound_t + offset
        _add_binding(out, desk, task, offset)
        _add_plan(out, desk, task, offset)
        if smaller := smaller_request(desk, task):
            out["smaller_request"] = smaller
    return out


def _add_binding(out: Explanation, desk: Desk, task: Task, offset: float) -> None:
    """The worker that lacks least, and who has it."""
    able = [w for w in desk.state.workers.values() if w.status == "active" and not _never(task.resources, w)]
    lacking = [worker for worker in able if _not_now(desk, task.resources, worker)]
    if not lacking:
        return
    nearest = min(lacking, key=lambda worker: len(_not_now(desk, task.resources, worker)))
    out["worker_id"] = nearest.id
    out["held_by"] = list(_holders(desk, nearest, offset))[:HOLDERS_SHOWN_MAX]


def _holders(desk: Desk, worker: Worker, offset: float) -> Iterator[Holder]:
    running = [desk.state.tasks[task_id] for task_id in worker.tasks]
    ends = sorted((ends_by(task, desk.now, desk.policy.grace_s), task.id, task) for task in running)
    for until, _, task in ends:
        holder = Holder(kind="task", id=task.id, user_id=task.user_id)
        if until < inf:
            holder["until"] = until + offset
        yield holder
    for reservation, _ in desk.holds.of(worker.id):
        until = reservation.expires_t + offset
        yield Holder(kind="reservation", id=reservation.id, user_id=reservation.user_id, until=until)


def _add_plan(out: Explanation, desk: Desk, task: Task, offset: float) -> None:
    planned = desk.placement.planned()
    if planned is None or planned.task is not task:
        return
    start = PlannedStart(workers=sorted(planned.plan.types), basis="")
    if planned.plan.at < inf:
        start["at"] = planned.plan.at + offset
        start["basis"] = "the declared time limits of what runs there, and the ends of reservations"
        out["estimate"] = f"in {max(0.0, planned.plan.at - desk.now):.0f} s at the latest"
    else:
        start["basis"] = "too little of what runs there has a time limit; what comes free is gathered for it"
        out["estimate"] = "no estimate: " + start["basis"]
    out["planned"] = start


def smaller_request(desk: Desk, task: Task) -> dict[str, int]:
    """The largest part of the request that would start now: the fields to change. {} if nothing would help."""
    wanted = task.resources
    for change in _changes(wanted):
        less = replace(wanted, **change)  # type: ignore[arg-type] # whole numbers, all of them
        if _fits_now(desk, task, less):
            return change
    return _shorter(desk, task)


def _changes(wanted: Resources) -> Iterator[dict[str, int]]:
    for gpu in range(wanted.gpu - 1, 0, -1):
        yield {"gpu": gpu}
    for nodes in range(wanted.node_count - 1, 0, -1):
        yield {"node_count": nodes}
    for name, value in (("cpu", wanted.cpu), ("memory_gb", wanted.memory_gb)):
        left = value // 2
        while left >= 1:
            yield {name: left}
            left //= 2


def _fits_now(desk: Desk, task: Task, wanted: Resources) -> bool:
    """Whether enough workers have room, beside the plan where the task comes after the planned one."""
    nodes = desk.placement.candidates(task, desk.now)
    return sum(_has_room(desk, task, wanted, node) for node in nodes) >= wanted.node_count


def _has_room(desk: Desk, task: Task, wanted: Resources, node: Node) -> bool:
    if fitting_type(wanted, node.free) is None:
        return False
    planned = desk.placement.planned()
    if planned is None or planned.task is task or node.worker_id not in planned.plan.types:
        return True
    return fitting_type(wanted, spare(planned.task.resources, planned.plan, node)) is not None


def _shorter(desk: Desk, task: Task) -> dict[str, int]:
    """It fits but for the plan: a time limit with which it ends before that."""
    planned = desk.placement.planned()
    nodes = desk.placement.candidates(task, desk.now)
    room = sum(fitting_type(task.resources, node.free) is not None for node in nodes)
    if planned is None or planned.task is task or planned.plan.at == inf or room < task.resources.node_count:
        return {}
    left_s = planned.plan.at - desk.now
    if left_s < 1:
        return {}
    limit_s = (1 << int(left_s).bit_length() - 1) - int(desk.policy.grace_s + 1)  # the queue compares powers of two
    return {"time_limit_s": limit_s} if limit_s >= 1 else {}
