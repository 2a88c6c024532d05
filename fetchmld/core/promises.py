"""The plans that stand: for which blocked tasks, since when, and what they keep from those behind.

Each plan is made beside the ones ahead of it, so the first promises most: the task that is first of all blocked starts no
later than the first time it was given, as long as workers, reservations and priorities stay as they are. When a plan ahead
changes, those behind it are dropped; the queue will report their tasks again.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from math import inf

from fetchmld.core.model import Task, WorkerId
from fetchmld.core.outlook import Outlook
from fetchmld.core.plan import Amount, Node, Option, Plan, beside, claim, option, plan_of, spare
from fetchmld.core.ready import Hold, Queue

Rank = tuple[float, int]  # (-key, submit number): the order of the queue


@dataclass(slots=True)
class Planned:
    """One plan that stands. `first_at` is the first time promised; inf while others were ahead of it."""

    task: Task
    rank: Rank
    plan: Plan
    first_at: float
    over_by: float  # when the task will have given back what it takes; inf if it may run for ever
    away: str  # a worker that it is not to start on
    everything: bool  # nobody behind it may start anywhere, however soon over
    holds: dict[WorkerId, Hold]
    spent: set[WorkerId] = field(
        default_factory=set
    )  # of these the queue has let others use some: `holds` says too much

    def claims(self, worker_id: WorkerId) -> Iterable[tuple[Amount, float]]:
        """What it will take of this worker, and until when."""
        if worker_id in self.plan.types:
            yield claim(self.task.resources, self.plan.types[worker_id]), self.over_by


class Promises:
    """The standing plans of one queue, in its order. `hold` says an amount on a worker in the queue's numbers."""

    def __init__(
        self, queue: Queue, outlook: Outlook, grace_s: float, hold: Callable[[WorkerId, Amount], Hold]
    ) -> None:
        self._queue, self._outlook, self._grace_s, self._hold = queue, outlook, grace_s, hold
        self._standing: list[Planned] = []
        self._first: tuple[Task, float] | None = None  # who was first of all blocked when last planned, and first_at

    def standing(self) -> list[Planned]:
        """In order. The queue drops what a start fulfilled or made void; so do we, and what was planned behind it."""
        alive = self._queue.planned()
        for index, planned in enumerate(self._standing):
            if planned.task.submit_seq not in alive:
                self._drop_from(index)
                self._first = self._first if index else None
                break
        return self._standing

    def of(self, task: Task) -> Planned | None:
        """The plan of this task, if it has one."""
        return next((planned for planned in self.standing() if planned.task is task), None)

    def room(self, node: Node, ahead: list[Planned], now: float) -> Amount | None:
        """What is free on that worker for somebody who outlives the plans `ahead`, the first ones; None for nothing."""
        room = node.free
        for index, planned in enumerate(ahead):
            if planned.everything:
                return None
            if node.worker_id in planned.plan.types:
                beside_others = self._node(ahead[:index], node.worker_id, now)
                room = room.least(spare(planned.task.resources, planned.plan, beside_others))
        return room

    def forget(self) -> None:
        """What the plans rest on has changed: what was promised is void."""
        self._first = None
        self.redo()

    def redo(self) -> None:
        """Drop the plans, to be made anew; what the first was promised holds."""
        self._standing.clear()
        self._queue.unplan()

    def forget_on(self, worker_id: WorkerId) -> None:
        """The worker is not to be had any more."""
        if any(worker_id in planned.plan.types for planned in self._standing):
            self.forget()

    def note_start(self, worker_ids: Collection[WorkerId]) -> None:
        """Somebody starts there. The queue counts by itself what it spends; what it is told next has to say so too."""
        for planned in self._standing:
            planned.spent.update(worker_id for worker_id in worker_ids if worker_id in planned.plan.types)

    def was_late(self, task: Task, now: float) -> bool:
        """The task starts: whether that is later than it was first promised."""
        first = self._standing[0] if self._standing else None  # as it was before the queue dropped it
        return first is not None and first.task is task and now > first.first_at + 1e-6

    def make(self, task: Task, rank: Rank, now: float, away: str, everything: bool = False) -> bool:
        """Plan the blocked task. False if too few open workers, the one `away` not counted, could ever take it."""
        ahead = [planned for planned in self.standing() if planned.rank < rank]
        plan = self._find(task, ahead, now, away)
        if plan is None:
            return False
        limit_s = task.request.get("time_limit_s")
        over_by = inf if limit_s is None else plan.at + limit_s + self._grace_s
        first_at = inf if ahead else self._first_time(task, plan.at)
        self._drop_from(len(ahead))
        new = Planned(task, rank, plan, first_at, over_by, away, everything, {})
        self._standing.append(new)
        self._tell(new, ahead, plan.types, now)
        return True

    def refresh(self, freed: set[WorkerId], now: float) -> None:
        """Something ended on these workers: there may be more to spare, or a start may be possible earlier."""
        for index, planned in enumerate(self.standing()):
            ahead = self._standing[:index]
            found = self._find(planned.task, ahead, now, planned.away)
            if found is not None and found.at < planned.plan.at:
                self.make(planned.task, planned.rank, now, planned.away, planned.everything)
                return
            if changed := [worker_id for worker_id in planned.plan.types if worker_id in freed]:
                self._tell(planned, ahead, changed, now)

    def _first_time(self, task: Task, at: float) -> float:
        """The task is first of all blocked and would start at `at`: the earliest that it was ever told as such."""
        if self._first is not None and self._first[0] is task:
            at = min(at, self._first[1])
        self._first = (task, at)
        return at

    def _find(self, task: Task, ahead: list[Planned], now: float, away: str) -> Plan | None:
        wanted, count = task.resources, task.resources.node_count
        taken = {worker_id for planned in ahead for worker_id in planned.plan.types}
        options = self._outlook.soonest(wanted, count, now, taken | {WorkerId(away)} if away else taken)
        options += [each for w in taken if w != away and (each := self._beside(task, ahead, w, now)) is not None]
        found = plan_of(sorted(options)[:count], count)
        return None if found is None else Plan(max(found.at, now), found.types)

    def _beside(self, task: Task, ahead: list[Planned], worker_id: WorkerId, now: float) -> Option | None:
        return option(task.resources, self._node(ahead, worker_id, now), self._outlook.number(worker_id))

    def _node(self, ahead: list[Planned], worker_id: WorkerId, now: float) -> Node:
        node = self._outlook.node(worker_id, now)
        return beside(node, (each for planned in ahead for each in planned.claims(worker_id)))

    def _tell(self, planned: Planned, ahead: list[Planned], changed: Iterable[WorkerId], now: float) -> None:
        """Work out what the plan holds on the workers that changed, and tell the queue."""
        task = planned.task
        if planned.everything:
            self._queue.plan(task.submit_seq, inf, [], True)
            return
        told = planned.spent.union(changed)
        for worker_id in filter(told.__contains__, planned.plan.types):  # in the plan's order, whatever the sets' is
            left = spare(task.resources, planned.plan, self._node(ahead, worker_id, now))
            planned.holds[worker_id] = self._hold(worker_id, left)
        planned.spent.clear()
        self._queue.plan(task.submit_seq, planned.plan.at, list(planned.holds.values()))

    def _drop_from(self, index: int) -> None:
        for planned in self._standing[index:]:
            self._queue.unplan(planned.task.submit_seq)
        del self._standing[index:]
