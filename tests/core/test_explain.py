"""What is said about a task that waits."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.core.model import Explanation, TaskId, WorkerId
from fetchmld.core.scheduler import Policy
from tests.core.driver import SMALL, W1, W2, WITH_GPUS, Driver


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


def test_each_of_several_plans_and_which_come_first() -> None:
    driver = Driver(Policy(plans_max=2))
    driver.join(W1, WITH_GPUS)
    driver.submit(gpu=4, cpu=1, time_limit_s=600)
    first, second, third = (driver.submit(gpu=4, cpu=cpu, time_limit_s=100) for cpu in (1, 2, 3))
    assert explain(driver, first)["estimate"] == "in 610 s at the latest"
    said = explain(driver, second)
    assert said["estimate"] == f"in 720 s if the plans for {first} stay as they are"
    assert said["planned"]["basis"].endswith(f"; the plans for {first} come first and may still change")
    assert "planned" not in explain(driver, third)


def test_the_worker_that_it_was_lost_with_is_not_told_of() -> None:
    driver = Driver(Policy(suspect_after_s=1e9))
    driver.join(W1, WITH_GPUS)
    driver.join(W2, WITH_GPUS)
    lost = driver.submit(gpu=4, cpu=1, priority=1)
    (gone,) = driver.where(lost)
    other = W2 if gone == "w1" else W1
    driver.submit(gpu=4, cpu=1, time_limit_s=600)
    driver.join(WorkerId(gone), WITH_GPUS, boot="boot2")
    driver.tick(500)
    said = explain(driver, lost)
    assert said["worker_id"] == other
    assert said["planned"]["workers"] == [other]


def test_a_task_whose_only_worker_is_the_one_it_was_lost_with_has_a_reason() -> None:
    driver = Driver(Policy(suspect_after_s=1e9))
    driver.join(W1, WITH_GPUS)
    driver.join(W2, SMALL)
    lost = driver.submit(gpu=4, cpu=1, priority=1)
    driver.join(W1, WITH_GPUS, boot="boot2")
    driver.submit(gpu=4, cpu=1, priority=10)
    driver.tick(1000)
    assert driver.view(lost)["wait_reason"]
    assert explain(driver, lost)["reason"]


def test_strict_order_is_named() -> None:
    driver = Driver(Policy(backfill=False))
    driver.join(W1, WITH_GPUS)
    driver.submit(gpu=3, cpu=1, time_limit_s=600)
    first, second = driver.submit(gpu=4, cpu=1), driver.submit(gpu=1, cpu=1, time_limit_s=1)
    said = explain(driver, second)
    assert said["reason"] == f"task {first} is before it and cannot start yet; nobody may pass (backfill is off)"
    assert "smaller_request" not in said


def test_a_reservation_that_holds_and_one_that_lends_and_one_to_come() -> None:
    driver = Driver(Policy(suspect_after_s=1e9))
    driver.join(W1, WITH_GPUS)
    driver.reserve("r1", gpu_count=2, seconds=600)
    waits = driver.submit(gpu=3, cpu=1)
    said = explain(driver, waits)
    assert said["reason"] == "needs 3 GPUs, worker w1 has 2 free"
    (held,) = said["held_by"]
    assert (held["kind"], held["id"]) == ("reservation", "r1")
    assert held["until"] == pytest.approx(driver.now + 600, abs=0.01)
    assert said["planned"]["at"] == pytest.approx(driver.now + 600, abs=0.01)
    driver.cancel(waits)
    driver.give_back("r1")
    driver.reserve("r2", gpu_count=4, starts_in_s=1200, seconds=600)
    said = explain(driver, driver.submit(gpu=1, cpu=1))
    assert said["planned"]["at"] == pytest.approx(driver.now + 1800, abs=0.01)
    change = said["smaller_request"]
    assert driver.status(driver.submit(gpu=1, cpu=1, **change)) == "preparing"  # type: ignore[arg-type]
    driver.reserve("r3", gpu_count=1, starts_in_s=5000, seconds=600)
    assert "reservation r3 may move it in 1400 s" in explain(driver, "t2")["planned"]["basis"]


def test_a_gang_is_told_how_many_nodes_have_room_and_fewer_would_do() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.join(W2, WITH_GPUS)
    driver.submit(gpu=2, cpu=1, time_limit_s=600)
    gang = driver.submit(gpu=4, cpu=1, node_count=2, priority=6)
    said = explain(driver, gang)
    assert said["reason"].startswith("needs 2 nodes, 1 have room; needs 4 GPUs, worker ")
    assert said["planned"]["workers"] == ["w1", "w2"]
    assert said["smaller_request"] == {"gpu": 2}
    assert driver.status(driver.submit(gpu=2, cpu=1, node_count=2, priority=7)) == "preparing"


def test_a_draining_worker_is_named_and_not_planned_on() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.join(W2, SMALL)
    driver.submit(gpu=4, cpu=1, time_limit_s=600)
    driver.drain(W1)
    said = explain(driver, driver.submit(gpu=1, cpu=1))
    assert said["reason"] == (
        "no worker is large enough: asks for 1 GPUs of any type, worker w2 has 0 (w1 is draining)"
    )
    assert said["estimate"] == "no estimate"
    assert "planned" not in said


# -- what was said, beside what then happens

Job = tuple[int, int, int, int, int]  # GPUs, cores, nodes, declared limit, share of it that it runs (percent)
jobs = st.tuples(
    st.integers(0, 4), st.integers(1, 4), st.integers(1, 2), st.sampled_from([30, 100, 500]), st.integers(1, 100)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(jobs, min_size=4, max_size=20), st.sampled_from([1, 3]))
def test_what_is_said_comes_true(asked: list[Job], plans_max: int) -> None:
    """One priority; every program ends within its limit; workers and reservations stay as they are."""
    driver = Driver(Policy(suspect_after_s=1e9, plans_max=plans_max))
    for worker in (W1, W2):
        driver.join(worker, WITH_GPUS)
    lengths: dict[str, float] = {}
    for gpu, cpu, nodes, limit_s, share in asked:
        task = driver.submit(gpu=gpu, cpu=cpu, node_count=nodes, time_limit_s=limit_s)
        lengths[task] = max(1.0, limit_s * share / 100)
    latest: dict[str, float] = {}
    while driver.core.state.tasks:
        note_what_is_said(driver, latest)
        started = {task.id for task in driver.core.state.tasks.values() if task.assignments}
        late = [
            task for task in started & latest.keys() if driver.core.state.tasks[TaskId(task)].start_t > latest[task]
        ]
        assert not late, f"{late} started later than was said: {latest}"
        check_holders(driver)
        end_next(driver, lengths)


def note_what_is_said(driver: Driver, latest: dict[str, float]) -> None:
    """The first planned start of who is first of all blocked; no start that is planned is in the past."""
    for planned in driver.core.planned()[:1]:
        said = explain(driver, planned.task.id)["planned"]
        assert said["at"] >= driver.now - 0.01
        latest.setdefault(planned.task.id, said["at"] + 0.01)


def check_holders(driver: Driver) -> None:
    """Who is said to hold something until then really holds it, and declared to."""
    for task in driver.core.state.tasks.values():
        for holder in explain(driver, task.id).get("held_by", ()) if task.status == "queued" else ():
            held = driver.core.state.tasks[TaskId(holder["id"])]
            assert held.assignments
            assert holder["until"] == pytest.approx(held.start_t + held.request["time_limit_s"] + 10, abs=0.01)


def end_next(driver: Driver, lengths: dict[str, float]) -> None:
    running = [task for task in driver.core.state.tasks.values() if task.assignments]
    task = min(running, key=lambda each: (each.start_t + lengths[each.id], each.id))
    driver.now = max(driver.now, task.start_t + lengths[task.id])
    for node in list(task.assignments):
        driver.end(task.id, task.attempt, WorkerId(node["worker_id"]), exit_code=0)


@settings(max_examples=100, deadline=None)
@given(st.lists(jobs, min_size=3, max_size=12), st.sampled_from([1, 3]), st.booleans())
def test_the_smaller_request_would_start(asked: list[Job], plans_max: int, reserved: bool) -> None:
    """Submitted in its place: the larger one is cancelled first."""
    driver = Driver(Policy(suspect_after_s=1e9, plans_max=plans_max))
    for worker in (W1, W2):
        driver.join(worker, WITH_GPUS)
    if reserved:
        driver.reserve(gpu_count=2, starts_in_s=200, seconds=600)
    requests: dict[str, dict[str, Any]] = {}
    for gpu, cpu, nodes, limit_s, _ in asked:
        request: dict[str, Any] = {"gpu": gpu, "cpu": cpu, "node_count": nodes, "time_limit_s": limit_s}
        requests[driver.submit(**request)] = request
    waiting = [task for task in requests if driver.status(task) == "queued"]
    for task in waiting[-1:]:  # nobody comes after it
        if change := explain(driver, task).get("smaller_request"):
            smaller = driver.submit(**requests[task] | change)
            driver.cancel(task)
            assert driver.status(smaller) == "preparing", f"{requests[task]} with {change}"
