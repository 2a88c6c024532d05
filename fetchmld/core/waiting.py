"""Who of the queued tasks is eligible: dependencies, back-off, reservations that are over.

A queued task is in exactly one of three places: the ready queue, `held` (until a time), or waiting for others to end.
"""

from fetchmld.core.desk import Desk
from fetchmld.core.errors import Invalid
from fetchmld.core.messages import TaskSubmitted
from fetchmld.core.model import Condition, Reservation, Task, TaskId, TaskRequest, TaskStatus
from fetchmld.core.state import meets, unmet


class Waiting:
    """The door to the ready queue."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.held: set[TaskId] = set()

    def admit(self, task: Task, at_us: int) -> None:
        """Put a queued task where it belongs, or end it if it can never start."""
        if task.doomed:
            self.give_up(task, "DEPENDENCY_FAILED", task.doomed, at_us)
        elif over := self._reservation_over(task):
            self.give_up(task, "RESERVATION_EXPIRED", over, at_us)
        elif task.waits_for:
            pass  # its end is announced by `due`
        elif task.hold_until_t > self._desk.now:
            self.held.add(task.id)
        elif not self._desk.placement.has(task):  # several ends of one event may make it due more than once
            self._desk.placement.push(task)

    def restore(self, task: Task) -> None:
        """The same after a replay, which must not decide anything: what has to end becomes due."""
        if task.doomed or self._reservation_over(task):
            self._desk.due.append(task.id)
        else:
            self.admit(task, 0)

    def leave(self, task: Task) -> None:
        """The task is queued no longer."""
        self._desk.placement.remove(task)
        self.held.discard(task.id)

    def give_up(self, task: Task, word: str, detail: str, at_us: int) -> None:
        """End a task that waits."""
        self.leave(task)
        self._desk.finish(task, "task.failed", f"{word}: {detail}", {}, at_us)

    def settle(self, at_us: int) -> None:
        """Admit or end whoever became due, and whoever becomes due by that."""
        due = self._desk.due
        while due:
            task = self._desk.state.tasks.get(due.popleft())
            if task is not None and task.status == "queued" and (task.doomed or not task.waits_for):
                self.admit(task, at_us)

    def wake(self) -> None:
        """Admit those whose time of holding is over."""
        tasks = self._desk.state.tasks
        for task_id in sorted(t for t in self.held if tasks[t].hold_until_t <= self._desk.now):
            self.held.discard(task_id)
            self._desk.due.append(task_id)

    def _reservation_over(self, task: Task) -> str:
        """Why its reservation cannot serve it any more; "" if it can or there is none."""
        reservation_id = task.request.get("reservation_id")
        if reservation_id is None:
            return ""
        reservation = self._desk.state.reservations.get(reservation_id)
        return over(reservation_id, reservation) if reservation is None or reservation.status == "expired" else ""

    # -- what a request names

    def dependencies(self, event: TaskSubmitted) -> tuple[dict[TaskId, Condition], str]:
        """Which live tasks the new one waits for, and why it can never start, if so. Raises Invalid for unknown ones."""
        waits_for: dict[TaskId, Condition] = {}
        doomed = ""
        for needed in event.request.get("depends_on", []):
            task_id, condition = TaskId(needed["task_id"]), needed["condition"]
            status = self._status(task_id, event)
            if status not in ("completed", "failed"):
                waits_for[task_id] = condition
            elif not meets(status, condition):
                doomed = doomed or unmet(task_id, status, condition)
        return waits_for, doomed

    def _status(self, task_id: TaskId, event: TaskSubmitted) -> TaskStatus:
        if task_id == event.task_id:
            raise Invalid(f"depends_on: task {task_id} cannot depend on itself")
        task = self._desk.state.task(task_id)
        status = task.status if task is not None else event.known_ended.get(task_id)
        if status is None:
            raise Invalid(f"depends_on: there is no task {task_id!r}; submit the task it depends on first")
        return status

    def check_reservation(self, event: TaskSubmitted) -> None:
        """Raises Invalid where the request names a reservation that cannot serve it."""
        reservation_id = event.request.get("reservation_id")
        if reservation_id is None:
            return
        reservation = self._desk.state.reservations.get(reservation_id)
        if reservation is None or reservation.user_id != event.user_id:
            raise Invalid(f"reservation_id: there is no reservation {reservation_id!r} of yours")
        if reservation.status == "expired":
            raise Invalid(f"reservation_id: {over(reservation_id, reservation)}")
        if problem := _too_large(event.request, reservation):
            raise Invalid(f"reservation_id: {problem}")


def over(reservation_id: str, reservation: Reservation | None) -> str:
    """In words: the reservation has ended."""
    if reservation is not None and reservation.released_by:
        return f"reservation {reservation_id} was given back by {reservation.released_by}"
    return f"reservation {reservation_id} is over"


def _too_large(request: TaskRequest, reservation: Reservation) -> str:
    kept = f"reservation {reservation.id} keeps"
    wanted, kinds = gpu_types_of(request.get("gpu_type", "")), gpu_types_of(reservation.gpu_type)
    if request.get("kind", "batch") != "batch":
        return "a reservation is for batch tasks"
    if request.get("gpu", 0) > reservation.gpu_count:
        return f"{kept} {reservation.gpu_count} GPUs per node, not {request['gpu']}"
    if request.get("node_count", 1) > reservation.node_count:
        return f"{kept} {reservation.node_count} nodes, not {request['node_count']}"
    if request.get("gpu", 0) and wanted and kinds and not wanted & kinds:
        return f"{kept} GPUs of type {reservation.gpu_type}, not {request['gpu_type']}"
    return ""


def gpu_types_of(text: str) -> frozenset[str]:
    """`A|B` as a set; empty for any type."""
    return frozenset(filter(None, text.split("|")))
