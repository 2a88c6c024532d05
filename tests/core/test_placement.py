"""What the placement keeps: as much as the tasks of the moment need, whatever was asked for before."""

from fetchmld.core.model import Capacity
from fetchmld.core.placement import IDLE_SHAPES_MAX
from tests.core.driver import Driver

DISTINCT = IDLE_SHAPES_MAX + 50


def shapes_kept(driver: Driver) -> int:
    """The queue gives a new request the lowest number that it never used, unless it has one to use again."""
    return driver.core._placement._queue.shape(7, 7, 7, 1, True, nodes=77)


def test_requests_nobody_has_any_more_are_forgotten() -> None:
    driver = Driver()
    driver.join(capacity=Capacity(cpu=DISTINCT, memory_gb=DISTINCT, batch_slots=8, service_slots=0))
    for memory_gb in range(DISTINCT):
        driver.end(driver.submit(memory_gb=memory_gb + 1), exit_code=0)
    for memory_gb in range(DISTINCT):
        driver.cancel(driver.submit(memory_gb=2 * DISTINCT + memory_gb))
    assert shapes_kept(driver) <= IDLE_SHAPES_MAX + 1


def test_a_request_that_was_forgotten_starts_again() -> None:
    driver = Driver()
    driver.join(capacity=Capacity(cpu=4, memory_gb=DISTINCT, batch_slots=8, service_slots=0))
    for _ in range(2):
        for memory_gb in range(DISTINCT):
            task = driver.submit(memory_gb=memory_gb)
            assert driver.status(task) == "preparing"
            driver.end(task, exit_code=0)


def test_a_request_in_use_is_kept_while_others_come_and_go() -> None:
    driver = Driver()
    driver.join(capacity=Capacity(cpu=2, memory_gb=DISTINCT, batch_slots=8, service_slots=0))
    first, second = driver.submit(), driver.submit()
    waits = driver.submit(cpu=2)
    for memory_gb in range(DISTINCT):
        driver.cancel(driver.submit(cpu=2, memory_gb=memory_gb + 1))
    driver.end(first, exit_code=0)
    driver.end(second, exit_code=0)
    assert driver.status(waits) == "preparing"
