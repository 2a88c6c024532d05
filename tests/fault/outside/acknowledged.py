"""What was made and acknowledged is on record, as it was asked for, under the id that was given back; one intent once."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from tests.fault.outside.asked import CREATES, content
from tests.fault.outside.case import ASKED, Case, Problem
from tests.fault.outside.histories import Said
from tests.fault.outside.ledger import Event

RULE: Final = "acknowledged"
ONCE: Final = "one intent, one deed"
MAKES: Final = {operation: action for action in CREATES for operation in ASKED[action]}


def check(case: Case) -> Iterator[Problem]:
    made = {(event.action, event.resource): event for event in case.events if event.action in CREATES}
    for said in case.said:
        if said.status == 201 and said.operation in MAKES:
            yield from _is_there(said, made)
        elif said.operation == "POST /v1/audit/verify" and said.status == 200:
            yield from _is_verified(said, case)
    yield from _once(case)


def _is_there(said: Said, made: dict[tuple[str, str], Event]) -> Iterator[Problem]:
    event = made.get((MAKES[said.operation], said.answer["id"]))
    if event is None:
        yield Problem(RULE, f"{said.name}: {said.answer['id']} is not on record")
        return
    recorded = content(event)
    given: dict[str, Any] = said.body
    for name, value in given.items():
        if recorded.get(name, value) != value:
            yield Problem(RULE, f"{said.name}: said {name} {value!r}, the record has {recorded[name]!r}")
    if event.at_us > said.ended_us:
        yield Problem(RULE, f"{said.name}: answered {event.at_us - said.ended_us} us before it was on record")


def _is_verified(said: Said, case: Case) -> Iterator[Problem]:
    facts = [event for event in case.by_trace[said.trace] if event.action == "audit.verify"]
    if not facts:
        yield Problem(RULE, f"{said.name}: its verification is not on record")


def _once(case: Case) -> Iterator[Problem]:
    """Requests with the same key and the same body made one thing, whatever became of their answers; without a key each
    made one at most."""
    intents: dict[tuple[str, ...], list[Said]] = defaultdict(list)
    for said in case.said:
        if said.operation in MAKES:
            intents[(said.user, said.operation, said.key) if said.key else (said.trace,)].append(said)
    for requests in intents.values():
        traces = {said.trace for said in requests}
        made = {event.resource for trace in traces for event in case.by_trace[trace] if event.action in CREATES}
        told = {said.answer["id"] for said in requests if said.status == 201}
        if len(made | told) > 1:
            yield Problem(
                ONCE, f"{requests[0].name} and {len(requests) - 1} more with its key made {sorted(made | told)}"
            )
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for event in case.events:
        counted[event.action, event.resource] += event.action in CREATES
    for (action, resource), times in counted.items():
        if times > 1:
            yield Problem(ONCE, f"{times} times {action} of {resource}")
