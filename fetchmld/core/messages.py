"""What goes into the core (events, past tense) and what comes out of it (effects, imperative).

An event is something that happened; it carries its own ids, wall time and randomness, because the core makes none. An
effect is something to do; `Persist` effects are made durable, all of one batch together, before any other effect of
that batch is performed. Fields named `ticket` tie a `Reply` to the caller that waits for it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

from fetchmld.core.errors import FetchmlError
from fetchmld.core.model import (
    Assignment,
    Capacity,
    DatasetSpec,
    EndReport,
    GpuUse,
    Intent,
    ParamValue,
    PluginConfig,
    PluginState,
    PluginUse,
    Role,
    TaskId,
    TaskRequest,
    TaskStatus,
    UserId,
    WorkerId,
)

EventType = Literal[
    "job_queued",
    "job_started",
    "job_completed",
    "file_access",
    "auth_attempt",
    "plugin_configured",
    "scheduler_drain",
    "audit_verified",
]


@dataclass(slots=True)
class Fact:
    """One audit event before it has its place in the chain. `metadata` carries all that a replay needs.

    `at_us` is UTC wall time in microseconds, for showing; `clock_us` is the core's logical time, for deciding.
    """

    event_type: EventType
    action: str
    resource: str
    user_id: str = ""
    success: bool = True
    ip_address: str = ""
    error: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    at_us: int = 0
    clock_us: int = 0


# ---- events -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class TaskSubmitted:
    task_id: TaskId
    user_id: UserId
    request: TaskRequest
    at_us: int
    ip_address: str = ""
    trace_id: str = ""
    ticket: int = 0
    known_ended: dict[TaskId, TaskStatus] = field(default_factory=dict)  # dependencies that only the history knows
    intent: Intent | None = None


@dataclass(slots=True)
class CancelRequested:
    """DELETE on a task: cancels a live one, takes an ended one out of the listings.

    `known_ended` says that the history has it as ended; the core keeps only the newest ended tasks itself.
    """

    task_id: TaskId
    user_id: UserId
    at_us: int
    known_ended: bool = False
    ip_address: str = ""
    trace_id: str = ""
    ticket: int = 0


@dataclass(slots=True)
class PriorityChanged:
    """Somebody wants a live task to have another priority. `known_ended` as for a cancel."""

    task_id: TaskId
    priority: int
    user_id: UserId
    at_us: int
    known_ended: bool = False
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""


@dataclass(slots=True)
class DrainChanged:
    """Somebody wants a worker empty (`wanted`), or lets it take work again."""

    worker_id: WorkerId
    wanted: bool
    user_id: UserId
    at_us: int
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""


@dataclass(slots=True)
class GpuReleaseAsked:
    """Somebody says that a GPU in quarantine is well again."""

    worker_id: WorkerId
    index: int
    user_id: UserId
    at_us: int
    ip_address: str = ""
    ticket: int = 0


@dataclass(slots=True)
class ReservationAsked:
    """`gpu_count` GPUs on each of `node_count` workers, `duration_s` from `starts_in_s` on (0: now)."""

    reservation_id: str
    user_id: UserId
    gpu_count: int
    gpu_type: str
    node_count: int
    duration_s: float
    at_us: int
    starts_in_s: float = 0.0
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""
    intent: Intent | None = None


@dataclass(slots=True)
class ReservationReleased:
    """Its owner, or who runs the cluster, gives it back. `any_user`: the caller may release what is another's."""

    reservation_id: str
    user_id: UserId
    at_us: int
    any_user: bool = False
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""


@dataclass(slots=True)
class LiveAttempt:
    """An attempt that a worker says it has: running or preparing there now, or ended and not yet acknowledged."""

    task_id: TaskId
    attempt: int
    phase: Literal["preparing", "running", "collecting"]


@dataclass(slots=True)
class WorkerJoined:
    """An agent said hello: its node's identity and capacity, and every attempt it has."""

    worker_id: WorkerId
    boot_id: str
    hostname: str
    capacity: Capacity
    attempts: list[LiveAttempt]
    at_us: int
    detail: dict[str, Any] = field(default_factory=dict)
    ip_address: str = ""
    datasets: dict[str, int] = field(default_factory=dict)  # in its cache: `caches.dataset_key` to bytes
    gpu_faults: dict[str, str] = field(default_factory=dict)  # as in `HeartbeatReceived`


@dataclass(slots=True)
class HeartbeatReceived:
    """A worker is well. What came into its cache, as in `WorkerJoined`, and what left it, since it last said so."""

    worker_id: WorkerId
    at_us: int
    datasets_added: dict[str, int] = field(default_factory=dict)
    datasets_dropped: list[str] = field(default_factory=list)
    gpu_faults: dict[str, str] = field(default_factory=dict)  # what is wrong with which GPU, by uuid
    gpu_use: dict[str, GpuUse] = field(default_factory=dict)  # of all of them; empty where it was not looked at


@dataclass(slots=True)
class PhaseReported:
    worker_id: WorkerId
    task_id: TaskId
    attempt: int
    phase: Literal["preparing", "running", "collecting"]
    at_us: int


