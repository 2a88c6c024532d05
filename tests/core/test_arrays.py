"""Many tasks as one: elements, their limit, their params, and the end of the whole."""

import tracemalloc
from typing import Any

import pytest

from fetchmld.core import arrays
from fetchmld.core.messages import Launch, Reply, StopAttempt
from fetchmld.core.model import ArrayParam, ArrayRequest, Capacity, Gpu, TaskId
from fetchmld.core.scheduler import Policy
from tests.core.driver import W1, W2, Driver, error_in, of, replayed

EIGHT = Capacity(cpu=8, memory_gb=8, batch_slots=8, service_slots=1)


def submit(driver: Driver, size: int, k: int = 0, params: dict[str, list[Any]] | None = None, **request: Any) -> str:
    asked = ArrayRequest(size=size)
    if k:
        asked["max_parallel"] = k
    if params:
        asked["params"] = [ArrayParam(name=name, values=values) for name, values in params.items()]
    return driver.submit(array=asked, **request)


def counts(driver: Driver, array: str) -> dict[str, int]:
    """How the elements stand, those of which there are none left out."""
    view = driver.view(array)["array"]
    names = ("queued", "running", "completed", "failed", "cancelled")
    return {name: view[name] for name in names if view[name]}  # type: ignore[literal-required]


def end_all(driver: Driver, array: str, **report: Any) -> None:
    for task_id, task in list(driver.core.state.tasks.items()):
        if task.array_id == array and task.assignments:
            driver.end(task_id, task.attempt, exit_code=0, **report)


def test_an_array_lives_from_one_fact_to_one_end() -> None:
    driver = Driver()
    array = submit(driver, 3)
    assert driver.actions() == ["task.submit"]
    assert (driver.status(array), counts(driver, array)) == ("queued", {"queued": 3})
    driver.join()
    assert driver.actions()[2:] == ["task.array_started", "task.start", "task.start"]
    assert (driver.status(array), counts(driver, array)) == ("running", {"queued": 1, "running": 2})
    driver.end(f"{array}-0", exit_code=0)
    assert counts(driver, array) == {"running": 2, "completed": 1}
    driver.end(f"{array}-1", exit_code=0)
    driver.end(f"{array}-2", exit_code=0)
    assert driver.actions()[-2:] == ["task.completed", "task.completed"]
    assert [fact.resource for fact in driver.record[-2:]] == [f"{array}-2", array]
    assert (driver.status(array), counts(driver, array)) == ("completed", {"completed": 3})
    assert driver.view(f"{array}-1")["status"] == "completed"
    assert not driver.core.state.tasks


def test_no_more_than_max_parallel_run_at_once() -> None:
    driver = Driver()
    driver.join(W1, EIGHT)
    array = submit(driver, 5, 2)
    other = driver.submit(priority=1)
    assert counts(driver, array) == {"queued": 3, "running": 2}
    assert driver.status(other) == "preparing", "what the array may not use is for others"
    driver.end(f"{array}-1", exit_code=0)
    assert driver.status(f"{array}-2") == "preparing"
    for _ in range(3):
        end_all(driver, array)
    assert driver.status(array) == "completed"


def test_the_array_keeps_its_place_in_the_order() -> None:
    """Its elements start before what is later or lower, and after what is higher, one by one."""
    driver = Driver()
    array = submit(driver, 3)
    low, high, late = driver.submit(priority=1), driver.submit(priority=9), driver.submit()
    for starts in ([high, f"{array}-0"], [f"{array}-1", f"{array}-2"], [late, low]):
        seen = len(driver.record)
        if "task.start" not in driver.actions():
            driver.join()
        else:
            for task_id, task in list(driver.core.state.tasks.items()):
                if task.assignments:
                    driver.core.check = lambda about=None: None  # type: ignore[method-assign]
                    driver.end(task_id, exit_code=0)
        new = [fact.resource for fact in driver.record[seen:] if fact.action == "task.start"]
        assert sorted(new) == sorted(starts)


def test_elements_are_retried_by_themselves() -> None:
    driver = Driver()
    driver.join(W1, EIGHT)
    array = submit(driver, 3, 2, max_retries=1)
    driver.end(f"{array}-0", exit_code=1, seed=2**28)
    assert counts(driver, array) == {"queued": 1, "running": 2}, "the third goes on meanwhile"
    assert driver.status(f"{array}-0") == "queued"
    driver.tick(1)
    assert counts(driver, array) == {"queued": 1, "running": 2}
    driver.end(f"{array}-1", exit_code=0)
    assert driver.view(f"{array}-0")["attempt"] == 2
    driver.end(f"{array}-0", 2, exit_code=3)
    driver.end(f"{array}-2", exit_code=0)
    view = driver.view(array)
    assert view["status"] == "failed"
    assert view["error"] == (
        "ELEMENT_FAILED: 1 of 3 elements, the first is 0: EXIT_NONZERO: attempt 2 ended with exit status 3"
    )


