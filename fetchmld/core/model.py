"""What the scheduler knows about: ids, resources, tasks, workers, and the views of them that leave the core.

Owns the shapes of the state; knows nothing of how it changes (`lifecycle`, `scheduler`) or of how the contract spells it
(`api.wire`). Times named `_at` are UTC epoch seconds for showing; times named `_t` are the core's logical clock.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, NewType, NotRequired, TypedDict

TaskId = NewType("TaskId", str)
WorkerId = NewType("WorkerId", str)
UserId = NewType("UserId", str)

Kind = Literal["batch", "service"]
TaskStatus = Literal["queued", "preparing", "running", "collecting", "completed", "failed"]
WorkerStatus = Literal["active", "suspect", "draining", "offline"]
ReservationStatus = Literal["active", "claimed", "expired"]
Condition = Literal["ok", "any", "failed"]
UserRole = Literal["viewer", "user", "operator", "auditor", "admin"]
PluginState = Literal["stopped", "starting", "healthy", "unhealthy"]
PluginMode = Literal["sidecar", "remote", "disabled"]
Role = Literal["viewer", "user", "operator", "auditor", "admin", "worker"]  # the last is the joined machines'

PRIORITY_DEFAULT: Final = 5
OUTPUT_TAIL_BYTES: Final = 64 * 1024
RECENT_TASKS_MAX: Final = 10_000
ENDED_RESERVATIONS_MAX: Final = 1_000
INTENTS_MAX: Final = 100_000  # Idempotency-Keys remembered; the oldest are forgotten first
INTENT_KEPT_S: Final = 86_400
DEPENDENCIES_MAX: Final = 64
ARRAY_SIZE_MAX: Final = 10_000  # with it a listing of all elements is ten pages, and one ending is still one write


class DatasetSpec(TypedDict):
    """One dataset of a request, complete: `wire` fills in name and mount_path. `sha256` is hex, lower case, or absent."""

    name: str
    source: str
    mount_path: str
    sha256: NotRequired[str]


class Dependency(TypedDict):
    """A task that has to end first, and how: `ok` completed, `failed` failed or cancelled, `any` either."""

    task_id: str
    condition: Condition


ParamValue = str | int | float | bool


class ArrayParam(TypedDict):
    """One param of an array. A list keeps their order, which an object of the record would lose."""

    name: str
    values: list[ParamValue]


class ArrayRequest(TypedDict):
    """Many tasks as one: `size` elements, of which at most `max_parallel` are started at a time; see `arrays`.

    Each of `params` has a value for each element, in order; or they are the sides of a grid.
    """

    size: int
    max_parallel: NotRequired[int]
    params: NotRequired[list[ArrayParam]]


class JupyterRequest(TypedDict):
    """Of a task that is a Jupyter server: what its user calls it, and the directory that it is in."""

    name: str
    workspace: str


class TaskRequest(TypedDict, total=False):
    """What was asked for, as accepted: only fields that were given, names as in the contract, values already validated."""

    job_name: str
    priority: int
    args: str
    entrypoint: str
    image: str
    snapshot_id: str
    experiment_id: str
    reservation_id: str
    datasets: list[str]
    dataset_specs: list[DatasetSpec]
    plugin_configs: dict[str, dict[str, Any]]
    cpu: int
    memory_gb: int
    gpu: int
    gpu_type: str
    node_count: int
    time_limit_s: int
    kind: Kind
    env: dict[str, str]
    metadata: dict[str, str]
    max_retries: int
    depends_on: list[Dependency]
    array: ArrayRequest
    jupyter: JupyterRequest


class Assignment(TypedDict):
    """One node of one attempt: its rank, the worker, and the GPU indices it may use.

    `boot_id`, on gangs only: which life of the worker it was placed in. Another one means that this node is lost.
    `rendezvous`, on rank 0 of a gang: HOST:PORT where its members find each other.
    """

    rank: int
    worker_id: str
    gpus: list[int]
    boot_id: NotRequired[str]
    rendezvous: NotRequired[str]


class LogPlace(TypedDict):
    """Where an ended attempt's output lies on its worker: a packed segment, or a file of its own when it was large."""

    worker_id: str
    file: str  # relative to the worker's logs directory
    offset: int
    length: int