@dataclass(slots=True)
class DatasetAccessed:
    """A dataset was fetched or found in the cache for an attempt, or could not be."""

    worker_id: WorkerId
    task_id: TaskId
    attempt: int
    name: str
    source: str
    success: bool
    at_us: int
    sha256: str = ""
    total_bytes: int = 0
    cached: bool = False
    error: str = ""


@dataclass(slots=True)
class StagingHeard:
    """What a worker says of datasets that it fetches for a task that is not placed yet; `is_over` however it ended."""

    worker_id: WorkerId
    task_id: TaskId
    said: str
    is_over: bool
    at_us: int


@dataclass(slots=True)
class AttemptEnded:
    worker_id: WorkerId
    task_id: TaskId
    attempt: int
    rank: int
    report: EndReport
    seed: int  # 32 random bits from the shell, for the retry's jitter
    at_us: int


@dataclass(slots=True)
class FactNoted:
    """Something that another part of us saw and that belongs in the record: a login, a verification, an artifact."""

    fact: Fact
    ticket: int = 0


@dataclass(slots=True)
class KeyCreated:
    key_id: str
    user_id: UserId
    role: Role
    sha256: str
    expires_at: float
    by: UserId
    at_us: int
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""


@dataclass(slots=True)
class KeyRevoked:
    key_id: str
    by: UserId
    at_us: int
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""


@dataclass(slots=True)
class ExperimentCreated:
    experiment_id: str
    name: str
    description: str
    user_id: UserId
    at_us: int
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""
    intent: Intent | None = None
    commit_id: str = ""


@dataclass(slots=True)
class ExperimentUpdated:
    """`changes`: of name, description, status and commit_id those that are to be new."""

    experiment_id: str
    changes: dict[str, str]
    user_id: UserId
    at_us: int
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""


@dataclass(slots=True)
class PluginConfigured:
    """An administrator wants a plugin to run so, or not at all."""

    name: str
    config: PluginConfig
    user_id: UserId
    at_us: int
    ip_address: str = ""
    ticket: int = 0
    trace_id: str = ""


@dataclass(slots=True)
class PluginSeen:
    """Its supervisor says how it is. `revision`: of the configuration that this is about."""

    name: str
    revision: int
    status: PluginState
    problem: str
    at_us: int


@dataclass(slots=True)
class PluginReverted:
    """Revision `failed` did not come up: what ran before, revision `to` with this configuration, still does."""

    name: str
    failed: int
    to: int
    config: PluginConfig
    problem: str
    at_us: int


@dataclass(slots=True)
class PluginUsed:
    """An attempt was given what it needs of a plugin, or it could not be."""

    name: str
    task_id: TaskId
    use: PluginUse
    at_us: int
    ticket: int = 0


@dataclass(slots=True)
class TimePassed:
    """A tick: nothing happened but time."""

    at_us: int


Event = (
    TaskSubmitted
    | CancelRequested
    | PriorityChanged
    | DrainChanged
    | GpuReleaseAsked
    | ReservationAsked
    | ReservationReleased
    | WorkerJoined
    | HeartbeatReceived
    | PhaseReported
    | DatasetAccessed
    | StagingHeard
    | AttemptEnded
    | FactNoted
    | KeyCreated
    | KeyRevoked
    | ExperimentCreated
    | PluginConfigured
    | PluginSeen
    | PluginReverted
    | PluginUsed
    | ExperimentUpdated
    | TimePassed
)


# ---- effects ------------------------------------------------------------------------------------------------------


class ElementPlace(TypedDict):
    """Which element of which array an attempt is of, and its values of the array's params."""

    array_id: str
    index: int
    size: int
    params: dict[str, ParamValue]


class LaunchOrder(TypedDict):
    """What an agent needs to run one node of one attempt."""

    task_id: str
    attempt: int
    rank: int
    user_id: str
    request: TaskRequest
    assignments: list[Assignment]
    element: NotRequired[ElementPlace]


@dataclass(slots=True)
class Persist:
    fact: Fact


@dataclass(slots=True)
class Launch:
    worker_id: WorkerId
    order: LaunchOrder


@dataclass(slots=True)
class StopAttempt:
    """End this attempt: SIGTERM, grace, SIGKILL. Idempotent; an agent that does not know it reports nothing."""

    worker_id: WorkerId
    task_id: TaskId
    attempt: int
    word: str  # the error word that the end is to carry
    detail: str


@dataclass(slots=True)
class StageDatasets:
    """Have these in the worker's cache soon, and say when that is. Idempotent."""

    worker_id: WorkerId
    task_id: TaskId
    specs: list[DatasetSpec]


@dataclass(slots=True)
class DropStaging:
    """The task does not need them any more."""

    worker_id: WorkerId
    task_id: TaskId


@dataclass(slots=True)
class AcknowledgeEnd:
    """The end of this attempt is on record (or was stale): the worker may forget it."""

    worker_id: WorkerId
    task_id: TaskId
    attempt: int


@dataclass(slots=True)
class Reply:
    ticket: int
    value: Any = None
    error: FetchmlError | None = None


@dataclass(slots=True)
class TaskChanged:
    """The task's view is not what it was: tell those who watch it."""

    task_id: TaskId


Effect = Persist | Launch | StopAttempt | StageDatasets | DropStaging | AcknowledgeEnd | Reply | TaskChanged
