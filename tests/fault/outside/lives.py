"""A task's life on record goes forward: accepted, started once an attempt, ended once, and then never again."""

from collections.abc import Iterator
from typing import Final

from tests.fault.outside.case import ENDS, Case, Problem
from tests.fault.outside.ledger import Event

RULE: Final = "one end"
FORWARD: Final = "forward"


def check(case: Case) -> Iterator[Problem]:
    for task_id, events in case.tasks.items():
        yield from (Problem(rule, f"task {task_id}: {text}") for rule, text in _of_task(events))
    yield from _reservations(case)


def _of_task(events: list[Event]) -> Iterator[tuple[str, str]]:
    if events[0].action != "task.submit":
        yield FORWARD, f"event {events[0].seq} ({events[0].action}) comes before it was accepted"
    started, attempt, ends = False, 0, 0
    for event in events[1:]:
        where = f"event {event.seq} ({event.action})"
        if ends and event.action not in ("task.deleted", *ENDS):
            yield FORWARD, f"{where} comes after its end"
        match event.action:
            case "task.start":
                if started or event.metadata["attempt"] != attempt + 1:
                    yield FORWARD, f"{where} is attempt {event.metadata['attempt']}, after {attempt}"
                started, attempt = True, event.metadata["attempt"]
            case "task.requeue":
                if not started or event.metadata["attempt"] != attempt:
                    yield FORWARD, f"{where} of attempt {event.metadata['attempt']}, while {attempt} is the newest"
                started = False
            case "task.attach" | "task.cancel_requested" if not started:
                yield FORWARD, f"{where} while no attempt is under way"
            case action if action in ENDS:
                ends += 1
                if event.metadata.get("attempt", attempt) != attempt:
                    yield FORWARD, f"{where} of attempt {event.metadata['attempt']}, while {attempt} is the newest"
                if action == "task.completed" and not started:
                    yield FORWARD, f"{where} though no attempt was under way"
                started = False
            case "task.deleted" if not ends:
                yield FORWARD, f"{where} before its end"
            case "task.submit":
                yield FORWARD, f"{where} for a second time"
    if ends != 1:
        yield RULE, f"{ends} ends on record, {events[-1].action} is its last event"


def _reservations(case: Case) -> Iterator[Problem]:
    """Claimed at most once, over at most once, and nothing after that."""
    over: set[str] = set()
    claimed: set[str] = set()
    for event in case.events:
        if event.action in ("reservation.claim", "reservation.expire", "reservation.release"):
            if event.resource in over or (event.action == "reservation.claim" and event.resource in claimed):
                yield Problem(
                    FORWARD, f"reservation {event.resource}: event {event.seq} ({event.action}) once too often"
                )
            (claimed if event.action == "reservation.claim" else over).add(event.resource)
