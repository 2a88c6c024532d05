"""Which attempt's output a request is about."""

import pytest

from fetchmld.api.attempts import of_attempt
from fetchmld.core.errors import NotFound
from fetchmld.core.messages import AttemptEnded, TimePassed, WorkerJoined
from fetchmld.core.model import EndReport, LogPlace, TaskId, TaskView
from tests.core.driver import SMALL, W1, Driver, replayed


def place(offset: int) -> LogPlace:
    return LogPlace(worker_id=W1, file="segment", offset=offset, length=9)


def fail(driver: Driver, task: str, attempt: int) -> None:
    report = EndReport(exit_code=1, log=place(attempt))
    driver.do(AttemptEnded(W1, TaskId(task), attempt, 0, report, 2**31, driver.at_us))


def tried(times: int, failed: int) -> TaskView:
    """A task whose first `failed` attempts failed, and which was started `times` times."""
    driver = Driver()
    driver.join()
    task = driver.submit(max_retries=9)
    for attempt in range(1, failed + 1):
        fail(driver, task, attempt)
        if attempt < times:
            driver.now += 1000
            driver.beat()
            driver.do(TimePassed(driver.at_us))
    assert replayed(driver).state.durable() == driver.core.state.durable()
    view = driver.view(task)
    assert view["attempt"] == times
    return view


def test_the_newest_while_it_runs_and_earlier_ones_where_they_were_put() -> None:
    view = tried(3, failed=2)
    assert of_attempt(view) is view
    assert of_attempt(view, 3) is view
    for attempt in (1, 2):
        found = of_attempt(view, attempt)
        assert (found["attempt"], found["status"], found["report"]) == (attempt, "failed", {"log": place(attempt)})
        assert found["assignments"][0]["worker_id"] == W1
    with pytest.raises(NotFound, match="has no attempt 4; its newest is 3"):
        of_attempt(view, 4)


def test_between_two_attempts_the_one_that_has_just_failed_is_the_newest() -> None:
    view = tried(2, failed=2)
    assert view["status"] == "queued"
    assert of_attempt(view)["report"] == of_attempt(view, 2)["report"] == {"log": place(2)}


def test_before_the_first_there_is_nothing_yet() -> None:
    driver = Driver()
    view = driver.view(driver.submit())
    assert of_attempt(view) is view
    with pytest.raises(NotFound, match="no attempt 1"):
        of_attempt(view, 1)


def test_a_lost_attempt_is_over_and_nothing_says_where_its_output_is() -> None:
    driver = Driver()
    driver.join()
    task = driver.submit()
    driver.do(WorkerJoined(W1, "boot2", "host", SMALL, [], driver.at_us))
    driver.now += 1000
    driver.beat()
    driver.do(TimePassed(driver.at_us))
    lost = of_attempt(driver.view(task), 1)
    assert (lost["attempt"], lost["status"], lost["report"], lost["assignments"]) == (
        1, "failed", {"word": "WORKER_LOST"}, []
    )  # fmt: skip
