"""What the API needs from the rest of us. The head actor implements it over the cluster, the tests without one."""

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Protocol, TypedDict

from fetchmld.core.errors import FetchmlError
from fetchmld.core.messages import EventType, Fact
from fetchmld.core.model import (
    Change,
    Counts,
    Experiment,
    Explanation,
    Feed,
    Intent,
    Key,
    PluginConfig,
    PluginView,
    ReservationView,
    Role,
    TaskId,
    TaskRequest,
    TaskStatus,
    TaskView,
    UserId,
    WorkerView,
)
from fetchmld.manifest import CodeManifest, CodeSnapshot
from fetchmld.measures import SchedulerMeasures
from fetchmld.upstream import Serving, Upstream


@dataclass(slots=True, frozen=True)
class Caller:
    """Who is asking: the key's identity, and where the request came from."""

    user_id: UserId
    role: str
    key_id: str
    ip_address: str
    trace_id: str


@dataclass(slots=True, frozen=True)
class TaskQuery:
    """Filters of the task list; None means no filter. Newest first, in the order of the ledger.

    Elements of arrays are left out; with `array_id` they are what is listed, in their order.
    """

    status: TaskStatus | None = None
    user_id: str | None = None
    node_count: int | None = None
    reservation_id: str | None = None
    experiment_id: str | None = None
    plugins: tuple[str, ...] | None = None
    at_us: int | None = None  # as they were at that moment
    array_id: TaskId | None = None
    limit: int = 50
    offset: int = 0


@dataclass(slots=True, frozen=True)
class EventQuery:
    """Filters of the audit list; times in UTC microseconds, both ends included. Newest first."""

    from_us: int | None = None
    to_us: int | None = None
    event_type: EventType | None = None
    user_id: str | None = None
    limit: int = 100
    offset: int = 0


@dataclass(slots=True, frozen=True)
class SqlQuery:
    """One SELECT over the history's views. `audit`: over the events too; `redacted`: tasks without possible secrets."""

    sql: str
    audit: bool
    redacted: bool
    rows_max: int | None = None  # fewer than the server's own bound


@dataclass(slots=True, frozen=True)
class ReservationRequest:
    """What POST /v1/scheduler/reservations asks for; `gpu_type` is empty for any, times are from now on."""

    gpu_count: int
    gpu_type: str
    node_count: int
    duration_s: float
    starts_in_s: float


@dataclass(slots=True, frozen=True)
class ExperimentRequest:
    """What POST /v1/experiments asks for; texts that were not given are empty."""

    name: str
    description: str = ""
    commit_id: str = ""


class TaskPage(TypedDict):
    tasks: list[TaskView]
    total: int


class SqlAnswer(TypedDict):
    """As `store.history_sql` makes it; the values are JSON already."""

    columns: list[dict[str, str]]
    rows: list[list[Any]]
    row_count: int
    truncated: bool
    elapsed_ms: float


class EventRow(TypedDict):
    """One audit event as recorded; hashes in hex."""

    sequence_num: int
    at_us: int
    clock_us: int
    event_type: str
    action: str
    user_id: str
    resource: str
    success: bool
    ip_address: str
    error: str
    prev_hash: str
    event_hash: str
    metadata: dict[str, Any]


class EventPage(TypedDict):
    events: list[EventRow]
    total: int


class Verification(TypedDict):
    """`first_bad` is the lowest bad sequence number, or -1; `index_*` says the same of DuckDB's copy. Events before
    `first_seq` were pruned."""

    valid: bool
    total_events: int
    first_seq: int
    first_bad: int
    problem: str
    root_hash: str
    index_valid: bool
    index_first_bad: int
    verified_at: float


class SinkStatus(TypedDict):
    """A receiver of checkpoints; `vouches`: is what it takes out of this machine's reach, as far as can be known?"""

    sink: str
    vouches: bool
    problem: str
    accepted_size: NotRequired[int]
    accepted_at: NotRequired[float]


class Anchoring(TypedDict):
    """`anchored`: somebody outside has taken the newest checkpoint, and it is near the record's end."""

    anchored: bool
    checkpoint_size: int
    sinks: list[SinkStatus]
    problem: str
    anchored_at: NotRequired[float]
    first_seq: NotRequired[int]  # those before it were pruned


