"""Views into the contract's JSON: its names, its enums, its times; fields without a value are left out, never null.

Owns the spelling of everything that leaves the API; decides nothing and calls nobody.
"""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from fetchmld.api.access import sees_all
from fetchmld.api.head import (
    Caller,
    ConsistencyProof,
    Ended,
    EventRow,
    InclusionProof,
    Pruning,
    Root,
    RotatedKey,
    SinkStatus,
    Verification,
)
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import (
    Counts,
    EndReport,
    Experiment,
    Explanation,
    GpuView,
    Holder,
    Key,
    PluginUse,
    PluginView,
    ReservationView,
    TaskView,
    WorkerView,
)
from fetchmld.core.services import status_of
from fetchmld.manifest import CodeManifest, CodeSnapshot
from fetchmld.upstream import Serving

_SHOWN_AS_GIVEN: Final = (
    "entrypoint",
    "args",
    "image",
    "snapshot_id",
    "experiment_id",
    "reservation_id",
    "datasets",
    "dataset_specs",
    "plugin_configs",
    "gpu_type",
    "depends_on",
    "time_limit_s",
    "env",
    "metadata",
)
_ARRAY_COUNTS: Final = ("size", "max_parallel", "queued", "running", "completed", "failed", "cancelled")
# What an auditor does not need in order to audit: it may hold secrets.
REDACTED: Final = ("entrypoint", "args", "env", "metadata", "dataset_specs", "plugin_configs", "params")


def instant(at: float) -> str:
    """Epoch seconds as RFC 3339, UTC, with microseconds: 2026-01-31T12:00:00.000000Z."""
    return instant_us(round(at * 1e6))


def instant_us(at_us: int) -> str:
    """Epoch microseconds as RFC 3339, exactly."""
    seconds, micros = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Answers speak of the same few seconds over and over."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


def task(view: TaskView, *, redacted: bool = False, listed: bool = False, base: str = "") -> dict[str, Any]:
    """A Task without its `output`, which only the single task has; in a list without an array's params too.

    `base`: what addresses begin with, as the caller has reached us; without it links to plugins are left out.
    """
    request = view["request"]
    out: dict[str, Any] = {
        "id": view["id"],
        "job_name": request["job_name"],
        "status": view["status"],
        "priority": view["priority"],
        "priority_aged": view["priority_aged"],
        "created_at": instant(view["created_at"]),
        "user_id": view["user_id"],
        "kind": request.get("kind", "batch"),
        "cpu": request.get("cpu", 1),
        "memory_gb": request.get("memory_gb", 0),
        "gpu": request.get("gpu", 0),
        "node_count": request.get("node_count", 1),
        "max_retries": request.get("max_retries", 0),
        "retry_count": view["retry_count"],
        "attempt": view["attempt"],
    }
    for name in _SHOWN_AS_GIVEN:
        if name in request:
            out[name] = request[name]
    _add_array(out, view)
    _add_progress(out, view)
    if "plugin_configs" in request:
        out["plugin_status"] = _plugin_status(view, base)
    if report := view["report"]:
        _add_end(out, report)
    if redacted:
        for name in REDACTED:
            out.pop(name, None)
    if redacted or listed:
        out.get("array", {}).pop("params", None)
    return out


def _add_array(out: dict[str, Any], view: TaskView) -> None:
    """How an array stands, or which place an element has in its own."""
    for name in ("array_id", "array_index", "params"):
        if name in view:
            out[name] = view[name]
    if "array" in view:
        out["array"] = {name: view["array"][name] for name in _ARRAY_COUNTS}
        if params := view["request"]["array"].get("params"):
            out["array"]["params"] = {param["name"]: param["values"] for param in params}


def _plugin_status(view: TaskView, base: str) -> dict[str, Any]:
    """What each plugin that the task names did for its newest attempt, once that has begun."""
    uses = view.get("plugins", {})
    return {name: _plugin_use(name, uses.get(name), view, base) for name in view["request"]["plugin_configs"]}


