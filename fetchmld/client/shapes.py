"""The JSON of the API as types: what goes in and what comes out, as plain dictionaries.

Times are RFC 3339 text. A field without a value is absent, so read with `.get` what may be missing. Written from the
served schemas by `python -m tests.client.shape_writer`; do not edit.
"""

from __future__ import annotations

from typing import Any, Literal, Required, TypedDict


class HealthResponse(TypedDict, total=False):
    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    timestamp: str
    missing: list[str]
    problem: str
    progress: str


class Probe(TypedDict, total=False):
    status: Required[str]


class TaskUsage(TypedDict, total=False):
    user_s: float
    system_s: float
    rss_max_bytes: int


class TaskArtifacts(TypedDict, total=False):
    file_count: int
    total_bytes: int


class Task(TypedDict, total=False):
    id: str
    job_name: str
    status: Literal["queued", "preparing", "running", "collecting", "completed", "failed"]
    priority: int
    created_at: str
    started_at: str
    ended_at: str
    worker_id: str
    error: str
    output: str
    entrypoint: str
    snapshot_id: str
    datasets: list[str]
    cpu: int
    memory_gb: int
    gpu: int
    user_id: str
    retry_count: int
    max_retries: int
    plugin_status: dict[str, PluginStatus]
    node_assignments: list[NodeAssignment]
    priority_aged: float
    kind: Literal["batch", "service"]
    args: str
    image: str
    env: dict[str, str]
    metadata: dict[str, str]
    dataset_specs: list[DatasetSpec]
    plugin_configs: dict[str, PluginConfig]
    gpu_type: str
    node_count: int
    time_limit_s: int
    experiment_id: str
    reservation_id: str
    depends_on: list[Dependency]
    attempt: int
    reason: str
    wait_reason: str
    exit_code: int
    signal: int
    usage: TaskUsage
    artifacts: TaskArtifacts
    detail: str
    array: TaskArray
    array_id: str
    array_index: int
    params: dict[str, str | float | bool]


class CreateTaskRequest(TypedDict, total=False):
    job_name: Required[str]
    priority: int
    args: str
    entrypoint: str
    snapshot_id: str
    image: str
    datasets: list[str]
    dataset_specs: list[DatasetSpec]
    cpu: int
    memory_gb: int
    gpu: int
    metadata: dict[str, str]
    plugin_configs: dict[str, PluginConfig]
    node_count: int
    reservation_id: str
    experiment_id: str
    max_retries: int
    gpu_type: str
    time_limit_s: int
    kind: Literal["batch", "service"]
    env: dict[str, str]
    depends_on: list[str | Dependency]
    array: CreateArray


class DatasetSpec(TypedDict, total=False):
    name: str
    source: str
    sha256: str
    mount_path: str


class TaskList(TypedDict, total=False):
    tasks: list[Task]
    total: int
    limit: int
    offset: int


class Artifact(TypedDict, total=False):
    path: Required[str]
    bytes: Required[int]
    hash: Required[str]


class QueueStats(TypedDict, total=False):
    queued: int
    running: int
    completed: int
    failed: int
    workers: int


class CreateSnapshotRequestFiles(TypedDict, total=False):
    path: Required[str]
    size: Required[int]
    hash: Required[str]
    executable: bool


class CreateSnapshotRequest(TypedDict, total=False):
    files: Required[list[CreateSnapshotRequestFiles]]
    commit: str
    diff: str
    remote: str


class SnapshotFiles(TypedDict, total=False):
    path: Required[str]
    size: Required[int]
    hash: Required[str]
    executable: bool


class Snapshot(TypedDict, total=False):
    id: Required[str]
    created_at: Required[str]
    file_count: Required[int]
    total_bytes: Required[int]
    dirty: bool
    files: list[SnapshotFiles]
    commit: str
    diff: str
    remote: str


class Experiment(TypedDict, total=False):
    id: str
    name: str
    commit_id: str
    created_at: str
    status: Literal["active", "archived", "deleted"]
    description: str
    user_id: str


class ApiKey(TypedDict, total=False):
    id: str
    user_id: str
    role: Literal["viewer", "user", "operator", "auditor", "admin"]
    status: Literal["active", "expired", "revoked"]
    created_at: str
    expires_at: str
    revoked_at: str
    key: str


class CreateKeyRequest(TypedDict, total=False):
    user_id: Required[str]
    role: Required[Literal["viewer", "user", "operator", "auditor", "admin"]]
    expires_at: str


