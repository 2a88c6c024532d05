"""What must hold after every event. Asserted in tests and in the simulator; too slow for a live scheduler."""

from collections.abc import Collection

from fetchmld.core.desk import Desk
from fetchmld.core.lifecycle import STARTED
from fetchmld.core.model import Array, Tally, Task, TaskId, Worker
from fetchmld.core.plan import make_plan
from fetchmld.core.state import weigh
from fetchmld.core.waiting import Waiting


def check(desk: Desk, waiting: Waiting, about: Collection[str] | None = None) -> None:
    """Assert every invariant of the state; where `about` names tasks and workers, those of them and those of the whole."""
    state = desk.state
    for worker in state.workers.values():
        if about is None or worker.id in about:
            _check_worker(desk, worker)
        if state.reservations:
            _check_holds(desk, worker)
    for task_id in state.tasks if about is None else about:
        task = state.tasks.get(TaskId(task_id))
        if task is not None:
            _check_task(desk, task)
    for task in state.tasks.values():
        if task.array is not None:
            _check_array(desk, waiting, task, task.array)
    tally = Tally()
    for task in state.tasks.values():
        weigh(tally, task, +1)
    assert tally == state.tally, f"the tally is {state.tally}, and the tasks are {tally}"
    if not desk.due:
        desk.lines.check()
    _check_queue(desk, waiting)
    _check_plans(desk)
    if about is None:
        desk.placement.outlook.check(desk.now)


def _check_queue(desk: Desk, waiting: Waiting) -> None:
    """Who is queued is in the ready queue, or held, or waits for others, or is about to be told."""
    queued = [task for task in desk.state.tasks.values() if task.status == "queued"]
    held, due = waiting.held | waiting.staging.waits.keys(), set(desk.due)
    plain = [task for task in queued if task.array is None and not task.array_id]
    ready = sum(not (t.waits_for or t.doomed or t.id in held or t.id in due) for t in plain)
    assert len(desk.placement) == ready + desk.lines.standing_count(), "the queue is not the state"
    assert held <= {task.id for task in queued}, f"{held} are held, and not all of them are queued"


def _check_array(desk: Desk, waiting: Waiting, task: Task, array: Array) -> None:
    """The counts are those of its elements, and no more of them run than may."""
    elements = desk.state.elements(task)
    running = sum(element.status in STARTED for element in elements)
    assert array.running == running <= array.max_parallel, f"array {task.id}: {running} run, {array}"
    waits = len(elements) - running + (0 if array.closed else array.unnamed)
    assert array.queued == waits, f"array {task.id}: {waits} wait, {array}"
    assert all(array.is_named(index) for index in array.live), f"array {task.id}: a live element has no name"
    assert (task.status == "queued") <= (running == 0), f"array {task.id} is queued and runs"
    if task.id in desk.due or task.doomed:
        return
    assert array.ended < array.size, f"array {task.id} is over and lives"
    in_line = not task.waits_for and task.id not in waiting.staging.waits
    ready = {e.id for e in elements if e.status == "queued" and e.id not in waiting.held and in_line}
    missing = [each for each in elements if each.id in ready - set(desk.due) and not desk.lines.has(each)]
    assert not missing, f"array {task.id}: {missing} are in no line"


def _check_plans(desk: Desk) -> None:
    """Whoever is planned first does not fit now: no startable task waits."""
    standing = desk.placement.standing()
    for planned in standing[:1]:
        wanted = planned.task.resources
        plan = make_plan(wanted, desk.placement.candidates(planned.task, wanted, desk.now))
        assert plan is None or plan.at > 0.0, f"task {planned.task.id} fits on {plan} and waits"
    ranks = [planned.rank for planned in standing]
    assert ranks == sorted(ranks), f"plans out of order: {ranks}"
    assert len(standing) <= desk.policy.plans_max, f"{len(standing)} plans of {desk.policy.plans_max}"


def _check_task(desk: Desk, task: Task) -> None:
    assert task.id not in desk.state.recent, f"task {task.id} is live and ended"
    if task.array is not None:
        return
    assert (task.status in STARTED) == bool(task.assignments), f"task {task.id}: {task.status}, {task.assignments}"
    assert task.attempt >= (task.status in STARTED), f"task {task.id} runs without an attempt number"
    if task.status in STARTED:
        nodes = [node["worker_id"] for node in task.assignments]
        assert len(nodes) == len(set(nodes)) == task.resources.node_count, f"task {task.id}: not all its nodes: {nodes}"
        sizes = {len(node["gpus"]) for node in task.assignments}
        assert sizes == {task.resources.gpu}, f"task {task.id}: {sizes} GPUs per node, not {task.resources.gpu}"
    for needed in task.waits_for:
        assert desk.state.live(needed), f"task {task.id} waits for {needed}, which is over"


def _check_worker(desk: Desk, worker: Worker) -> None:
    tasks = [desk.state.tasks[task_id] for task_id in worker.tasks]
    nodes = [(task, node) for task in tasks for node in task.assignments if node["worker_id"] == worker.id]
    indices = [index for _, node in nodes for index in node["gpus"]]
    assert len(indices) == len(set(indices)), f"worker {worker.id}: a GPU is held twice: {sorted(indices)}"
    assert not worker.gpus_free & set(indices), f"worker {worker.id}: a held GPU counts as free"
    failed = {gpu.index for gpu in worker.capacity.gpus if gpu.uuid in worker.quarantined}
    assert not worker.gpus_free & failed, f"worker {worker.id}: a GPU in quarantine counts as free"
    assert worker.gpus_free == {gpu.index for gpu in worker.usable.gpus} - set(indices), f"worker {worker.id}: its GPUs"
    cpu = sum(task.resources.cpu for task, _ in nodes)
    assert worker.cpu_free + cpu == worker.capacity.cpu, f"worker {worker.id}: cores do not add up"
    batch = sum(task.resources.kind == "batch" for task, _ in nodes)
    assert worker.batch_free + batch == worker.capacity.batch_slots, f"worker {worker.id}: slots do not add up"


def _check_holds(desk: Desk, worker: Worker) -> None:
    """Reserved + running <= capacity, for each GPU."""
    seen: set[int] = set()
    for reservation, target in desk.holds.of(worker.id):
        assert not seen & target.idle, f"worker {worker.id}: a GPU is reserved twice"
        seen |= target.idle
        used = desk.holds.used(reservation, worker).gpus[""]
        assert len(target.idle) + used <= max(reservation.gpu_count, used), f"{reservation.id} holds too much"
        assert reservation.status != "expired", f"{reservation.id} is over and holds {target.idle} on {worker.id}"
    if desk.placement.is_open(worker.id):
        assert seen <= worker.gpus_free, f"worker {worker.id}: reserved GPUs {seen} are not free"
