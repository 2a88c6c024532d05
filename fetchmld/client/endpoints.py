"""The endpoint table: every route that the client knows, once.

Each function says how to ask and how to read the answer; none sends anything. `table` makes them methods of both
clients. Bodies and results are the API's JSON as plain dictionaries, of the types in `shapes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fetchmld.client.calls import Call, path, read_bytes, read_json, read_nothing

if TYPE_CHECKING:
    from fetchmld.client import shapes

Request = Mapping[str, Any]

QUERY_MAX_S: Final = 700.0  # a query of the history, and those before it
WAIT_MAX_S: Final = 30.0  # the longest that the daemon holds back one answer


def health() -> Call[shapes.HealthResponse]:
    """The daemon's HealthResponse; needs no key."""
    return Call("GET", "/health", read_json)


def ready() -> Call[shapes.Probe]:
    """`ApiError` 503 until every part of the daemon is up; needs no key."""
    return Call("GET", "/readyz", read_json)


def create_task(request: Request, idempotency_key: str | None = None) -> Call[shapes.Task]:
    """Submit a CreateTaskRequest; the Task as accepted, durable by then."""
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return Call("POST", "/v1/tasks", read_json, body=request, headers=headers, makes=True)


def create_tasks(requests: list[Request], idempotency_key: str | None = None) -> Call[list[shapes.BatchAnswer]]:
    """Submit many at once: for each, in their order, the Task (`task`, durable by then), or why not (`error`)."""
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return Call("POST", "/v1/tasks/batch", read_json, body=list(requests), headers=headers, wait_s=30.0, makes=True)


def list_tasks(
    status: str | None = None,
    user_id: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
    at: str | None = None,
    array_id: str | None = None,
    experiment_id: str | None = None,
) -> Call[shapes.TaskList]:
    """A TaskList, newest first, without `output`; with `at` (RFC 3339) as they were then; with `array_id` the elements of
    that array, in their order; with `experiment_id` those of that experiment."""
    query = {
        "status": status,
        "user_id": user_id,
        "limit": limit,
        "offset": offset,
        "at": at,
        "array_id": array_id,
        "experiment_id": experiment_id,
    }
    return Call("GET", "/v1/tasks", read_json, query=query, wait_s=QUERY_MAX_S if at else 0.0)


def get_task(task_id: str, wait_s: float | None = None, at: str | None = None) -> Call[shapes.Task]:
    """The Task; with `wait_s` (at most `WAIT_MAX_S`) as soon as it has ended, or as it is after that time.

    With `at` (RFC 3339) as it was then.
    """
    query = {"wait_s": wait_s, "at": at}
    return Call(
        "GET", path("/v1/tasks/{}", task_id), read_json, query=query, wait_s=QUERY_MAX_S if at else wait_s or 0.0
    )


def cancel_task(task_id: str) -> Call[None]:
    """Cancel a live task; take an ended one out of the listings."""
    return Call("DELETE", path("/v1/tasks/{}", task_id), read_nothing)


def list_artifacts(task_id: str) -> Call[list[shapes.Artifact]]:
    """What the task left in its output directory."""
    return Call("GET", path("/v1/tasks/{}/artifacts", task_id), read_json)


def get_artifact(task_id: str, name: str) -> Call[bytes]:
    """One file that the task left; `name` is its path below the output directory."""
    where = "/".join(path("{}", part) for part in name.split("/"))
    return Call("GET", path("/v1/tasks/{}/artifacts/", task_id) + where, read_bytes)


def queue_stats() -> Call[shapes.QueueStats]:
    """QueueStats: queued, running, and today's ends."""
    return Call("GET", "/v1/queue", read_json)


def scheduler_status() -> Call[shapes.SchedulerStatus]:
    """SchedulerStatus: workers, depths, running tasks."""
    return Call("GET", "/v1/scheduler/status", read_json)


def list_workers() -> Call[list[shapes.Worker]]:
    """Every Worker with its capabilities and free slots."""
    return Call("GET", "/v1/scheduler/workers", read_json)


def get_worker(worker_id: str) -> Call[shapes.Worker]:
    """One Worker."""
    return Call("GET", path("/v1/scheduler/workers/{}", worker_id), read_json)


def explain_task(task_id: str) -> Call[shapes.Explanation]:
    """An Explanation: why the task is not running, and when it will be."""
    return Call("GET", path("/v1/tasks/{}/explain", task_id), read_json)


