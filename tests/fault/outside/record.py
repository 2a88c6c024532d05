"""What clients were told of the record itself: roots, events, verifications. Each is what the record has to this day."""

from collections.abc import Iterator
from typing import Any, Final

from tests.fault.outside.case import Case, Problem
from tests.fault.outside.histories import Said

RULE: Final = "one record"


def check(case: Case) -> Iterator[Problem]:
    told: dict[str, int] = {}  # how many events each client has been told of
    for said in case.said:
        if said.is_done and said.operation in _CHECKS:
            yield from (Problem(RULE, f"{said.name}: {text}") for text in _CHECKS[said.operation](case, said))
            total = said.answer.get("total_events", 0)
            if 0 < total < told.get(said.client, 0):
                yield Problem(RULE, f"{said.name}: {total} events, and its client had been told of {told[said.client]}")
            told[said.client] = max(total, told.get(said.client, 0))


def _root(case: Case, said: Said) -> Iterator[str]:
    yield from _hash_at(case, said.answer["total_events"], said.answer["root_hash"])


def _verified(case: Case, said: Said) -> Iterator[str]:
    if not said.answer["valid"]:
        yield f"not valid: {said.answer}"
    yield from _hash_at(case, said.answer["total_events"], said.answer["chain_root_hash"])


def _hash_at(case: Case, total: int, root: str) -> Iterator[str]:
    if total > len(case.events):
        yield f"{total} events, and the record has {len(case.events)}"
    elif total and case.events[total - 1].event_hash.hex() != root:
        yield f"event {total - 1} had the hash {root}, and now has {case.events[total - 1].event_hash.hex()}"


def _events(case: Case, said: Said) -> Iterator[str]:
    for shown in said.answer["events"]:
        number = shown["sequence_num"]
        if number >= len(case.events):
            yield f"event {number}, and the record has {len(case.events)}"
            continue
        event = case.events[number]
        has: dict[str, Any] = {"event_hash": event.event_hash.hex(), "action": event.action, "resource": event.resource}
        if wrong := [name for name, value in has.items() if shown[name] != value]:
            yield f"event {number} was shown with other {', '.join(wrong)}"


_CHECKS: Final = {
    "GET /v1/audit/chain-root": _root,
    "POST /v1/audit/verify": _verified,
    "GET /v1/audit/events": _events,
}
