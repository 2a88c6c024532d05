"""Who of the queued tasks is eligible: dependencies, back-off, reservations that are over, datasets that are not there.

A queued task is in exactly one of four places: the ready queue, `held` (until a time), waiting for others to end, or
waiting for its datasets (`staging`).
An array's elements come to the ready queue through `lines`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from fetchmld.core import arrays
from fetchmld.core.desk import Desk
from fetchmld.core.errors import Invalid
from fetchmld.core.messages import Fact, TaskSubmitted
from fetchmld.core.model import Condition, Reservation, Task, TaskId, TaskRequest, TaskStatus
from fetchmld.core.staging import Staging
from fetchmld.core.state import meets, unmet


class Waiting:
    """The door to the ready queue."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.held: set[TaskId] = set()
        self.staging = Staging(desk)

    def admit(self, task: Task, at_us: int) -> None:
        """Put a queued task where it belongs, or end it if it can never start."""
        if task.doomed:
            self.give_up(task, "DEPENDENCY_FAILED", task.doomed, at_us)
        elif over := self._reservation_over(task):
            self.give_up(task, "RESERVATION_EXPIRED", over, at_us)
        elif self._parent(task).waits_for:
            pass  # its end is announced by `due`
        elif task.hold_until_t > self._desk.now:
            self.held.add(task.id)
        elif not self.staging.must_wait(task):
            self._enter(task)

    def _enter(self, task: Task) -> None:
        """To the ready queue."""
        if task.array is not None:
            self._line_up(task)
        elif task.array_id:
            self._join(task)
        elif not self._desk.placement.has(task):  # several ends of one event may make it due more than once
            self._desk.placement.push(task)

    def restore(self, task: Task) -> None:
        """The same after a replay, which must not decide anything: what has to end becomes due."""
        halfway = task.array is not None and (task.cancel_by or task.array.ended == task.array.size)
        if task.doomed or halfway or self._reservation_over(task):
            self._desk.due.append(task.id)
        elif self._parent(task).waits_for or task.hold_until_t > self._desk.now:
            self.admit(task, 0)
        else:
            self._enter(task)

    def leave(self, task: Task) -> None:
        """The task is queued no longer."""
        self.held.discard(task.id)
        self._desk.unstage(task.id)
        if task.array is not None:
            self._desk.lines.shut(task)
        elif task.array_id:
            self._desk.lines.leave(task)
        else:
            self._desk.placement.remove(task)

    def give_up(self, task: Task, word: str, detail: str, at_us: int) -> None:
        """End a task that waits, or those elements of an array that do."""
        error = f"{word}: {detail}"
        if task.array is None:
            self.leave(task)
            self._desk.finish(task, "task.failed", error, {}, at_us)
        elif task.array.closed:
            self._end_closed(task, at_us)
        else:
            closing = Fact("job_completed", "task.array_closed", task.id, task.user_id, False, error=error, at_us=at_us)
            self.close(task, closing)

    # -- arrays

    def _parent(self, task: Task) -> Task:
        """Its array, if it is an element; else itself."""
        return self._desk.state.tasks[task.array_id] if task.array_id else task

    def _line_up(self, parent: Task) -> None:
        if not self._desk.lines.is_open(parent.id):
            self._desk.lines.open(parent)
            for element in self._desk.state.elements(parent):
                if element.status == "queued":
                    self._join(element)
        self._desk.lines.settle(parent)

    def _join(self, element: Task) -> None:
        """Where the array is not open yet, the element joins when it is."""
        lines = self._desk.lines
        if lines.is_open(element.array_id) and not lines.has(element) and element.hold_until_t <= self._desk.now:
            lines.join(element)
            lines.settle(self._parent(element))

    @contextmanager
    def moving(self, task: Task) -> Iterator[None]:
        """The task's place in the order changes meanwhile."""
        ready = self._desk.lines.is_open(task.id) if task.array is not None else task.status == "queued"
        ready = ready and task.id not in self.staging.waits
        if ready:
            self.leave(task)
        yield
        if ready:
            self.admit(self._desk.state.tasks[task.id], 0)

    def close(self, parent: Task, fact: Fact) -> None:
        """Put on record by `fact` that those of the array that wait never start, and end them."""
        self._desk.record_close(fact)
        self._desk.changed(parent.id)
        self._end_closed(parent, fact.at_us)

    def _end_closed(self, parent: Task, at_us: int) -> None:
        """One fact for each element that waits and was named; the others have ended by the array's."""
        self.leave(parent)
        array = arrays.array_of(parent)
        action = "task.cancelled" if parent.cancel_by else "task.failed"
        error = arrays.cancelled_by(parent.cancel_by) if parent.cancel_by else array.closed
        for element in self._desk.state.elements(parent):
            if element.status == "queued":
                self.held.discard(element.id)
                self._desk.finish(element, action, error, {}, at_us)
        if array.ended == array.size and parent.id in self._desk.state.tasks:
            self._desk.end_array(parent, at_us)

    def settle(self, at_us: int) -> None:
        """Admit or end whoever became due, and whoever becomes due by that."""
        due = self._desk.due
        while due:
            task = self._desk.state.tasks.get(due.popleft())
            if task is None or (task.array is None and task.status != "queued"):
                continue
            if task.array is not None and (task.cancel_by or task.array.ended == task.array.size):
                self._end_closed(task, at_us)
            elif task.doomed or not task.waits_for:
                self.admit(task, at_us)

    def wake(self) -> None:
        """Admit those whose time of holding is over."""
        tasks = self._desk.state.tasks
        for task_id in sorted(t for t in self.held if tasks[t].hold_until_t <= self._desk.now):
            self.held.discard(task_id)
            self._desk.due.append(task_id)
        self.staged(self.staging.overdue())

    def staged(self, task_ids: list[TaskId]) -> None:
        """These need not wait for their datasets any more."""
        for task_id in task_ids:
            task = self._desk.state.tasks.get(task_id)
            if task is not None:
                self._enter(task)
                self._desk.changed(task_id)

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