class EarlierAttempt(TypedDict):
    """An attempt that was followed by another, and where its output lies."""

    attempt: int
    log: LogPlace


class Usage(TypedDict):
    """What an attempt used, from the kernel's own account: seconds of processor, peak resident bytes."""

    user_s: float
    system_s: float
    rss_max_bytes: int


class EndReport(TypedDict, total=False):
    """How an attempt ended, as its worker saw it. Exactly one of exit_code, signal, word is set.

    `word` is one of `errors.TASK_ERROR_WORDS`, `detail` says it in plain words. `infrastructure` marks an end that was
    not the program's doing, which is retried on another worker.
    """

    exit_code: int
    signal: int
    word: str
    detail: str
    infrastructure: bool
    usage: Usage
    log: LogPlace
    artifacts: "ArtifactSet"
    artifacts_of_others: "list[RankArtifacts]"  # of a gang: what the other nodes left, by rank
    ended_at: float


class RankArtifacts(TypedDict):
    """What one node of a gang left."""

    rank: int
    artifacts: "ArtifactSet"


class ArtifactSet(TypedDict):
    """What was left in the output directory: the manifest's hash in the content store, and its totals."""

    manifest: str  # hex blake3 of the JSON manifest [{"path", "bytes", "hash"}, ...]
    file_count: int
    total_bytes: int


@dataclass(slots=True, frozen=True)
class Resources:
    """Asked for per node: whole cores, whole GB, whole GPUs of a type ("" = any; "A|B" = either)."""

    cpu: int = 1
    memory_gb: int = 0
    gpu: int = 0
    gpu_type: str = ""
    kind: Kind = "batch"
    node_count: int = 1


@dataclass(slots=True, frozen=True)
class Gpu:
    """One GPU of a worker. `uuid` is what CUDA_VISIBLE_DEVICES gets; a declared (fake) GPU has its index as text."""

    index: int
    type: str
    uuid: str
    memory_mb: int = 0  # 0 = not known


class GpuUse(TypedDict):
    """What a worker last said of one of its GPUs. `processes`: how many have memory there."""

    used_mb: int
    utilization: int  # per cent of the last moments in which it did something
    processes: int


@dataclass(slots=True, frozen=True)
class Capacity:
    """All that a worker offers, running work included."""

    cpu: int
    memory_gb: int
    batch_slots: int
    service_slots: int
    gpus: tuple[Gpu, ...] = ()


NO_CAPACITY: Final = Capacity(0, 0, 0, 0)


@dataclass(slots=True)
class Array:
    """What a task that is an array has beside a task's: which elements are tasks of their own, and how they stand.

    An element becomes a task of its own when the first fact names it. All others are counted here and nowhere else; they
    are the `size` less those below `first` and those in `beyond`.
    """

    size: int
    max_parallel: int
    request: TaskRequest  # of every element, once for all: the array's own, less what makes it an array
    first: int = 0  # all elements below it have been named
    beyond: set[int] = field(default_factory=set)  # named ones above it
    live: set[int] = field(default_factory=set)  # named and not ended
    running: int = 0  # started, whatever their phase
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    first_failed: int = -1  # the lowest index of those that did not complete, -1 = none
    first_error: str = ""  # that one's
    closed: str = ""  # why those that were never named never will be; "" while they may
    closed_at: float = 0.0
    closed_count: int = 0  # how many that were

    @property
    def unnamed(self) -> int:
        """How many elements no fact has named."""
        return self.size - self.first - len(self.beyond)

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def queued(self) -> int:
        return self.size - self.running - self.ended

    def is_named(self, index: int) -> bool:
        return index < self.first or index in self.beyond


