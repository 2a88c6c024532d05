"""Capacity that is kept for one user: never oversold, given back once."""

from fetchmld.core.errors import Conflict, Forbidden, Invalid, NotFound
from fetchmld.core.messages import TaskSubmitted
from fetchmld.core.model import TaskId, TaskRequest, UserId
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
