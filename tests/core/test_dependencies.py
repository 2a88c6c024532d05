"""Tasks that wait for others to end."""

import pytest

from fetchmld.core.errors import Invalid
from fetchmld.core.messages import TaskSubmitted
from fetchmld.core.model import TaskId, TaskRequest, UserId
from tests.core.driver import Driver, error_in, replayed


def after(task: str, condition: str = "ok") -> list[dict[str, str]]:
    return [{"task_id": task, "condition": condition}]


@pytest.mark.parametrize(
    ("condition", "exit_code", "status"),
    [
        ("ok", 0, "preparing"),
        ("ok", 1, "failed"),
        ("failed", 1, "preparing"),
        ("failed", 0, "failed"),
        ("any", 0, "preparing"),
        ("any", 1, "preparing"),
    ],
)
def test_a_task_starts_when_what_it_needs_has_ended_as_it_needs(condition: str, exit_code: int, status: str) -> None:
    driver = Driver()
    driver.join()
    first = driver.submit()
    second = driver.submit(depends_on=after(first, condition))
    assert driver.view(second)["wait_reason"] == f"waits for task {first} ({condition})"
    driver.end(first, exit_code=exit_code)
    assert driver.status(second) == status
    late = driver.submit(depends_on=after(first, condition))
    assert driver.status(late) == status, "it makes no difference that it ended before"


def test_the_failure_runs_down_the_chain() -> None:
    driver = Driver()
    tasks = [driver.submit()]
    for _ in range(2000):
        tasks.append(driver.submit(depends_on=after(tasks[-1])))
        driver.core.check = lambda about=None: None  # type: ignore[method-assign]
    driver.cancel(tasks[0])
    assert driver.view(tasks[1])["error"] == (
        f"DEPENDENCY_FAILED: task {tasks[0]} ended failed, and completed was required"
    )
    assert not driver.core.state.tasks


def test_who_is_held_does_not_age() -> None:
    driver = Driver()
    driver.join()
    first = driver.submit(cpu=2)
    second = driver.submit(cpu=2, depends_on=after(first))
    driver.now += 1200
    other = driver.submit(cpu=2)
    driver.now += 1
    driver.end(first, exit_code=0)
    assert (driver.status(second), driver.status(other)) == ("queued", "preparing")
    assert driver.view(second)["priority_aged"] == pytest.approx(5.0)


def test_all_of_several_are_needed() -> None:
    driver = Driver()
    driver.join()
    a, b = driver.submit(), driver.submit()
    both = driver.submit(depends_on=[*after(a), *after(b, "any")])
    driver.end(a, exit_code=0)
    assert driver.status(both) == "queued"
    driver.end(b, exit_code=1)
    assert driver.status(both) == "preparing"


def test_unknown_tasks_and_itself_are_refused() -> None:
    driver = Driver()

    def submit(needed: str, **more: object) -> object:
        request: TaskRequest = {"job_name": "j", "depends_on": [{"task_id": needed, "condition": "ok"}]}
        return error_in(driver.do(TaskSubmitted(TaskId("me"), UserId("ada"), request, 1, ticket=1, **more)))  # type: ignore[arg-type]

    assert isinstance(submit("nobody"), Invalid)
    assert "itself" in str(submit("me"))
    assert submit("old", known_ended={TaskId("old"): "completed"}) is None


def test_a_task_is_admitted_once_when_two_that_it_needs_end_together() -> None:
    driver = Driver()
    driver.join()
    a = driver.submit()
    b = driver.submit(depends_on=after(a))
    c = driver.submit(depends_on=[*after(a, "any"), *after(b, "any")])
    driver.end(a, exit_code=1)
    assert (driver.status(b), driver.status(c)) == ("failed", "preparing")


def test_a_cancelled_dependent_is_forgotten() -> None:
    driver = Driver()
    driver.join()
    first = driver.submit()
    second = driver.submit(depends_on=after(first))
    driver.cancel(second)
    driver.end(first, exit_code=0)
    assert driver.view(second)["reason"] == "cancelled"


def test_a_restart_between_the_end_and_what_follows_from_it() -> None:
    driver = Driver()
    driver.join()
    first = driver.submit()
    second = driver.submit(depends_on=after(first))
    driver.end(first, exit_code=1)
    assert driver.actions()[-2:] == ["task.failed", "task.failed"]
    driver.record.pop()  # the last fact did not reach the disk
    driver.core = replayed(driver)
    driver.tick(1)
    assert driver.view(second)["error"].startswith("DEPENDENCY_FAILED")
