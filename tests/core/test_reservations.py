"""Capacity that is kept for one user: never oversold, given back once."""

from fetchmld.core.errors import Conflict, Forbidden, Invalid, NotFound
from fetchmld.core.messages import TaskSubmitted
from fetchmld.core.model import Capacity, Gpu, TaskId, TaskRequest, UserId, WorkerId
from fetchmld.core.ready import KEEPS_MAX
from fetchmld.core.scheduler import Policy
from tests.core.driver import W1, W2, WITH_GPUS, Driver, error_in, replayed


def driver_with(*workers: str, policy: Policy | None = None) -> Driver:
    driver = Driver(policy)
    for worker in workers:
        driver.join(W1 if worker == "w1" else W2, WITH_GPUS)
    return driver


def pass_time(driver: Driver, seconds: float) -> None:
    driver.tick(seconds)
    for worker in list(driver.core.state.workers):
        driver.beat(worker)


def refusal(driver: Driver, user: str = "ada", **request: object) -> object:
    body: TaskRequest = {"job_name": "j", "reservation_id": "r1", **request}  # type: ignore[typeddict-item]
    return error_in(driver.do(TaskSubmitted(TaskId("x"), UserId(user), body, 1, ticket=1)))


def test_what_is_reserved_is_for_its_tasks_alone() -> None:
    driver = driver_with("w1")
    driver.reserve(gpu_count=3)
    others = [driver.submit(gpu=1, cpu=1), driver.submit(gpu=1, cpu=1)]
    mine = driver.submit(gpu=2, cpu=1, reservation_id="r1")
    assert [driver.status(task) for task in (*others, mine)] == ["preparing", "queued", "preparing"]
    assert driver.view(others[0])["assignments"][0]["gpus"] == [3]
    assert driver.view(mine)["assignments"][0]["gpus"] == [0, 1]
    assert driver.core.state.reservations["r1"].status == "claimed"
    assert driver.actions().count("reservation.claim") == 1


def test_what_its_tasks_give_back_stays_reserved() -> None:
    driver = driver_with("w1")
    driver.reserve(gpu_count=4)
    mine = driver.submit(gpu=4, cpu=1, reservation_id="r1")
    other = driver.submit(gpu=1, cpu=1)
    driver.end(mine, exit_code=0)
    assert driver.status(other) == "queued"
    assert driver.status(driver.submit(gpu=4, cpu=1, reservation_id="r1")) == "preparing"


def test_what_is_missing_is_gathered() -> None:
    driver = driver_with("w1")
    running = [driver.submit(gpu=2, cpu=1) for _ in range(2)]
    driver.reserve(gpu_count=4)
    other, mine = driver.submit(gpu=1, cpu=1), driver.submit(gpu=4, cpu=1, reservation_id="r1")
    assert "holds 0 of its 4 GPUs" in driver.view(mine)["wait_reason"]
    driver.end(running[0], exit_code=0)
    assert driver.core.reservation_views()[0]["held"] == {"w1": 2}
    driver.end(running[1], exit_code=0)
    assert (driver.status(other), driver.status(mine)) == ("queued", "preparing")


def test_it_expires_once_and_its_capacity_returns_at_once() -> None:
    driver = driver_with("w1")
    driver.reserve(gpu_count=4, seconds=60)
    running = driver.submit(gpu=2, cpu=1, reservation_id="r1")
    queued, other = driver.submit(gpu=4, cpu=1, reservation_id="r1"), driver.submit(gpu=2, cpu=1)
    for _ in range(3):
        pass_time(driver, 60)
    assert driver.actions().count("reservation.expire") == 1
    assert driver.view(queued)["error"] == "RESERVATION_EXPIRED: reservation r1 is over"
    assert (driver.status(running), driver.status(other)) == ("preparing", "preparing")
    driver.end(running, exit_code=0)
    assert driver.status(driver.submit(gpu=2, cpu=1)) == "preparing"