def _plugin_use(name: str, use: PluginUse | None, view: TaskView, base: str) -> dict[str, Any]:
    given = view["request"]["plugin_configs"][name]
    if not given.get("enabled", True) or given.get("mode") == "disabled":
        return {"name": name, "status": "stopped"}
    if use is None or use["attempt"] != view["attempt"]:
        return {"name": name, "status": "starting" if view["status"] not in ENDED else "stopped"}
    out: dict[str, Any] = {"name": name, "status": use["status"]}
    if base and "path" in use:
        out["url"] = f"{base}/plugins/{name}/{use['path']}"
    out.update({field: use[field] for field in ("run_id", "detail") if field in use})
    return out


def plugin(view: PluginView, base: str, with_settings: bool) -> dict[str, Any]:
    """A Plugin. `base`: what addresses begin with, as the caller has reached us."""
    out: dict[str, Any] = {
        "name": view["name"],
        "enabled": view["enabled"],
        "mode": view["mode"],
        "status": _plugin_health(view, base),
        "config": plugin_config(view, with_settings),
        "requires_restart": view["requires_restart"],
    }
    if view["version"]:
        out["version"] = view["version"]
    return out


def plugin_config(view: PluginView, with_settings: bool) -> dict[str, Any]:
    """A PluginConfig; settings for those alone who may see them."""
    out: dict[str, Any] = {"enabled": view["enabled"], "mode": view["mode"]}
    if with_settings:
        out["settings"] = view["settings"]
    return out


def _plugin_health(view: PluginView, base: str) -> dict[str, Any]:
    out: dict[str, Any] = {"name": view["name"], "status": view["status"]}
    if view["status"] == "healthy":
        out["url"] = f"{base}/plugins/{view['name']}/"
    if view["checked_at"]:
        out["last_check"] = instant(view["checked_at"])
    out.update({name: view[name] for name in ("problem", "progress") if view[name]})
    return out


def plugin_health(view: PluginView, now: float) -> dict[str, Any]:
    """A HealthResponse about a plugin: a stopped one is unhealthy, one that comes up is degraded."""
    status = {"healthy": "healthy", "starting": "degraded"}.get(view["status"], "unhealthy")
    out: dict[str, Any] = {"status": status, "timestamp": instant(view["checked_at"] or now)}
    if view["version"]:
        out["version"] = view["version"]
    words = view["problem"] or ("it is not enabled" if view["status"] == "stopped" else "")
    out.update({name: text for name, text in (("problem", words), ("progress", view["progress"])) if text})
    return out


def _add_progress(out: dict[str, Any], view: TaskView) -> None:
    for name in ("started_at", "ended_at"):
        if at := view[name]:
            out[name] = instant(at)
    for name in ("error", "reason", "wait_reason"):
        if text := view[name]:  # type: ignore[literal-required]
            out[name] = text
    if assignments := view["assignments"]:
        out["worker_id"] = assignments[0]["worker_id"]
        out["node_assignments"] = [
            {"node_id": a["rank"], "worker_id": a["worker_id"], "slot_assigned": True, "gpus": a["gpus"]}
            for a in assignments
        ]


def _add_end(out: dict[str, Any], report: EndReport) -> None:
    for name in ("exit_code", "signal", "usage"):
        if name in report:
            out[name] = report[name]
    kept = [report["artifacts"]] if "artifacts" in report else []
    kept += [other["artifacts"] for other in report.get("artifacts_of_others", ())]
    if kept:
        files, size = sum(one["file_count"] for one in kept), sum(one["total_bytes"] for one in kept)
        out["artifacts"] = {"file_count": files, "total_bytes": size}
    if "word" not in report and (detail := report.get("detail")):  # else it is in the error
        out["detail"] = detail