def test_a_lost_worker_is_avoided_by_the_element_and_by_nobody_else() -> None:
    driver = Driver()
    driver.join(W1, Capacity(1, 4, 1, 1))
    array = submit(driver, 3)
    driver.join(W2, Capacity(1, 4, 1, 1))
    lost: dict[str, Any] = {"word": "WORKER_LOST", "detail": "x", "infrastructure": True}
    driver.end(f"{array}-0", **lost)
    assert driver.where(f"{array}-2") == ["w1"]
    driver.tick(0.1)
    driver.end(f"{array}-1", worker=W2, exit_code=0)
    assert driver.where(f"{array}-0") == ["w2"]


def test_cancelling_an_array_ends_all_of_it() -> None:
    driver = Driver()
    driver.join()
    array = submit(driver, 100, max_retries=3)
    effects = driver.cancel(array)
    assert driver.actions()[-1] == "task.cancel_requested"
    assert error_in(effects) is None
    assert {stop.task_id for stop in of(StopAttempt, effects)} == {f"{array}-0", f"{array}-1"}
    assert counts(driver, array) == {"running": 2, "cancelled": 98}
    waiting = driver.view(f"{array}-50")
    assert (waiting["status"], waiting["reason"], waiting["error"]) == (
        "failed", "cancelled", "CANCELLED: by ada while queued"
    )  # fmt: skip
    driver.cancel(array)
    assert driver.actions().count("task.cancel_requested") == 1
    driver.end(f"{array}-0", word="CANCELLED", detail="by ada")
    driver.end(f"{array}-1", exit_code=0)
    view = driver.view(array)
    assert (view["status"], view["reason"]) == ("failed", "cancelled")
    assert view["error"] == "CANCELLED: 99 of 100 elements by ada; the first is 0"
    assert counts(driver, array) == {"completed": 1, "cancelled": 99}
    assert driver.actions()[-2:] == ["task.completed", "task.cancelled"]


def test_cancelling_an_array_that_waits_ends_it_at_once() -> None:
    driver = Driver()
    array = submit(driver, 4)
    driver.reprioritise(f"{array}-2", 9)
    driver.cancel(array)
    assert driver.view(array)["error"] == "CANCELLED: 4 of 4 elements by ada; the first is 0"
    assert not driver.core.state.tasks
    whole = submit(driver, 4)
    driver.cancel(whole)
    assert driver.view(whole)["error"] == "CANCELLED: by ada while queued"
    assert driver.actions()[-2:] == ["task.cancel_requested", "task.cancelled"]


def test_an_element_can_be_cancelled_alone() -> None:
    driver = Driver()
    driver.join()
    array = submit(driver, 5)
    driver.cancel(f"{array}-2")
    driver.cancel(f"{array}-4")
    driver.end(f"{array}-0", exit_code=0)
    assert driver.status(f"{array}-3") == "preparing", "the next that is left"
    driver.end(f"{array}-1", exit_code=0)
    driver.end(f"{array}-3", exit_code=0)
    view = driver.view(array)
    assert (view["reason"], view["error"]) == ("cancelled", "CANCELLED: 2 of 5 elements; the first is 2")


def test_the_priority_of_an_array_is_that_of_all_that_is_left() -> None:
    driver = Driver()
    array, other = submit(driver, 3), driver.submit(priority=7)
    driver.reprioritise(f"{array}-2", 8)
    driver.reprioritise(array, 9)
    assert {driver.view(f"{array}-{i}")["priority"] for i in range(3)} == {9}
    driver.join()
    assert driver.status(other) == "queued"
    assert driver.actions().count("task.reprioritise") == 2
    started = [fact.resource for fact in driver.record if fact.action == "task.start"]
    assert started == [f"{array}-0", f"{array}-1"]


def test_an_element_that_was_raised_goes_first() -> None:
    driver = Driver()
    array = submit(driver, 5, 1)
    driver.reprioritise(f"{array}-3", 8)
    driver.join()
    assert driver.status(f"{array}-3") == "preparing"
    driver.end(f"{array}-3", exit_code=0)
    assert driver.status(f"{array}-0") == "preparing"


