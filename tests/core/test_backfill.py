"""Plans for the first blocked task: nobody delays it, whoever can do so without delay goes first."""

from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.core.model import Capacity, Gpu, TaskId, WorkerId
from fetchmld.core.scheduler import Policy
from tests.core.driver import SMALL, W1, W2, WITH_GPUS, Driver

GRACE_S = Policy().grace_s


def planned_at(driver: Driver) -> float:
    (planned,) = driver.core.planned()
    return planned.plan.at


def test_the_first_blocked_task_is_planned_from_declared_ends() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.submit(gpu=4, time_limit_s=600)
    big = driver.submit(gpu=4)
    (planned,) = driver.core.planned()
    assert planned.task.id == big
    assert planned.plan.at == pytest.approx(driver.now + 600 + GRACE_S)


def test_a_short_task_passes_and_a_long_one_does_not() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.submit(gpu=2, time_limit_s=600)
    big = driver.submit(gpu=4, priority=9)
    long, short = driver.submit(gpu=1, time_limit_s=3600), driver.submit(gpu=1, time_limit_s=60)
    unlimited = driver.submit(gpu=1)
    assert [driver.status(task) for task in (big, long, short, unlimited)] == [
        "queued",
        "queued",
        "preparing",
        "queued",
    ]
    assert driver.view(long)["wait_reason"] == f"what is free is kept for task {big}, which is before it"


def test_what_the_plan_does_not_need_is_for_everybody() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.submit(gpu=2, cpu=1, time_limit_s=600)
    driver.submit(gpu=3, cpu=1, priority=9)
    first, second = driver.submit(gpu=1, cpu=1), driver.submit(gpu=1, cpu=1)
    assert [driver.status(task) for task in (first, second)] == ["preparing", "queued"], "one GPU to spare, not two"


def test_without_declared_ends_capacity_is_gathered() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    running = [driver.submit(gpu=1, cpu=1) for _ in range(4)]
    big = driver.submit(gpu=4, cpu=1, priority=9)
    assert planned_at(driver) == inf
    later = driver.submit(gpu=1, cpu=1, time_limit_s=1)
    for task in running:
        assert driver.status(later) == "queued"
        driver.end(task, exit_code=0)
    assert driver.status(big) == "preparing"


def test_an_earlier_end_moves_the_plan_forward() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.join(W2, WITH_GPUS)
    tasks = [driver.submit(gpu=4, cpu=1, time_limit_s=limit) for limit in (600, 900)]
    extra = driver.submit(gpu=0, cpu=4, time_limit_s=7200)
    big = driver.submit(gpu=4, cpu=8, node_count=2)
    assert planned_at(driver) == pytest.approx(driver.now + 7200 + GRACE_S)
    driver.end(extra, worker=WorkerId(driver.where(extra)[0]), exit_code=0)
    assert planned_at(driver) <= driver.now + 7200 + GRACE_S
    for task in tasks:
        driver.end(task, worker=WorkerId(driver.where(task)[0]), exit_code=0)
    assert driver.status(big) == "preparing"


def test_a_request_that_nobody_can_meet_blocks_nobody() -> None:
    driver = Driver()
    driver.join()
    hopeless, gang = driver.submit(gpu=64, priority=10), driver.submit(node_count=9, priority=10)
    assert driver.status(driver.submit(cpu=1)) == "preparing"
    assert (
        driver.view(hopeless)["wait_reason"]
        == "no worker is large enough: asks for 64 GPUs of any type, worker w1 has 0"
    )
    assert driver.view(gang)["wait_reason"] == "asks for 9 nodes at once, 1 of the workers are large enough"


def test_a_request_that_nobody_can_meet_starts_once_somebody_can() -> None:
    driver = Driver()
    driver.join()
    task = driver.submit(gpu=1, gpu_type="H100|A100")
    driver.join(W2, WITH_GPUS)
    assert driver.where(task) == ["w2"]


def test_or_it_fails_where_so_set() -> None:
    driver = Driver(Policy(unsatisfiable="fail"))
    early = driver.submit(gpu=64)
    assert driver.status(early) == "queued", "nobody is there yet: nothing is known"
    driver.join()
    assert driver.view(early)["error"].startswith("UNSATISFIABLE: no worker is large enough: asks for 64 GPUs")


