"""The document that GET /openapi.json serves: what each mounted operation takes and every status it can answer.

Owns the descriptions of operations, keyed by operation id; methods and paths come from the mounted table, so that the
two cannot differ. An operation without a description, or the other way round, is an error when the application is built.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fetchmld.api.guard import Operation
from fetchmld.api.query import OFFSET_MAX
from fetchmld.api.schemas import (
    BLOB_HASH,
    BOOLEAN,
    CHAIN_ROOT,
    EVENT_TYPES,
    INSTANT,
    INTEGER,
    SCHEMAS,
    STRING,
    TASK_STATUSES,
    Schema,
    array,
    record,
    ref,
)
from fetchmld.manifest import FILES_MAX

_PATH_PATTERN: Final = re.compile(r"\{(\w+):[^}]*\}")
_PATH_NAME: Final = re.compile(r"\{(\w+)\}")

# Response name and description of each error status.
_ERRORS: Final[dict[int, tuple[str, str]]] = {
    400: ("BadRequest", "The request cannot be read, or a query parameter is wrong."),
    401: ("Unauthorized", "No API key, or one that is not known."),
    403: ("Forbidden", "The key's role may not do this, or another site's page asks."),
    408: ("Stalled", "The body stopped coming."),
    404: ("NotFound", "There is no such object, or not for this caller."),
    409: ("Conflict", "The object's state forbids this."),
    413: ("TooLarge", "The body is over the limit."),
    417: ("ExpectationFailed", "The Expect header asks for something other than 100-continue."),
    421: ("Misdirected", "The Host header names another server."),
    422: ("ValidationError", "The body can be read, but its content is wrong."),
    426: ("UpgradeRequired", "This is a WebSocket."),
    429: ("RateLimited", "Too many requests with this key, or from this address."),
    500: ("InternalError", "Our fault; quote the trace_id."),
    503: ("Unavailable", "Cannot be done now; try again after Retry-After seconds."),
}
_ALWAYS: Final = (400, 403, 417, 421, 429, 500)
_CLOSED: Final = (401, 503)
_BODY: Final = (408, 413, 422)
_RETRY_AFTER: Final = {"Retry-After": {"schema": INTEGER, "description": "Seconds to wait."}}


@dataclass(slots=True, frozen=True)
class Doc:
    """What the document says of one operation. `status` is that of success, `answer` its schema or None for no body."""

    summary: str
    answer: Schema | None
    status: int = 200
    media_type: str = "application/json"
    tags: tuple[str, ...] = ()
    query: tuple[Schema, ...] = ()
    body: Schema | None = None
    body_type: str = "application/json"
    errors: tuple[int, ...] = ()
    more_types: dict[str, Schema] = field(default_factory=dict)
    empty: str = ""  # when it answers 204 instead
    is_once: bool = False  # takes an Idempotency-Key
    has_etag: bool = False  # answers 304 to an If-None-Match


def parameter(name: str, schema: Schema, description: str = "", **keywords: Any) -> Schema:
    """A query parameter."""
    said = {"description": description} if description else {}
    return {"name": name, "in": "query", **said, **keywords, "schema": schema}


def _number(least: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": OFFSET_MAX}


_BYTES: Final[Schema] = {"type": "string", "format": "binary"}
_LIMIT_50: Final = parameter("limit", {"type": "integer", "default": 50, "minimum": 1, "maximum": 1000})
_LIMIT_100: Final = parameter("limit", {"type": "integer", "default": 100, "minimum": 1, "maximum": 1000})
_OFFSET: Final = parameter("offset", {"type": "integer", "default": 0, "minimum": 0})
_USER_ID: Final = parameter("user_id", {"type": "string"}, "Of this user; users see their own only.")

_LIST_TASKS: Final = (
    parameter("status", {"type": "string", "enum": TASK_STATUSES}),
    _LIMIT_50,
    _OFFSET,
    _USER_ID,
    parameter("at", INSTANT, "As they were at this moment."),
    parameter(
        "plugin_configs",
        {"type": "object", "additionalProperties": ref("PluginConfig")},
        "Tasks that name these plugins; as JSON text or as deepObject.",
        style="deepObject",
        explode=True,
    ),
    parameter("node_count", {"type": "integer", "minimum": 1, "default": 1}, "No filter where it is absent."),
    parameter("reservation_id", STRING),
    parameter("experiment_id", STRING),
    parameter("array_id", STRING, "The elements of this array, in their order; elsewhere an array is one line."),
)
_LIST_EXPERIMENTS: Final = (
    parameter("status", {"type": "string", "enum": ["active", "archived"]}, "Both where it is absent."),
)
_LIST_EVENTS: Final = (
    parameter("from", INSTANT, "Not before."),
    parameter("to", INSTANT, "Not after."),
    parameter("event_type", {"type": "string", "enum": EVENT_TYPES}),
    parameter("user_id", STRING),
    _LIMIT_100,
    _OFFSET,
)
_READ_TASK: Final = (
    parameter(
        "wait_s",
        {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
        "Answer when the task has ended, or after so many seconds.",
    ),
    parameter("at", INSTANT, "As it was at this moment, without its log."),
    parameter("output", {"type": "boolean", "default": True}, "Include the last 64 KiB of the log."),
)
_READ_LOGS: Final = (
    parameter("offset", {"type": "integer", "minimum": 0, "maximum": OFFSET_MAX, "default": 0}, "First byte."),
    parameter("follow", {**BOOLEAN, "default": False}, "Go on until the attempt ends."),
    parameter("attempt", {"type": "integer", "minimum": 1, "maximum": 10**6}, "The newest where absent."),
)
_PROVE: Final = (
    parameter("seq", _number(0), "The event's number.", required=True),
    parameter("size", _number(1), "Against the tree of so many events; else the newest one."),
)
_CONSISTENCY: Final = (
    parameter("from", _number(0), "The earlier tree's size.", required=True),
    parameter("to", _number(1), "The later tree's size; else the newest checkpoint's."),
)
_FOLLOW: Final = (
    parameter("after", _number(0), "Resume after this event's number; where absent, from now on."),
    parameter("workers", {**BOOLEAN, "default": False}, "Changes of workers and of the queue's numbers too."),
)
_IDEMPOTENCY_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request again under the same key, within a day, is answered with what it made the first time "
    "(and `Idempotency-Replayed: true`); with another body it is 422, while the first is under way 409.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_SET_PRIORITY: Final = record({"priority": {"type": "integer", "minimum": 1, "maximum": 10}}, required=["priority"])
_PLUGINS, _SCHEDULER, _AUDIT = ("Plugins",), ("Scheduler",), ("Audit",)
_TASKS, _EXPERIMENTS, _JUPYTER, _SERVER = ("Tasks",), ("Experiments",), ("Jupyter",), ("Server",)
_KEYS, _SNAPSHOTS = ("Keys",), ("Snapshots",)
_EVENTS_TYPE: Final = "text/event-stream"

DOCS: Final[dict[str, Doc]] = {
    "getHealth": Doc("Is everything there?", ref("HealthResponse"), tags=_SERVER),
    "getConsole": Doc("The web console.", STRING, media_type="text/html", tags=_SERVER, has_etag=True),
    "getConsoleFile": Doc(
        "What the console is made of.",
        STRING,
        media_type="text/javascript",
        more_types={"text/css": STRING, "image/svg+xml": STRING, "text/plain": STRING},
        tags=_SERVER,
        errors=(404,),
        has_etag=True,
    ),
    "getLiveness": Doc("Does the process answer?", ref("Probe"), tags=_SERVER),
    "getReadiness": Doc("Is everything there that a task needs?", ref("Probe"), tags=_SERVER, errors=(503,)),
    "getOpenapi": Doc("This document.", {"type": "object"}, tags=_SERVER),
    "getDocs": Doc("This document as a page.", STRING, media_type="text/html", tags=_SERVER),
    "getDocsFile": Doc(
        "A file of that page.",
        STRING,
        media_type="text/javascript",
        more_types={"text/css": STRING},
        tags=_SERVER,
        errors=(404,),
    ),
    "getMetrics": Doc("Numbers for Prometheus.", STRING, media_type="text/plain", tags=_SERVER),
    "listTasks": Doc("List tasks, newest first.", ref("TaskList"), tags=_TASKS, query=_LIST_TASKS, errors=(422,)),
    "createTask": Doc(
        "Submit a task; answered once it is on disk.",
        ref("Task"),
        201,
        tags=_TASKS,
        body=ref("CreateTaskRequest"),
        errors=(409,),
        is_once=True,
    ),
    "createTasks": Doc(
        "Submit many tasks at once; answered one by one, in their order, once all that were accepted are on disk.",
        array(ref("BatchAnswer")),
        tags=_TASKS,
        body={**array(ref("CreateTaskRequest")), "maxItems": 10_000},
        errors=(409,),
        is_once=True,
    ),
    "getTask": Doc("Read a task.", ref("Task"), tags=_TASKS, query=_READ_TASK, errors=(404,)),
    "deleteTask": Doc(
        "Cancel a live task, or take an ended one out of the listings.", None, 204, tags=_TASKS, errors=(404, 409)
    ),
    "explainTask": Doc(
        "Why a task is not running, who holds what it lacks, and when it starts.",
        ref("Explanation"),
        tags=_TASKS,
        errors=(404,),
    ),
    "getTaskLogs": Doc(
        "A task's log as bytes, or as server-sent events whose ids are byte offsets.",
        STRING,
        media_type="text/plain",
        tags=_TASKS,
        query=_READ_LOGS,
        errors=(404,),
        more_types={_EVENTS_TYPE: STRING},
    ),
    "listTaskArtifacts": Doc("What a task left behind.", array(ref("Artifact")), tags=_TASKS, errors=(404,)),
    "getTaskArtifact": Doc(
        "One file that a task left behind; its path may have slashes.",
        _BYTES,
        media_type="application/octet-stream",
        tags=_TASKS,
        errors=(404,),
    ),
    "getQueueStats": Doc("What waits, runs and ended today.", ref("QueueStats"), tags=_TASKS),
    "listPlugins": Doc("List plugins.", array(ref("Plugin")), tags=_PLUGINS),
    "getPlugin": Doc("Read a plugin.", ref("Plugin"), tags=_PLUGINS, errors=(404,)),
    "getPluginConfig": Doc("Read a plugin's configuration.", ref("PluginConfig"), tags=_PLUGINS, errors=(404,)),
    "putPluginConfig": Doc(
        "Set a plugin's configuration. 200 once it is on record; `status` says what comes of it. Settings are replaced as "
        "a whole; where only such changed as need no restart, what runs goes on. Else the new server is tried before the "
        "old one goes, and where it does not come up the old one stays, with its configuration.",
        ref("Plugin"),
        tags=_PLUGINS,
        body=ref("PluginConfig"),
        errors=(404,),
    ),
    "disablePlugin": Doc("Disable a plugin.", None, 204, tags=_PLUGINS, errors=(404,)),
    "getPluginHealth": Doc("A plugin's health.", ref("HealthResponse"), tags=_PLUGINS, errors=(404,)),
    "getSchedulerStatus": Doc("Queue depths and workers.", ref("SchedulerStatus"), tags=_SCHEDULER),
    "streamSchedulerStatus": Doc(
        "Follow the scheduler: a snapshot, then every change of queue, workers and tasks.",
        STRING,
        media_type=_EVENTS_TYPE,
        tags=_SCHEDULER,
    ),
    "listWorkers": Doc("List workers.", array(ref("Worker")), tags=_SCHEDULER),
    "getWorker": Doc("Read a worker.", ref("Worker"), tags=_SCHEDULER, errors=(404,)),
    "drainWorker": Doc(
        "Drain a worker: nothing new is placed on it, what runs there runs out.",
        None,
        204,
        tags=_SCHEDULER,
        errors=(404,),
    ),
    "undrainWorker": Doc("Let a drained worker take work again.", ref("Worker"), tags=_SCHEDULER, errors=(404,)),
    "releaseGpu": Doc(
        "Use a GPU again that failed and is in quarantine; the next fault ends that.",
        ref("Worker"),
        tags=_SCHEDULER,
        errors=(404, 409),
    ),
    "listReservations": Doc("List reservations.", array(ref("Reservation")), tags=_SCHEDULER),
    "createReservation": Doc(
        "Reserve capacity.",
        ref("Reservation"),
        201,
        tags=_SCHEDULER,
        body=ref("CreateReservationRequest"),
        errors=(409,),
        is_once=True,
    ),
    "releaseReservation": Doc(
        "Give a reservation back; its running tasks go on.", None, 204, tags=_SCHEDULER, errors=(404, 409)
    ),
    "updateJobPriority": Doc(
        "Change a task's priority.", ref("Task"), tags=_SCHEDULER, body=_SET_PRIORITY, errors=(404, 409)
    ),
    "streamJob": Doc(
        "Follow a task to its end: a snapshot, then every change.",
        STRING,
        media_type=_EVENTS_TYPE,
        tags=_SCHEDULER,
        errors=(404,),
        empty="The task has ended, and the client has seen that: nothing follows.",
    ),
    "listAuditEvents": Doc("List audit events, newest first.", ref("AuditEventList"), tags=_AUDIT, query=_LIST_EVENTS),
    "verifyAuditChain": Doc("Check the whole chain and the index.", ref("VerificationResult"), tags=_AUDIT),
    "getAuditChainRoot": Doc("The newest event's hash, and who vouches for it.", CHAIN_ROOT, tags=_AUDIT),
    "getAuditCheckpoint": Doc(
        "The newest signed checkpoint (C2SP tlog-checkpoint).", STRING, media_type="text/plain", tags=_AUDIT
    ),
    "proveAuditEvent": Doc(
        "Prove that an event is in the record.", ref("InclusionProof"), tags=_AUDIT, query=_PROVE, errors=(404,)
    ),
    "proveAuditConsistency": Doc(
        "Prove that the record continues an earlier one.",
        ref("ConsistencyProof"),
        tags=_AUDIT,
        query=_CONSISTENCY,
        errors=(404, 422),
    ),
    "pruneAudit": Doc(
        "Remove the oldest part of the record: whole segments, whose hashes stay.",
        ref("PruneResult"),
        tags=_AUDIT,
        body=ref("PruneRequest"),
        errors=(409,),
    ),
    "rotateAuditKey": Doc("Sign checkpoints with a new key from here on.", ref("RotatedKey"), tags=_AUDIT),
    "listKeys": Doc("List API keys, newest first.", array(ref("ApiKey")), tags=_KEYS),
    "createKey": Doc(
        "Make an API key; it is shown this once.",
        ref("ApiKey"),
        201,
        tags=_KEYS,
        body=ref("CreateKeyRequest"),
        errors=(409,),
    ),
    "revokeKey": Doc("Refuse a key from now on.", None, 204, tags=_KEYS, errors=(404, 409)),
    "createSession": Doc(
        "Log a browser in, by key or ticket: answered with a session's cookie.",
        ref("Session"),
        201,
        tags=_KEYS,
        body=ref("LogIn"),
        errors=(401, 403, 503),
    ),
    "readSession": Doc(
        "Who asks, by key or session.", ref("Session"), tags=_KEYS, errors=(401, 503), empty="Nobody is logged in."
    ),
    "endSession": Doc("Log out; asked with a key, end all its sessions.", None, 204, tags=_KEYS),
    "createTicket": Doc("Get a ticket for one login within a minute.", ref("Ticket"), 201, tags=_KEYS),
    "enterByTicket": Doc(
        "Log a browser in by a ticket, and send it on to the page `to`.",
        None,
        303,
        tags=_KEYS,
        query=(parameter("to", STRING, "A path of ours; / where absent."),),
        errors=(401, 403, 503),
    ),
    "queryHistory": Doc(
        "Ask the history: one SELECT over its views.",
        ref("HistoryAnswer"),
        tags=_AUDIT,
        body=ref("HistoryQuery"),
    ),
    "listExperiments": Doc(
        "List experiments, newest first.", array(ref("Experiment")), tags=_EXPERIMENTS, query=_LIST_EXPERIMENTS
    ),
    "createExperiment": Doc(
        "Create an experiment.",
        ref("Experiment"),
        201,
        tags=_EXPERIMENTS,
        body=ref("CreateExperimentRequest"),
        errors=(409,),
        is_once=True,
    ),
    "getExperiment": Doc("Read an experiment.", ref("Experiment"), tags=_EXPERIMENTS, errors=(404,)),
    "updateExperiment": Doc(
        "Rename an experiment, describe it anew, archive it or bring it back, or delete it.",
        ref("Experiment"),
        tags=_EXPERIMENTS,
        body=ref("UpdateExperimentRequest"),
        errors=(404,),
    ),
    "getExperimentMetrics": Doc(
        "What the experiment's tasks left as metrics.json, one row for each task, newest first.",
        ref("ExperimentMetrics"),
        tags=_EXPERIMENTS,
        query=(_LIMIT_100, _OFFSET),
        errors=(404,),
    ),
    "diffBlobs": Doc(
        "Which of these blobs has the caller yet to send?",
        record({"missing": array(STRING)}, required=["missing"]),
        tags=_SNAPSHOTS,
        body={**array(BLOB_HASH), "maxItems": FILES_MAX},
    ),
    "createSnapshot": Doc(
        "Make a snapshot of code of blobs that were sent; the same files give the same snapshot.",
        ref("Snapshot"),
        201,
        tags=_SNAPSHOTS,
        body=ref("CreateSnapshotRequest"),
    ),
    "listSnapshots": Doc("List the caller's snapshots, newest first.", array(ref("Snapshot")), tags=_SNAPSHOTS),
    "getSnapshot": Doc(
        "Read one of the caller's snapshots, with its files.", ref("Snapshot"), tags=_SNAPSHOTS, errors=(404,)
    ),
    "putBlob": Doc(
        "Send a blob; answered once it is on disk under the hash that it has.",
        None,
        204,
        tags=_SNAPSHOTS,
        body=_BYTES,
        body_type="application/octet-stream",
    ),
    "putObject": Doc(
        "Bring content to the head, as machines that joined do; answered once it is on disk.",
        None,
        204,
        tags=_SNAPSHOTS,
        body=_BYTES,
        body_type="application/octet-stream",
        errors=(413, 422),
    ),
    "getShippedLogs": Doc(
        "How much of a machine's logs the head has, as machines that joined ask.",
        {"type": "object", "additionalProperties": {"type": "integer"}},
        tags=_SNAPSHOTS,
    ),
    "shipLogs": Doc(
        "Output of tasks, as machines that joined send it; answered once it is on disk with what is there now.",
        {"type": "object", "additionalProperties": {"type": "integer"}},
        tags=_SNAPSHOTS,
        body=_BYTES,
        body_type="application/octet-stream",
        errors=(413,),
    ),
    "getObject": Doc(
        "Content by its hash, for machines that joined.",
        _BYTES,
        media_type="application/octet-stream",
        tags=_SNAPSHOTS,
        errors=(404, 422),
    ),
    "getBlob": Doc(
        "A blob that the caller sent.",
        _BYTES,
        media_type="application/octet-stream",
        tags=_SNAPSHOTS,
        errors=(404,),
    ),
    "listJupyterServices": Doc("List Jupyter services.", array(ref("JupyterService")), tags=_JUPYTER),
    "readJupyterService": Doc("Read a Jupyter service.", ref("JupyterService"), tags=_JUPYTER, errors=(404,)),
    "startJupyterService": Doc(
        "Start a Jupyter service.",
        ref("JupyterService"),
        201,
        tags=_JUPYTER,
        body=ref("StartJupyterRequest"),
        errors=(409,),
        is_once=True,
    ),
    "stopJupyterService": Doc(
        "Stop a Jupyter service, or take a stopped one out of the listing.", None, 204, tags=_JUPYTER, errors=(404, 409)
    ),
    "openWebSocket": Doc(
        "Follow the caller's tasks over a WebSocket.", None, 101, tags=_SERVER, query=_FOLLOW, errors=(426,)
    ),
}


def document_path(path: str) -> str:
    """A mounted path as the document writes it: `{path:.+}` is `{path}`."""
    return _PATH_PATTERN.sub(r"{\1}", path)


def build_document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.0.3 document of `operations`. Raises KeyError for one that has no description."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in [one for one in operations if one.is_described]:
        path = document_path(operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, path)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "ML Worker API",
            "version": "1.0.0",
            "description": "FetchML: submit tasks, follow them, and prove afterwards what was done.",
        },
        "servers": [{"url": "/"}],
        "security": [{"ApiKeyAuth": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"ApiKeyAuth": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
            "schemas": SCHEMAS,
            "responses": {name: _error_response(status, text) for status, (name, text) in _ERRORS.items()},
        },
    }


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    doc = DOCS[operation.id]
    statuses = {*_ALWAYS, *doc.errors, *(() if operation.is_open else _CLOSED), *(_BODY if doc.body else ())}
    responses: dict[str, Any] = {str(doc.status): _success(doc)}
    if doc.empty:
        responses["204"] = {"description": doc.empty}
    if doc.has_etag:
        responses["304"] = {"description": "It is what If-None-Match names."}
    for status in sorted(statuses):
        responses[str(status)] = {"$ref": f"#/components/responses/{_ERRORS[status][0]}"}
    out: dict[str, Any] = {"operationId": operation.id, "summary": doc.summary, "tags": list(doc.tags)}
    if operation.is_open:
        out["security"] = []
    elif operation.id == "openWebSocket":
        out["security"] = [{"ApiKeyAuth": []}]
    if parameters := [*_path_parameters(path), *doc.query, *([_IDEMPOTENCY_KEY] if doc.is_once else ())]:
        out["parameters"] = parameters
    if doc.body:
        out["requestBody"] = {"required": True, "content": {doc.body_type: {"schema": doc.body}}}
    out["responses"] = responses
    return out


def _path_parameters(path: str) -> list[Schema]:
    return [{"name": n, "in": "path", "required": True, "schema": STRING} for n in _PATH_NAME.findall(path)]


def _success(doc: Doc) -> dict[str, Any]:
    out: dict[str, Any] = {"description": HTTPStatus(doc.status).phrase}
    if doc.answer is not None:
        types = {doc.media_type: doc.answer, **doc.more_types}
        out["content"] = {media_type: {"schema": schema} for media_type, schema in types.items()}
    return out


def _error_response(status: int, description: str) -> dict[str, Any]:
    out: dict[str, Any] = {
        "description": description,
        "content": {"application/json": {"schema": ref("ErrorResponse")}},
    }
    if status in {429, 503}:
        out["headers"] = _RETRY_AFTER
    return out
