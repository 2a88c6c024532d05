"""All that is to be judged: the record, and what everybody else wrote down."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from tests.fault.outside.histories import Run, Said, runs_in, said_in
from tests.fault.outside.ledger import Event, read

ENDS: Final = {"task.completed": "completed", "task.failed": "failed", "task.cancelled": "failed"}
# What only a request can bring about, and by which.
ASKED: Final = {
    "task.submit": ("POST /v1/tasks", "POST /v1/jupyter/services"),
    "task.cancel_requested": ("DELETE /v1/tasks/{taskId}", "DELETE /v1/jupyter/services/{serviceId}"),
    "task.deleted": ("DELETE /v1/tasks/{taskId}", "DELETE /v1/jupyter/services/{serviceId}"),
    "task.reprioritise": ("PATCH /v1/scheduler/jobs/{jobId}/priority",),
    "reservation.create": ("POST /v1/scheduler/reservations",),
    "reservation.release": ("DELETE /v1/scheduler/reservations/{reservationId}",),
    "worker.drain": ("DELETE /v1/scheduler/workers/{workerId}",),
    "worker.undrain": ("POST /v1/scheduler/workers/{workerId}/undrain",),
    "plugin.disable": ("DELETE /v1/plugins/{pluginName}/config", "PUT /v1/plugins/{pluginName}/config"),
    "plugin.update": ("PUT /v1/plugins/{pluginName}/config",),
    "experiment.create": ("POST /v1/experiments",),
    "audit.verify": ("POST /v1/audit/verify",),
}


@dataclass(slots=True)
class Problem:
    """A rule that does not hold, and where."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass
class Case:
    events: list[Event]
    said: list[Said]
    runs: list[Run]

    @cached_property
    def tasks(self) -> dict[str, list[Event]]:
        """Every task's facts, in their order."""
        found: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            if event.action.startswith("task."):
                found[event.resource].append(event)
        return found

    @cached_property
    def by_trace(self) -> dict[str, list[Event]]:
        """What each request brought about."""
        found: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            if event.action in ASKED or event.action == "task.cancelled":
                found[event.metadata.get("trace_id", "")].append(event)
        return found


def load(histories: Path, data_dir: Path) -> Case:
    """Raises `ledger.Broken` where the chain does not hold."""
    return Case(read(data_dir / "ledger"), said_in(histories), runs_in(histories))