def test_its_owner_gives_it_back_once() -> None:
    driver = driver_with("w1")
    driver.reserve(gpu_count=4)
    other = driver.submit(gpu=4, cpu=1)
    assert isinstance(error_in(driver.give_back(user="eve")), NotFound)
    assert error_in(driver.give_back()) is None
    assert driver.status(other) == "preparing"
    assert isinstance(error_in(driver.give_back()), Conflict)
    assert isinstance(error_in(driver.give_back("none")), NotFound)


def test_a_future_one_gathers_in_its_lead_and_serves_from_its_start() -> None:
    driver = driver_with("w1", policy=Policy(reservation_lead_s=600, suspect_after_s=1e9))
    driver.reserve(gpu_count=4, starts_in_s=1200)
    early = driver.submit(gpu=4, cpu=1)
    mine = driver.submit(gpu=4, cpu=1, reservation_id="r1")
    assert driver.status(early) == "preparing", "nothing is held so long before"
    assert driver.view(mine)["wait_reason"] == "reservation r1 begins in 1200 s"
    pass_time(driver, 700)
    driver.end(early, exit_code=0)
    other = driver.submit(gpu=1, cpu=1)
    assert (driver.status(other), driver.status(mine)) == ("queued", "queued")
    pass_time(driver, 500)
    assert (driver.status(other), driver.status(mine)) == ("queued", "preparing")


def leading(policy: Policy | None = None) -> Driver:
    """One worker of 4 GPUs, all of them reserved from 1,200 s on, which is inside the lead time."""
    driver = driver_with("w1", policy=policy or Policy(suspect_after_s=1e9))
    driver.reserve(gpu_count=4, starts_in_s=1200)
    return driver


def test_in_its_lead_who_is_over_by_its_start_may_use_its_share() -> None:
    driver = leading()
    unlimited, long = driver.submit(gpu=1, cpu=1), driver.submit(gpu=1, cpu=1, time_limit_s=1300)
    short = driver.submit(gpu=1, cpu=1, time_limit_s=1000)
    mine = driver.submit(gpu=4, cpu=1, reservation_id="r1")
    assert [driver.status(task) for task in (unlimited, long, short)] == ["queued", "queued", "preparing"]
    assert driver.view(long)["wait_reason"] == "needs 1 GPUs, worker w1 has 0 free"
    assert driver.core.reservation_views()[0]["held"] == {"w1": 3}
    pass_time(driver, 300)
    assert driver.status(driver.submit(gpu=1, cpu=1, time_limit_s=1000)) == "queued", "900 s are left"
    pass_time(driver, 600)
    driver.end(short, exit_code=0)
    pass_time(driver, 301)
    assert [driver.status(task) for task in (unlimited, mine)] == ["queued", "preparing"]


def test_what_its_share_leaves_is_for_everybody() -> None:
    driver = driver_with("w1", policy=Policy(suspect_after_s=1e9))
    driver.reserve(gpu_count=3, starts_in_s=1200)
    tasks = [driver.submit(gpu=1, cpu=1) for _ in range(2)]
    assert [driver.status(task) for task in tasks] == ["preparing", "queued"]
    driver.end(tasks[0], exit_code=0)
    assert driver.status(tasks[1]) == "preparing"


def test_cores_go_with_the_gpus_also_in_the_lead() -> None:
    """The share of 2 of 4 GPUs is 4 of 8 cores: claimants find cores for their GPUs."""
    driver = driver_with("w1", policy=Policy(suspect_after_s=1e9))
    driver.reserve(gpu_count=2, starts_in_s=100)
    assert driver.status(driver.submit(cpu=5)) == "queued"
    assert driver.status(driver.submit(cpu=4, priority=10)) == "preparing"
    mine = driver.submit(gpu=2, cpu=4, reservation_id="r1")
    pass_time(driver, 100)
    assert driver.status(mine) == "preparing"
    assert driver.status(driver.submit(gpu=0, cpu=1, reservation_id="r1")) == "queued", "all its cores are in use"


