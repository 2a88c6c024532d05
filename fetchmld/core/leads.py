"""The lead time of reservations: what they will need is lent, to whoever is over by their start.

Owns what the queue is told to keep for reservations that have targets and have not begun. On each target that is what will
be free there at the start, by the declared ends of what runs, less the reservation's share and that of those which begin
before it: so much may be used by somebody who may still run then. Reads the state, never changes it.
"""

from collections.abc import Callable
from math import inf

from fetchmld.core.capacity import node_of
from fetchmld.core.model import Reservation, Worker, WorkerId
from fetchmld.core.outlook import Outlook
from fetchmld.core.plan import Amount
from fetchmld.core.ready import Hold, Queue
from fetchmld.core.reservations import Holds
from fetchmld.core.state import State


class Leads:
    """Of one queue. `hold` says an amount on a worker in the queue's numbers."""

    def __init__(
        self,
        state: State,
        holds: Holds,
        queue: Queue,
        outlook: Outlook,
        grace_s: float,
        hold: Callable[[WorkerId, Amount], Hold],
    ) -> None:
        self._state, self._holds, self._queue, self._outlook = state, holds, queue, outlook
        self._grace_s, self._hold = grace_s, hold
        self._told: dict[int, dict[WorkerId, Hold]] = {}  # by the reservation's number

    def settle(self, now: float) -> None:
        """Tell the queue what changed since the last time."""
        lending = self._holds.lending()
        if not lending and not self._told:
            return
        targets = {name for _, each in lending for name in each if self._outlook.has(name)}
        changed = self._outlook.watch(targets, now)
        for number in self._told.keys() - {reservation.number for reservation, _ in lending}:
            del self._told[number]
            self._queue.unkeep(number)
        for reservation, each in lending:
            self._tell(reservation, each.keys() & targets, changed, now)

    def _tell(self, reservation: Reservation, targets: set[WorkerId], changed: set[WorkerId], now: float) -> None:
        told = self._told.get(reservation.number, {})
        if told.keys() == targets and not changed & targets:
            return
        for worker_id in targets & changed | targets - told.keys():
            self._outlook.node(worker_id, now)  # so that it is watched for tasks that outlive what they declared
            told[worker_id] = self._hold(worker_id, self._spare(reservation, self._state.workers[worker_id], now))
        self._told[reservation.number] = {name: told[name] for name in sorted(targets)}
        self._queue.keep(reservation.number, reservation.starts_t, list(self._told[reservation.number].values()))

    def _spare(self, reservation: Reservation, worker: Worker, now: float) -> Amount:
        """How much of the worker somebody may use who may outlive the reservation's start."""
        at = reservation.starts_t
        left = node_of(self._state, self._holds, worker, now, self._grace_s, with_lending=False).free_at(at)
        for other, target in self._holds.of(worker.id):
            first = (other.starts_t, other.number) <= (at, reservation.number)
            if self._holds.lends(other.id) and first and other.expires_t > at:
                left = left.plus(self._holds.wanted(other, target, worker), -1)
        return left.at_least_nothing()

    def cut(self, free: Amount, worker: Worker, until_t: float, now: float) -> Amount:
        """What of `free` on that worker somebody may use who runs until then at the latest."""
        for reservation, _ in self._holds.of(worker.id):
            if self._holds.lends(reservation.id) and reservation.starts_t < until_t:
                free = free.least(self._spare(reservation, worker, now))
        return free

    def first_start(self) -> float:
        """When the first reservation that lends begins; inf where none does."""
        return min((reservation.starts_t for reservation, _ in self._holds.lending()), default=inf)