def set_priority(task_id: str, priority: int) -> Call[shapes.Task]:
    """The Task with its new priority."""
    return Call("PATCH", path("/v1/scheduler/jobs/{}/priority", task_id), read_json, body={"priority": priority})


def drain_worker(worker_id: str) -> Call[None]:
    """Place nothing more on the worker; what runs there runs out."""
    return Call("DELETE", path("/v1/scheduler/workers/{}", worker_id), read_nothing)


def undrain_worker(worker_id: str) -> Call[shapes.Worker]:
    """The Worker, which takes work again."""
    return Call("POST", path("/v1/scheduler/workers/{}/undrain", worker_id), read_json)


def release_gpu(worker_id: str, index: int) -> Call[shapes.Worker]:
    """The Worker; its GPU of that index is in quarantine no longer."""
    return Call("POST", path("/v1/scheduler/workers/{}/gpus/{}/release", worker_id, str(index)), read_json)


def list_reservations() -> Call[list[shapes.Reservation]]:
    """The caller's Reservations, newest first."""
    return Call("GET", "/v1/scheduler/reservations", read_json)


def create_reservation(request: Request) -> Call[shapes.Reservation]:
    """The Reservation of a CreateReservationRequest."""
    return Call("POST", "/v1/scheduler/reservations", read_json, body=request, makes=True)


def release_reservation(reservation_id: str) -> Call[None]:
    """Give a reservation back."""
    return Call("DELETE", path("/v1/scheduler/reservations/{}", reservation_id), read_nothing)


