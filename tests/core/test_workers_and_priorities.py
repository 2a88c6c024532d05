"""Drain, undrain, and the change of a priority."""

from fetchmld.core.errors import Conflict, NotFound
from fetchmld.core.messages import StopAttempt
from fetchmld.core.model import WorkerId
from fetchmld.core.scheduler import Policy
from tests.core.driver import SMALL, W1, W2, Driver, error_in, of, replayed


def test_a_draining_worker_gets_nothing_new_and_its_tasks_run_out() -> None:
    driver = Driver()
    driver.join()
    running = driver.submit(cpu=1)
    assert not of(StopAttempt, driver.drain())
    waiting = driver.submit(cpu=1)
    assert driver.view(waiting)["wait_reason"] == "no worker is connected (w1 is draining)"
    driver.end(running, exit_code=0)
    assert driver.status(running) == "completed"
    driver.drain(wanted=False)
    assert driver.status(waiting) == "preparing"
    assert [action for action in driver.actions() if action.startswith("worker")] == [
        "worker.join",
        "worker.drain",
        "worker.undrain",
    ]


def test_drain_twice_is_one_fact_and_an_unknown_worker_is_not_found() -> None:
    driver = Driver()
    driver.join()
    driver.drain()
    driver.drain()
    assert driver.actions().count("worker.drain") == 1
    assert isinstance(error_in(driver.drain(WorkerId("nobody"))), NotFound)


def test_a_drain_outlives_silence_and_restarts() -> None:
    driver = Driver()
    driver.join()
    driver.drain()
    driver.tick(20)
    assert driver.core.state.workers[W1].status == "offline"
    driver.join()
    assert driver.core.state.workers[W1].status == "draining"
    driver.core = replayed(driver)
    driver.join()
    assert driver.core.state.workers[W1].status == "draining"
    assert driver.status(driver.submit()) == "queued"


WEEK_S = 7 * 86_400


def test_a_worker_that_is_away_for_a_week_is_forgotten_also_when_the_daemon_was_restarted_meanwhile() -> None:
    driver = Driver()
    driver.join()
    driver.join(W2)
    task = driver.submit(cpu=2)
    driver.tick(20)
    driver.tick(20)
    for _ in range(3):
        driver.core = replayed(driver)
        driver.tick(WEEK_S / 3 - 10)
    assert "worker.forget" not in driver.actions()
    assert set(driver.core.state.workers) == {W1, W2}
    driver.tick(60)
    driver.tick(60)
    assert driver.status(task) == "queued"  # its attempt was lost with the worker long ago
    assert set(driver.core.state.workers) == set()
    assert driver.actions().count("worker.forget") == 2
    assert replayed(driver).state.durable() == driver.core.state.durable()
    driver.join()
    assert driver.status(task) == "preparing"


def test_a_drained_worker_and_one_with_tasks_are_not_forgotten_nor_any_where_that_is_not_wanted() -> None:
    driver = Driver(Policy(requeue_after_s=30 * 86_400))
    driver.join()
    driver.join(W2)
    driver.drain(W2)
    driver.submit(cpu=2)
    for _ in range(4):
        driver.tick(WEEK_S)
    assert set(driver.core.state.workers) == {W1, W2}
    driver.drain(W2, wanted=False)
    driver.tick(1)
    assert set(driver.core.state.workers) == {W1}
    kept = Driver(Policy(offline_workers_s=0))
    kept.join()
    for _ in range(4):
        kept.tick(100 * WEEK_S)
    assert set(kept.core.state.workers) == {W1}


def test_a_raised_priority_goes_first() -> None:
    driver = Driver()
    driver.join()
    running = driver.submit(cpu=2)
    first, second = driver.submit(cpu=2, priority=4), driver.submit(cpu=2, priority=3)
    driver.reprioritise(second, 9)
    driver.end(running, exit_code=0)
    assert (driver.status(first), driver.status(second)) == ("queued", "preparing")
    assert driver.view(second)["priority"] == 9


def test_the_priority_of_a_running_task_is_on_record_and_counts_if_it_comes_back() -> None:
    driver = Driver()
    driver.join()
    task = driver.submit(priority=2)
    driver.reprioritise(task, 8)
    assert (driver.view(task)["priority"], driver.view(task)["priority_aged"]) == (8, 8.0)
    assert driver.actions()[-1] == "task.reprioritise"


def test_a_priority_of_a_task_that_ended_or_never_was() -> None:
    driver = Driver()
    driver.join()
    task = driver.submit()
    driver.end(task, exit_code=0)
    assert isinstance(error_in(driver.reprioritise(task, 9)), Conflict)
    assert isinstance(error_in(driver.reprioritise("old", 9, known_ended=True)), Conflict)
    assert isinstance(error_in(driver.reprioritise("never", 9)), NotFound)


def test_a_gang_waits_for_the_workers_that_are_not_draining() -> None:
    driver = Driver()
    driver.join(W1)
    driver.join(W2)
    driver.drain(W2)
    task = driver.submit(node_count=2)
    assert "w2 is draining" in driver.view(task)["wait_reason"]
    driver.drain(W2, wanted=False)
    assert driver.where(task) == ["w1", "w2"]
    assert SMALL.cpu == 2