class Root(TypedDict):
    root_hash: str
    at_us: int
    total_events: int
    anchoring: Anchoring


class InclusionProof(TypedDict):
    """That event `seq` is in the tree of `size` events. Bytes in hex; `note` is empty where no checkpoint is kept,
    `record` and `event_hash` where retention has removed the event and left its `leaf_hash`."""

    seq: int
    record: str
    event_hash: str
    leaf_hash: str
    size: int
    root: str
    proof: list[str]
    note: str
    origin: str
    verifier_key: str


class ConsistencyProof(TypedDict):
    """That the tree of `new` events begins with that of `old`."""

    old: int
    new: int
    old_root: str
    new_root: str
    proof: list[str]
    old_note: str
    new_note: str
    origin: str
    verifier_key: str


class Pruning(TypedDict):
    """What was removed of the record, or would be: `events` of `bytes` in all, so that it begins at `first_seq`.

    `until_us`: the time of the newest of them; `seq`: the fact that says so. Both absent where there is none.
    """

    first_seq: int
    events: int
    bytes: int
    dry_run: bool
    until_us: NotRequired[int]
    seq: NotRequired[int]


class RotatedKey(TypedDict):
    """`seq` is the fact that handed over, `note` the first checkpoint by the new key."""

    seq: int
    verifier_key: str
    note: str


class Ended(TypedDict):
    """Counts of ended tasks: since the start of the UTC day, and in the last 24 hours."""

    completed_today: int
    failed_today: int
    completed_24h: int


@dataclass(slots=True, frozen=True)
class LogChunk:
    """Bytes of a task's log from `offset` on. `ended`: the attempt is over and nothing follows these bytes."""

    data: bytes
    offset: int
    size: int
    ended: bool


class ArtifactEntry(TypedDict):
    path: str
    bytes: int
    hash: str


