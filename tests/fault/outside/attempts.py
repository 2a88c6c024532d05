"""What really ran, as the jobs say themselves: each attempt once, never two of a task at once, and only while on record."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.fault.outside.case import ENDS, Case, Problem
from tests.fault.outside.histories import Run
from tests.fault.outside.ledger import Event

RULE: Final = "never two at once"
RAN: Final = "as on record"


def check(case: Case) -> Iterator[Problem]:
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in case.runs:
        runs[run.task_id, run.rank].append(run)
    for (task_id, _), found in runs.items():
        found.sort(key=lambda run: run.began_s)
        yield from _overlaps(found)
        yield from _on_record(found, case.tasks.get(task_id, []))
    yield from _ended_as_recorded(case)


def _overlaps(runs: list[Run]) -> Iterator[Problem]:
    """One at a time, in order, each attempt once."""
    last_s = 0.0
    for before, run in pairwise(runs):
        last_s = max(last_s, before.last_s)
        who = f"task {run.task_id}: attempt {run.attempt} (pid {run.pid})"
        if run.began_s <= last_s:
            yield Problem(RULE, f"{who} began {last_s - run.began_s:.3f} s before {before.attempt} was over")
        if run.attempt <= before.attempt:
            yield Problem(RULE, f"{who} ran after attempt {before.attempt} (pid {before.pid})")


def _on_record(runs: list[Run], events: list[Event]) -> Iterator[Problem]:
    """Begun after its start was decided, over before its end was."""
    starts = {event.metadata["attempt"]: event for event in events if event.action == "task.start"}
    overs: dict[int, Event] = {}
    for event in events:
        if event.action == "task.requeue" or event.action in ENDS:
            overs.setdefault(event.metadata["attempt"], event)
    for run in runs:
        who = f"task {run.task_id}: attempt {run.attempt} (pid {run.pid})"
        start, over = starts.get(run.attempt), overs.get(run.attempt)
        if start is None or run.began_us < start.at_us:
            yield Problem(RAN, f"{who} ran, and its start was not on record")
        if over is not None and run.last_us > over.at_us:
            yield Problem(RAN, f"{who} still ran {run.last_us - over.at_us} us after event {over.seq} ({over.action})")


def _ended_as_recorded(case: Case) -> Iterator[Problem]:
    """A job that came to its end did so with the status on record; one that is on record as completed did come to it."""
    runs = {(run.task_id, run.attempt, run.rank): run for run in case.runs}
    for task_id, events in case.tasks.items():
        for event in events:
            if event.action in ("task.completed", "task.failed") and "jupyter" not in events[0].metadata["request"]:
                found = runs.get((task_id, event.metadata["attempt"], 0))
                yield from _same_status(event, found)


def _same_status(event: Event, run: Run | None) -> Iterator[Problem]:
    ran = None if run is None else run.exit_code
    who = f"event {event.seq} ({event.action} of {event.resource})"
    if event.action == "task.completed" and ran != 0:
        yield Problem(RAN, f"{who}: its job ended with {'nothing' if ran is None else ran}")
    said = event.metadata["report"].get("exit_code")
    if said is not None and event.error.startswith("EXIT_NONZERO") and ran not in (None, said):
        yield Problem(RAN, f"{who}: exit status {said}, and its job ended with {ran}")