def list_events(
    from_time: str | None = None,
    to_time: str | None = None,
    event_type: str | None = None,
    user_id: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> Call[shapes.AuditEventList]:
    """An AuditEventList, newest first; times in RFC 3339."""
    query = {
        "from": from_time,
        "to": to_time,
        "event_type": event_type,
        "user_id": user_id,
        "limit": limit,
        "offset": offset,
    }
    return Call("GET", "/v1/audit/events", read_json, query=query)


def query_history(sql: str, limit: int | None = None) -> Call[shapes.HistoryAnswer]:
    """A HistoryAnswer to one SELECT over the history's views."""
    body: dict[str, Any] = {"sql": sql} if limit is None else {"sql": sql, "limit": limit}
    return Call("POST", "/v1/history/query", read_json, body=body, wait_s=QUERY_MAX_S)


def verify_audit() -> Call[shapes.VerificationResult]:
    """A VerificationResult over the whole chain; the daemon reads every segment for it."""
    return Call("POST", "/v1/audit/verify", read_json, wait_s=600.0)


def audit_root() -> Call[shapes.ChainRoot]:
    """The newest event's hash and number."""
    return Call("GET", "/v1/audit/chain-root", read_json)


def audit_checkpoint() -> Call[bytes]:
    """The newest signed checkpoint, a note."""
    return Call("GET", "/v1/audit/checkpoint", read_bytes, wait_s=10.0)


def prove_event(seq: int, size: int | None = None) -> Call[shapes.InclusionProof]:
    """An InclusionProof, against the tree of `size` events or the newest checkpoint's."""
    return Call("GET", "/v1/audit/proof", read_json, query={"seq": seq, "size": size}, wait_s=10.0)


def prove_consistency(from_size: int, to_size: int | None = None) -> Call[shapes.ConsistencyProof]:
    """A ConsistencyProof."""
    query = {"from": from_size, "to": to_size}
    return Call("GET", "/v1/audit/consistency", read_json, query=query, wait_s=10.0)


def prune_audit(before: str, dry_run: bool = False) -> Call[shapes.PruneResult]:
    """A PruneResult: events before this time, RFC 3339, go as far as whole segments of them are older."""
    body = {"before": before, "dry_run": dry_run}
    return Call("POST", "/v1/audit/prune", read_json, body=body, wait_s=3600.0)


def rotate_audit_key() -> Call[shapes.RotatedKey]:
    """A RotatedKey: the new one signs from here on."""
    return Call("POST", "/v1/audit/rotate-key", read_json, wait_s=30.0)


def list_keys() -> Call[list[shapes.ApiKey]]:
    """Every ApiKey, newest first, without the keys themselves."""
    return Call("GET", "/v1/keys", read_json)


def create_key(request: Request) -> Call[shapes.ApiKey]:
    """The ApiKey of a CreateKeyRequest, with its `key`, this once."""
    return Call("POST", "/v1/keys", read_json, body=request)


def revoke_key(key_id: str) -> Call[None]:
    """Refuse the key from now on."""
    return Call("DELETE", path("/v1/keys/{}", key_id), read_nothing)


def list_experiments(status: str | None = None) -> Call[list[shapes.Experiment]]:
    """Every Experiment, newest first; with `status` (active, archived) those."""
    return Call("GET", "/v1/experiments", read_json, query={"status": status})


def create_experiment(
    name: str, description: str | None = None, commit_id: str | None = None
) -> Call[shapes.Experiment]:
    """A new Experiment; `commit_id` in hex."""
    given = {"name": name, "description": description, "commit_id": commit_id}
    body = {field: text for field, text in given.items() if text is not None}
    return Call("POST", "/v1/experiments", read_json, body=body, makes=True)


def get_experiment(experiment_id: str) -> Call[shapes.Experiment]:
    """One Experiment."""
    return Call("GET", path("/v1/experiments/{}", experiment_id), read_json)


def update_experiment(experiment_id: str, change: Request) -> Call[shapes.Experiment]:
    """The Experiment with its new `name`, `description` or `status` (active, archived)."""
    return Call("PATCH", path("/v1/experiments/{}", experiment_id), read_json, body=change)


def experiment_metrics(
    experiment_id: str, limit: int | None = None, offset: int | None = None
) -> Call[shapes.ExperimentMetrics]:
    """ExperimentMetrics: what its tasks left as metrics.json, with their params, newest first."""
    query = {"limit": limit, "offset": offset}
    return Call("GET", path("/v1/experiments/{}/metrics", experiment_id), read_json, query=query, wait_s=30.0)


def diff_blobs(hashes: list[str]) -> Call[dict[str, list[str]]]:
    """`missing`: those of the blobs that the caller has yet to send."""
    return Call("POST", "/v1/snapshots/diff", read_json, body=hashes)


def list_services() -> Call[list[shapes.JupyterService]]:
    """The caller's JupyterServices, newest first."""
    return Call("GET", "/v1/jupyter/services", read_json)


def get_service(service_id: str) -> Call[shapes.JupyterService]:
    """One JupyterService."""
    return Call("GET", path("/v1/jupyter/services/{}", service_id), read_json)


def start_service(request: Request) -> Call[shapes.JupyterService]:
    """The JupyterService of a StartJupyterRequest; it starts when a slot is free."""
    return Call("POST", "/v1/jupyter/services", read_json, body=request, makes=True)


def stop_service(service_id: str) -> Call[None]:
    """Stop a service; take a stopped one out of the listing."""
    return Call("DELETE", path("/v1/jupyter/services/{}", service_id), read_nothing)


def create_ticket() -> Call[shapes.Ticket]:
    """A Ticket: one login of a browser within a minute, at its `url`."""
    return Call("POST", "/v1/sessions/tickets", read_json)


def create_snapshot(manifest: Request) -> Call[shapes.Snapshot]:
    """The Snapshot of a CreateSnapshotRequest whose blobs have been sent; `Client.push` does all of it."""
    return Call("POST", "/v1/snapshots", read_json, body=manifest, wait_s=60.0)


def list_snapshots() -> Call[list[shapes.Snapshot]]:
    """The caller's Snapshots, newest first, without their files."""
    return Call("GET", "/v1/snapshots", read_json)


def get_snapshot(snapshot_id: str) -> Call[shapes.Snapshot]:
    """One of the caller's Snapshots, with its files."""
    return Call("GET", path("/v1/snapshots/{}", snapshot_id), read_json)


def list_plugins() -> Call[list[shapes.Plugin]]:
    """Every Plugin that is installed."""
    return Call("GET", "/v1/plugins", read_json)


def get_plugin(name: str) -> Call[shapes.Plugin]:
    """One Plugin, and how it is."""
    return Call("GET", path("/v1/plugins/{}", name), read_json)


def get_plugin_config(name: str) -> Call[shapes.PluginConfig]:
    """A PluginConfig; settings for administrators alone."""
    return Call("GET", path("/v1/plugins/{}/config", name), read_json)


def put_plugin_config(name: str, config: Request) -> Call[shapes.Plugin]:
    """The Plugin, whose PluginConfig this is from now on; its status says what comes of it."""
    return Call("PUT", path("/v1/plugins/{}/config", name), read_json, body=config)


def disable_plugin(name: str) -> Call[None]:
    """Stop a plugin; its settings stay."""
    return Call("DELETE", path("/v1/plugins/{}/config", name), read_nothing)


def plugin_health(name: str) -> Call[shapes.HealthResponse]:
    """A HealthResponse about a plugin."""
    return Call("GET", path("/v1/plugins/{}/health", name), read_json)