class Session(TypedDict, total=False):
    user_id: Required[str]
    role: Required[Literal["viewer", "user", "operator", "auditor", "admin"]]
    key_id: str
    expires_at: str


class LogIn(TypedDict, total=False):
    key: str
    ticket: str


class Ticket(TypedDict, total=False):
    ticket: Required[str]
    url: Required[str]
    expires_at: Required[str]


class CreateExperimentRequest(TypedDict, total=False):
    name: Required[str]
    description: str
    commit_id: str


class UpdateExperimentRequest(TypedDict, total=False):
    name: str
    description: str
    commit_id: str
    status: Literal["active", "archived", "deleted"]


class ExperimentMetrics(TypedDict, total=False):
    experiment_id: Required[str]
    params: Required[list[str]]
    metrics: Required[list[str]]
    tasks: Required[list[TaskMetrics]]
    total: Required[int]
    limit: Required[int]
    offset: Required[int]


class TaskMetrics(TypedDict, total=False):
    task_id: Required[str]
    job_name: Required[str]
    status: Required[Literal["queued", "preparing", "running", "collecting", "completed", "failed"]]
    created_at: Required[str]
    ended_at: str
    params: Required[dict[str, str | float | bool]]
    metrics: Required[dict[str, str | float | bool]]
    problem: str


class JupyterService(TypedDict, total=False):
    id: str
    name: str
    status: Literal["starting", "running", "stopping", "stopped", "error"]
    url: str
    token: str
    created_at: str
    user_id: str
    workspace: str
    image: str
    cpu: int
    memory_gb: int
    gpu: int
    gpu_type: str
    time_limit_s: int
    worker_id: str
    reason: str
    started_at: str
    last_activity_at: str
    ended_at: str


class StartJupyterRequest(TypedDict, total=False):
    name: Required[str]
    workspace: str
    image: str
    cpu: int
    memory_gb: int
    gpu: int
    gpu_type: str
    time_limit_s: int


class PluginConfig(TypedDict, total=False):
    enabled: bool
    mode: Literal["sidecar", "remote", "disabled"]
    image: str
    settings: dict[str, Any]


class PluginStatus(TypedDict, total=False):
    name: str
    status: Literal["healthy", "unhealthy", "starting", "stopped"]
    url: str
    last_check: str
    problem: str
    progress: str
    run_id: str
    detail: str


class NodeAssignment(TypedDict, total=False):
    node_id: int
    worker_id: str
    slot_assigned: bool
    gpus: list[int]


class Plugin(TypedDict, total=False):
    name: str
    enabled: bool
    mode: Literal["sidecar", "remote", "disabled"]
    status: PluginStatus
    config: PluginConfig
    requires_restart: bool
    version: str


class WorkerCapabilities(TypedDict, total=False):
    gpu_count: int
    gpu_type: str
    cpu_cores: int
    memory_gb: int


class WorkerFree(TypedDict, total=False):
    gpu_count: int
    cpu_cores: int
    memory_gb: int


class WorkerSlots(TypedDict, total=False):
    batch_available: int
    batch_total: int
    service_available: int
    service_total: int


class Worker(TypedDict, total=False):
    id: str
    hostname: str
    connected_at: str
    last_heartbeat: str
    capabilities: WorkerCapabilities
    free: WorkerFree
    slots: WorkerSlots
    active_tasks: list[str]
    status: Literal["active", "draining", "offline"]
    suspect: bool
    gpus: list[WorkerGpu]
    detail: dict[str, Any]


class WorkerGpu(TypedDict, total=False):
    index: Required[int]
    uuid: Required[str]
    type: Required[str]
    status: Required[Literal["free", "held", "occupied", "quarantined"]]
    memory_mb: int
    used_mb: int
    utilization: int
    held_by: str
    cause: str


class SchedulerStatus(TypedDict, total=False):
    workers_total: int
    workers_active: int
    workers_draining: int
    batch_queue_depth: int
    service_queue_depth: int
    tasks_running: int
    tasks_completed_24h: int
    reservations_active: int
    timestamp: str


class ReservationHeld(TypedDict, total=False):
    worker_id: str
    gpu_count: int


class Reservation(TypedDict, total=False):
    id: str
    user_id: str
    gpu_count: int
    gpu_type: str
    node_count: int
    expires_at: str
    status: Literal["active", "claimed", "expired"]
    created_at: str
    starts_at: str
    held: list[ReservationHeld]


class CreateReservationRequest(TypedDict, total=False):
    gpu_count: Required[int]
    gpu_type: str
    node_count: int
    expires_minutes: int
    starts_at: str