class PluginUse(TypedDict):
    """What a plugin did for one attempt of a task. `path`: of the run, below `/plugins/NAME/`."""

    attempt: int
    status: PluginState  # of the plugin when the attempt began
    run_id: NotRequired[str]
    path: NotRequired[str]
    detail: NotRequired[str]  # why it did nothing


class PluginConfig(TypedDict):
    """How a plugin is to run. Secrets among the settings are `{"secret": ID}`: their values are not on record."""

    enabled: bool
    mode: PluginMode
    settings: dict[str, Any]


@dataclass(slots=True)
class Plugin:
    """A plugin that was configured once. `status` changes only through `lifecycle.advance`."""

    id: str  # its name
    number: int  # in order of their first configuration, from 1: its user id goes by it
    config: PluginConfig
    revision: int = 0  # of the configuration
    last_revision: int = 0  # the highest that it ever had; above `revision` where one had to be taken back
    status: PluginState = "stopped"
    problem: str = ""  # why it is not well, or why a configuration was taken back
    changed_at: float = 0.0

    @property
    def wanted(self) -> bool:
        """Is it to run?"""
        return self.config["enabled"] and self.config["mode"] != "disabled"


@dataclass(slots=True)
class Task:
    """One submitted task, live. `status` changes only through `lifecycle.advance`.

    An array is a task that never starts itself: it is `running` from its first element's start to its last one's end.
    """

    id: TaskId
    user_id: UserId
    request: TaskRequest
    resources: Resources
    submit_seq: int  # the order of submission, never reused; ties of aged priority go by it
    created_at: float
    submit_t: float  # logical time from which it ages
    status: TaskStatus = "queued"
    priority: int = PRIORITY_DEFAULT
    attempt: int = 0
    own_failures: int = 0  # failures of the program that were retried
    infra_failures: int = 0  # ends that were not the program's doing and were retried
    assignments: list[Assignment] = field(default_factory=list)
    started_at: float = 0.0  # 0 = never started
    ended_at: float = 0.0
    start_t: float = 0.0  # logical time of the current attempt's start
    hold_until_t: float = 0.0  # not eligible before; 0 = no hold
    waits_for: dict[TaskId, Condition] = field(default_factory=dict)  # what it depends on and has not ended yet
    doomed: str = ""  # which dependency ended otherwise than required, in words
    avoid: str = ""  # the worker that its last attempt was lost with: used again only where there is no other
    cancel_by: str = ""  # who asked, once somebody did
    aged_at_start: float = 0.0
    error: str = ""
    reason: str = ""  # "cancelled" or "" on an ended task
    report: EndReport | None = None
    earlier: list[EarlierAttempt] = field(default_factory=list)  # oldest first; there are no more than retries
    last_seq: int = 0  # sequence number of the newest fact about it
    plugins: dict[str, PluginUse] = field(default_factory=dict)  # by name, of the newest attempt that had it
    array: Array | None = None  # on an array
    array_id: TaskId = TaskId("")  # on an element: its array, "" on all others
    index: int = -1  # on an element: its place in the array, from 0


@dataclass(slots=True)
class Worker:
    """A node's capacity record. `free_*` and the slot counts follow from what is assigned; never set by hand."""

    id: WorkerId
    capacity: Capacity
    boot_id: str
    hostname: str
    connected_at: float
    status: WorkerStatus = "active"
    draining: bool = False  # somebody wants it empty, also while it is offline
    offline_t: float = 0.0  # since when it is offline, if it is
    heartbeat_at: float = 0.0  # wall, for showing
    heartbeat_t: float = 0.0
    cpu_free: int = 0
    memory_free_gb: int = 0
    batch_free: int = 0
    service_free: int = 0
    gpus_free: set[int] = field(default_factory=set)
    gpu_totals: dict[str, int] = field(default_factory=dict)  # of those that are not in quarantine, by type
    tasks: set[TaskId] = field(default_factory=set)
    detail: dict[str, Any] = field(default_factory=dict)  # python, isolation, ...: shown, never decided on
    quarantined: dict[str, str] = field(default_factory=dict)  # GPUs that failed, by uuid, and why
    usable: Capacity = NO_CAPACITY  # its capacity less those; the same object where there is none
    gpu_use: dict[str, GpuUse] = field(default_factory=dict)  # by uuid; shown, never decided on


