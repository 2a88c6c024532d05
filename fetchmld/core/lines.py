"""Who of an array's elements stands in the ready queue: one at a time, the one whose turn it is.

All elements of an array ask for the same, so one can stand for all: when it starts, the next takes its place at the same
key. An element that failed and waits again is behind those that never ran by its own key, and may have to avoid a
worker; so there is one in the queue for each worker to avoid. Where `max_parallel` elements run, none of the array's
stands there. Nothing here is durable; all of it follows from the state.
"""

from bisect import insort
from collections import defaultdict

from fetchmld.core import arrays
from fetchmld.core.model import Task, TaskId
from fetchmld.core.placement import Placement
from fetchmld.core.ready import static_key
from fetchmld.core.state import State

Rank = tuple[float, int]  # the least is first
Row = list[tuple[Rank, TaskId]]  # named elements that are eligible and wait, in order


class Lines:
    """The lines of all arrays in front of one ready queue."""

    def __init__(self, state: State, placement: Placement, ageing_tau_s: float) -> None:
        self._state, self._placement, self._tau_s = state, placement, ageing_tau_s
        self._rows: dict[TaskId, dict[str, Row]] = {}  # of each array that is eligible, by the worker to avoid
        self._standing: dict[TaskId, dict[str, Task]] = {}  # who is in the queue
        self._places: dict[TaskId, tuple[str, Rank]] = {}  # where a named element is in its row

    @property
    def any(self) -> bool:
        """Whether somebody in the queue stands for others."""
        return bool(self._standing)

    def is_open(self, array_id: TaskId) -> bool:
        return array_id in self._rows

    def open(self, parent: Task) -> None:
        """The array is eligible."""
        self._rows.setdefault(parent.id, defaultdict(list))

    def shut(self, parent: Task) -> None:
        """None of its elements is to start any more, or it is to be lined up anew."""
        for row in self._rows.pop(parent.id, {}).values():
            for _, element_id in row:
                del self._places[element_id]
        for task in self._standing.pop(parent.id, {}).values():
            self._placement.remove(task)

    def has(self, element: Task) -> bool:
        return element.id in self._places

    def join(self, element: Task) -> None:
        """A named element of an open array waits for its turn."""
        rank = self._rank(element)
        insort(self._rows[element.array_id][element.avoid], (rank, element.id))
        self._places[element.id] = (element.avoid, rank)

    def leave(self, element: Task) -> None:
        """The element waits no longer: it was started, or ended. `settle` fills its place."""
        avoid, rank = self._places.pop(element.id, ("", (0.0, 0)))
        row = self._rows.get(element.array_id, {}).get(avoid, [])
        if (rank, element.id) in row:
            row.remove((rank, element.id))
        standing = self._standing.get(element.array_id, {})
        if avoid in standing and standing[avoid].id == element.id:
            self._placement.remove(standing.pop(avoid))

    def settle(self, parent: Task) -> None:
        """Let those stand in the queue whose turn it is now."""
        wanted = self._next(parent) if parent.id in self._rows else {}
        standing = self._standing.pop(parent.id, {})
        for avoid, task in list(standing.items()):
            if avoid not in wanted or wanted[avoid].id != task.id:
                self._placement.remove(standing.pop(avoid))
        for avoid, task in wanted.items():
            if avoid not in standing:
                self._placement.push(task)
                standing[avoid] = task
        if standing:
            self._standing[parent.id] = standing

    def _next(self, parent: Task) -> dict[str, Task]:
        array = arrays.array_of(parent)
        if array.running >= array.max_parallel:
            return {}
        wanted = {avoid: self._state.tasks[row[0][1]] for avoid, row in self._rows[parent.id].items() if row}
        if array.unnamed and not array.closed:
            fresh = arrays.element(parent, array.first)
            if "" not in wanted or self._rank(fresh) < self._rank(wanted[""]):
                wanted[""] = fresh
        return wanted

    def _rank(self, task: Task) -> Rank:
        return -static_key(task.priority, task.submit_t, self._tau_s), task.submit_seq

    # -- asked

    def standing(self, parent: Task) -> Task | None:
        """The first of the array's elements in the queue."""
        return min(self._standing.get(parent.id, {}).values(), key=self._rank, default=None)

    def standing_count(self) -> int:
        return sum(map(len, self._standing.values()))

    def unseen_before(self, task: Task) -> int:
        """How many elements that could start now are ahead of the task without being in the queue themselves."""
        mine, count = self._rank(task), 0
        for array_id, standing in self._standing.items():
            ahead = sum(self._rank(each) < mine for each in standing.values())
            if ahead and array_id != task.array_id:
                array = arrays.array_of(self._state.tasks[array_id])
                count += min(array.queued, array.max_parallel - array.running) - ahead
        return count

    def check(self) -> None:
        """Assert that exactly those stand in the queue whose turn it is. For tests."""
        for array_id in self._rows:
            parent = self._state.tasks[array_id]
            ours = {avoid: task.id for avoid, task in self._standing.get(array_id, {}).items()}
            assert ours == {avoid: task.id for avoid, task in self._next(parent).items()}, f"array {array_id}: {ours}"
        assert self._standing.keys() <= self._rows.keys(), "an array that is shut has elements in the queue"