class ExplanationHeldBy(TypedDict, total=False):
    kind: Literal["task", "reservation"]
    id: str
    until: str


class ExplanationPlanned(TypedDict, total=False):
    at: str
    workers: list[str]
    basis: str


class Explanation(TypedDict, total=False):
    task_id: str
    status: Literal["queued", "preparing", "running", "collecting", "completed", "failed"]
    priority: int
    priority_aged: float
    reason: str
    estimate: str
    position: int
    no_later_arrival_passes_after: str
    worker_id: str
    held_by: list[ExplanationHeldBy]
    planned: ExplanationPlanned
    smaller_request: dict[str, int]


class CreateArray(TypedDict, total=False):
    size: int
    max_parallel: int
    params: dict[str, list[str | float | bool]]


class TaskArray(TypedDict, total=False):
    size: int
    max_parallel: int
    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    params: dict[str, list[str | float | bool]]


class Dependency(TypedDict, total=False):
    task_id: Required[str]
    condition: Literal["ok", "any", "failed"]


class AuditEvent(TypedDict, total=False):
    timestamp: str
    event_type: Literal[
        "job_queued",
        "job_started",
        "job_completed",
        "file_access",
        "auth_attempt",
        "plugin_configured",
        "scheduler_drain",
        "audit_verified",
    ]
    user_id: str
    resource: str
    action: str
    success: bool
    ip_address: str
    error: str
    prev_hash: str
    event_hash: str
    sequence_num: int
    metadata: dict[str, Any]


class HistoryQuery(TypedDict, total=False):
    sql: Required[str]
    limit: int


class HistoryAnswerColumns(TypedDict, total=False):
    name: Required[str]
    type: Required[str]


class HistoryAnswer(TypedDict, total=False):
    columns: Required[list[HistoryAnswerColumns]]
    rows: Required[list[list[Any]]]
    row_count: Required[int]
    truncated: Required[bool]
    elapsed_ms: Required[float]


class AuditEventList(TypedDict, total=False):
    events: list[AuditEvent]
    total: int
    limit: int
    offset: int


class VerificationResult(TypedDict, total=False):
    valid: bool
    total_events: int
    first_event: int
    first_tampered: int
    chain_root_hash: str
    verified_at: str
    index_valid: bool
    index_first_bad: int
    problem: str


class BatchAnswer(TypedDict, total=False):
    status: Required[int]
    task: Task
    error: ErrorResponse


class InclusionProof(TypedDict, total=False):
    kind: Required[Literal["inclusion"]]
    sequence_num: Required[int]
    record: str
    event_hash: str
    leaf_hash: Required[str]
    tree_size: Required[int]
    root: Required[str]
    proof: Required[list[str]]
    checkpoint: str
    origin: str
    verifier_key: str


ConsistencyProof = TypedDict(
    "ConsistencyProof",
    {
        "kind": "str",
        "from": "Required[int]",
        "to": "Required[int]",
        "from_root": "Required[str]",
        "to_root": "Required[str]",
        "proof": "Required[list[str]]",
        "from_checkpoint": "str",
        "to_checkpoint": "str",
        "origin": "str",
        "verifier_key": "str",
    },
    total=False,
)


class PruneRequest(TypedDict, total=False):
    before: Required[str]
    dry_run: bool


class PruneResult(TypedDict, total=False):
    first_event: Required[int]
    removed_events: Required[int]
    removed_bytes: Required[int]
    until: str
    dry_run: Required[bool]
    sequence_num: int


class RotatedKey(TypedDict, total=False):
    sequence_num: int
    verifier_key: str
    checkpoint: str


class ErrorResponse(TypedDict, total=False):
    error: Required[str]
    code: Required[
        Literal[
            "BAD_REQUEST",
            "UNAUTHORIZED",
            "FORBIDDEN",
            "NOT_FOUND",
            "CONFLICT",
            "RATE_LIMITED",
            "INTERNAL_ERROR",
            "SERVICE_UNAVAILABLE",
            "VALIDATION_ERROR",
        ]
    ]
    trace_id: Required[str]


class ChainRootSinks(TypedDict, total=False):
    sink: str
    vouches: bool
    accepted_at: str
    accepted_size: int
    problem: str


class ChainRoot(TypedDict, total=False):
    root_hash: str
    timestamp: str
    total_events: int
    first_event: int
    anchored: bool
    anchored_at: str
    checkpoint_size: int
    sinks: list[ChainRootSinks]
    problem: str
