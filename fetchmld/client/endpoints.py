"""The endpoint table: every route that the client knows, once.

Each function says how to ask and how to read the answer; none sends anything. `Endpoints` makes them methods of
whatever can send a `Call`. Bodies and results are the contract's JSON as plain dictionaries.
"""

from typing import Any, Final

from fetchmld.client.calls import Call, Json, endpoint, path, read_bytes, read_json, read_nothing

QUERY_MAX_S: Final = 700.0  # a query of the history, and those before it
WAIT_MAX_S: Final = 30.0  # the longest that the daemon holds back one answer


def health() -> Call[Json]:
    """The daemon's HealthResponse; needs no key."""
    return Call("GET", "/health", read_json)


def ready() -> Call[Json]:
    """`ApiError` 503 until every part of the daemon is up; needs no key."""
    return Call("GET", "/readyz", read_json)


def create_task(request: Json, idempotency_key: str | None = None) -> Call[Json]:
    """Submit a CreateTaskRequest; the Task as accepted, durable by then."""
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return Call("POST", "/v1/tasks", read_json, body=request, headers=headers, makes=True)


def list_tasks(
    status: str | None = None,
    user_id: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
    at: str | None = None,
    array_id: str | None = None,
) -> Call[Json]:
    """A TaskList, newest first, without `output`; with `at` (RFC 3339) as they were then; with `array_id` the elements of
    that array, in their order."""
    query = {"status": status, "user_id": user_id, "limit": limit, "offset": offset, "at": at, "array_id": array_id}
    return Call("GET", "/v1/tasks", read_json, query=query, wait_s=QUERY_MAX_S if at else 0.0)


def get_task(task_id: str, wait_s: float | None = None, at: str | None = None) -> Call[Json]:
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


def task_logs(task_id: str, offset: int = 0) -> Call[bytes]:
    """The task's output so far, from byte `offset` on."""
    return Call("GET", path("/v1/tasks/{}/logs", task_id), read_bytes, query={"offset": offset})


def list_artifacts(task_id: str) -> Call[Any]:
    """What the task left in its output directory."""
    return Call("GET", path("/v1/tasks/{}/artifacts", task_id), read_json)


def get_artifact(task_id: str, name: str) -> Call[bytes]:
    """One file that the task left; `name` is its path below the output directory."""
    where = "/".join(path("{}", part) for part in name.split("/"))
    return Call("GET", path("/v1/tasks/{}/artifacts/", task_id) + where, read_bytes)


def queue_stats() -> Call[Json]:
    """QueueStats: queued, running, and today's ends."""
    return Call("GET", "/v1/queue", read_json)


def scheduler_status() -> Call[Json]:
    """SchedulerStatus: workers, depths, running tasks."""
    return Call("GET", "/v1/scheduler/status", read_json)


def list_workers() -> Call[list[Json]]:
    """Every Worker with its capabilities and free slots."""
    return Call("GET", "/v1/scheduler/workers", read_json)


def get_worker(worker_id: str) -> Call[Json]:
    """One Worker."""
    return Call("GET", path("/v1/scheduler/workers/{}", worker_id), read_json)


def explain_task(task_id: str) -> Call[Json]:
    """An Explanation: why the task is not running, and when it will be."""
    return Call("GET", path("/v1/tasks/{}/explain", task_id), read_json)


def set_priority(task_id: str, priority: int) -> Call[Json]:
    """The Task with its new priority."""
    return Call("PATCH", path("/v1/scheduler/jobs/{}/priority", task_id), read_json, body={"priority": priority})


def drain_worker(worker_id: str) -> Call[None]:
    """Place nothing more on the worker; what runs there runs out."""
    return Call("DELETE", path("/v1/scheduler/workers/{}", worker_id), read_nothing)


def undrain_worker(worker_id: str) -> Call[Json]:
    """The Worker, which takes work again."""
    return Call("POST", path("/v1/scheduler/workers/{}/undrain", worker_id), read_json)


def release_gpu(worker_id: str, index: int) -> Call[Json]:
    """The Worker; its GPU of that index is in quarantine no longer."""
    return Call("POST", path("/v1/scheduler/workers/{}/gpus/{}/release", worker_id, str(index)), read_json)


def list_reservations() -> Call[list[Json]]:
    """The caller's Reservations, newest first."""
    return Call("GET", "/v1/scheduler/reservations", read_json)


def create_reservation(request: Json) -> Call[Json]:
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
) -> Call[Json]:
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


def query_history(sql: str, limit: int | None = None) -> Call[Json]:
    """A HistoryAnswer to one SELECT over the history's views."""
    body: Json = {"sql": sql} if limit is None else {"sql": sql, "limit": limit}
    return Call("POST", "/v1/history/query", read_json, body=body, wait_s=QUERY_MAX_S)


def verify_audit() -> Call[Json]:
    """A VerificationResult over the whole chain; the daemon reads every segment for it."""
    return Call("POST", "/v1/audit/verify", read_json, wait_s=600.0)


def audit_root() -> Call[Json]:
    """The newest event's hash and number."""
    return Call("GET", "/v1/audit/chain-root", read_json)


def audit_checkpoint() -> Call[bytes]:
    """The newest signed checkpoint, a note."""
    return Call("GET", "/v1/audit/checkpoint", read_bytes, wait_s=10.0)


