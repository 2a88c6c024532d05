"""The worker's side of an attempt, without a process, a socket or a clock."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchmld.core.agent import (
    PHASES,
    Abandon,
    Acknowledged,
    AgentCore,
    Collect,
    Collected,
    Effect,
    Event,
    Exited,
    Forget,
    Greeted,
    Ordered,
    Phase,
    Prepare,
    Prepared,
    PrepareFailed,
    Report,
    Run,
    RunKey,
    RunnerReturned,
    SayPhase,
    Spawn,
    Started,
    StartFailed,
    Stop,
    StopAsked,
)
from fetchmld.core.messages import LaunchOrder
from fetchmld.core.model import ArtifactSet, EndReport

KEY = RunKey("t", 1)
ARTIFACTS = ArtifactSet(manifest="0" * 64, file_count=1, total_bytes=2)


def order(key: RunKey = KEY) -> LaunchOrder:
    return {
        "task_id": key.task_id,
        "attempt": key.attempt,
        "rank": 0,
        "user_id": "u",
        "request": {"job_name": "j"},
        "assignments": [{"rank": 0, "worker_id": "w", "gpus": []}],
    }


def exited(key: RunKey = KEY) -> Exited:
    return Exited(key, 0, EndReport(exit_code=0))


def core_at(*events: Event) -> AgentCore:
    core = AgentCore()
    for event in events:
        core.handle(event)
        core.check()
    return core


RUNNING = (Ordered(order()), Prepared(KEY), Started(KEY, 0))
ENDED = (*RUNNING, exited(), Collected(KEY, None))


def test_the_whole_way() -> None:
    core = AgentCore()
    assert core.handle(Ordered(order())) == [Prepare(order())]
    assert core.handle(Prepared(KEY)) == [Spawn(KEY)]
    assert core.handle(Started(KEY, 0)) == [SayPhase(KEY, "running")]
    assert core.handle(exited()) == [SayPhase(KEY, "collecting"), Collect(KEY, 0)]
    report = EndReport(exit_code=0, artifacts=ARTIFACTS)
    assert core.handle(Collected(KEY, ARTIFACTS)) == [Report(KEY, 0, report)]
    assert core.handle(Greeted()) == [Report(KEY, 0, report)]
    assert core.handle(Acknowledged(KEY)) == [Forget(KEY, 0)]
    assert core.runs == {}
    assert core.handle(Greeted()) == []


@pytest.mark.parametrize("steps", range(1, len(ENDED) + 1))
def test_an_order_heard_again_changes_nothing(steps: int) -> None:
    core = core_at(*ENDED[:steps])
    phase = core.runs[KEY].phase
    assert core.handle(Ordered(order())) == []
    assert core.runs[KEY].phase == phase


def test_a_failure_before_the_start_is_reported_with_its_word() -> None:
    core = core_at(Ordered(order()))
    failed = core.handle(PrepareFailed(KEY, "DATASET_UNAVAILABLE", "no route", infrastructure=True))
    assert failed == [Report(KEY, 0, EndReport(word="DATASET_UNAVAILABLE", detail="no route", infrastructure=True))]
    core = core_at(Ordered(order()), Prepared(KEY))
    failed = core.handle(StartFailed(KEY, "ENTRYPOINT_NOT_FOUND", "x"))
    assert failed == [Report(KEY, 0, EndReport(word="ENTRYPOINT_NOT_FOUND", detail="x"))]


@pytest.mark.parametrize("end", [Prepared(KEY), PrepareFailed(KEY, "DATASET_NOT_FOUND", "x")])
def test_a_stop_while_preparing_wins(end: Event) -> None:
    core = core_at(Ordered(order()))
    assert core.handle(StopAsked(KEY, "CANCELLED", "by u")) == [Abandon(KEY)]
    assert core.handle(end) == [Report(KEY, 0, EndReport(word="CANCELLED", detail="by u"))]


def test_a_stop_goes_to_the_runner_and_the_first_word_stays() -> None:
    core = core_at(*RUNNING)
    assert core.handle(StopAsked(KEY, "CANCELLED", "by u")) == [Stop(KEY, 0, "CANCELLED", "by u")]
    assert core.handle(StopAsked(KEY, "WORKER_LOST", "late")) == [Stop(KEY, 0, "CANCELLED", "by u")]


def test_a_stop_after_the_end_repeats_the_report() -> None:
    core = core_at(*RUNNING, exited())
    assert core.handle(StopAsked(KEY, "CANCELLED", "")) == []
    core.handle(Collected(KEY, None))
    assert core.handle(StopAsked(KEY, "CANCELLED", "")) == [Report(KEY, 0, EndReport(exit_code=0))]


def test_a_stop_for_something_unknown_ends_it_here() -> None:
    core = AgentCore()
    assert core.handle(StopAsked(KEY, "CANCELLED", "x")) == [Report(KEY, 0, EndReport(word="CANCELLED", detail="x"))]
    assert core.handle(Ordered(order())) == []
    assert core.handle(Acknowledged(KEY)) == [Forget(KEY, 0)]


def test_an_acknowledgement_before_the_end_is_no_end() -> None:
    core = core_at(*RUNNING)
    assert core.handle(Acknowledged(KEY)) == []
    assert KEY in core.runs


def test_what_went_wrong_with_the_output_is_told_beside_the_status() -> None:
    core = core_at(*RUNNING, exited())
    assert core.handle(Collected(KEY, None, "disk")) == [Report(KEY, 0, EndReport(exit_code=0, detail="disk"))]


def test_a_new_agent_learns_from_the_runner() -> None:
    core = AgentCore()
    other = RunKey("o", 2)
    assert core.handle(RunnerReturned([(KEY, 0)], [other])) == []
    assert [(found.task_id, found.phase) for found in core.live()] == [("t", "running")]
    assert core.handle(exited(other)) == [SayPhase(other, "collecting"), Collect(other, 0)]


def test_a_runner_that_returns_is_asked_again_for_what_it_never_heard() -> None:
    core = core_at(Ordered(order()), Prepared(KEY))
    assert core.handle(RunnerReturned([], [])) == [Spawn(KEY)]
    assert core.handle(RunnerReturned([(KEY, 0)], [])) == [SayPhase(KEY, "running")]


def test_a_runner_that_never_heard_of_a_stopped_attempt_does_not_start_it() -> None:
    core = core_at(Ordered(order()), Prepared(KEY), StopAsked(KEY, "CANCELLED", "by u"))
    assert core.handle(RunnerReturned([], [])) == [Report(KEY, 0, EndReport(word="CANCELLED", detail="by u"))]


def test_a_runner_that_returns_hears_of_a_stop_again() -> None:
    core = core_at(*RUNNING, StopAsked(KEY, "CANCELLED", "x"))
    assert core.handle(RunnerReturned([(KEY, 0)], [])) == [Stop(KEY, 0, "CANCELLED", "x")]


def test_what_no_runner_knows_any_more_has_an_unknown_end() -> None:
    core = core_at(*RUNNING)
    effects = core.handle(RunnerReturned([], []))
    assert Collect(KEY, 0) in effects
    (report,) = core.handle(Collected(KEY, None))
    assert isinstance(report, Report)
    assert report.report["word"] == "EXIT_UNKNOWN"


def test_what_is_here_is_shown_until_it_is_acknowledged() -> None:
    shown = []
    for steps in range(1, len(ENDED) + 1):
        (found,) = core_at(*ENDED[:steps]).live()
        shown.append(found.phase)
    assert shown == ["preparing", "preparing", "running", "collecting", "collecting"]


@pytest.mark.parametrize("before", PHASES)
@pytest.mark.parametrize("after", PHASES)
def test_advance_is_the_table(before: Phase, after: Phase) -> None:
    run = Run(KEY, 0, before)
    if after in PHASES[before]:
        run.advance(after)
        assert run.phase == after
    else:
        with pytest.raises(ValueError, match=f"no way from {before} to {after}"):
            run.advance(after)
        assert run.phase == before


KEYS = [RunKey("a", 1), RunKey("a", 2), RunKey("b", 1)]
MAKERS: list[Callable[[RunKey], Event]] = [
    lambda key: Ordered(order(key)),
    lambda key: StopAsked(key, "CANCELLED", ""),
    Acknowledged,
    lambda _key: Greeted(),
    Prepared,
    lambda key: PrepareFailed(key, "LAUNCH_FAILED", ""),
    lambda key: Started(key, 0),
    lambda key: StartFailed(key, "LAUNCH_FAILED", ""),
    exited,
    lambda key: Collected(key, None),
    lambda key: RunnerReturned([(key, 0)], []),
    lambda key: RunnerReturned([], [key]),
]


@given(st.lists(st.tuples(st.sampled_from(MAKERS), st.sampled_from(KEYS)), max_size=40))
def test_no_order_of_events_breaks_it_or_changes_a_report(
    steps: list[tuple[Callable[[RunKey], Event], RunKey]],
) -> None:
    core = AgentCore()
    reports: dict[RunKey, EndReport] = {}
    for make, key in steps:
        effects: list[Effect] = core.handle(make(key))
        core.check()
        for effect in effects:
            match effect:
                case Report(of, _, report):
                    assert reports.setdefault(of, report) == report, "an end is told once and for all"
                case Forget(of, _):
                    assert reports.pop(of)