@dataclass(slots=True)
class Tally:
    """How many tasks wait, by kind, and how many run. Of an array its elements count, not itself."""

    queued: dict[Kind, int] = field(default_factory=lambda: {"batch": 0, "service": 0})
    running: int = 0


@dataclass(slots=True, frozen=True)
class Key:
    """An API key as we keep it: never the key itself, only the SHA-256 of it."""

    id: str
    user_id: UserId
    role: Role
    sha256: str
    expires_at: float = 0.0  # 0 = never
    created_at: float = 0.0
    revoked_at: float = 0.0  # 0 = it is not

    def is_valid(self, at: float) -> bool:
        """Whether it lets its user in at wall time `at`."""
        return not self.revoked_at and (not self.expires_at or at < self.expires_at)


@dataclass(slots=True, frozen=True)
class Intent:
    """What an Idempotency-Key stands for: hashes of (user, route, key), and of the body that came with it."""

    key: str
    body: str


@dataclass(slots=True, frozen=True)
class Deed:
    """What was made for an intent: the id of it, the hash of the body, and when by the logical clock."""

    made: str
    body: str
    at_us: int

    @property
    def forget_at_us(self) -> int:
        return self.at_us + INTENT_KEPT_S * 1_000_000


@dataclass(slots=True)
class Reservation:
    """`gpu_count` GPUs of `gpu_type` on each of `node_count` workers, kept for one user. Which GPUs follows, see
    `reservations`."""

    id: str
    number: int  # in order of creation, from 1; the number of its pool of capacity
    user_id: UserId
    gpu_count: int
    gpu_type: str
    node_count: int
    created_at: float
    starts_at: float
    expires_at: float
    starts_t: float
    expires_t: float
    status: ReservationStatus = "active"
    released_by: str = ""


class PluginView(TypedDict):
    """A plugin: how it is to run, and how it is. Secrets are masked; `checked_at` is 0 where nobody has looked."""

    name: str
    version: str
    enabled: bool
    mode: PluginMode
    settings: dict[str, Any]
    status: PluginState
    problem: str  # why it is not well, or why a configuration was taken back
    progress: str  # what its environment's making is at
    endpoint: str
    checked_at: float
    requires_restart: bool


class ReservationView(TypedDict):
    """A reservation as it leaves the core. `held` says on which workers how many of its GPUs are kept or used now."""

    id: str
    user_id: str
    gpu_count: int
    gpu_type: str
    node_count: int
    created_at: float
    starts_at: float
    expires_at: float
    status: ReservationStatus
    held: dict[str, int]


class Holder(TypedDict):
    """Who has some of what a waiting task lacks. `until` in UTC epoch seconds, absent where nobody knows."""

    kind: Literal["task", "reservation"]
    id: str
    user_id: str
    until: NotRequired[float]


class PlannedStart(TypedDict):
    """When the task starts at the latest, on which workers, and why then. `at` is absent for a plan without a time."""

    at: NotRequired[float]
    workers: list[str]
    basis: str


class Explanation(TypedDict):
    """Why a task is not running, from what decides. Times are UTC epoch seconds. What does not apply is absent."""

    task_id: str
    status: TaskStatus
    priority: int
    priority_aged: float
    reason: str
    estimate: str  # when it starts, in words; "no estimate" rather than a guess
    position: NotRequired[int]  # how many are ahead of it in line
    no_later_arrival_passes_after: NotRequired[float]
    worker_id: NotRequired[str]  # the worker that lacks least
    held_by: NotRequired[list[Holder]]  # who has what is missing there
    planned: NotRequired[PlannedStart]
    smaller_request: NotRequired[dict[str, int]]  # these fields changed, it would start now