def worker(view: WorkerView, active_tasks: list[str]) -> dict[str, Any]:
    """A Worker. `active_tasks` are those that the caller may know of; the contract calls a suspect worker `active`."""
    capabilities: dict[str, Any] = {
        "gpu_count": view["gpu_count"],
        "cpu_cores": view["cpu_cores"],
        "memory_gb": view["memory_gb"],
    }
    if view["gpu_type"]:
        capabilities["gpu_type"] = view["gpu_type"]
    out: dict[str, Any] = {
        "id": view["id"],
        "hostname": view["hostname"],
        "status": "active" if view["status"] == "suspect" else view["status"],
        "suspect": view["status"] == "suspect",
        "connected_at": instant(view["connected_at"]),
        "capabilities": capabilities,
        "free": {"gpu_count": view["gpu_free"], "cpu_cores": view["cpu_free"], "memory_gb": view["memory_free_gb"]},
        "slots": {
            "batch_available": view["batch_free"],
            "batch_total": view["batch_total"],
            "service_available": view["service_free"],
            "service_total": view["service_total"],
        },
        "active_tasks": active_tasks,
        "detail": view["detail"],
    }
    if view["gpus"]:
        out["gpus"] = [_gpu(gpu, active_tasks) for gpu in view["gpus"]]
    if view["heartbeat_at"]:
        out["last_heartbeat"] = instant(view["heartbeat_at"])
    return out


def _gpu(view: GpuView, active_tasks: list[str]) -> dict[str, Any]:
    """One GPU of a worker; which task holds it is said to those who may know of the task."""
    hidden = "held_by" in view and view["held_by"] not in active_tasks
    return {name: value for name, value in view.items() if not (hidden and name == "held_by")}


def reservation(view: ReservationView) -> dict[str, Any]:
    """A Reservation, with when it begins and on which workers it holds how many GPUs."""
    out: dict[str, Any] = {
        "id": view["id"],
        "user_id": view["user_id"],
        "gpu_count": view["gpu_count"],
        "node_count": view["node_count"],
        "status": view["status"],
        "created_at": instant(view["created_at"]),
        "starts_at": instant(view["starts_at"]),
        "expires_at": instant(view["expires_at"]),
        "held": [{"worker_id": worker_id, "gpu_count": count} for worker_id, count in view["held"].items()],
    }
    if view["gpu_type"]:
        out["gpu_type"] = view["gpu_type"]
    return out


def explanation(found: Explanation, caller: Caller) -> dict[str, Any]:
    """An Explanation. Of what others hold, the caller sees that they do and until when."""
    out: dict[str, Any] = {**found}
    if "no_later_arrival_passes_after" in found:
        out["no_later_arrival_passes_after"] = instant(found["no_later_arrival_passes_after"])
    if planned := found.get("planned"):
        out["planned"] = {**planned, **({"at": instant(planned["at"])} if "at" in planned else {})}
    if "held_by" in found:
        out["held_by"] = [_holder(holder, caller) for holder in found["held_by"]]
    return out


def _holder(holder: Holder, caller: Caller) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": holder["kind"]}
    if sees_all(caller) or holder["user_id"] == caller.user_id:
        out["id"] = holder["id"]
    if "until" in holder:
        out["until"] = instant(holder["until"])
    return out


def ended_explanation(view: TaskView) -> dict[str, Any]:
    """The Explanation of a task that is over."""
    return {
        "task_id": view["id"],
        "status": view["status"],
        "priority": view["priority"],
        "priority_aged": view["priority_aged"],
        "reason": f"it has ended{': ' + view['error'] if view['error'] else ''}",
        "estimate": "",
    }


def queue_stats(counts: Counts, ended: Ended) -> dict[str, int]:
    """QueueStats: what waits and runs now, what ended since the start of the UTC day."""
    return {
        "queued": counts["batch_queued"] + counts["service_queued"],
        "running": counts["running"],
        "completed": ended["completed_today"],
        "failed": ended["failed_today"],
        "workers": counts["workers_active"],
    }