MANY_GB = Capacity(4, 512, 4, 1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"node_count": 3}, "asks for 3 nodes at once, 2 of the workers are large enough"),
        ({"gpu": 1, "node_count": 2}, "asks for 2 nodes at once, 1 of the workers are large enough"),
        ({"gpu": 1, "gpu_type": "H100|T4"}, "no worker is large enough: asks for 1 GPUs of H100|T4, worker w1 has 0"),
        ({"memory_gb": 900}, "no worker is large enough: asks for 900 GB of memory, worker w2 has 512"),
        ({"cpu": 9}, "no worker is large enough: asks for 9 cores, worker w1 has 8"),
        ({"gpu": 2, "memory_gb": 64}, "no worker is large enough: asks for 64 GB of memory, worker w1 has 32"),
        ({"cpu": 1, "kind": "service", "node_count": 3}, "asks for 3 nodes at once, 2 of the workers are large enough"),
    ],
)
def test_what_nobody_could_ever_run_fails_where_so_set_and_names_the_largest(asked: dict[str, Any], said: str) -> None:
    driver = Driver(Policy(unsatisfiable="fail"))
    driver.join(W1, WITH_GPUS)
    driver.join(W2, MANY_GB)
    assert driver.view(driver.submit(**asked))["error"] == f"UNSATISFIABLE: {said}"
    assert driver.status(driver.submit(cpu=1)) == "preparing"


def test_what_a_draining_worker_could_run_is_kept_and_the_reason_is_about_all_that_are_known() -> None:
    driver = Driver(Policy(unsatisfiable="fail"))
    driver.join(W1, WITH_GPUS)
    driver.drain(W1)
    assert driver.status(driver.submit(gpu=4)) == "queued"
    large = driver.submit(gpu=5)
    assert (
        driver.view(large)["error"]
        == "UNSATISFIABLE: no worker is large enough: asks for 5 GPUs of any type, worker w1 has 4"
    )


def test_a_mig_slice_is_a_type_of_its_own() -> None:
    driver = Driver()
    slices = (Gpu(0, "A100-1g.5gb", "MIG-0"), Gpu(1, "A100-1g.5gb", "MIG-1"), Gpu(2, "A100", "GPU-2"))
    driver.join(W1, Capacity(8, 8, 8, 0, slices))
    assert driver.view(driver.submit(gpu=2))["assignments"][0]["gpus"] == [0, 1]
    assert driver.view(driver.submit(gpu=1, gpu_type="A100"))["assignments"][0]["gpus"] == [2]


def test_what_a_plan_could_spare_is_spent_once() -> None:
    """Found by the property below: something else ended, and the plan was told anew with what had been used since."""
    driver = Driver(Policy(offline_after_s=1e9, suspect_after_s=1e9))
    driver.join(W1, WITH_GPUS)
    driver.join(W2, WITH_GPUS)
    first = driver.submit(gpu=2, time_limit_s=300)
    short = driver.submit(gpu=0)
    planned = driver.submit(gpu=3, node_count=2, priority=10)  # one GPU to spare on each, once `first` is over
    driver.tick(1)
    beside = driver.submit(gpu=1, node_count=2, time_limit_s=600)
    waits = driver.submit(gpu=1, time_limit_s=600)
    assert [driver.view(task)["status"] for task in (beside, waits)] == ["preparing", "queued"]
    driver.end(short, exit_code=0)
    assert driver.view(waits)["status"] == "queued"
    driver.end(first, exit_code=0)
    assert driver.view(planned)["status"] == "preparing"


Job = tuple[int, int, int, int, int]  # GPUs, nodes, declared limit, share of it that it runs (percent), gap before it


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(1, 2),
            st.sampled_from([0, 20, 60, 300]),
            st.integers(1, 100),
            st.integers(0, 30),
        ),
        min_size=2,
        max_size=40,
    ),
    st.booleans(),
)
def test_a_planned_task_never_starts_later_than_its_first_plan(jobs: list[Job], one_priority: bool) -> None:
    driver = Driver(Policy(offline_after_s=1e9, suspect_after_s=1e9))
    driver.join(W1, WITH_GPUS)
    driver.join(W2, WITH_GPUS)
    driver.join(WorkerId("w3"), SMALL)
    lengths: dict[str, float] = {}
    for number, (gpu, nodes, limit, share, gap) in enumerate(jobs):
        advance(driver, lengths, gap)
        more: dict[str, Any] = {"time_limit_s": limit} if limit else {}
        priority = 5 if one_priority else 1 + (number * 7) % 10
        task = driver.submit(gpu=gpu, node_count=nodes, cpu=1, priority=priority, **more)
        lengths[task] = max(1.0, (limit or 40) * share / 100)
    advance(driver, lengths, 100_000)
    assert not driver.core.state.tasks, "everything that can start starts"
    assert driver.core.late_starts == 0


def advance(driver: Driver, lengths: dict[str, float], seconds: float) -> None:
    """Let time pass, ending each task when its program does."""
    until = driver.now + seconds
    while True:
        running = [
            (task.start_t + lengths[task.id], task) for task in driver.core.state.tasks.values() if task.assignments
        ]
        due = min(((at, task.id) for at, task in running), default=None)
        if due is None or due[0] > until:
            break
        driver.now = max(driver.now, due[0])
        task = driver.core.state.tasks[TaskId(due[1])]
        for node in list(task.assignments):
            driver.end(task.id, task.attempt, WorkerId(node["worker_id"]), exit_code=0)
    driver.now = until
    driver.tick(0)