def prove_event(seq: int, size: int | None = None) -> Call[Json]:
    """An InclusionProof, against the tree of `size` events or the newest checkpoint's."""
    return Call("GET", "/v1/audit/proof", read_json, query={"seq": seq, "size": size}, wait_s=10.0)


def prove_consistency(from_size: int, to_size: int | None = None) -> Call[Json]:
    """A ConsistencyProof."""
    query = {"from": from_size, "to": to_size}
    return Call("GET", "/v1/audit/consistency", read_json, query=query, wait_s=10.0)


def rotate_audit_key() -> Call[Json]:
    """A RotatedKey: the new one signs from here on."""
    return Call("POST", "/v1/audit/rotate-key", read_json, wait_s=30.0)


def list_keys() -> Call[list[Json]]:
    """Every ApiKey, newest first, without the keys themselves."""
    return Call("GET", "/v1/keys", read_json)


def create_key(request: Json) -> Call[Json]:
    """The ApiKey of a CreateKeyRequest, with its `key`, this once."""
    return Call("POST", "/v1/keys", read_json, body=request)


def revoke_key(key_id: str) -> Call[None]:
    """Refuse the key from now on."""
    return Call("DELETE", path("/v1/keys/{}", key_id), read_nothing)


def list_experiments() -> Call[list[Json]]:
    """Every Experiment."""
    return Call("GET", "/v1/experiments", read_json)


def create_experiment(name: str, description: str | None = None) -> Call[Json]:
    """A new Experiment."""
    body: Json = {"name": name} if description is None else {"name": name, "description": description}
    return Call("POST", "/v1/experiments", read_json, body=body, makes=True)


def diff_blobs(hashes: list[str]) -> Call[Json]:
    """`missing`: those of the blobs that the caller has yet to send."""
    return Call("POST", "/v1/snapshots/diff", read_json, body=hashes)


def list_services() -> Call[list[Json]]:
    """The caller's JupyterServices, newest first."""
    return Call("GET", "/v1/jupyter/services", read_json)


def get_service(service_id: str) -> Call[Json]:
    """One JupyterService."""
    return Call("GET", path("/v1/jupyter/services/{}", service_id), read_json)


def start_service(request: Json) -> Call[Json]:
    """The JupyterService of a StartJupyterRequest; it starts when a slot is free."""
    return Call("POST", "/v1/jupyter/services", read_json, body=request, makes=True)


def stop_service(service_id: str) -> Call[None]:
    """Stop a service; take a stopped one out of the listing."""
    return Call("DELETE", path("/v1/jupyter/services/{}", service_id), read_nothing)


def create_ticket() -> Call[Json]:
    """A Ticket: one login of a browser within a minute, at its `url`."""
    return Call("POST", "/v1/sessions/tickets", read_json)


def create_snapshot(manifest: Json) -> Call[Json]:
    """The Snapshot of a CreateSnapshotRequest whose blobs have been sent; `Client.push` does all of it."""
    return Call("POST", "/v1/snapshots", read_json, body=manifest, wait_s=60.0)


def list_snapshots() -> Call[list[Json]]:
    """The caller's Snapshots, newest first, without their files."""
    return Call("GET", "/v1/snapshots", read_json)


def get_snapshot(snapshot_id: str) -> Call[Json]:
    """One of the caller's Snapshots, with its files."""
    return Call("GET", path("/v1/snapshots/{}", snapshot_id), read_json)


class Endpoints:
    """The table as methods, for whatever can send a `Call`."""

    health = endpoint(health)
    ready = endpoint(ready)
    submit = endpoint(create_task)
    tasks = endpoint(list_tasks)
    task = endpoint(get_task)
    cancel = endpoint(cancel_task)
    logs = endpoint(task_logs)
    artifacts = endpoint(list_artifacts)
    artifact = endpoint(get_artifact)
    queue = endpoint(queue_stats)
    scheduler = endpoint(scheduler_status)
    workers = endpoint(list_workers)
    worker = endpoint(get_worker)
    explain = endpoint(explain_task)
    set_priority = endpoint(set_priority)
    drain = endpoint(drain_worker)
    undrain = endpoint(undrain_worker)
    release_gpu = endpoint(release_gpu)
    reservations = endpoint(list_reservations)
    reserve = endpoint(create_reservation)
    release = endpoint(release_reservation)
    audit_events = endpoint(list_events)
    history = endpoint(query_history)
    audit_verify = endpoint(verify_audit)
    audit_root = endpoint(audit_root)
    audit_checkpoint = endpoint(audit_checkpoint)
    audit_proof = endpoint(prove_event)
    audit_consistency = endpoint(prove_consistency)
    rotate_audit_key = endpoint(rotate_audit_key)
    keys = endpoint(list_keys)
    create_key = endpoint(create_key)
    revoke_key = endpoint(revoke_key)
    services = endpoint(list_services)
    service = endpoint(get_service)
    start_service = endpoint(start_service)
    stop_service = endpoint(stop_service)
    create_ticket = endpoint(create_ticket)
    experiments = endpoint(list_experiments)
    create_experiment = endpoint(create_experiment)
    diff_blobs = endpoint(diff_blobs)
    create_snapshot = endpoint(create_snapshot)
    snapshots = endpoint(list_snapshots)
    snapshot = endpoint(get_snapshot)