def scheduler_status(counts: Counts, ended: Ended, now: float) -> dict[str, Any]:
    """SchedulerStatus at wall time `now`."""
    return {
        "workers_total": counts["workers_total"],
        "workers_active": counts["workers_active"],
        "workers_draining": counts["workers_draining"],
        "batch_queue_depth": counts["batch_queued"],
        "service_queue_depth": counts["service_queued"],
        "tasks_running": counts["running"],
        "tasks_completed_24h": ended["completed_24h"],
        "reservations_active": counts["reservations_active"],
        "timestamp": instant(now),
    }


def service(view: TaskView, serving: Serving | None, base: str, *, is_own: bool) -> dict[str, Any]:
    """A JupyterService. `base`: where its pages are, without a slash at the end. Its token is for its owner."""
    request = view["request"]
    status = status_of(view, answers=serving is not None and serving.answers)
    out: dict[str, Any] = {
        "id": view["id"],
        "name": request["jupyter"]["name"],
        "status": status,
        "created_at": instant(view["created_at"]),
        "user_id": view["user_id"],
        "workspace": request["jupyter"]["workspace"],
        "cpu": request.get("cpu", 1),
        "memory_gb": request.get("memory_gb", 0),
        "gpu": request.get("gpu", 0),
    }
    for name in ("image", "gpu_type", "time_limit_s"):
        if name in request:
            out[name] = request[name]
    if view["assignments"]:
        out["worker_id"] = view["assignments"][0]["worker_id"]
    if reason := view["wait_reason"] or view["error"]:
        out["reason"] = reason
    times = {"started_at": view["started_at"], "ended_at": view["ended_at"]}
    if serving is not None and status == "running":
        times["last_activity_at"] = serving.last_activity_at
        out["url"] = f"{base}/jupyter/{view['id']}/lab"
        if is_own:
            out["token"] = serving.token
    return {**out, **{name: instant(at) for name, at in times.items() if at}}


def key(found: Key, now: float | None = None) -> dict[str, Any]:
    """An ApiKey, which is never the key itself."""
    at = time.time() if now is None else now
    status = "revoked" if found.revoked_at else "active" if found.is_valid(at) else "expired"
    out: dict[str, Any] = {
        "id": found.id,
        "user_id": found.user_id,
        "role": found.role,
        "status": status,
        "created_at": instant(found.created_at),
    }
    if found.expires_at:
        out["expires_at"] = instant(found.expires_at)
    if found.revoked_at:
        out["revoked_at"] = instant(found.revoked_at)
    return out


def audit_event(row: EventRow) -> dict[str, Any]:
    """An AuditEvent."""
    out: dict[str, Any] = {
        "sequence_num": row["sequence_num"],
        "timestamp": instant_us(row["at_us"]),
        "event_type": row["event_type"],
        "action": row["action"],
        "resource": row["resource"],
        "success": row["success"],
        "prev_hash": row["prev_hash"],
        "event_hash": row["event_hash"],
        "metadata": row["metadata"],
    }
    for name in ("user_id", "ip_address", "error"):
        if text := row[name]:
            out[name] = text
    return out


def verification(found: Verification) -> dict[str, Any]:
    """A VerificationResult: valid only where both the chain and the index's copy of it are."""
    out: dict[str, Any] = {
        "valid": found["valid"] and found["index_valid"],
        "total_events": found["total_events"],
        **({"first_event": found["first_seq"]} if found["first_seq"] else {}),
        "chain_root_hash": found["root_hash"],
        "verified_at": instant(found["verified_at"]),
        "index_valid": found["index_valid"],
    }
    bad = [seq for seq in (found["first_bad"], found["index_first_bad"]) if seq >= 0]
    if bad:
        out["first_tampered"] = min(bad)
    if found["index_first_bad"] >= 0:
        out["index_first_bad"] = found["index_first_bad"]
    if found["problem"]:
        out["problem"] = found["problem"]
    return out