@pytest.mark.parametrize(("exit_code", "status"), [(0, "preparing"), (1, "failed")])
def test_a_task_may_wait_for_an_array_and_an_array_for_a_task(exit_code: int, status: str) -> None:
    driver = Driver()
    first = driver.submit()
    array = submit(driver, 2, depends_on=[{"task_id": first, "condition": "any"}])
    after = driver.submit(depends_on=[{"task_id": array, "condition": "ok"}])
    driver.reprioritise(f"{array}-1", 6)
    driver.join()
    assert driver.view(f"{array}-1")["wait_reason"] == f"waits for task {first} (any)"
    driver.now += 3000
    driver.end(first, exit_code=0)
    assert counts(driver, array) == {"running": 2}
    assert driver.view(f"{array}-0")["priority_aged"] == 5.0, "who is held does not age"
    driver.end(f"{array}-0", exit_code=exit_code)
    assert driver.status(after) == "queued"
    driver.end(f"{array}-1", exit_code=0)
    assert driver.status(after) == status


def test_who_depends_on_an_element_that_never_starts_is_told() -> None:
    driver = Driver()
    array = submit(driver, 3)
    after = driver.submit(depends_on=[{"task_id": f"{array}-2", "condition": "failed"}])
    driver.join()
    driver.cancel(array)
    driver.end(f"{array}-0", word="CANCELLED", detail="x")
    assert driver.status(after) == "preparing"


def test_an_array_whose_dependency_failed_ends_with_it() -> None:
    driver = Driver()
    first = driver.submit()
    array = submit(driver, 3, depends_on=[{"task_id": first, "condition": "ok"}])
    driver.cancel(first)
    assert driver.view(array)["error"].startswith("DEPENDENCY_FAILED: ")
    assert driver.view(f"{array}-1")["error"].startswith("DEPENDENCY_FAILED: ")
    assert not driver.core.state.tasks


def test_the_rest_of_an_array_ends_with_its_reservation() -> None:
    driver = Driver()
    gpus = Capacity(8, 32, 8, 1, tuple(Gpu(i, "A100", f"GPU-{i}") for i in range(2)))
    driver.join(W1, gpus)
    driver.reserve(gpu_count=2)
    array = submit(driver, 5, gpu=1, reservation_id="r1", max_retries=1)
    assert counts(driver, array) == {"queued": 3, "running": 2}
    driver.give_back()
    assert counts(driver, array) == {"running": 2, "failed": 3}
    driver.end(f"{array}-0", exit_code=0)
    driver.end(f"{array}-1", exit_code=1)
    view = driver.view(array)
    assert counts(driver, array) == {"completed": 1, "failed": 4}
    assert view["error"].startswith("ELEMENT_FAILED: 4 of 5 elements, the first is 1: RESERVATION_EXPIRED: ")


def test_what_no_worker_could_meet_fails_where_the_setting_says_so() -> None:
    driver = Driver(Policy(unsatisfiable="fail"))
    driver.join()
    array = submit(driver, 1000, cpu=64)
    assert driver.view(array)["error"].startswith("UNSATISFIABLE: ")
    assert counts(driver, array) == {"failed": 1000}


def test_gangs_in_arrays() -> None:
    driver = Driver()
    driver.join(W1, Capacity(1, 4, 1, 1))
    array = submit(driver, 2, node_count=2)
    driver.join(W2, Capacity(1, 4, 1, 1))
    assert driver.where(f"{array}-0") == ["w1", "w2"]
    for worker in (W1, W2):
        driver.end(f"{array}-0", worker=worker, exit_code=0)
    assert driver.status(f"{array}-1") == "preparing"


def test_deleting_an_array_takes_its_elements_along() -> None:
    driver = Driver()
    driver.join()
    array = submit(driver, 2)
    end_all(driver, array)
    driver.cancel(array)
    assert driver.core.view(TaskId(array)) is None
    assert driver.core.view(TaskId(f"{array}-1")) is None
    assert driver.actions()[-1] == "task.deleted"


def test_an_element_that_ended_is_deleted_alone() -> None:
    driver = Driver()
    driver.join()
    array = submit(driver, 5)
    driver.cancel(array)
    driver.cancel(f"{array}-4")
    assert driver.core.view(TaskId(f"{array}-4")) is None
    assert driver.core.view(TaskId(f"{array}-3")) is not None
    end_all(driver, array)
    assert driver.core.view(TaskId(f"{array}-4")) is None


