"""What the scheduler is told over its socket, as events of the core. One function per kind of message.

Bodies come from other parts of us (never straight from a user), so their shape is trusted; what users wrote was checked
where it came in.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final

from fetchmld.core.messages import (
    AttemptEnded,
    CancelRequested,
    DatasetAccessed,
    DrainChanged,
    Event,
    ExperimentCreated,
    ExperimentUpdated,
    Fact,
    FactNoted,
    GpuReleaseAsked,
    HeartbeatReceived,
    KeyCreated,
    KeyRevoked,
    LiveAttempt,
    PhaseReported,
    PluginConfigured,
    PluginReverted,
    PluginSeen,
    PluginUsed,
    PriorityChanged,
    ReservationAsked,
    ReservationReleased,
    StagingHeard,
    TaskSubmitted,
    WorkerJoined,
)
from fetchmld.core.model import Intent, TaskId, UserId, WorkerId
from fetchmld.core.state import capacity_of

Body = dict[str, Any]


def _intent(data: dict[str, str] | None) -> Intent | None:
    return Intent(**data) if data else None


def _submit(body: Body, at_us: int, ticket: int) -> list[Event]:
    user, ip, trace = UserId(body["user_id"]), body["ip_address"], body.get("trace_id", "")
    tasks = body["tasks"]
    return [
        TaskSubmitted(
            TaskId(task["id"]),
            user,
            task["request"],
            at_us,
            ip,
            trace,
            ticket,
            task.get("known_ended", {}),
            _intent(task.get("intent")),
        )
        for task in tasks
    ]


def _cancel(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [
        CancelRequested(
            TaskId(body["task_id"]),
            UserId(body["user_id"]),
            at_us,
            body["known_ended"],
            body["ip_address"],
            body.get("trace_id", ""),
            ticket,
        )
    ]


def _priority(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [
        PriorityChanged(
            TaskId(body["task_id"]),
            body["priority"],
            UserId(body["user_id"]),
            at_us,
            body["known_ended"],
            body["ip_address"],
            ticket,
            body.get("trace_id", ""),
        )
    ]


def _drain(body: Body, at_us: int, ticket: int) -> list[Event]:
    user, ip, trace = UserId(body["user_id"]), body["ip_address"], body.get("trace_id", "")
    return [DrainChanged(WorkerId(body["worker_id"]), body["wanted"], user, at_us, ip, ticket, trace)]


def _gpu_release(body: Body, at_us: int, ticket: int) -> list[Event]:
    worker_id, user = WorkerId(body["worker_id"]), UserId(body["user_id"])
    return [GpuReleaseAsked(worker_id, body["index"], user, at_us, body["ip_address"], ticket)]


def _reserve(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [ReservationAsked(**{**body, "at_us": at_us, "ticket": ticket, "intent": _intent(body.get("intent"))})]


def _unreserve(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [ReservationReleased(**{**body, "at_us": at_us, "ticket": ticket})]


def _experiment(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [ExperimentCreated(**{**body, "at_us": at_us, "ticket": ticket, "intent": _intent(body.get("intent"))})]


def _experiment_update(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [ExperimentUpdated(**{**body, "at_us": at_us, "ticket": ticket})]


def _key(body: Body, at_us: int, ticket: int) -> list[Event]:
    by, ip = UserId(body["by"]), body["ip_address"]
    return [
        KeyCreated(
            body["key_id"],
            UserId(body["user_id"]),
            body["role"],
            body["sha256"],
            body["expires_at"],
            by,
            at_us,
            ip,
            ticket,
            body.get("trace_id", ""),
        )
    ]


def _revoke(body: Body, at_us: int, ticket: int) -> list[Event]:
    by, ip = UserId(body["by"]), body["ip_address"]
    return [KeyRevoked(body["key_id"], by, at_us, ip, ticket, body.get("trace_id", ""))]


def _fact(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [FactNoted(Fact(**{**body, "at_us": body.get("at_us") or at_us}), ticket)]


def _facts(body: Body, at_us: int, ticket: int) -> list[Event]:
    facts = body["facts"]
    return [event for fact in facts for event in _fact(fact, at_us, ticket if fact is facts[-1] else 0)]


def _configure_plugin(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [PluginConfigured(**{**body, "user_id": UserId(body["user_id"]), "at_us": at_us, "ticket": ticket})]


def _plugin_seen(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [PluginSeen(**body, at_us=at_us)]


def _plugin_reverted(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [PluginReverted(**body, at_us=at_us)]


def _plugin_used(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [PluginUsed(body["name"], TaskId(body["task_id"]), body["use"], at_us, ticket)]


def _hello(body: Body, at_us: int, ticket: int) -> list[Event]:
    attempts = [LiveAttempt(TaskId(a["task_id"]), a["attempt"], a["phase"]) for a in body["attempts"]]
    worker, capacity = WorkerId(body["worker_id"]), capacity_of(body["capacity"])
    return [
        WorkerJoined(
            worker,
            body["boot_id"],
            body["hostname"],
            capacity,
            attempts,
            at_us,
            body["detail"],
            datasets=body.get("datasets", {}),
            gpu_faults=body.get("gpu_faults", {}),
        )
    ]


def _beat(body: Body, at_us: int, ticket: int) -> list[Event]:
    names = ("datasets_added", "datasets_dropped", "gpu_faults", "gpu_use")
    return [HeartbeatReceived(WorkerId(body["worker_id"]), at_us, **{n: body[n] for n in names if n in body})]


def _phase(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [PhaseReported(body["worker_id"], TaskId(body["task_id"]), body["attempt"], body["phase"], at_us)]


def _dataset(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [DatasetAccessed(**{**body, "at_us": at_us})]


def _staging(body: Body, at_us: int, ticket: int) -> list[Event]:
    return [StagingHeard(**{**body, "at_us": at_us})]


def _ended(body: Body, at_us: int, ticket: int) -> list[Event]:
    seed = secrets.randbits(32)
    return [
        AttemptEnded(
            body["worker_id"], TaskId(body["task_id"]), body["attempt"], body["rank"], body["report"], seed, at_us
        )
    ]


EVENTS: Final[dict[str, Callable[[Body, int, int], list[Event]]]] = {
    "submit": _submit,
    "cancel": _cancel,
    "priority": _priority,
    "drain": _drain,
    "gpu_release": _gpu_release,
    "reserve": _reserve,
    "unreserve": _unreserve,
    "experiment": _experiment,
    "experiment_update": _experiment_update,
    "create_key": _key,
    "revoke_key": _revoke,
    "configure_plugin": _configure_plugin,
    "plugin_seen": _plugin_seen,
    "plugin_reverted": _plugin_reverted,
    "plugin_used": _plugin_used,
    "notes": _facts,
    "fact": _fact,
    "hello": _hello,
    "beat": _beat,
    "phase": _phase,
    "dataset": _dataset,
    "staging": _staging,
    "ended": _ended,
}
