"""Reservations as their users ask for them: made, given back, expired, claimed. What they hold is `reservations`."""

from fetchmld.core import intents
from fetchmld.core.desk import Desk
from fetchmld.core.errors import Conflict, FetchmlError, Forbidden, Invalid, NotFound
from fetchmld.core.messages import Fact, ReservationAsked, ReservationReleased
from fetchmld.core.model import Reservation, Task
from fetchmld.core.reservations import why_over_capacity
from fetchmld.core.waiting import Waiting, over


class Bookings:
    """Works at the desk; `waiting` is told who has nothing to wait for any more."""

    def __init__(self, desk: Desk, waiting: Waiting) -> None:
        self._desk = desk
        self._waiting = waiting

    def ask(self, event: ReservationAsked) -> bool:
        """Make it, or answer why not. Whether there is a new one."""
        if intents.was_met(self._desk, event):
            return False
        asked = self._reservation(event)
        if error := self._refusal(asked, event):
            self._desk.fail(event.ticket, error)
            return False
        names = ("gpu_count", "gpu_type", "node_count", "starts_at", "expires_at", "starts_t", "expires_t")
        metadata = {name: getattr(asked, name) for name in names} | intents.metadata(event.intent)
        self._desk.record(
            event, "scheduler_drain", "reservation.create", asked.id, asked.user_id, metadata, ip=event.ip_address
        )
        return True

    def _reservation(self, event: ReservationAsked) -> Reservation:
        starts_at, starts_t = event.at_us / 1e6 + event.starts_in_s, self._desk.now + event.starts_in_s
        return Reservation(
            id=event.reservation_id,
            number=self._desk.state.reservation_count + 1,
            user_id=event.user_id,
            gpu_count=event.gpu_count,
            gpu_type=event.gpu_type,
            node_count=event.node_count,
            created_at=event.at_us / 1e6,
            starts_at=starts_at,
            expires_at=starts_at + event.duration_s,
            starts_t=starts_t,
            expires_t=starts_t + event.duration_s,
        )

    def _refusal(self, asked: Reservation, event: ReservationAsked) -> FetchmlError | None:
        if asked.id in self._desk.state.reservations:
            return Conflict(f"reservation {asked.id} exists already")
        if event.starts_in_s < 0:
            return Invalid("starts_at: is in the past")
        if min(asked.gpu_count, asked.node_count, event.duration_s) <= 0:
            return Invalid("gpu_count, node_count and the duration of a reservation are at least 1")
        mine = [
            r for r in self._desk.state.reservations.values() if r.user_id == asked.user_id and r.status != "expired"
        ]
        gpus = sum(r.gpu_count * r.node_count for r in [*mine, asked])
        if 0 < self._desk.policy.user_gpus_max < gpus:
            return Forbidden(
                f"{gpus} GPUs reserved by one user are more than this server allows ({self._desk.policy.user_gpus_max})"
            )
        problem = why_over_capacity(self._desk.state, asked)
        return Invalid(f"gpu_count: {problem}") if problem else None

    def release(self, event: ReservationReleased) -> bool:
        """Give it back, or answer why not. Whether it was given back."""
        found = self._desk.state.reservations.get(event.reservation_id)
        if found is None or not (event.any_user or found.user_id == event.user_id):
            self._desk.fail(event.ticket, NotFound(f"there is no reservation {event.reservation_id[:64]!r}"))
        elif found.status == "expired":
            self._desk.fail(event.ticket, Conflict(over(found.id, found)))
        else:
            by = {"by": event.user_id}
            self._desk.record(
                event, "scheduler_drain", "reservation.release", found.id, found.user_id, by, ip=event.ip_address
            )
            self._let_go(found)
            return True
        return False

    def expire(self, at_us: int) -> None:
        """End those whose time is over."""
        for found in list(self._desk.state.reservations.values()):
            if found.status != "expired" and found.expires_t <= self._desk.now:
                fact = Fact("scheduler_drain", "reservation.expire", found.id, found.user_id, at_us=at_us)
                self._desk.persist(fact)
                self._let_go(found)

    def _let_go(self, reservation: Reservation) -> None:
        """What it held is everybody's; who waited for it has nothing to wait for."""
        for worker_id in self._desk.holds.drop(reservation.id):
            self._desk.placement.refresh(worker_id)
        self._desk.placement.redo_plans()
        for task in self._desk.state.tasks.values():
            waits = task.status == "queued" or task.array is not None
            if waits and task.request.get("reservation_id") == reservation.id:
                self._waiting.leave(task)
                self._desk.due.append(task.id)

    def hold(self) -> None:
        """Hold for each what it is owed now."""
        if not self._desk.state.reservations:
            return
        workers = [worker for worker in self._desk.state.workers.values() if worker.status in ("active", "suspect")]
        changed, moved = self._desk.holds.settle(self._desk.now, workers, self._desk.placement.promised())
        for worker_id in sorted(changed):
            self._desk.placement.refresh(worker_id)
        if moved:
            self._desk.placement.forget_plans()
        self._desk.placement.leads.settle(self._desk.now)

    def claim(self, task: Task, at_us: int) -> None:
        """The first task of a reservation is about to start."""
        found = self._desk.state.reservations.get(task.request.get("reservation_id", ""))
        if found is not None and found.status == "active":
            claim = {"task_id": task.id}
            self._desk.persist(
                Fact("scheduler_drain", "reservation.claim", found.id, found.user_id, metadata=claim, at_us=at_us)
            )
