"""All rules, each in a file of its own, and what they were held against."""

from collections import Counter

from tests.fault.outside import acknowledged, answers, asked, attempts, booking, lives, reads, record
from tests.fault.outside.case import Case, Problem

ALL = (acknowledged, answers, asked, attempts, booking, lives, reads, record)


def problems_of(case: Case) -> list[Problem]:
    return [problem for rule in ALL for problem in rule.check(case)]


def summary(case: Case) -> str:
    answered = Counter("no answer" if not one.status else f"{one.status // 100}xx" for one in case.said)
    actions = Counter(event.action for event in case.events)
    retried = actions["task.requeue"]
    return (
        f"{len(case.said)} requests ({', '.join(f'{count} {name}' for name, count in sorted(answered.items()))}), "
        f"{len(case.events)} events, {actions['task.submit']} tasks, {retried} attempts repeated, {len(case.runs)} runs"
    )