def test_what_still_runs_at_its_start_is_gathered() -> None:
    driver = driver_with("w1", policy=Policy(suspect_after_s=1e9))
    early = driver.submit(gpu=4, cpu=1)
    driver.reserve(gpu_count=4, starts_in_s=100)
    mine, other = driver.submit(gpu=4, cpu=1, reservation_id="r1"), driver.submit(gpu=1, cpu=1, priority=10)
    pass_time(driver, 200)
    assert "holds 0 of its 4 GPUs" in driver.view(mine)["wait_reason"]
    driver.end(early, exit_code=0)
    assert [driver.status(task) for task in (mine, other)] == ["preparing", "queued"]


def test_one_after_the_other_on_the_same_gpus() -> None:
    """Who is over by the second start, not by the first, keeps to the first only."""
    driver = driver_with("w1", policy=Policy(suspect_after_s=1e9))
    driver.reserve("r1", gpu_count=2, starts_in_s=600, seconds=6000)
    driver.reserve("r2", gpu_count=2, starts_in_s=3000, seconds=6000)
    forever, between = driver.submit(gpu=1, cpu=1), driver.submit(gpu=2, cpu=1, time_limit_s=2000)
    both = driver.submit(gpu=2, cpu=1, time_limit_s=500)
    assert [driver.status(task) for task in (forever, between, both)] == ["queued", "preparing", "preparing"]


def test_more_than_the_queue_keeps_apart_are_held_at_once() -> None:
    driver = Driver(Policy(suspect_after_s=1e9))
    count = KEEPS_MAX + 1
    driver.join(W1, Capacity(count, count, count, 0, tuple(Gpu(i, "A100", f"GPU-{i}") for i in range(count))))
    for number in range(count):
        driver.reserve(f"r{number}", gpu_count=1, starts_in_s=1200 + number)
    short = [driver.submit(gpu=1, cpu=1, time_limit_s=100) for _ in range(count)]
    assert [driver.status(task) for task in short].count("preparing") == KEEPS_MAX
    driver.give_back("r0")
    assert [driver.status(task) for task in short].count("preparing") == count


def test_one_that_is_given_back_in_its_lead_lends_nothing_and_holds_nothing() -> None:
    driver = leading()
    waits = driver.submit(gpu=4, cpu=1)
    driver.give_back()
    assert driver.status(waits) == "preparing"


def test_it_lends_again_after_a_restart() -> None:
    driver = leading()
    driver.core = replayed(driver)
    driver.join(W1, WITH_GPUS)
    tasks = [driver.submit(gpu=2, cpu=1), driver.submit(gpu=2, cpu=1, time_limit_s=1000)]
    assert [driver.status(task) for task in tasks] == ["queued", "preparing"]


def test_its_lead_leaves_alone_what_was_promised_where_it_can() -> None:
    """w1 has most free, and is promised to a task; the reservation takes w2."""
    driver = driver_with("w1", "w2", policy=Policy(suspect_after_s=1e9))
    driver.submit(gpu=2, cpu=1, time_limit_s=5000)
    driver.submit(gpu=3, cpu=1, time_limit_s=9000)
    big = driver.submit(gpu=4, cpu=1)
    (before,) = driver.core.planned()
    driver.reserve(gpu_count=2, starts_in_s=3600, seconds=60)
    (after,) = driver.core.planned()
    assert (after.task.id, after.plan.at, set(after.plan.types)) == (big, before.plan.at, {"w1"})
    assert driver.core.reservation_views()[0]["held"] == {"w2": 1}


def test_a_promise_outlives_what_a_reservation_gathers() -> None:
    driver = driver_with("w1", "w2", policy=Policy(suspect_after_s=1e9))
    there = [driver.submit(gpu=2, cpu=1, time_limit_s=600) for _ in range(4)]
    driver.reserve(gpu_count=4, seconds=6000)
    driver.submit(gpu=4, cpu=1)
    (first,) = driver.core.planned()
    for task in there[:2]:
        driver.end(task, worker=WorkerId(driver.where(task)[0]), exit_code=0)
    (later,) = driver.core.planned()
    assert (later.first_at, later.plan.at) == (first.first_at, first.plan.at)


