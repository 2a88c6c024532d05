"""The lives of a task, of a worker, of a reservation and of a plugin, as data.

Every status in the core changes through `advance`, and `advance` knows only the tables below. A status that is not
listed under the current one is refused: `Impossible` is raised and nothing changes, because a wrong transition means
that we have misunderstood something, and going on would put the misunderstanding on record.

A task is *queued* until it is assigned. From then on it is *started*: first `preparing` (its workers fetch what it
needs), then `running` (its program runs), then `collecting` (its outputs are gathered). The three are told apart only for
those who watch; the record knows one, so after a crash a started task is `preparing` again until its worker says what is
true. That is why `preparing` may go straight to any end: the end may be all that we hear. An attempt that fails and may
be tried again takes the task back to `queued`. `completed` and `failed` are final; a cancelled task is `failed` with the
reason "cancelled", as the contract has no status of its own for it.

What the table cannot say: a task leaves `queued` only with an attempt number that is already on record; it reaches an
end only by a report of its current attempt, by a cancel while queued, or by the proven loss of its worker.

A worker is `active` while we hear it, `suspect` when it has been silent for a moment (nothing new is placed on it),
`offline` when it has been silent for long (on record, since tasks may be moved because of it), `draining` when somebody
wants it empty. Whoever comes back is `active`, or `draining` again if that was not lifted.

A reservation is `active` from its creation, also before it begins; `claimed` once the first task of it has started;
`expired` when its time is over or somebody gave it back. It ends once.

A plugin is `stopped` while it is not enabled. Enabled, or given other settings, it is `starting` until it has answered
well; then it is `healthy` or `unhealthy`, as it was last seen. One that crashes stays `unhealthy` until it answers again,
however often it is started meanwhile, so that a crash loop is two facts and not two thousand.
"""

from collections.abc import Mapping
from typing import Any, Final, cast, overload

from fetchmld.core.model import (
    Plugin,
    PluginState,
    Reservation,
    ReservationStatus,
    Task,
    TaskStatus,
    Worker,
    WorkerStatus,
)

TASK: Final[dict[TaskStatus, frozenset[TaskStatus]]] = {
    "queued": frozenset({"preparing", "failed"}),
    "preparing": frozenset({"running", "collecting", "completed", "failed", "queued"}),
    "running": frozenset({"preparing", "collecting", "completed", "failed", "queued"}),
    "collecting": frozenset({"preparing", "completed", "failed", "queued"}),
    "completed": frozenset(),
    "failed": frozenset(),
}

WORKER: Final[dict[WorkerStatus, frozenset[WorkerStatus]]] = {
    "active": frozenset({"suspect", "draining", "offline"}),
    "suspect": frozenset({"active", "draining", "offline"}),
    "draining": frozenset({"active", "offline"}),
    "offline": frozenset({"active", "draining"}),
}

RESERVATION: Final[dict[ReservationStatus, frozenset[ReservationStatus]]] = {
    "active": frozenset({"claimed", "expired"}),
    "claimed": frozenset({"expired"}),
    "expired": frozenset(),
}

PLUGIN: Final[dict[PluginState, frozenset[PluginState]]] = {
    "stopped": frozenset({"starting"}),
    "starting": frozenset({"healthy", "unhealthy", "stopped"}),
    "healthy": frozenset({"unhealthy", "starting", "stopped"}),
    "unhealthy": frozenset({"healthy", "starting", "stopped"}),
}

PHASES: Final[tuple[TaskStatus, ...]] = ("preparing", "running", "collecting")  # in the order of an attempt
STARTED: Final[frozenset[TaskStatus]] = frozenset(PHASES)
ENDED: Final[frozenset[TaskStatus]] = frozenset({"completed", "failed"})


class Impossible(AssertionError):
    """A transition that the table does not have: a fault of ours, never of a user's."""


@overload
def advance(thing: Task, to: TaskStatus) -> None: ...
@overload
def advance(thing: Worker, to: WorkerStatus) -> None: ...
@overload
def advance(thing: Reservation, to: ReservationStatus) -> None: ...
@overload
def advance(thing: Plugin, to: PluginState) -> None: ...
def advance(
    thing: Task | Worker | Reservation | Plugin, to: TaskStatus | WorkerStatus | ReservationStatus | PluginState
) -> None:
    """Move `thing` to status `to`. Raises `Impossible`, changing nothing, if its table does not allow it."""
    table: Mapping[str, frozenset[str]] = cast(Any, _TABLES[type(thing)])
    if to not in table[thing.status]:
        raise Impossible(f"{type(thing).__name__.lower()} {thing.id}: {thing.status} cannot become {to}")
    thing.status = to


_TABLES: Final[dict[type, object]] = {Task: TASK, Worker: WORKER, Reservation: RESERVATION, Plugin: PLUGIN}
