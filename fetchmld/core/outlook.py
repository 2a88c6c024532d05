"""What comes back when, on every worker that may be given work, and where a request fits soonest.

A look at a thousand workers takes milliseconds, and the scheduler asks at almost every end of a task. So what was found is
kept, for each worker and for each request that was asked about, and only what was touched since is looked at again.
`capacity.node_of` and `plan.make_plan` say what the answer is; the invariants compare. Reads the state, never changes it.
"""

import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

from fetchmld.core.capacity import OVERDUE_S, is_large_enough, node_of
from fetchmld.core.model import Resources, Worker, WorkerId
from fetchmld.core.plan import Node, Option, fitting_type, option
from fetchmld.core.reservations import Holds
from fetchmld.core.state import State

KEPT_MAX: Final = (
    100_000  # options in all views together, about 25 MB; then the view that was not used for longest goes
)

GUESS: Final = -1  # GPUs missing, of an option that was not worked out yet: it is no better than it says

_Key = tuple[int, int, int, str, str]


@dataclass(slots=True)
class _View:
    """Where one request fits, and when. The heap also has options that hold no more; `options` says which do."""

    wanted: Resources
    changed: set[WorkerId]  # to be looked at again
    options: dict[WorkerId, Option] = field(default_factory=dict)
    heap: list[Option] = field(default_factory=list)


class Outlook:
    """Of one cluster. Times are logical, in seconds; `now` never goes back."""

    def __init__(self, state: State, holds: Holds, grace_s: float) -> None:
        self._state, self._holds, self._grace_s = state, holds, grace_s
        self._open: dict[WorkerId, tuple[int, Worker]] = {}  # with its number: among equals the oldest comes first
        self._nodes: dict[WorkerId, Node] = {}
        self._stale: list[tuple[float, WorkerId]] = []  # when some task there will have outlived what it declared
        self._views: dict[_Key, _View] = {}  # the one used last is last
        self._watched: dict[WorkerId, bool] = {}  # and whether they were touched

    # -- told by the placement

    def open(self, number: int, worker: Worker) -> None:
        self._open[worker.id] = (number, worker)
        self.touch(worker.id)

    def shut(self, worker_id: WorkerId) -> None:
        self._open.pop(worker_id, None)
        self.touch(worker_id)

    def touch(self, worker_id: WorkerId) -> None:
        """What is free or comes back there is not what it was."""
        self._nodes.pop(worker_id, None)
        for view in self._views.values():
            view.changed.add(worker_id)
        if worker_id in self._watched:
            self._watched[worker_id] = True

    # -- asked

    def watch(self, workers: Collection[WorkerId], now: float) -> set[WorkerId]:
        """Which of these workers were touched since the last time, or are new among them."""
        self._see_overdue(now)
        changed = {worker_id for worker_id in workers if self._watched.get(worker_id, True)}
        self._watched = dict.fromkeys(workers, False)
        return changed

    def has(self, worker_id: WorkerId) -> bool:
        """Whether it is open."""
        return worker_id in self._open

    def nodes(self, wanted: Resources, now: float) -> Iterator[Node]:
        """Every open worker on which one node of the request could ever run."""
        self._see_overdue(now)
        for worker_id, (_, worker) in self._open.items():
            if is_large_enough(wanted, worker):
                yield self._node(worker_id, now)

    def node(self, worker_id: WorkerId, now: float) -> Node:
        """One open worker."""
        self._see_overdue(now)
        return self._node(worker_id, now)

    def number(self, worker_id: WorkerId) -> int:
        return self._open[worker_id][0]

    def soonest(self, wanted: Resources, count: int, now: float, apart: Collection[WorkerId] = ()) -> list[Option]:
        """The `count` best options for one node of the request, the best first; fewer where there are fewer.

        Those on the workers `apart` do not count.
        """
        self._see_overdue(now)
        view = self._view(wanted)
        self._look_again(view, now)
        found: list[Option] = []
        passed: list[Option] = []
        while view.heap and len(found) < count:
            best = heapq.heappop(view.heap)
            if view.options.get(best[4]) is not best:
                continue
            if best[1] == GUESS:
                self._put(view, best[4], option(view.wanted, self._node(best[4], now), best[3]))
            else:
                (passed if best[4] in apart else found).append(best)
        for each in (*found, *passed):
            heapq.heappush(view.heap, each)
        return found

    # -- kept

    def _node(self, worker_id: WorkerId, now: float) -> Node:
        node = self._nodes.get(worker_id)
        if node is None:
            _, worker = self._open[worker_id]
            node = self._nodes[worker_id] = node_of(self._state, self._holds, worker, now, self._grace_s)
            if node.returns and node.returns[0][0] < inf:
                self._note_stale(node.returns[0][0] + OVERDUE_S, worker_id)
        return node

    def _note_stale(self, at: float, worker_id: WorkerId) -> None:
        heapq.heappush(self._stale, (at, worker_id))
        if len(self._stale) > 64 + 8 * len(self._open):
            soonest = {worker_id: at for at, worker_id in sorted(self._stale, reverse=True) if worker_id in self._open}
            self._stale = sorted((at, worker_id) for worker_id, at in soonest.items())

    def _see_overdue(self, now: float) -> None:
        while self._stale and self._stale[0][0] < now:
            self.touch(heapq.heappop(self._stale)[1])

    def _view(self, wanted: Resources) -> _View:
        key = (wanted.cpu, wanted.memory_gb, wanted.gpu, wanted.gpu_type, wanted.kind)
        view = self._views.pop(key, None)
        if view is None:
            while self._views and (len(self._views) + 1) * len(self._open) > KEPT_MAX:
                del self._views[next(iter(self._views))]
            view = _View(wanted, set(self._open))
        self._views[key] = view
        return view

    def _look_again(self, view: _View, now: float) -> None:
        for worker_id in view.changed:
            number, worker = self._open.get(worker_id, (0, None))
            large = worker is not None and is_large_enough(view.wanted, worker)
            self._put(view, worker_id, _guess(view.wanted, self._node(worker_id, now), number) if large else None)
        view.changed.clear()
        if len(view.heap) > 64 + 2 * len(view.options):
            view.heap = sorted(view.options.values())

    def _put(self, view: _View, worker_id: WorkerId, new: Option | None) -> None:
        if new is None:
            view.options.pop(worker_id, None)
        else:
            view.options[worker_id] = new
            heapq.heappush(view.heap, new)

    # -- asserted in tests

    def check(self, now: float) -> None:
        """What is kept is what a look at everything would find."""
        self._see_overdue(now)
        for worker_id, (_, worker) in self._open.items():
            fresh = node_of(self._state, self._holds, worker, now, self._grace_s)
            assert self._node(worker_id, now) == fresh, f"worker {worker_id}: {self._nodes[worker_id]} is now {fresh}"
        for view in list(self._views.values()):
            large = [each for each in self._open.values() if is_large_enough(view.wanted, each[1])]
            fresh_ones = [option(view.wanted, self._node(worker.id, now), number) for number, worker in large]
            expected = sorted(each for each in fresh_ones if each is not None)
            assert self.soonest(view.wanted, len(self._open), now) == expected, f"{view.wanted}: {expected}"


def _guess(wanted: Resources, node: Node, number: int) -> Option | None:
    """When it may fit there at the earliest: it is worked out only if that makes it the best of all."""
    if fitting_type(wanted, node.free) is not None:
        return 0.0, GUESS, 0, number, node.worker_id, ""
    return (node.returns[0][0], GUESS, 0, number, node.worker_id, "") if node.returns else None
