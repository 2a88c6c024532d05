"""Nothing happened that nobody asked for, nothing that was refused, and nothing before or after it was asked for."""

from collections.abc import Iterator
from typing import Any, Final

from tests.fault.outside.case import ASKED, Case, Problem
from tests.fault.outside.histories import Said
from tests.fault.outside.ledger import Event

RULE: Final = "asked"
CREATES: Final = ("task.submit", "reservation.create", "experiment.create")


def check(case: Case) -> Iterator[Problem]:
    by_trace = {said.trace: said for said in case.said}
    for event in case.events:
        if event.action in ASKED and not _is_ours(event):
            said = by_trace.get(event.metadata.get("trace_id", ""))
            if problem := "nobody asked for it" if said is None else _wrong(said, event):
                yield Problem(RULE, f"event {event.seq} ({event.action} of {event.resource}): {problem}")


def _is_ours(event: Event) -> bool:
    """A plugin that did not come up goes back by itself to what it was."""
    return event.action == "plugin.update" and "failed_revision" in event.metadata


def _wrong(said: Said, event: Event) -> str:
    if said.is_refused:
        return f"{said.name} was refused"
    if said.operation not in ASKED[event.action]:
        return f"{said.name} asked for something else"
    if said.user != event.metadata.get("by", event.user_id):
        return f"{said.name} was {said.user}'s, and it is on record as {event.user_id}'s"
    if event.action not in CREATES and event.action != "audit.verify" and said.target != event.resource:
        return f"{said.name} asked for it of {said.target}"
    if not said.begun_us <= event.at_us:
        return f"it is on record {said.begun_us - event.at_us} us before {said.name} began"
    if said.is_done and event.at_us > said.ended_us:
        return f"it is on record {event.at_us - said.ended_us} us after {said.name} was answered"
    return _other_content(said, event)


def _other_content(said: Said, event: Event) -> str:
    recorded = content(event)
    given: dict[str, Any] = said.body if isinstance(said.body, dict) else {}
    for name, value in given.items():
        if name in recorded and recorded[name] != value:
            return f"{said.name} said {name} {value!r}, the record says {recorded[name]!r}"
    return ""


def content(event: Event) -> dict[str, Any]:
    """What the record says of what was asked for, by the names of the request."""
    metadata = event.metadata
    match event.action:
        case "task.submit" if "jupyter" in metadata["request"]:
            return {**metadata["request"], **metadata["request"]["jupyter"]}
        case "task.submit":
            return {**metadata["request"], "priority": metadata["priority"]}
        case "task.reprioritise":
            return {"priority": metadata["priority"]}
        case "reservation.create":
            return {name: metadata[name] for name in ("gpu_count", "gpu_type", "node_count")}
        case "experiment.create":
            return {name: metadata[name] for name in ("name", "description")}
        case "plugin.update":
            return dict(metadata["config"])
    return {}
