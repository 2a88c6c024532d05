"""Holding capacity for a reservation: on which workers, and which GPUs.

What a reservation asks for is durable (`state.reservations`); which GPUs it holds is not, it follows again after a restart
from what is free then. A reservation holds on each of its targets `gpu_count` GPUs of one type, those that its own tasks
use included. Free ones are taken at once, the others as they come free (gathering). Beside each GPU goes its even share of
the worker's cores and memory, and a batch slot: what a task of it asks for beyond that comes from what it keeps beside
its other GPUs, never from what is everybody's. Only from its start on may its tasks use what it holds, and nobody else can:
the queue keeps each reservation's capacity in a pool of its own.

From `lead_s` before its start it has its targets, and lends: others may use its share if they are over by its start (see
`leads`). Whatever still runs there then is gathered.

Never oversold: no GPU index is held twice, and what is held is taken from what is free.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from fetchmld.core.model import Reservation, Task, Worker, WorkerId
from fetchmld.core.plan import Amount
from fetchmld.core.ready import KEEPS_MAX
from fetchmld.core.state import State


@dataclass(slots=True)
class Target:
    """One worker of one reservation: the type it gives, and the GPUs held idle there."""

    gpu_type: str
    idle: set[int] = field(default_factory=set)


class Holds:
    """What every live reservation holds now."""

    def __init__(self, state: State, lead_s: float) -> None:
        self._state = state
        self._lead_s = lead_s
        self._targets: dict[str, dict[WorkerId, Target]] = {}
        self._begun: set[str] = set()  # reservations whose tasks may use what they hold
        self._lending: set[str] = set()  # those whose share others may use until they begin

    # -- asked by the placement

    def of(self, worker_id: WorkerId) -> list[tuple[Reservation, Target]]:
        """The reservations that this worker is a target of, oldest first."""
        found = [
            (self._state.reservations[name], targets[worker_id])
            for name, targets in self._targets.items()
            if worker_id in targets
        ]
        return sorted(found, key=lambda item: item[0].number)

    def has_begun(self, reservation_id: str) -> bool:
        """Whether its tasks may start."""
        return reservation_id in self._begun

    def lends(self, reservation_id: str) -> bool:
        """Whether its share is everybody's who is over by its start."""
        return reservation_id in self._lending

    def lending(self) -> list[tuple[Reservation, dict[WorkerId, Target]]]:
        """The reservations that lend, and their targets, in the order in which they begin."""
        found = [(self._state.reservations[name], self._targets.get(name, {})) for name in self._lending]
        return sorted(found, key=lambda item: _by_start(item[0]))

    def held(self, reservation_id: str) -> dict[WorkerId, int]:
        """On which workers how many GPUs it keeps, those that its tasks use included, those that are lent not."""
        reservation = self._state.reservations[reservation_id]
        targets = self._targets.get(reservation_id, {})
        return {name: self._count(reservation, target, name) for name, target in sorted(targets.items())}

    def _count(self, reservation: Reservation, target: Target, worker_id: WorkerId) -> int:
        worker = self._state.workers[worker_id]
        if reservation.id in self._lending:
            return min(reservation.gpu_count, len(self._free(worker, target.gpu_type)))
        return len(target.idle) + self.used(reservation, worker).gpus.get("", 0)

    def use(self, reservation_id: str, worker_id: WorkerId, count: int) -> list[int]:
        """The lowest idle indices for a task of the reservation; they count as idle no longer."""
        target = self._targets[reservation_id][worker_id]
        chosen = sorted(target.idle)[:count]
        target.idle.difference_update(chosen)
        return chosen

    def idle_gpus(self, worker_id: WorkerId) -> set[int]:
        """The free GPUs of this worker that are nobody's but a reservation's."""
        return {index for _, target in self.of(worker_id) for index in target.idle}

    def used(self, reservation: Reservation, worker: Worker) -> Amount:
        """What the reservation's tasks use of this worker. Its GPUs are all counted under the type ""."""
        used = Amount(gpus={"": 0})
        for task in claimants(self._state, reservation.id, worker):
            gpus = sum(len(node["gpus"]) for node in task.assignments if node["worker_id"] == worker.id)
            used = used.plus(Amount(task.resources.cpu, task.resources.memory_gb, 1, 0, {"": gpus}))
        return used

    def wanted(self, reservation: Reservation, target: Target, worker: Worker) -> Amount:
        """All that the reservation keeps from others on this worker beyond what its tasks use, held yet or not."""
        capacity = worker.capacity
        count = max(1, len(capacity.gpus))
        used = self.used(reservation, worker)
        return Amount(
            max(0, capacity.cpu * reservation.gpu_count // count - used.cpu),
            max(0, capacity.memory_gb * reservation.gpu_count // count - used.memory_gb),
            max(0, min(reservation.gpu_count, capacity.batch_slots) - used.batch),
            0,
            {target.gpu_type: max(0, reservation.gpu_count - used.gpus[""])},
        )

    def split(self, worker: Worker) -> tuple[Amount, list[tuple[Reservation, Amount]]]:
        """What is free for everybody on this worker, and what is free in each reservation's pool."""
        common = free_of(worker)
        pools = []
        for reservation, target in self.of(worker.id):
            if reservation.id in self._lending:
                continue
            wanted = self.wanted(reservation, target, worker)
            pool = Amount(
                min(wanted.cpu, max(0, common.cpu)),
                min(wanted.memory_gb, max(0, common.memory_gb)),
                min(wanted.batch, max(0, common.batch)),
                0,
                {target.gpu_type: len(target.idle)},
            )
            common = common.plus(pool, -1)
            pools.append((reservation, pool))
        return common, pools

    # -- changed by the scheduler

    def settle(
        self, now: float, workers: list[Worker], promised: Collection[WorkerId] = ()
    ) -> tuple[set[WorkerId], bool]:
        """Take for each reservation what it lacks and is free on `workers` (those that may be given work).

        What is free on the workers `promised` is somebody else's, where there are others. Returns the workers whose split
        is not what it was, and whether some reservation counts on a worker on which it did not.
        """
        usable = {worker.id: worker for worker in workers}
        due = [r for r in self._state.reservations.values() if r.status != "expired" and self._is_due(r, now)]
        coming = sorted((r for r in due if r.starts_t > now), key=_by_start)
        changed, moved = self._lend({r.id for r in coming[:KEEPS_MAX]}), False
        for reservation in due:
            targets = self._targets.setdefault(reservation.id, {})
            aimed = self._aim(reservation, targets, usable, promised)
            changed |= aimed | self._settle_one(reservation, targets, now, usable)
            moved = moved or bool(aimed)
        return changed, moved

    def drop(self, reservation_id: str) -> set[WorkerId]:
        """The reservation is over: what it held is everybody's. Returns the workers concerned."""
        self._begun.discard(reservation_id)
        self._lending.discard(reservation_id)
        return set(self._targets.pop(reservation_id, {}))

    def _is_due(self, reservation: Reservation, now: float) -> bool:
        return reservation.starts_t - self._lead_s <= now

    def _lend(self, names: set[str]) -> set[WorkerId]:
        """These and no others lend. Returns the workers concerned."""
        changed: set[WorkerId] = set()
        for name in names ^ self._lending:
            targets = self._targets.get(name, {})
            changed |= targets.keys()
            for target in targets.values():
                target.idle.clear()
        self._lending = names
        return changed

    def _aim(
        self,
        reservation: Reservation,
        targets: dict[WorkerId, Target],
        usable: dict[WorkerId, Worker],
        promised: Collection[WorkerId],
    ) -> set[WorkerId]:
        """Give it as many workers as it needs, where there are. Returns those that come or go.

        One goes that is not to be had any more, that came back without GPUs of the type that it gave, or of which GPUs
        failed.
        """
        changed = {name for name, target in targets.items() if target.gpu_type not in _types_of(usable.get(name))}
        for worker_id in changed:
            del targets[worker_id]
        while len(targets) < reservation.node_count:
            new = self._best_target(reservation, targets, usable.values(), promised)
            if new is None:
                break
            targets[new[0]] = Target(new[1])
            changed.add(new[0])
        return changed | self._leave_the_short(reservation, targets, usable, promised)

    def _leave_the_short(
        self,
        reservation: Reservation,
        targets: dict[WorkerId, Target],
        usable: dict[WorkerId, Worker],
        promised: Collection[WorkerId],
    ) -> set[WorkerId]:
        """GPUs of a target failed, so that it can give no longer all that it should: another one that can takes its place.

        Not while tasks of the reservation run there, and where there is no other, what is left stays. Returns both.
        """
        changed: set[WorkerId] = set()
        for name in [name for name, target in targets.items() if self._is_short(reservation, target, usable[name])]:
            new = self._best_target(reservation, targets, usable.values(), promised)
            if new is not None:
                del targets[name]
                targets[new[0]] = Target(new[1])
                changed |= {name, new[0]}
        return changed

    def _is_short(self, reservation: Reservation, target: Target, worker: Worker) -> bool:
        """Whether what is well of its type does not suffice for the older reservations there and for this one."""
        if not worker.quarantined or claimants(self._state, reservation.id, worker):
            return False
        others = [
            r for r, held in self.of(worker.id) if held.gpu_type == target.gpu_type and r.number < reservation.number
        ]
        room = worker.gpu_totals.get(target.gpu_type, 0) - sum(r.gpu_count for r in others)
        return room < reservation.gpu_count

    def _settle_one(
        self,
        reservation: Reservation,
        targets: dict[WorkerId, Target],
        now: float,
        usable: dict[WorkerId, Worker],
    ) -> set[WorkerId]:
        if reservation.id in self._lending:
            return set()
        changed = {name for name, target in targets.items() if self._gather(reservation, target, usable[name])}
        if reservation.starts_t <= now and reservation.id not in self._begun:
            self._begun.add(reservation.id)
            changed |= targets.keys()
        return changed

    def _best_target(
        self,
        reservation: Reservation,
        targets: dict[WorkerId, Target],
        workers: Iterable[Worker],
        promised: Collection[WorkerId],
    ) -> tuple[WorkerId, str] | None:
        """The worker with the most GPUs free for it, then the one with the fewest others, then the oldest."""
        best: tuple[int, int, int, WorkerId, str] | None = None
        for order, worker in enumerate(worker for worker in workers if worker.id not in targets):
            for gpu_type in sorted(_types(worker)):
                if not suits(reservation.gpu_type, gpu_type) or self._room(worker, gpu_type) < reservation.gpu_count:
                    continue
                free = 0 if worker.id in promised else min(reservation.gpu_count, len(self._free(worker, gpu_type)))
                rank = (-free, self._room(worker, gpu_type), order, worker.id, gpu_type)
                best = rank if best is None else min(best, rank)
        return None if best is None else (best[3], best[4])

    def _room(self, worker: Worker, gpu_type: str) -> int:
        """How many GPUs of that type no other reservation counts on."""
        total = worker.gpu_totals.get(gpu_type, 0)
        return total - sum(r.gpu_count for r, target in self.of(worker.id) if target.gpu_type == gpu_type)

    def _free(self, worker: Worker, gpu_type: str) -> list[int]:
        held = self.idle_gpus(worker.id)
        of_type = (gpu.index for gpu in worker.usable.gpus if gpu.type == gpu_type)
        return sorted(index for index in of_type if index in worker.gpus_free and index not in held)

    def _gather(self, reservation: Reservation, target: Target, worker: Worker) -> bool:
        gone = target.idle - (worker.gpus_free & {g.index for g in worker.usable.gpus if g.type == target.gpu_type})
        target.idle -= gone
        lacks = reservation.gpu_count - len(target.idle) - self.used(reservation, worker).gpus[""]
        taken = self._free(worker, target.gpu_type)[: max(0, lacks)]
        target.idle.update(taken)
        return bool(gone or taken)


def _by_start(reservation: Reservation) -> tuple[float, int]:
    return reservation.starts_t, reservation.number


def claimants(state: State, reservation_id: str, worker: Worker) -> list[Task]:
    """The started tasks of the reservation on this worker."""
    tasks = (state.tasks[task_id] for task_id in sorted(worker.tasks))
    return [task for task in tasks if task.request.get("reservation_id") == reservation_id]


def suits(wanted: str, gpu_type: str) -> bool:
    """Whether a GPU of `gpu_type` is what `wanted` ("" any, "A|B" either) asks for."""
    return not wanted or gpu_type in wanted.split("|")


def free_of(worker: Worker) -> Amount:
    """All that is free on a worker, held for a reservation or not."""
    gpus: dict[str, int] = {}
    for gpu in worker.usable.gpus:
        gpus[gpu.type] = gpus.get(gpu.type, 0) + (gpu.index in worker.gpus_free)
    return Amount(worker.cpu_free, worker.memory_free_gb, worker.batch_free, worker.service_free, gpus)


def why_over_capacity(state: State, asked: Reservation) -> str:
    """Why `asked` cannot be promised beside the reservations that overlap it; "" if it can.

    Largest first, each on the workers with the least room that is enough: what this packs can be kept.
    """
    room = {
        worker.id: dict(worker.gpu_totals)
        for worker in state.workers.values()
        if worker.status != "offline" and not worker.draining
    }
    others = [r for r in state.reservations.values() if r.status != "expired" and _overlap(r, asked)]
    for reservation in sorted([*others, asked], key=lambda r: (-r.gpu_count, r.number)):
        given = _pack(room, reservation)
        if given < reservation.node_count:
            kind = asked.gpu_type or "any type"
            return (
                f"{asked.gpu_count} GPUs of {kind} on each of {asked.node_count} workers are more than the cluster has "
                f"beside {len(others)} other reservations at that time"
            )
    return ""


def _pack(room: dict[WorkerId, dict[str, int]], reservation: Reservation) -> int:
    fitting = sorted(
        (count, worker_id, kind)
        for worker_id, kinds in room.items()
        for kind, count in kinds.items()
        if count >= reservation.gpu_count and suits(reservation.gpu_type, kind)
    )
    chosen: dict[WorkerId, str] = {}
    for _, worker_id, kind in fitting:
        if len(chosen) < reservation.node_count:
            chosen.setdefault(worker_id, kind)
    for worker_id, kind in chosen.items():
        room[worker_id][kind] -= reservation.gpu_count
    return len(chosen)


def _types(worker: Worker) -> set[str]:
    return set(worker.gpu_totals)


def _types_of(worker: Worker | None) -> set[str]:
    """Of all its GPUs, those in quarantine included; none of a worker that is not there."""
    return set() if worker is None else {gpu.type for gpu in worker.capacity.gpus}


def _overlap(one: Reservation, other: Reservation) -> bool:
    return one.starts_t < other.expires_t and other.starts_t < one.expires_t
