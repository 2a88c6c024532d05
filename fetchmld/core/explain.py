"""Why a task waits, who holds what it lacks, and when it starts: from the code and the state that decide."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Final

from fetchmld.core.arrays import array_of
from fetchmld.core.arrays import element as element_of
from fetchmld.core.capacity import ends_by
from fetchmld.core.desk import Desk
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import Array, Explanation, Holder, PlannedStart, Resources, Task, Worker
from fetchmld.core.placement import latest_end
from fetchmld.core.plan import fitting_type
from fetchmld.core.reservations import free_of, suits

HOLDERS_SHOWN_MAX: Final = 20
EXAMINED_MAX: Final = 64  # workers, of those that are large enough, whose free capacity a short answer looks at
PRIORITY_MAX: Final = 10
GPUS: Final = "GPUs"


def wait_reason(desk: Desk, task: Task) -> str:
    """The binding constraint of a queued task, or of an array of which some wait; "" for any other."""
    if task.array is not None:
        return _array_reason(desk, task, task.array)
    if task.status != "queued":
        return ""
    if reason := _held(desk, task):
        return reason
    wanted = task.resources
    workers = [worker for worker in desk.state.workers.values() if worker.status == "active"]
    if not workers:
        return "no worker is connected" + _shut_ones(desk)
    able, away = _able(desk, wanted, workers), desk.placement.away(task)
    if len(able) < wanted.node_count:
        return why_never(wanted, workers, able) + _shut_ones(desk)
    able = [worker for worker in able if worker.id != away]
    examined = able[:EXAMINED_MAX] if wanted.node_count == 1 else able
    until_t = latest_end(task.request, desk.now, desk.policy.grace_s)
    missing = [_not_now(desk, wanted, worker, until_t) for worker in examined]
    ready = missing.count("")
    if ready < wanted.node_count:
        kept = f"it was lost with worker {away}, and tries others first"
        least = min((text for text in missing if text), key=len, default=kept)
        return least if wanted.node_count == 1 else f"needs {wanted.node_count} nodes, {ready} have room; {least}"
    return _ahead(desk, task)


def _array_reason(desk: Desk, task: Task, array: Array) -> str:
    """How many of the array wait for others of it to end, and why the first that does not is not running."""
    if task.status in ENDED or not array.queued:
        return ""
    room = array.max_parallel - array.running
    waits, kept = f"{array.queued} elements wait", max(0, array.queued - room)
    if kept:
        waits += f", {kept} of them for others to end: {array.running} run, and max_parallel is {array.max_parallel}"
    following = desk.lines.standing(task) or _first_waiting(desk, task)
    return f"{waits}; the next: {wait_reason(desk, following)}" if room and following is not None else waits


def _first_waiting(desk: Desk, parent: Task) -> Task | None:
    """Of an array that is held as a whole."""
    array = array_of(parent)
    waiting = (element for element in desk.state.elements(parent) if element.status == "queued")
    return next(waiting, None) if array.closed or not array.unnamed else element_of(parent, array.first)


def _able(desk: Desk, wanted: Resources, workers: list[Worker]) -> list[Worker]:
    """Those that are large enough; found once for all tasks that are asked about between two events."""
    found = desk.able.get(wanted)
    if found is None:
        found = desk.able[wanted] = [worker for worker in workers if not _never(wanted, worker)]
    return found


def is_able(wanted: Resources, worker: Worker) -> bool:
    """Whether the worker, were it empty, has what is asked for on one node."""
    return not _never(wanted, worker)


def why_never(wanted: Resources, workers: list[Worker], able: list[Worker] | None = None) -> str:
    """Why too few of these workers could hold the request, were they empty; "" if enough could. Names the largest."""
    able = [worker for worker in workers if not _never(wanted, worker)] if able is None else able
    if len(able) >= wanted.node_count:
        return ""
    if able:
        return f"asks for {wanted.node_count} nodes at once, {len(able)} of the workers are large enough"
    largest = max(workers, key=lambda worker: _largeness(wanted, worker))
    return f"no worker is large enough: {_never(wanted, largest)}"


def _largeness(wanted: Resources, worker: Worker) -> tuple[int, int]:
    """How far into what is asked for the worker has enough, and how much it has of what it first lacks."""
    needs = _all_of(wanted, worker)
    return next(((index, has) for index, (need, has, _) in enumerate(needs) if need > has), (len(needs), 0))


def _held(desk: Desk, task: Task) -> str:
    """Why the task is not even in line; "" if it is."""
    parent = desk.state.tasks[task.array_id] if task.array_id else task
    if parent.waits_for:
        return "waits for " + ", ".join(f"task {name} ({condition})" for name, condition in parent.waits_for.items())
    if task.hold_until_t > desk.now:
        return f"held for {task.hold_until_t - desk.now:.0f} s before the next attempt"
    if parent.array is not None and parent.array.running >= parent.array.max_parallel:
        return f"{parent.array.running} elements of its array run, and max_parallel is {parent.array.max_parallel}"
    if parent.id in desk.staging:
        return desk.staging[parent.id].said
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
    ahead = desk.placement.ahead_of(task)
    if not ahead:
        return "next in line"
    names = ", ".join(planned.task.id for planned in ahead)
    if ahead[0].everything:
        return f"task {names} is before it and cannot start yet; nobody may pass (backfill is off)"
    which = f"task {names}, which is" if len(ahead) == 1 else f"tasks {names}, which are"
    return f"what is free is kept for {which} before it"


def _never(wanted: Resources, worker: Worker) -> str:
    """What `worker` lacks even when it is empty and well; "" if nothing."""
    for need, has, unit in _all_of(wanted, worker):
        if need > has:
            return f"asks for {need} {unit}, worker {worker.id} has {has}"
    return ""


def _all_of(wanted: Resources, worker: Worker) -> list[tuple[int, int, str]]:
    """What one node asks for of each thing, and how much the empty worker has."""
    capacity = worker.capacity
    slots = capacity.service_slots if wanted.kind == "service" else capacity.batch_slots
    totals = Counter(gpu.type for gpu in capacity.gpus) if worker.quarantined else worker.gpu_totals
    gpus = max((n for kind, n in totals.items() if suits(wanted.gpu_type, kind)), default=0)
    return [
        (wanted.gpu, gpus, f"GPUs of {wanted.gpu_type or 'any type'}"),
        (wanted.cpu, capacity.cpu, "cores"),
        (wanted.memory_gb, capacity.memory_gb, "GB of memory"),
        (1, slots, f"{wanted.kind} slots"),
    ]


def _not_now(desk: Desk, wanted: Resources, worker: Worker, until_t: float) -> str:
    """What `worker`, large enough, has too little of at the moment for somebody who is over by then; "" if nothing.

    What reservations keep is not free.
    """
    for unit, need, has in _needs(desk, wanted, worker, until_t):
        if need > has:
            ill = f", {len(worker.quarantined)} in quarantine" if unit == GPUS and worker.quarantined else ""
            return f"needs {need} {unit}, worker {worker.id} has {max(has, 0)} free{ill}"
    return ""


def _needs(desk: Desk, wanted: Resources, worker: Worker, until_t: float) -> Iterator[tuple[str, int, int]]:
    """What one node needs of each thing, and how much is free there for somebody who is over by then."""
    free = free_of(worker)
    if desk.state.reservations:
        free = desk.placement.leads.cut(desk.holds.split(worker)[0], worker, until_t, desk.now)
    gpus = max((n for kind, n in free.gpus.items() if suits(wanted.gpu_type, kind)), default=0)
    yield GPUS, wanted.gpu, gpus
    yield "cores", wanted.cpu, free.cpu
    yield "GB of memory", wanted.memory_gb, free.memory_gb
    yield f"{wanted.kind} slots", 1, free.slots(wanted.kind)


# ---- the long answer ----------------------------------------------------------------------------------------------


def explain(desk: Desk, task: Task, at_us: int) -> Explanation:
    """All that there is to say about a task that waits. `at_us` is the wall time now, to show logical times by.

    What is said of an array is its reason, and for the rest what holds for the next of its elements.
    """
    if task.array is not None:
        return _explain_array(desk, task, at_us)
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
        out["position"] = position + desk.lines.unseen_before(task)
        bound_t = task.submit_t + (PRIORITY_MAX - task.priority) * desk.policy.ageing_tau_s
        out["no_later_arrival_passes_after"] = bound_t + offset
        _add_binding(out, desk, task, offset)
        _add_plan(out, desk, task, offset)
        if smaller := smaller_request(desk, task):
            out["smaller_request"] = smaller
    return out


def _explain_array(desk: Desk, parent: Task, at_us: int) -> Explanation:
    out = Explanation(
        task_id=parent.id,
        status=parent.status,
        priority=parent.priority,
        priority_aged=desk.aged(parent),
        reason=wait_reason(desk, parent) or f"it is {parent.status}",
        estimate="no estimate" if array_of(parent).queued else "",
    )
    following = desk.lines.standing(parent)
    if following is not None:
        said = explain(desk, following, at_us)
        out = Explanation(**{**said, **out, "estimate": said["estimate"]})
    return out


def _add_binding(out: Explanation, desk: Desk, task: Task, offset: float) -> None:
    """The worker that lacks least, and who has it."""
    wanted, away = task.resources, desk.placement.away(task)
    workers = [w for w in desk.state.workers.values() if w.status == "active" and w.id != away]
    until_t = latest_end(task.request, desk.now, desk.policy.grace_s)
    lacking = [w for w in workers if not _never(wanted, w) and _not_now(desk, wanted, w, until_t)]
    if not lacking:
        return
    nearest = min(lacking, key=lambda worker: len(_not_now(desk, wanted, worker, until_t)))
    missing = {unit for unit, need, has in _needs(desk, wanted, nearest, until_t) if need > has}
    out["worker_id"] = nearest.id
    out["held_by"] = list(_holders(desk, missing, nearest, offset))[:HOLDERS_SHOWN_MAX]


def _holders(desk: Desk, missing: set[str], worker: Worker, offset: float) -> Iterator[Holder]:
    """Who has some of what is missing there, those that will be over first first."""
    running = [desk.state.tasks[task_id] for task_id in worker.tasks]
    ends = sorted((ends_by(task, desk.now, desk.policy.grace_s), task.id, task) for task in running)
    for until, _, task in ends:
        if missing == {GPUS} and not task.resources.gpu:
            continue
        holder = Holder(kind="task", id=task.id, user_id=task.user_id)
        if until < inf:
            holder["until"] = max(until, desk.now) + offset
        yield holder
    for reservation, _ in desk.holds.of(worker.id):
        until = reservation.expires_t + offset
        yield Holder(kind="reservation", id=reservation.id, user_id=reservation.user_id, until=until)


def _add_plan(out: Explanation, desk: Desk, task: Task, offset: float) -> None:
    planned = next((each for each in desk.placement.planned(desk.now) if each.task.id == task.id), None)
    if planned is None:
        return
    ahead = ", ".join(each.task.id for each in desk.placement.ahead_of(task))
    start = PlannedStart(workers=sorted(planned.plan.types), basis="")
    if planned.plan.at < inf:
        start["at"] = planned.plan.at + offset
        start["basis"] = "the declared time limits of what runs there, and the ends of reservations"
        out["estimate"] = f"in {max(0.0, planned.plan.at - desk.now):.0f} s at the latest"
    else:
        start["basis"] = "too little of what runs there has a time limit; what comes free is gathered for it"
        out["estimate"] = "no estimate: " + start["basis"]
    if coming := _coming(desk, planned.plan.at):
        start["basis"] += f"; {coming}, as it gathers from then on"
    if ahead:
        start["basis"] += f"; the plans for {ahead} come first and may still change"
        out["estimate"] = out["estimate"].replace(" at the latest", f" if the plans for {ahead} stay as they are")
    out["planned"] = start


def _coming(desk: Desk, until_t: float) -> str:
    """Which reservations will begin to gather before that; "" if none."""
    lead_s = desk.policy.reservation_lead_s
    live = (r for r in desk.state.reservations.values() if r.status != "expired")
    found = [(r.starts_t - lead_s, r.id) for r in live if desk.now < r.starts_t - lead_s < until_t]
    return ", ".join(f"reservation {name} may move it in {at - desk.now:.0f} s" for at, name in sorted(found)[:3])


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
    """Whether enough workers have room, beside the plans of those who are before it."""
    nodes, ahead = desk.placement.candidates(task, wanted, desk.now), desk.placement.ahead_of(task)
    rooms = (desk.placement.room(node, ahead, desk.now) for node in nodes)
    fitting = (room is not None and fitting_type(wanted, room) is not None for room in rooms)
    return sum(fitting) >= wanted.node_count


def _shorter(desk: Desk, task: Task) -> dict[str, int]:
    """It fits but for the plans before it: a time limit with which it ends before them."""
    wanted, ahead = task.resources, desk.placement.ahead_of(task)
    nodes = desk.placement.candidates(task, wanted, desk.now)
    free = (desk.holds.split(desk.state.workers[node.worker_id])[0] for node in nodes)
    room = sum(fitting_type(wanted, each) is not None for each in free)
    earliest = min((each.plan.at for each in ahead), default=inf)
    earliest = min(earliest, desk.placement.leads.first_start())
    if room < wanted.node_count or earliest == inf or any(each.everything for each in ahead):
        return {}
    left_s = earliest - desk.now
    if left_s < 1:
        return {}
    limit_s = (1 << int(left_s).bit_length() - 1) - int(desk.policy.grace_s + 1)  # the queue compares powers of two
    return {"time_limit_s": limit_s} if limit_s >= 1 else {}
