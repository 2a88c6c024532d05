"""Experiments: named groups of tasks, made, changed and put away. Who may, the API has seen to."""

from typing import Any

from fetchmld.core import intents
from fetchmld.core.desk import Desk
from fetchmld.core.errors import Invalid, NotFound
from fetchmld.core.messages import ExperimentCreated, ExperimentUpdated


def create(desk: Desk, event: ExperimentCreated) -> None:
    """A new one, unless its intent was met before."""
    if intents.was_met(desk, event):
        return
    if event.experiment_id in desk.state.experiments:
        desk.fail(event.ticket, Invalid(f"experiment {event.experiment_id} exists already"))
        return
    said = {"name": event.name, "description": event.description, "commit_id": event.commit_id}
    metadata = {name: text for name, text in said.items() if text or name != "commit_id"}
    metadata.update(intents.metadata(event.intent))
    _record(desk, event, "experiment.create", metadata)


def update(desk: Desk, event: ExperimentUpdated) -> None:
    """What is new about one; what is as it was is not recorded."""
    found = desk.state.experiments.get(event.experiment_id)
    if found is None or found["status"] == "deleted":
        desk.fail(event.ticket, NotFound(f"there is no experiment {event.experiment_id!r}"))
        return
    changes = {name: text for name, text in event.changes.items() if {**found}[name] != text}
    if changes:
        _record(desk, event, "experiment.update", dict(changes))
    else:
        desk.reply(event.ticket, found)


def _record(desk: Desk, event: ExperimentCreated | ExperimentUpdated, action: str, metadata: dict[str, Any]) -> None:
    desk.record(event, "file_access", action, event.experiment_id, event.user_id, metadata, ip=event.ip_address)
    desk.reply(event.ticket, desk.state.experiments[event.experiment_id])
