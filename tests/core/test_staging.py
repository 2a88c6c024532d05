"""Datasets come before GPUs: who waits for them, where they are fetched, and that nobody waits for ever."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.core.caches import dataset_key
from fetchmld.core.messages import DropStaging, Effect, Event, Launch, StageDatasets, StagingHeard, TaskSubmitted
from fetchmld.core.model import DatasetSpec, TaskId, WorkerId
from fetchmld.core.scheduler import Policy
from fetchmld.core.staging import STAGE_MAX_S
from tests.core.driver import SMALL, W1, W2, WITH_GPUS, Driver, of, replayed
from tests.core.test_scheduler import LARGE, STEPS

SPEC = DatasetSpec(name="d", source="https://h.example/d", mount_path="data/d", sha256="ab" * 32)
KEY = dataset_key(SPEC)
W3 = WorkerId("w3")


@pytest.fixture
def driver() -> Driver:
    found = Driver(Policy(stage_datasets=True))
    found.join(W1, WITH_GPUS)
    found.join(W2, WITH_GPUS)
    found.join(W3, SMALL)
    return found


def ask(driver: Driver, **more: Any) -> str:
    return driver.submit(**{"gpu": 4, "dataset_specs": [SPEC], **more})


def hear(driver: Driver, task: str, worker: WorkerId = W1, said: str = "", is_over: bool = True) -> list[Effect]:
    return driver.do(StagingHeard(worker, TaskId(task), said, is_over, driver.at_us))


def staged(driver: Driver, task: str) -> list[str]:
    wait = driver.core._waiting.staging.waits.get(TaskId(task))
    return sorted(wait.workers) if wait else []


def test_a_task_with_gpus_is_placed_once_its_datasets_are_there(driver: Driver) -> None:
    task = ask(driver)
    assert (driver.status(task), staged(driver, task)) == ("queued", [W1])
    assert "being fetched to worker w1, before it is given GPUs" in driver.view(task)["wait_reason"]
    other = driver.submit(gpu=4)  # has them meanwhile
    another = driver.submit(gpu=4)
    assert [driver.where(name) for name in (other, another)] == [[W1], [W2]]
    hear(driver, task, said="dataset d: 50 % (1.0 GB of 2.0 GB)", is_over=False)
    assert "dataset d: 50 % (1.0 GB of 2.0 GB) (on worker w1" in driver.view(task)["wait_reason"]
    driver.beat(W1, datasets_added={KEY: 2_000_000_000})
    hear(driver, task)
    assert driver.status(task) == "queued"
    assert "GPU" in driver.view(task)["wait_reason"]
    driver.end(other, exit_code=0)
    assert driver.where(task) == [W1]


def test_where_it_is_already_or_no_gpu_is_held_nobody_waits(driver: Driver) -> None:
    assert driver.where(ask(driver, gpu=0)) != []
    local = DatasetSpec(name="d", source="/data/d", mount_path="data/d")
    assert driver.where(ask(driver, gpu=1, dataset_specs=[local])) != []
    driver.beat(W2, datasets_added={KEY: 10})
    assert driver.where(ask(driver, gpu=1)) == [W2]
    off = Driver(Policy())
    off.join(W1, WITH_GPUS)
    assert off.where(ask(off)) == [W1]


def test_where_no_worker_could_run_it_nothing_is_fetched(driver: Driver) -> None:
    for more in ({"gpu": 5}, {"gpu_type": "H100"}, {"node_count": 3}):
        task = ask(driver, **more)
        assert (driver.status(task), staged(driver, task)) == ("queued", [])


def test_a_gang_waits_for_as_many_workers_as_it_has_nodes(driver: Driver) -> None:
    task = ask(driver, node_count=2)
    assert staged(driver, task) == [W1, W2]
    hear(driver, task, W2)
    hear(driver, task, W2)  # twice
    hear(driver, task, W3)  # nobody asked it
    assert driver.status(task) == "queued"
    hear(driver, task, W1)
    assert driver.where(task) == [W1, W2]


def test_many_tasks_are_spread_over_those_that_could_run_them(driver: Driver) -> None:
    tasks = [ask(driver, gpu=1) for _ in range(4)]
    assert sorted(staged(driver, task)[0] for task in tasks) == [W1, W1, W2, W2]


def test_an_array_waits_as_a_whole_before_its_first_element(driver: Driver) -> None:
    task = driver.submit(gpu=1, dataset_specs=[SPEC], array={"size": 6, "max_parallel": 2})
    assert staged(driver, task) == [W1]
    assert "being fetched" in driver.view(task)["wait_reason"]
    hear(driver, task)
    assert driver.view(task)["array"]["running"] == 2
    driver.reprioritise(task, 9)
    assert staged(driver, task) == []  # it has begun
    driver.end(f"{task}-0", exit_code=0)
    assert (driver.view(task)["array"]["running"], staged(driver, task)) == (2, [])


def test_a_worker_that_forgot_is_asked_again_and_one_that_is_gone_is_not_waited_for(driver: Driver) -> None:
    task = ask(driver)
    again = of(StageDatasets, driver.join(W1, WITH_GPUS))
    assert [(effect.worker_id, effect.task_id, effect.specs) for effect in again] == [(W1, task, [SPEC])]
    driver.now += 5
    driver.beat(W2)
    driver.tick(0)
    assert (driver.status(task), staged(driver, task)) == ("queued", [W1])  # silent, but perhaps not for long
    driver.now += 20
    driver.beat(W2)
    driver.tick(0)
    driver.beat(W2)
    driver.tick(0)
    assert (driver.where(task), staged(driver, task)) == ([W2], [])


def test_nobody_waits_for_ever(driver: Driver) -> None:
    task = ask(driver)
    driver.now += STAGE_MAX_S + 1
    for worker in (W1, W2):
        driver.beat(worker)
    driver.tick(0)
    assert (len(driver.where(task)), staged(driver, task)) == (1, [])


def test_who_is_cancelled_lets_the_worker_know(driver: Driver) -> None:
    task = ask(driver)
    dropped = of(DropStaging, driver.cancel(task))
    assert [(effect.worker_id, effect.task_id) for effect in dropped] == [(W1, task)]
    assert driver.status(task) == "failed"
    assert of(Launch, hear(driver, task)) == []


def test_another_priority_does_not_begin_the_fetch_anew(driver: Driver) -> None:
    task = ask(driver)
    effects = driver.reprioritise(task, 9)
    assert (of(StageDatasets, effects), of(DropStaging, effects), staged(driver, task)) == ([], [], [W1])
    hear(driver, task)
    assert driver.where(task) == [W1]


def test_a_restart_forgets_it_and_the_task_is_ready(driver: Driver) -> None:
    task = ask(driver)
    core = replayed(driver)
    assert core.state.tasks[TaskId(task)].status == "queued"
    assert core._waiting.staging.waits == {}


def test_it_waits_for_other_tasks_first(driver: Driver) -> None:
    first = driver.submit()
    task = ask(driver, depends_on=[{"task_id": first, "condition": "ok"}])
    assert staged(driver, task) == []
    driver.end(first, worker=WorkerId(driver.where(first)[0]), exit_code=0)
    assert staged(driver, task) == [W1]


def test_an_attempt_that_failed_waits_again_only_where_its_datasets_went_away(driver: Driver) -> None:
    task = ask(driver, max_retries=2)
    driver.beat(W1, datasets_added={KEY: 10})
    hear(driver, task)
    driver.end(task, exit_code=1)
    assert driver.where(task) == [W1]  # the second attempt, at once
    driver.beat(W1, datasets_dropped=[KEY])
    driver.end(task, attempt=2, exit_code=1)
    assert staged(driver, task) == [W1]


# -- whatever happens


class WithData(Driver):
    """Every task that asks for GPUs asks for a dataset too; every invariant is checked after every event."""

    def do(self, event: Event) -> list[Effect]:
        if isinstance(event, TaskSubmitted) and event.request.get("gpu"):
            event.request = {**event.request, "dataset_specs": [SPEC]}
        return super().do(event)


MORE: dict[str, Callable[[Driver, int], object]] = {
    **STEPS,
    "staged": lambda d, n: hear(d, f"t{1 + n % max(1, d.count)}", [W1, W2][n % 2], "x", n % 3 > 0),
    "cached": lambda d, n: d.beat([W1, W2][n % 2], datasets_added={KEY: 5}),
    "uncached": lambda d, n: d.beat([W1, W2][n % 2], datasets_dropped=[KEY]),
}
WALK = st.lists(st.tuples(st.sampled_from(sorted(MORE)), st.integers(0, 30)), max_size=50)


def walked(steps: list[tuple[str, int]]) -> WithData:
    driver = WithData(Policy(stage_datasets=True))
    driver.join(W1, WITH_GPUS)
    for name, number in steps:
        MORE[name](driver, number)
    return driver


@settings(max_examples=100, deadline=None)
@given(WALK)
def test_a_replay_gives_what_is_durable(steps: list[tuple[str, int]]) -> None:
    driver = walked(steps)
    live = driver.core.state.durable()
    assert replayed(driver).state.durable() == live


@settings(max_examples=50, deadline=None)
@given(WALK, st.booleans())
def test_when_fetches_end_or_take_too_long_everything_that_can_start_starts(
    steps: list[tuple[str, int]], are_heard: bool
) -> None:
    driver = walked(steps)
    for worker, capacity, boot in ((W1, LARGE, "boot0"), (W2, WITH_GPUS, "boot1")):
        driver.join(worker, capacity, boot=boot)
        driver.drain(worker, wanted=False)
    for turn in range(300):
        waits = [
            (task_id, worker) for task_id, wait in driver.core._waiting.staging.waits.items() for worker in wait.workers
        ]
        for task_id, worker in waits if are_heard else ():
            hear(driver, task_id, worker)
        if turn % 50 == 49:
            driver.now += STAGE_MAX_S
            for worker in (W1, W2):
                driver.beat(worker)
        driver.tick(1.0)
        driver.beat(W1)
        driver.beat(W2)
        for task_id, task in list(driver.core.state.tasks.items()):
            for node in list(task.assignments):
                driver.end(task_id, task.attempt, WorkerId(node["worker_id"]), exit_code=0)
        if not driver.core.state.tasks:
            return
    pytest.fail(f"never ended: {list(driver.core.state.tasks)}")