def chain_root(root: Root) -> dict[str, Any]:
    """The newest event's hash, when it was recorded, how many events there are, and who vouches for them."""
    anchoring = root["anchoring"]
    out: dict[str, Any] = {
        "root_hash": root["root_hash"],
        "timestamp": instant_us(root["at_us"]),
        "total_events": root["total_events"],
        "anchored": anchoring["anchored"],
        "checkpoint_size": anchoring["checkpoint_size"],
        "sinks": [_sink(sink) for sink in anchoring["sinks"]],
    }
    if anchoring.get("first_seq"):
        out["first_event"] = anchoring["first_seq"]
    if "anchored_at" in anchoring:
        out["anchored_at"] = instant(anchoring["anchored_at"])
    if anchoring["problem"]:
        out["problem"] = anchoring["problem"]
    return out


def _sink(status: SinkStatus) -> dict[str, Any]:
    out: dict[str, Any] = {"sink": status["sink"], "vouches": status["vouches"]}
    if "accepted_at" in status:
        out |= {"accepted_at": instant(status["accepted_at"]), "accepted_size": status["accepted_size"]}
    if status["problem"]:
        out["problem"] = status["problem"]
    return out


def inclusion(found: InclusionProof) -> dict[str, Any]:
    """An InclusionProof, as `fetchmld audit check` reads it."""
    return {
        "kind": "inclusion",
        "sequence_num": found["seq"],
        **({"record": found["record"], "event_hash": found["event_hash"]} if found["record"] else {}),
        "leaf_hash": found["leaf_hash"],
        "tree_size": found["size"],
        "root": found["root"],
        "proof": found["proof"],
        **({"checkpoint": found["note"]} if found["note"] else {}),
        "origin": found["origin"],
        "verifier_key": found["verifier_key"],
    }


def consistency(found: ConsistencyProof) -> dict[str, Any]:
    """A ConsistencyProof."""
    notes = {"from_checkpoint": found["old_note"], "to_checkpoint": found["new_note"]}
    return {
        "kind": "consistency",
        "from": found["old"],
        "to": found["new"],
        "from_root": found["old_root"],
        "to_root": found["new_root"],
        "proof": found["proof"],
        **{name: note for name, note in notes.items() if note},
        "origin": found["origin"],
        "verifier_key": found["verifier_key"],
    }


def pruning(found: Pruning) -> dict[str, Any]:
    """A PruneResult."""
    out: dict[str, Any] = {
        "first_event": found["first_seq"],
        "removed_events": found["events"],
        "removed_bytes": found["bytes"],
        "dry_run": found["dry_run"],
    }
    if "until_us" in found:
        out["until"] = instant_us(found["until_us"])
    if "seq" in found:
        out["sequence_num"] = found["seq"]
    return out


def rotated_key(found: RotatedKey) -> dict[str, Any]:
    return {"sequence_num": found["seq"], "verifier_key": found["verifier_key"], "checkpoint": found["note"]}


def snapshot(found: CodeSnapshot, manifest: CodeManifest | None = None) -> dict[str, Any]:
    """A Snapshot, with its files where the manifest is given."""
    out: dict[str, Any] = {**found, "created_at": instant(found["created_at"])}
    if manifest is not None:
        out["files"] = manifest["files"]
        if "diff" in manifest:
            out["diff"] = manifest["diff"]
    return out


def experiment(found: Experiment) -> dict[str, Any]:
    """An Experiment."""
    out: dict[str, Any] = {
        "id": found["id"],
        "name": found["name"],
        "status": found["status"],
        "created_at": instant(found["created_at"]),
        "user_id": found["user_id"],
    }
    for name in ("description", "commit_id"):
        if text := found[name]:
            out[name] = text
    return out
