"""How clients are answered while things break: not at all, or 503, or rightly; never 5xx else, nor a good key refused."""

from collections.abc import Iterator
from typing import Final

from tests.fault.outside.case import Case, Problem

RULE: Final = "true answers"
LISTS: Final = "lists"


def check(case: Case) -> Iterator[Problem]:
    for said in case.said:
        if said.status >= 500 and said.status != 503:
            yield Problem(RULE, f"{said.name}: {said.answer}")
        if said.status == 401:
            yield Problem(RULE, f"{said.name}: a key that is good is refused: {said.answer}")
        if said.is_done and "stranger" in said.query:
            yield Problem(RULE, f"{said.name}: shown what is another's")
        if said.is_refused and "code" not in (said.answer or {}):
            yield Problem(RULE, f"{said.name}: refused without saying why: {said.answer}")
    yield from _newest_first(case)


def _newest_first(case: Case) -> Iterator[Problem]:
    """A list of tasks is in the order of the record, each once, and its owner's alone for who may see no others."""
    accepted = {name: events[0].seq for name, events in case.tasks.items()}
    for said in case.said:
        if said.operation == "GET /v1/tasks" and said.is_done:
            ids = [view["id"] for view in said.answer["tasks"]]
            numbers = [accepted.get(name, -1) for name in ids]
            if numbers != sorted(set(numbers), reverse=True):
                yield Problem(LISTS, f"{said.name}: not newest first, or one twice: {ids}")
            others = {view["user_id"] for view in said.answer["tasks"]} - {said.user}
            if said.role == "user" and others:
                yield Problem(LISTS, f"{said.name}: has tasks of {others}")