def test_a_restart_at_every_point() -> None:
    """The record, cut anywhere, is a state that goes on to the end."""
    driver = Driver()
    first = driver.submit()
    array = submit(driver, 6, 3, max_retries=1, depends_on=[{"task_id": first, "condition": "any"}])
    driver.reprioritise(f"{array}-5", 7)
    driver.join(W1, EIGHT)
    driver.end(first, exit_code=0)
    driver.end(f"{array}-0", exit_code=1, seed=0)
    driver.end(f"{array}-1", exit_code=0)
    driver.cancel(f"{array}-4")
    driver.cancel(array)
    end_all(driver, array)
    end_all(driver, array)
    assert driver.view(array)["ended_at"]
    for upto in range(len(driver.record) + 1):
        again = Driver()
        again.now = driver.now + 1000
        again.record = driver.record[:upto]
        again.core = replayed(again)
        assert again.core.state.durable() == replayed(again).state.durable()
        again.join(W1, EIGHT)
        for _ in range(20):
            again.tick(1)
            again.beat()
            for task_id, task in list(again.core.state.tasks.items()):
                if task.assignments:
                    again.end(task_id, task.attempt, exit_code=0)
        assert not again.core.state.tasks, upto
        actions = [f.action for f in again.record if f.resource == array and f.action in ENDS]
        assert len(actions) == (array in {f.resource for f in again.record}), upto


ENDS = {"task.completed", "task.failed", "task.cancelled"}


def test_the_params_of_an_element_side_by_side_or_as_a_grid() -> None:
    side_by_side = ArrayRequest(size=2, params=[_param("lr", 0.1, 0.2), _param("opt", "sgd", "adam")])
    assert [arrays.values_of(side_by_side, i) for i in range(2)] == [
        {"lr": 0.1, "opt": "sgd"},
        {"lr": 0.2, "opt": "adam"},
    ]
    grid = ArrayRequest(size=6, params=[_param("a", 1, 2), _param("b", True, False, True)])
    assert [tuple(arrays.values_of(grid, i).values()) for i in range(6)] == [
        (1, True), (1, False), (1, True), (2, True), (2, False), (2, True)
    ]  # fmt: skip
    assert arrays.values_of(ArrayRequest(size=3), 1) == {}


def _param(name: str, *values: Any) -> ArrayParam:
    return ArrayParam(name=name, values=list(values))


def test_an_attempt_is_told_its_place() -> None:
    driver = Driver()
    array = submit(driver, 2, params={"lr": [0.1, 0.2]})
    orders = [launch.order for launch in of(Launch, driver.join())]
    assert [order["element"] for order in orders] == [
        {"array_id": array, "index": 0, "size": 2, "params": {"lr": 0.1}},
        {"array_id": array, "index": 1, "size": 2, "params": {"lr": 0.2}},
    ]
    assert orders[0]["request"] is orders[1]["request"], "shared, not copied"


def test_why_says_how_many_wait_and_for_what() -> None:
    driver = Driver()
    array = submit(driver, 9, 2)
    late = driver.submit(priority=1)
    assert driver.core.explain(TaskId(late), 0)["position"] == 2  # type: ignore[index]
    driver.join()
    said = driver.core.explain(TaskId(array), 0)
    assert said is not None
    assert said["reason"] == "7 elements wait, 7 of them for others to end: 2 run, and max_parallel is 2"
    driver.core.explain(TaskId(f"{array}-8"), 0)
    assert driver.view(f"{array}-5")["wait_reason"] == "2 elements of its array run, and max_parallel is 2"
    wide = submit(driver, 3)
    said = driver.core.explain(TaskId(wide), 0)
    assert said is not None
    assert said["task_id"] == wide
    assert said["reason"] == "3 elements wait; the next: needs 1 cores, worker w1 has 0 free"
    assert said["held_by"]
    ended = driver.core.explain(TaskId(f"{array}-100"), 0)
    assert ended is None


def test_ids_that_only_look_like_elements() -> None:
    driver = Driver()
    plain = driver.submit("abc-7")
    array = submit(driver, 3)
    for name in (f"{array}-3", f"{array}-03", f"{array}--1", f"{array}-", f"{plain}-0", "abc-6"):
        assert driver.core.view(TaskId(name)) is None, name
    assert driver.view(plain)["status"] == "queued"
    assert isinstance(of(Reply, driver.cancel(f"{array}-3"))[0].error, Exception)


def test_ten_thousand_elements_are_as_light_as_one_task_until_they_start() -> None:
    driver = Driver()
    driver.core.check = lambda about=None: None  # type: ignore[method-assign]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    array = submit(driver, 10_000, env={"A": "x" * 1000})
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used < 20_000
    assert len(driver.record) == 1
    assert len(driver.core.state.tasks) == 1
    assert driver.core.counts()["batch_queued"] == 10_000
    driver.cancel(array)
    assert len(driver.record) == 3