class Code(Protocol):
    """Snapshots of code, and the blobs they are made of. Everything is the caller's own; what others have is not there."""

    async def missing(self, caller: Caller, hashes: list[str]) -> list[str]:
        """The blobs that the caller has yet to send. Invalid for what is no hash."""

    async def put_blob(self, caller: Caller, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Returns once it is durable. Invalid where the bytes have another hash."""

    async def blob(self, caller: Caller, digest: str) -> tuple[int, AsyncIterator[bytes]]:
        """Its size, and its bytes once. NotFound for an unknown one."""

    async def keep(self, caller: Caller, manifest: CodeManifest) -> CodeSnapshot:
        """On record and durable. Invalid where blobs of it are missing."""

    async def read(self, caller: Caller, snapshot_id: str) -> tuple[CodeSnapshot, CodeManifest]:
        """What is in it; that somebody read it is on record. NotFound for an unknown one."""

    async def owned(self, caller: Caller) -> list[CodeSnapshot]:
        """Newest first."""

    async def has(self, caller: Caller, snapshot_id: str) -> bool: ...


class Objects(Protocol):
    """All content that is named by the BLAKE3 of its bytes, whoever's it is: for machines that joined."""

    async def size(self, digest: str) -> int:
        """NotFound where there is none, Invalid for what is no hash."""

    def pieces(self, digest: str) -> AsyncIterator[bytes]: ...

    async def has(self, digest: str) -> bool:
        """Need it not be put? Then it is kept as if it had been put now."""

    async def put(self, digest: str, pieces: AsyncIterator[bytes]) -> None:
        """Returns once it is durable. Invalid where the bytes have another hash."""


Reach = Literal["console", "services"]  # where a session counts: on the API, or on the pages of services alone


class Session(Protocol):
    """Somebody who is logged in with a browser, or may be by a ticket: stands for an API key, by its hash."""

    @property
    def key_sha256(self) -> str: ...
    @property
    def reach(self) -> Reach: ...
    @property
    def expires_at(self) -> float: ...


class Sessions(Protocol):
    """Random values that browsers have. They are good for as long as the key that they stand for is."""

    def issue(self, key_sha256: str, reach: Reach) -> tuple[str, float]:
        """A ticket that opens one session, and when it expires."""

    def redeem(self, ticket: str) -> Session | None:
        """What the ticket is good for, this once."""

    def find(self, value: str, reach: Reach) -> Session | None: ...

    async def begin(self, key_sha256: str, reach: Reach, expires_at: float) -> str:
        """A new session, durable; the value that the browser is to send."""

    async def end(self, value: str) -> None: ...

    async def end_all(self, key_sha256: str) -> None: ...


class Plugins(Protocol):
    """The plugins. NotFound for a name that no installed one has."""

    async def all(self) -> list[PluginView]: ...

    async def one(self, name: str) -> PluginView: ...

    async def configure(self, caller: Caller, name: str, config: PluginConfig) -> PluginView:
        """Returns once it is on record. Invalid naming the setting that is wrong."""

    async def disable(self, caller: Caller, name: str) -> None: ...


class MachineLogs(Protocol):
    """The output of tasks that machines that joined send: files by their names there, which only grow."""

    async def lengths(self, worker_id: str) -> dict[str, int]:
        """How many bytes of each file are here."""

    async def take(self, worker_id: str, shipment: bytes) -> dict[str, int]:
        """Returns once it is durable: how many bytes of the files in it are here. BadRequest for what is no shipment."""


class Head(Protocol):
    """Every method raises `FetchmlError`s only. What changes state returns once the change is durable."""

    @property
    def code(self) -> Code: ...

    @property
    def objects(self) -> Objects: ...

    @property
    def sessions(self) -> Sessions: ...
    @property
    def plugins(self) -> Plugins: ...

    @property
    def machine_logs(self) -> MachineLogs: ...

    async def submit(
        self, caller: Caller, requests: list[TaskRequest], intents: Sequence[Intent | None] = ()
    ) -> list[TaskView | FetchmlError]:
        """For each, in order, the task or why it was refused. All that were accepted are durable, or none is.

        `intents`, one for each or none at all: `Repeated` for what was done under the same intent before.
        """

    async def cancel(self, caller: Caller, task_id: TaskId) -> None:
        """Cancel a live task, or take an ended one out of the listings. NotFound for an unknown one."""

    async def set_priority(self, caller: Caller, task_id: TaskId, priority: int) -> TaskView:
        """Conflict for an ended task, NotFound for an unknown one."""

    async def explain(self, task_id: TaskId) -> Explanation | None:
        """Why a live task is not running; None for any other."""

    async def task(self, task_id: TaskId) -> TaskView | None: ...

    async def wait(self, task_id: TaskId, timeout_s: float) -> TaskView | None:
        """The task as soon as it has ended, or as it is after `timeout_s`."""

    async def tasks(self, query: TaskQuery) -> TaskPage: ...

    async def task_at(self, task_id: TaskId, at_us: int) -> TaskView | None:
        """The task as it was at that moment; None where it was not there."""

    async def ask_history(self, query: SqlQuery) -> SqlAnswer:
        """Raises `Invalid` for what may not be asked, is wrong or takes too much."""

    async def logs(self, task: TaskView, offset: int, limit_bytes: int, wait_s: float) -> LogChunk:
        """Log bytes; where none are there yet and the task goes on, waits up to `wait_s` for some."""

    async def artifacts(self, task: TaskView) -> list[ArtifactEntry]:
        """What its last attempt left, by path. NotFound where it was kept long enough, and removed."""

    def artifact(self, entry: ArtifactEntry, offset: int = 0) -> AsyncIterator[bytes]:
        """Its bytes from `offset` on. NotFound where they are gone."""

    async def counts(self) -> Counts: ...

    async def measures(self) -> SchedulerMeasures:
        """What the scheduler has counted since it began."""

    async def ended(self) -> Ended: ...

    async def workers(self) -> list[WorkerView]: ...

    async def drain(self, caller: Caller, worker_id: str, wanted: bool) -> WorkerView:
        """Place nothing more on the worker, or again. NotFound for an unknown one."""

    async def release_gpu(self, caller: Caller, worker_id: str, index: int) -> WorkerView:
        """End the quarantine of a GPU. NotFound for an unknown one, Conflict for one that is in none."""

    async def services(self) -> list[TaskView]:
        """The tasks that are Jupyter servers, live ones and the newest ended ones, newest first."""

    async def serving(self, tasks: Sequence[TaskView]) -> dict[str, Serving]:
        """By id, what their workers know of those that run. Absent: nothing, or the worker does not answer now."""

    async def reach(self, upstream: Upstream) -> socket.socket:
        """A connection to what serves pages, on whichever machine. Raises Unavailable."""

    def called(self, ticket: str) -> socket.socket:
        """A machine that joined calls, as it was asked to: the end of its line that it is to be connected to. NotFound
        where nobody waits for it."""

    async def reservations(self) -> list[ReservationView]:
        """Live ones and the newest ended ones, newest first."""

    async def reserve(
        self, caller: Caller, wanted: ReservationRequest, intent: Intent | None = None
    ) -> ReservationView:
        """Raises `Repeated` where the intent was met before."""

    async def release(self, caller: Caller, reservation_id: str, any_user: bool) -> None:
        """Give it back. NotFound for an unknown one, or another's unless `any_user`; Conflict for one that is over."""

    async def events(self, query: EventQuery) -> EventPage: ...

    async def verify(self, caller: Caller) -> Verification: ...

    async def root(self) -> Root: ...

    async def checkpoint(self) -> str:
        """The newest signed checkpoint, as a note. Unavailable while there is none."""

    async def prove(self, seq: int, size: int | None) -> InclusionProof:
        """Against the tree of `size` events, or the newest checkpoint's. NotFound for an event that is not there."""

    async def prove_consistency(self, old: int, new: int | None) -> ConsistencyProof:
        """`new` where None: the newest checkpoint's size. NotFound beyond the record's end."""

    async def prune(self, caller: Caller, before_us: int, dry_run: bool) -> Pruning:
        """Remove events before `before_us`, as far as whole segments go. Conflict where they are not what was written."""

    async def rotate_key(self, caller: Caller) -> RotatedKey:
        """A new key signs from here on."""

    async def experiments(self) -> list[Experiment]: ...

    async def experiment_tasks(self, experiment_id: str, limit: int, offset: int) -> TaskPage:
        """Its tasks, newest first; of arrays the elements that have been started."""

    async def create_experiment(
        self, caller: Caller, wanted: ExperimentRequest, intent: Intent | None = None
    ) -> Experiment:
        """Raises `Repeated` where the intent was met before."""

    async def update_experiment(self, caller: Caller, experiment_id: str, changes: dict[str, str]) -> Experiment:
        """`changes`: of name, description, status and commit_id those that are to be new. NotFound for no such one."""

    async def newest(self) -> int:
        """The sequence number of the newest durable fact."""

    def changes(self) -> AsyncGenerator[Feed]:
        """First an empty one that says where it begins, then everything that changes, until the scheduler is away."""

    async def changes_since(self, seq: int) -> list[Change] | None:
        """The recorded changes of tasks after fact `seq`, oldest first; None where they are too many to tell."""

    async def key(self, sha256: str) -> Key | None: ...

    async def keys(self) -> list[Key]:
        """Every key that was ever made, newest first."""

    async def create_key(self, caller: Caller, user_id: str, role: Role, sha256: str, expires_at: float) -> Key:
        """`expires_at` in epoch seconds, 0 for never."""

    async def revoke_key(self, caller: Caller, key_id: str) -> None:
        """NotFound for an unknown one; Conflict for the last administrator's."""

    def note(self, fact: Fact) -> None:
        """Put a fact into the record without waiting for it (logins). Beyond a bound only their count is recorded."""

    async def plugin_upstream(self, name: str) -> Upstream:
        """Where the plugin is. NotFound where it is not enabled, Unavailable while it is down."""

    async def task_token(self, token: str) -> tuple[Caller, str] | None:
        """Whose task that is, and the one plugin that it may reach; None for what is no token, or not any more."""

    async def ready(self) -> dict[Literal["scheduler", "history", "audit", "worker"], bool]: ...
