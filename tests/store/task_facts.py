"""Facts about tasks, as the core records them, for tests that need a ledger with something in it."""

from typing import Any

from fetchmld.core.messages import Fact
from fetchmld.core.model import EndReport, TaskRequest

START_US = 1_760_000_000_000_000  # some noon in October 2025


def submit(task_id: str, at_us: int = START_US, user: str = "ann", **request: Any) -> Fact:
    asked: TaskRequest = {"job_name": "train", **request}  # type: ignore[typeddict-item]
    metadata = {"request": asked, "priority": request.get("priority", 5), "trace_id": "4bf92f"}
    return Fact("job_queued", "task.submit", task_id, user, metadata=metadata, at_us=at_us, clock_us=at_us)


def start(task_id: str, at_us: int = START_US, attempt: int = 1, user: str = "ann") -> Fact:
    metadata = {"attempt": attempt, "assignments": [{"rank": 0, "worker_id": "w1", "gpus": []}], "aged": 5.25}
    return Fact("job_started", "task.start", task_id, user, metadata=metadata, at_us=at_us, clock_us=at_us)


def requeue(task_id: str, at_us: int = START_US, attempt: int = 1) -> Fact:
    metadata = {
        "attempt": attempt,
        "cause": "WORKER_LOST",
        "detail": "the node went away",
        "hold_s": 10.0,
        "infrastructure": True,
    }
    return Fact("job_queued", "task.requeue", task_id, "ann", metadata=metadata, at_us=at_us, clock_us=at_us)


def end(task_id: str, how: str = "completed", at_us: int = START_US, attempt: int = 1, error: str = "") -> Fact:
    report: EndReport = {"exit_code": 0 if how == "completed" else 1, "ended_at": at_us / 1e6}
    metadata = {"attempt": attempt, "report": report if attempt else {}}
    fact = Fact("job_completed", f"task.{how}", task_id, "ann", not error, error=error, metadata=metadata, at_us=at_us)
    fact.clock_us = at_us
    return fact


def cancel_requested(task_id: str, at_us: int = START_US) -> Fact:
    return Fact("job_completed", "task.cancel_requested", task_id, "ann", metadata={"by": "ann"}, at_us=at_us)


def deleted(task_id: str, at_us: int = START_US) -> Fact:
    return Fact("job_completed", "task.deleted", task_id, "ann", at_us=at_us, clock_us=at_us)


def experiment(experiment_id: str, name: str, at_us: int = START_US) -> Fact:
    metadata = {"name": name, "description": f"about {name}"}
    return Fact("file_access", "experiment.create", experiment_id, "ann", metadata=metadata, at_us=at_us)


def experiment_update(experiment_id: str, at_us: int = START_US, **changes: str) -> Fact:
    return Fact("file_access", "experiment.update", experiment_id, "ann", metadata={**changes}, at_us=at_us)


def login(user: str, success: bool = True, at_us: int = START_US) -> Fact:
    action = "auth.success" if success else "auth.failure"
    return Fact("auth_attempt", action, "/v1/tasks", user, success, "127.0.0.1", at_us=at_us)


def whole_life(task_id: str, at_us: int = START_US, user: str = "ann", **request: Any) -> list[Fact]:
    """Submitted, started a second later, completed two seconds later."""
    return [
        submit(task_id, at_us, user, **request),
        start(task_id, at_us + 1_000_000),
        end(task_id, at_us=at_us + 3_000_000),
    ]
