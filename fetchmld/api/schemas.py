"""The schemas of the served document: the contract's, word for word in their facts, and what we add to them.

Owns JSON schemas as data. A bound that only we have on a field of the contract stands in its description, so that the
document never says less than the contract; our own fields carry theirs as keywords.
"""

from typing import Any, Final

from fetchmld.core.model import ARRAY_SIZE_MAX

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer"}
NUMBER: Final[Schema] = {"type": "number"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
INSTANT: Final[Schema] = {"type": "string", "format": "date-time"}
STRINGS: Final[Schema] = {"type": "array", "items": STRING}
STRING_TABLE: Final[Schema] = {"type": "object", "additionalProperties": STRING}
JOB_NAME: Final[Schema] = {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$", "maxLength": 64}
PRIORITY: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 10, "default": 5}
PARAM_VALUE: Final[Schema] = {"oneOf": [{"type": "string", "maxLength": 4096}, NUMBER, BOOLEAN]}
PLUGIN_MODE: Final[Schema] = {"type": "string", "enum": ["sidecar", "remote", "disabled"]}
TASK_STATUSES: Final = ["queued", "preparing", "running", "collecting", "completed", "failed"]
EVENT_TYPES: Final = [
    "job_queued",
    "job_started",
    "job_completed",
    "file_access",
    "auth_attempt",
    "plugin_configured",
    "scheduler_drain",
    "audit_verified",
]


def ref(name: str) -> Schema:
    """A reference to the schema `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def record(properties: dict[str, Schema], **keywords: Any) -> Schema:
    """An object with these properties."""
    return {"type": "object", **keywords, "properties": properties}


def enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def said(schema: Schema, description: str) -> Schema:
    """`schema` with a description (a reference cannot carry one in OpenAPI 3.0)."""
    return {**schema, "description": description}


def bounded(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


_TASK_ADDED: Final[dict[str, Schema]] = {
    "kind": enum("batch", "service"),
    "args": STRING,
    "image": STRING,
    "env": STRING_TABLE,
    "metadata": STRING_TABLE,
    "dataset_specs": array(ref("DatasetSpec")),
    "plugin_configs": {"type": "object", "additionalProperties": ref("PluginConfig")},
    "gpu_type": STRING,
    "node_count": INTEGER,
    "time_limit_s": INTEGER,
    "experiment_id": STRING,
    "reservation_id": STRING,
    "depends_on": array(ref("Dependency")),
    "attempt": said(INTEGER, "Number of the newest attempt; 0 before the first."),
    "reason": said(STRING, "`cancelled` on a task that was cancelled."),
    "wait_reason": said(STRING, "Why a queued task is not running yet."),
    "exit_code": INTEGER,
    "signal": said(INTEGER, "The signal that ended the program."),
    "usage": said(
        record({"user_s": NUMBER, "system_s": NUMBER, "rss_max_bytes": INTEGER}),
        "What the last attempt used, from the kernel's account.",
    ),
    "artifacts": record({"file_count": INTEGER, "total_bytes": INTEGER}),
    "detail": said(STRING, "What else is to be said of its end: files of its output that were left out, and why."),
    "array": ref("TaskArray"),
    "array_id": said(STRING, "The array that this is an element of."),
    "array_index": said(INTEGER, "Its place in the array, from 0."),
    "params": {
        "type": "object",
        "additionalProperties": PARAM_VALUE,
        "description": "The element's value of each param.",
    },
}

_TASK: Final = record(
    {
        "id": STRING,
        "job_name": JOB_NAME,
        "status": {"type": "string", "enum": TASK_STATUSES},
        "priority": PRIORITY,
        "created_at": INSTANT,
        "started_at": INSTANT,
        "ended_at": INSTANT,
        "worker_id": said(STRING, "The worker of the first node."),
        "error": said(STRING, "Why it failed: one of a closed list of words, a colon, and an explanation."),
        "output": said(STRING, "The last 64 KiB of the log; on the single task only."),
        "entrypoint": STRING,
        "snapshot_id": STRING,
        "datasets": STRINGS,
        "cpu": INTEGER,
        "memory_gb": INTEGER,
        "gpu": INTEGER,
        "user_id": STRING,
        "retry_count": INTEGER,
        "max_retries": INTEGER,
        "plugin_status": {"type": "object", "additionalProperties": ref("PluginStatus")},
        "node_assignments": array(ref("NodeAssignment")),
        "priority_aged": said(NUMBER, "The priority with the time waited added; it stays as it was at the start."),
        **_TASK_ADDED,
    }
)

_CREATE_TASK: Final = record(
    {
        "job_name": said(JOB_NAME, "A label; several tasks may share it."),
        "priority": said(PRIORITY, "10 goes first."),
        "args": said(STRING, "Words appended to the entrypoint's, quoted as for a shell. At most 65,536 characters."),
        "entrypoint": said(
            STRING,
            "The program and its first words, quoted as for a shell; no shell runs it. A first word ending in .py is run "
            "by Python, .sh by bash. At most 65,536 characters.",
        ),
        "snapshot_id": said(STRING, "The snapshot of code to run in; one of the caller's own."),
        "image": said(STRING, "Run in this container image; some worker must have podman, docker or apptainer."),
        "datasets": said(STRINGS, "Names that an administrator registered."),
        "dataset_specs": said(array(ref("DatasetSpec")), "At most 64, the registered names included."),
        "cpu": said(INTEGER, "Whole cores per node, 0 to 4,096; 1 where absent."),
        "memory_gb": said(INTEGER, "GB per node, 0 to 65,536; no claim where absent."),
        "gpu": said(INTEGER, "Whole GPUs per node, 0 to 1,024."),
        "metadata": said(STRING_TABLE, "Kept with the task; at most 65,536 bytes in all."),
        "plugin_configs": {"type": "object", "additionalProperties": ref("PluginConfig")},
        "node_count": said(bounded(1, 4096), "Nodes that must start together."),
        "reservation_id": {"type": "string", "minLength": 1, "maxLength": 128},
        "experiment_id": {"type": "string", "minLength": 1, "maxLength": 128},
        "max_retries": said(bounded(0, 100), "Further attempts after a failure of the program."),
        "gpu_type": {"type": "string", "maxLength": 512, "description": "A type, or several as `A100|H100`."},
        "time_limit_s": said(bounded(1, 31_536_000), "Seconds that an attempt may run."),
        "kind": enum("batch", "service"),
        "env": said(STRING_TABLE, "Environment variables; names beginning with FETCHML_ are refused."),
        "depends_on": said(
            array({"oneOf": [STRING, ref("Dependency")]}),
            "Tasks that have to end first, at most 64: ids (they must complete), or objects with the condition.",
        ),
        "array": ref("CreateArray"),
    },
    required=["job_name"],
    additionalProperties=False,
)

_WORKER: Final = record(
    {
        "id": STRING,
        "hostname": STRING,
        "connected_at": INSTANT,
        "last_heartbeat": INSTANT,
        "capabilities": record(
            {"gpu_count": INTEGER, "gpu_type": STRING, "cpu_cores": INTEGER, "memory_gb": INTEGER},
        ),
        "free": said(
            record({"gpu_count": INTEGER, "cpu_cores": INTEGER, "memory_gb": INTEGER}), "What no task holds now."
        ),
        "slots": record(
            {
                "batch_available": INTEGER,
                "batch_total": INTEGER,
                "service_available": INTEGER,
                "service_total": INTEGER,
            }
        ),
        "active_tasks": said(STRINGS, "Ids of the tasks on it, of those that the caller may know of."),
        "status": enum("active", "draining", "offline"),
        "suspect": said(BOOLEAN, "Silent for a moment: nothing new is placed on it."),
        "gpus": said(array(ref("WorkerGpu")), "Each GPU, or each MIG device; absent where there is none."),
        "detail": {"type": "object", "additionalProperties": True, "description": "What else the node says of itself."},
    }
)

BLOB_HASH: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "BLAKE3, hexadecimal."}

_CODE_FILE: Final = record(
    {
        "path": said(STRING, "Relative to the top, with `/`; no `.`, `..`, empty parts or control characters."),
        "size": said({"type": "integer", "minimum": 0}, "Bytes."),
        "hash": BLOB_HASH,
        "executable": said({"type": "boolean", "default": False}, "May it be executed?"),
    },
    required=["path", "size", "hash"],
    additionalProperties=False,
)
_FROM_GIT: Final[dict[str, Schema]] = {
    "commit": said(STRING, "The commit that was checked out."),
    "diff": {**BLOB_HASH, "description": "A blob: what was not committed, as git diff writes it."},
    "remote": said(STRING, "The repository's address, without credentials."),
}

_COMMIT_ID: Final = said({"type": "string", "pattern": "^[0-9a-f]{7,64}$"}, "The commit of the code that it is about.")

CHAIN_ROOT: Final = record(
    {
        "root_hash": STRING,
        "timestamp": INSTANT,
        "total_events": INTEGER,
        "first_event": said(INTEGER, "The events before it were pruned; absent where none were."),
        "anchored": said(BOOLEAN, "Has somebody outside taken the newest checkpoint?"),
        "anchored_at": said(INSTANT, "When a checkpoint was last taken; where anchored."),
        "checkpoint_size": said(INTEGER, "So many events the newest checkpoint covers."),
        "sinks": array(
            record(
                {
                    "sink": STRING,
                    "vouches": said(BOOLEAN, "Does it count for `anchored`?"),
                    "accepted_at": INSTANT,
                    "accepted_size": INTEGER,
                    "problem": STRING,
                }
            )
        ),
        "problem": said(STRING, "Why no checkpoint is made just now."),
    }
)

SCHEMAS: Final[dict[str, Schema]] = {
    "HealthResponse": record(
        {
            "status": enum("healthy", "degraded", "unhealthy"),
            "version": STRING,
            "timestamp": INSTANT,
            "missing": said(STRINGS, "The parts that are not there; absent where all are."),
            "problem": said(STRING, "Of a plugin: why it is not well."),
            "progress": said(STRING, "Of a plugin: what the making of its environment is at."),
        }
    ),
    "Probe": record({"status": STRING}, required=["status"]),
    "Task": _TASK,
    "CreateTaskRequest": _CREATE_TASK,
    "DatasetSpec": record(
        {
            "name": said(STRING, "Letters, digits, `.`, `_`, `-`; the source's last part where absent."),
            "source": said(
                STRING,
                "A path or file:// URL on the worker under its dataset roots, or an http(s) URL with its sha256.",
            ),
            "sha256": said(STRING, "64 hexadecimal digits, checked before the task starts."),
            "mount_path": said(STRING, "Relative path in the working directory; `data/<name>` where absent."),
        },
        additionalProperties=False,
    ),
    "TaskList": record({"tasks": array(ref("Task")), "total": INTEGER, "limit": INTEGER, "offset": INTEGER}),
    "Artifact": record(
        {"path": STRING, "bytes": INTEGER, "hash": said(STRING, "BLAKE3 of the bytes, in hex.")},
        required=["path", "bytes", "hash"],
    ),
    "QueueStats": record(
        {
            "queued": INTEGER,
            "running": INTEGER,
            "completed": said(INTEGER, "Since the start of the UTC day."),
            "failed": said(INTEGER, "Since the start of the UTC day."),
            "workers": said(INTEGER, "Active workers."),
        }
    ),
    "CreateSnapshotRequest": record(
        {"files": {**array(_CODE_FILE), "minItems": 1, "maxItems": 100_000}, **_FROM_GIT},
        required=["files"],
        additionalProperties=False,
    ),
    "Snapshot": record(
        {
            "id": said(STRING, "The BLAKE3 of its files and what git said, in one form."),
            "created_at": INSTANT,
            "file_count": INTEGER,
            "total_bytes": INTEGER,
            "dirty": said(BOOLEAN, "Was anything not committed? Where git knew."),
            "files": said(array(_CODE_FILE), "On the single snapshot only."),
            **_FROM_GIT,
        },
        required=["id", "created_at", "file_count", "total_bytes"],
    ),
    "Experiment": record(
        {
            "id": STRING,
            "name": STRING,
            "commit_id": STRING,
            "created_at": INSTANT,
            "status": enum("active", "archived", "deleted"),
            "description": STRING,
            "user_id": STRING,
        }
    ),
    "ApiKey": record(
        {
            "id": STRING,
            "user_id": STRING,
            "role": enum("viewer", "user", "operator", "auditor", "admin"),
            "status": enum("active", "expired", "revoked"),
            "created_at": INSTANT,
            "expires_at": INSTANT,
            "revoked_at": INSTANT,
            "key": said(STRING, "The key itself: only in the answer that makes it."),
        }
    ),
    "CreateKeyRequest": record(
        {
            "user_id": said({"type": "string", "maxLength": 64}, "Letters, digits and . _ @ -"),
            "role": enum("viewer", "user", "operator", "auditor", "admin"),
            "expires_at": INSTANT,
        },
        required=["user_id", "role"],
    ),
    "Session": record(
        {
            "user_id": STRING,
            "role": enum("viewer", "user", "operator", "auditor", "admin"),
            "key_id": STRING,
            "expires_at": INSTANT,
        },
        required=["user_id", "role"],
    ),
    "LogIn": record(
        {
            "key": {"type": "string", "minLength": 1, "maxLength": 512},
            "ticket": {"type": "string", "minLength": 1, "maxLength": 512},
        },
        additionalProperties=False,
        minProperties=1,
        maxProperties=1,
    ),
    "Ticket": record(
        {
            "ticket": STRING,
            "url": said({"type": "string", "format": "uri"}, "Where a browser uses it."),
            "expires_at": INSTANT,
        },
        required=["ticket", "url", "expires_at"],
    ),
    "CreateExperimentRequest": record(
        {
            "name": said({"type": "string", "maxLength": 128}, "One line of printable text."),
            "description": said(STRING, "At most 4,096 characters."),
            "commit_id": _COMMIT_ID,
        },
        required=["name"],
        additionalProperties=False,
    ),
    "UpdateExperimentRequest": record(
        {
            "name": said({"type": "string", "maxLength": 128}, "One line of printable text."),
            "description": said(STRING, "At most 4,096 characters."),
            "commit_id": _COMMIT_ID,
            "status": said(
                enum("active", "archived", "deleted"),
                "An archived one takes no more tasks; a deleted one is gone, its tasks stay.",
            ),
        },
        additionalProperties=False,
        minProperties=1,
    ),
    "ExperimentMetrics": record(
        {
            "experiment_id": STRING,
            "params": said(STRINGS, "The names of params that occur on this page, sorted."),
            "metrics": said(STRINGS, "The names of metrics that occur on this page, sorted."),
            "tasks": array(ref("TaskMetrics")),
            "total": INTEGER,
            "limit": INTEGER,
            "offset": INTEGER,
        },
        required=["experiment_id", "params", "metrics", "tasks", "total", "limit", "offset"],
    ),
    "TaskMetrics": record(
        {
            "task_id": STRING,
            "job_name": STRING,
            "status": {"type": "string", "enum": TASK_STATUSES},
            "created_at": INSTANT,
            "ended_at": INSTANT,
            "params": {"type": "object", "additionalProperties": PARAM_VALUE, "description": "Of an array's element."},
            "metrics": {
                "type": "object",
                "additionalProperties": PARAM_VALUE,
                "description": "Nested names are joined by dots; what is no number, text or flag is left out.",
            },
            "problem": said(STRING, "Why its metrics.json cannot be read."),
        },
        required=["task_id", "job_name", "status", "created_at", "params", "metrics"],
    ),
    "JupyterService": record(
        {
            "id": STRING,
            "name": STRING,
            "status": enum("starting", "running", "stopping", "stopped", "error"),
            "url": {"type": "string", "format": "uri"},
            "token": said(STRING, "Jupyter's own, for its owner alone; not needed at `url`."),
            "created_at": INSTANT,
            "user_id": STRING,
            "workspace": STRING,
            "image": STRING,
            "cpu": INTEGER,
            "memory_gb": INTEGER,
            "gpu": INTEGER,
            "gpu_type": STRING,
            "time_limit_s": INTEGER,
            "worker_id": STRING,
            "reason": said(STRING, "Why it does not run yet, or does no more."),
            "started_at": INSTANT,
            "last_activity_at": INSTANT,
            "ended_at": INSTANT,
        }
    ),
    "StartJupyterRequest": record(
        {
            "name": said(STRING, "One line of text."),
            "workspace": said(
                STRING,
                "A directory of the user's that stays; made where it is not there. A letter or digit, then at most 63 of "
                "letters, digits and . _ -",
            ),
            "image": said(
                {"type": "string", "default": "jupyter/pytorch:latest"},
                "The default is the worker's own JupyterLab.",
            ),
            "cpu": {"type": "integer", "minimum": 0, "maximum": 4096, "default": 0},
            "memory_gb": {"type": "integer", "minimum": 0, "maximum": 65_536, "default": 0},
            "gpu": {"type": "integer", "minimum": 0, "maximum": 1024, "default": 0},
            "gpu_type": STRING,
            "time_limit_s": {"type": "integer", "minimum": 1, "maximum": 31_536_000},
        },
        required=["name"],
        additionalProperties=False,
    ),
    "PluginConfig": record(
        {
            "enabled": BOOLEAN,
            "mode": PLUGIN_MODE,
            "image": STRING,
            "settings": {"type": "object", "additionalProperties": True},
        }
    ),
    "PluginStatus": record(
        {
            "name": STRING,
            "status": enum("healthy", "unhealthy", "starting", "stopped"),
            "url": STRING,
            "last_check": INSTANT,
            "problem": said(STRING, "Why it is not well, or why a configuration was taken back."),
            "progress": said(STRING, "What the making of its environment is at."),
            "run_id": said(STRING, "Of a task: what the plugin made for its attempt."),
            "detail": said(STRING, "Of a task: why the plugin did nothing for its attempt."),
        }
    ),
    "NodeAssignment": record(
        {
            "node_id": said(INTEGER, "Rank of the node in the task, from 0."),
            "worker_id": STRING,
            "slot_assigned": BOOLEAN,
            "gpus": said(array(INTEGER), "Indices of the GPUs held there."),
        }
    ),
    "Plugin": record(
        {
            "name": STRING,
            "enabled": BOOLEAN,
            "mode": PLUGIN_MODE,
            "status": ref("PluginStatus"),
            "config": ref("PluginConfig"),
            "requires_restart": BOOLEAN,
            "version": STRING,
        }
    ),
    "Worker": _WORKER,
    "WorkerGpu": record(
        {
            "index": INTEGER,
            "uuid": said(STRING, "What `CUDA_VISIBLE_DEVICES` gets."),
            "type": said(STRING, "What `gpu_type` asks for."),
            "status": said(
                enum("free", "held", "occupied", "quarantined"),
                "`occupied`: no task holds it, and some process has memory there; `quarantined`: it failed.",
            ),
            "memory_mb": INTEGER,
            "used_mb": INTEGER,
            "utilization": said(INTEGER, "Per cent of the last moments in which it worked."),
            "held_by": said(STRING, "The task that holds it, where the caller may know of it."),
            "cause": said(STRING, "Why it is in quarantine."),
        },
        required=["index", "uuid", "type", "status"],
    ),
    "SchedulerStatus": record(
        {
            "workers_total": INTEGER,
            "workers_active": INTEGER,
            "workers_draining": INTEGER,
            "batch_queue_depth": INTEGER,
            "service_queue_depth": INTEGER,
            "tasks_running": INTEGER,
            "tasks_completed_24h": INTEGER,
            "reservations_active": INTEGER,
            "timestamp": INSTANT,
        }
    ),
    "Reservation": record(
        {
            "id": STRING,
            "user_id": STRING,
            "gpu_count": INTEGER,
            "gpu_type": STRING,
            "node_count": INTEGER,
            "expires_at": INSTANT,
            "status": enum("active", "claimed", "expired"),
            "created_at": INSTANT,
            "starts_at": INSTANT,
            "held": said(
                array(record({"worker_id": STRING, "gpu_count": INTEGER})),
                "What is kept now, in use by its own tasks included; the rest is gathered as it comes free.",
            ),
        }
    ),
    "CreateReservationRequest": record(
        {
            "gpu_count": {"type": "integer", "minimum": 1},
            "gpu_type": STRING,
            "node_count": {"type": "integer", "minimum": 1, "default": 1},
            "expires_minutes": {
                "type": "integer",
                "default": 30,
                "description": "Minutes from its start; 1 to 10,080.",
            },
            "starts_at": said(INSTANT, "Now where absent; at most a year ahead."),
        },
        required=["gpu_count"],
        additionalProperties=False,
    ),
    "Explanation": record(
        {
            "task_id": STRING,
            "status": enum(*TASK_STATUSES),
            "priority": INTEGER,
            "priority_aged": NUMBER,
            "reason": said(STRING, "The binding constraint, in words."),
            "estimate": said(STRING, "When it starts, in words; `no estimate` rather than a guess."),
            "position": said(INTEGER, "How many tasks are ahead of it; absent while it is held."),
            "no_later_arrival_passes_after": said(
                INSTANT, "No task submitted after this moment, of whatever priority, goes ahead of it."
            ),
            "worker_id": said(STRING, "The worker that lacks least."),
            "held_by": said(
                array(record({"kind": enum("task", "reservation"), "id": STRING, "until": INSTANT})),
                "Who has what is missing there; ids of the caller's own only. No `until` where nobody knows.",
            ),
            "planned": record({"at": INSTANT, "workers": STRINGS, "basis": STRING}),
            "smaller_request": {
                "type": "object",
                "additionalProperties": INTEGER,
                "description": "With these fields changed it would start now.",
            },
        }
    ),
    "CreateArray": record(
        {
            "size": said(
                bounded(1, ARRAY_SIZE_MAX), "Elements; where absent, as many as the params have combinations."
            ),
            "max_parallel": said(
                bounded(1, ARRAY_SIZE_MAX), "At most so many are started at a time; all where absent."
            ),
            "params": {
                "type": "object",
                "maxProperties": 64,
                "additionalProperties": {"type": "array", "minItems": 1, "items": PARAM_VALUE},
                "description": "By name a list of values. Lists of `size` values each give element i their i-th; lists "
                "whose lengths multiply to `size` are a grid, whose last name changes fastest.",
            },
        },
        additionalProperties=False,
        description="Many tasks as one: submitted, listed and cancelled together. Element i has the id `<id>-<i>`.",
    ),
    "TaskArray": record(
        {
            "size": INTEGER,
            "max_parallel": said(INTEGER, "The size where there is no limit."),
            "queued": INTEGER,
            "running": said(INTEGER, "Started, whatever their phase."),
            "completed": INTEGER,
            "failed": INTEGER,
            "cancelled": INTEGER,
            "params": {"type": "object", "additionalProperties": array(PARAM_VALUE)},
        },
        description="How the elements of an array stand; the five counts add up to its size.",
    ),
    "Dependency": record(
        {"task_id": STRING, "condition": enum("ok", "any", "failed")},
        required=["task_id"],
        additionalProperties=False,
    ),
    "AuditEvent": record(
        {
            "timestamp": INSTANT,
            "event_type": {"type": "string", "enum": EVENT_TYPES},
            "user_id": STRING,
            "resource": STRING,
            "action": said(STRING, "The finer kind of the event."),
            "success": BOOLEAN,
            "ip_address": STRING,
            "error": STRING,
            "prev_hash": STRING,
            "event_hash": STRING,
            "sequence_num": INTEGER,
            "metadata": {"type": "object", "additionalProperties": True},
        }
    ),
    "HistoryQuery": record(
        {
            "sql": {"type": "string", "minLength": 1, "maxLength": 20_000, "description": "One SELECT over the views."},
            "limit": said(bounded(1, 100_000), "Rows at most; never more than the server's own limit."),
        },
        required=["sql"],
        additionalProperties=False,
    ),
    "HistoryAnswer": record(
        {
            "columns": array(record({"name": STRING, "type": STRING}, required=["name", "type"])),
            "rows": array(array({})),
            "row_count": INTEGER,
            "truncated": said(BOOLEAN, "There is more than these rows."),
            "elapsed_ms": NUMBER,
        },
        required=["columns", "rows", "row_count", "truncated", "elapsed_ms"],
    ),
    "AuditEventList": record(
        {"events": array(ref("AuditEvent")), "total": INTEGER, "limit": INTEGER, "offset": INTEGER}
    ),
    "VerificationResult": record(
        {
            "valid": BOOLEAN,
            "total_events": INTEGER,
            "first_event": said(INTEGER, "The events before it were pruned; absent where none were."),
            "first_tampered": said(INTEGER, "The lowest bad sequence number; absent where all are good."),
            "chain_root_hash": STRING,
            "verified_at": INSTANT,
            "index_valid": said(BOOLEAN, "Does the index hold what the chain says?"),
            "index_first_bad": said(INTEGER, "The lowest sequence number whose index row differs."),
            "problem": said(STRING, "What is wrong, in plain words."),
        }
    ),
    "BatchAnswer": record(
        {
            "status": said(INTEGER, "As POST /v1/tasks would have answered this item: 201, or why not."),
            "task": ref("Task"),
            "error": ref("ErrorResponse"),
        },
        required=["status"],
    ),
    "InclusionProof": record(
        {
            "kind": enum("inclusion"),
            "sequence_num": INTEGER,
            "record": said(
                STRING, "The event's canonical bytes, in hex; their BLAKE3 is event_hash. Absent once it was pruned."
            ),
            "event_hash": STRING,
            "leaf_hash": said(STRING, "SHA-256(0x00 || event_hash): the event's leaf in the tree."),
            "tree_size": INTEGER,
            "root": said(STRING, "Of that tree, in hex."),
            "proof": said(STRINGS, "RFC 6962's audit path, in hex, from the leaf up."),
            "checkpoint": said(STRING, "The signed note of that tree; absent where none of this size is kept."),
            "origin": STRING,
            "verifier_key": said(STRING, "The key in force, as verifiers of notes take it."),
        },
        required=["kind", "sequence_num", "leaf_hash", "tree_size", "root", "proof"],
    ),
    "ConsistencyProof": record(
        {
            "kind": enum("consistency"),
            "from": INTEGER,
            "to": INTEGER,
            "from_root": STRING,
            "to_root": STRING,
            "proof": said(STRINGS, "RFC 6962's consistency proof, in hex."),
            "from_checkpoint": STRING,
            "to_checkpoint": STRING,
            "origin": STRING,
            "verifier_key": STRING,
        },
        required=["kind", "from", "to", "from_root", "to_root", "proof"],
    ),
    "PruneRequest": record(
        {
            "before": said(INSTANT, "Events from this time on stay."),
            "dry_run": said(BOOLEAN, "Only say what would go."),
        },
        required=["before"],
        additionalProperties=False,
    ),
    "PruneResult": record(
        {
            "first_event": said(INTEGER, "The first event that is left."),
            "removed_events": INTEGER,
            "removed_bytes": INTEGER,
            "until": said(INSTANT, "When the newest of them was recorded."),
            "dry_run": BOOLEAN,
            "sequence_num": said(INTEGER, "The event that says so; absent where nothing went."),
        },
        required=["first_event", "removed_events", "removed_bytes", "dry_run"],
    ),
    "RotatedKey": record(
        {
            "sequence_num": said(INTEGER, "The event that handed over."),
            "verifier_key": STRING,
            "checkpoint": said(STRING, "The first one that the new key signed, and the old one beside it."),
        }
    ),
    "ErrorResponse": record(
        {
            "error": said(STRING, "What was wrong, and what to do."),
            "code": enum(
                "BAD_REQUEST",
                "UNAUTHORIZED",
                "FORBIDDEN",
                "NOT_FOUND",
                "CONFLICT",
                "RATE_LIMITED",
                "INTERNAL_ERROR",
                "SERVICE_UNAVAILABLE",
                "VALIDATION_ERROR",
            ),
            "trace_id": said(STRING, "Also in the X-Trace-Id header; from `traceparent` where one was sent."),
        },
        required=["error", "code", "trace_id"],
    ),
}
