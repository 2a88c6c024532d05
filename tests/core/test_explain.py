"""What is said about a task that waits."""

import pytest

from fetchmld.core.model import Explanation, TaskId, WorkerId
from tests.core.driver import W1, WITH_GPUS, Driver


def explain(driver: Driver, task: str) -> Explanation:
    found = driver.core.explain(TaskId(task), driver.at_us)
    assert found is not None
    return found


def test_who_holds_it_until_when_and_the_planned_start() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    holder = driver.submit(gpu=3, cpu=1, time_limit_s=600)
    big = driver.submit(gpu=4, cpu=1, priority=6)
    said = explain(driver, big)
    assert said["reason"] == "needs 4 GPUs, worker w1 has 1 free"
    (held,) = said["held_by"]
    assert held["id"] == holder
    assert held["until"] == pytest.approx(driver.now + 610, abs=0.01)
    assert said["planned"]["at"] == pytest.approx(driver.now + 610, abs=0.01)
    assert said["estimate"] == "in 610 s at the latest"
    assert said["position"] == 0
    assert said["no_later_arrival_passes_after"] == pytest.approx(driver.now + 4 * 600, abs=0.01)
    assert said["smaller_request"] == {"gpu": 1}
    assert driver.status(driver.submit(gpu=1, cpu=1, priority=6, time_limit_s=60)) == "preparing"


def test_no_estimate_rather_than_a_guess() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.submit(gpu=4, cpu=1)
    first, second = driver.submit(gpu=4, cpu=1), driver.submit(gpu=2, cpu=1)
    assert explain(driver, first)["estimate"].startswith("no estimate: too little of what runs there has a time limit")
    assert explain(driver, second)["estimate"] == "no estimate"
    assert "planned" not in explain(driver, second)


def test_a_time_limit_that_would_let_it_pass() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.submit(gpu=3, cpu=1, time_limit_s=600)
    driver.submit(gpu=4, cpu=1, priority=9)
    waits = driver.submit(gpu=1, cpu=1)
    change = explain(driver, waits)["smaller_request"]
    assert change == {"time_limit_s": 501}
    assert driver.status(driver.submit(gpu=1, cpu=1, **change)) == "preparing"  # type: ignore[arg-type]


def test_what_is_held_has_no_place_in_line() -> None:
    driver = Driver()
    driver.join()
    first = driver.submit()
    second = driver.submit(depends_on=[{"task_id": first, "condition": "ok"}])
    assert "position" not in explain(driver, second)
    assert explain(driver, first)["reason"] == "it is preparing"
    assert driver.core.explain(TaskId("nobody"), 0) is None


def test_a_gang_larger_than_what_a_short_answer_looks_at() -> None:
    driver = Driver()
    for number in range(70):
        driver.join(WorkerId(f"n{number}"))
    driver.submit(cpu=2)
    task = driver.submit(cpu=2, node_count=70)
    assert driver.view(task)["wait_reason"].startswith("needs 70 nodes, 69 have room; needs 2 cores")