def test_more_than_there_is_and_the_past_are_refused() -> None:
    driver = driver_with("w1", "w2", policy=Policy(user_gpus_max=6))
    assert isinstance(error_in(driver.reserve("a", gpu_count=5)), Invalid)
    assert isinstance(error_in(driver.reserve("a", gpu_count=1, node_count=3)), Invalid)
    assert isinstance(error_in(driver.reserve("a", gpu_count=1, gpu_type="H100")), Invalid)
    assert isinstance(error_in(driver.reserve("a", gpu_count=1, starts_in_s=-5.0)), Invalid)
    assert error_in(driver.reserve("a", gpu_count=3, node_count=2)) is None
    assert isinstance(error_in(driver.reserve("b", gpu_count=1)), Forbidden)
    assert isinstance(error_in(driver.reserve("b", user="bob", gpu_count=2)), Invalid), "beside the first"
    assert error_in(driver.reserve("b", user="bob", gpu_count=2, starts_in_s=7200.0)) is None
    assert error_in(driver.reserve("c", user="bob", gpu_count=1, node_count=2)) is None


def test_tasks_name_only_what_is_theirs_and_large_enough() -> None:
    driver = driver_with("w1")
    assert isinstance(refusal(driver), Invalid)
    driver.reserve(gpu_count=2, gpu_type="A100")
    for request in ({"gpu": 3}, {"node_count": 2}, {"gpu": 1, "gpu_type": "H100"}, {"kind": "service"}):
        assert isinstance(refusal(driver, **request), Invalid), request
    assert isinstance(refusal(driver, user="eve", gpu=1), Invalid)
    assert refusal(driver, gpu=1) is None


def test_it_holds_again_after_a_restart() -> None:
    driver = driver_with("w1")
    driver.reserve(gpu_count=2)
    driver.core = replayed(driver)
    driver.join(W1, WITH_GPUS)
    assert driver.status(driver.submit(gpu=3, cpu=1)) == "queued"
    assert driver.status(driver.submit(gpu=2, cpu=1, reservation_id="r1")) == "preparing"


def test_it_moves_from_a_worker_that_leaves() -> None:
    driver = driver_with("w1", "w2")
    driver.reserve(gpu_count=4)
    (held,) = driver.core.reservation_views()[0]["held"]
    driver.drain(W1 if held == "w1" else W2)
    assert driver.core.reservation_views()[0]["held"] == {"w2" if held == "w1" else "w1": 4}


def test_a_worker_that_comes_back_with_other_gpus_is_asked_anew() -> None:
    """What was held there was counted under the type that it had, while its numbers were those of the new ones."""
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.reserve("r1", gpu_count=1)
    others = tuple(Gpu(number, "H100", f"H-{number}") for number in range(4))
    driver.join(W1, Capacity(8, 32, 8, 1, others), boot="boot2")
    assert driver.core.reservation_views()[0]["held"] == {W1: 1}
    started = [driver.submit(gpu=1) for _ in range(4)]
    given = [[node["gpus"] for node in driver.view(task)["assignments"]] for task in started]
    assert sorted(given) == [[], [[1]], [[2]], [[3]]]


def test_a_gang_of_a_reservation() -> None:
    driver = driver_with("w1", "w2")
    driver.reserve(gpu_count=2, node_count=2)
    task = driver.submit(gpu=2, cpu=1, node_count=2, reservation_id="r1")
    assert driver.where(task) == ["w1", "w2"]
    for worker in (W1, W2):
        driver.end(task, worker=worker, exit_code=0)
    assert driver.core.reservation_views()[0]["held"] == {"w1": 2, "w2": 2}


def test_a_blocked_task_is_planned_for_the_expiry() -> None:
    driver = driver_with("w1")
    driver.reserve(gpu_count=4, seconds=600)
    driver.submit(gpu=4, cpu=1)
    (planned,) = driver.core.planned()
    assert planned.plan.at == driver.now + 600