class ArrayView(TypedDict):
    """How the elements of an array stand; the five counts add up to `size`. `max_parallel` is `size` for no limit."""

    size: int
    max_parallel: int
    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    closed: NotRequired[str]  # the error of those elements that were never named, once they will not be
    closed_at: NotRequired[float]
    closed_count: NotRequired[int]


class TaskView(TypedDict):
    """A task as it leaves the core: JSON-ready, complete, a copy. Times are epoch seconds, 0 where they have no value."""

    id: str
    user_id: str
    request: TaskRequest
    status: TaskStatus
    priority: int
    priority_aged: float
    created_at: float
    started_at: float
    ended_at: float
    attempt: int
    retry_count: int
    assignments: list[Assignment]
    error: str
    reason: str
    wait_reason: str  # why it is queued, in plain words; "" once it is not
    report: EndReport | None
    earlier: NotRequired[list[EarlierAttempt]]  # absent where there is none
    last_seq: int
    plugins: NotRequired[dict[str, PluginUse]]  # absent where there is none
    stopping: NotRequired[bool]  # somebody wants it to end, and it has not yet
    array: NotRequired[ArrayView]  # of an array
    array_id: NotRequired[str]  # of an element
    array_index: NotRequired[int]
    params: NotRequired[dict[str, ParamValue]]  # of an element, its own


class GpuView(TypedDict):
    """One GPU of a worker. `occupied`: no task holds it, and somebody has memory there. What is not known is absent."""

    index: int
    uuid: str
    type: str
    status: Literal["free", "held", "occupied", "quarantined"]
    memory_mb: NotRequired[int]
    used_mb: NotRequired[int]
    utilization: NotRequired[int]
    held_by: NotRequired[str]
    cause: NotRequired[str]  # of its quarantine


class WorkerView(TypedDict):
    """A worker as it leaves the core."""

    id: str
    hostname: str
    status: WorkerStatus
    connected_at: float
    heartbeat_at: float
    cpu_cores: int
    memory_gb: int
    gpu_count: int
    gpu_type: str
    cpu_free: int
    memory_free_gb: int
    gpu_free: int
    batch_free: int
    batch_total: int
    service_free: int
    service_total: int
    active_tasks: list[str]
    detail: dict[str, Any]
    gpus: list[GpuView]


class Counts(TypedDict):
    """The numbers behind /v1/queue and /v1/scheduler/status, live ones only (ended tasks are counted by the history)."""

    batch_queued: int
    service_queued: int
    running: int
    workers_total: int
    workers_active: int
    workers_draining: int
    reservations_active: int


class Change(TypedDict):
    """A task changed. `seq` is the number of the fact that says so, 0 for a phase, which is not recorded; `task` is the
    task as it is when this is told."""

    seq: int
    action: str  # the fact's, such as task.start; empty for a phase
    task: TaskView


class Feed(TypedDict):
    """What one batch of events changed: all facts after `since` up to `seq`."""

    since: int
    seq: int
    tasks: list[Change]
    workers: list[WorkerView]  # those that came, went, or changed their status
    counts: Counts | None  # once a second at most, where they are not what they were


class Experiment(TypedDict):
    """A named group of tasks. An archived one takes no more of them; a deleted one is not shown any more."""

    id: str
    name: str
    description: str
    status: Literal["active", "archived", "deleted"]
    commit_id: str  # of the code that it is about; "" where none was given
    created_at: float
    user_id: str


def resources_of(request: TaskRequest) -> Resources:
    """What `request` asks for on each node, defaults filled in: 1 core, no GPU, no memory claim, 1 node, batch."""
    return Resources(
        cpu=request.get("cpu", 1),
        memory_gb=request.get("memory_gb", 0),
        gpu=request.get("gpu", 0),
        gpu_type=request.get("gpu_type", ""),
        kind=request.get("kind", "batch"),
        node_count=request.get("node_count", 1),
    )
