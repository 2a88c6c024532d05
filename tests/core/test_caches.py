"""Tasks start where their datasets are: what workers say of their caches, and what that is worth."""

from typing import Any

import pytest

from fetchmld.core.caches import HOLDERS_MAX, WORKER_KEYS_MAX, Caches, dataset_key, keys_of
from fetchmld.core.messages import DatasetAccessed, WorkerJoined
from fetchmld.core.model import Capacity, DatasetSpec, TaskId, WorkerId
from tests.core.driver import SMALL, W1, W2, Driver, replayed

W3 = WorkerId("w3")
A, B, C = (letter * 64 for letter in "abc")
LARGE = Capacity(cpu=16, memory_gb=64, batch_slots=16, service_slots=1)


def spec(sha256: str = "", name: str = "d") -> DatasetSpec:
    found = DatasetSpec(name=name, source=f"file:///{name}", mount_path=f"data/{name}")
    if sha256:
        found["sha256"] = sha256
    return found


def need(*sums: str) -> dict[str, Any]:
    return {"dataset_specs": [spec(sha256, f"d{number}") for number, sha256 in enumerate(sums)]}


def join(driver: Driver, worker: WorkerId, capacity: Capacity = SMALL, **megabytes: int) -> None:
    held = {key * 16: size * 2**20 for key, size in megabytes.items()}
    driver.do(WorkerJoined(worker, "boot1", "host", capacity, [], driver.at_us, datasets=held))


@pytest.fixture
def driver() -> Driver:
    return Driver()


# -- where a task starts


def test_a_task_starts_where_its_dataset_is_though_others_are_a_tighter_fit(driver: Driver) -> None:
    join(driver, W1)
    join(driver, W2, LARGE, a=1)
    assert driver.where(driver.submit(**need(A))) == ["w2"]
    assert driver.where(driver.submit(**need(B))) == ["w1"]
    assert driver.where(driver.submit()) == ["w1"]


def test_most_bytes_win_not_most_files(driver: Driver) -> None:
    join(driver, W1, a=1, b=1)
    join(driver, W2, LARGE, c=3)
    join(driver, W3, SMALL)
    assert driver.where(driver.submit(**need(A, B, C))) == ["w2"]
    assert driver.where(driver.submit(**need(A, B))) == ["w1"]


def test_equal_bytes_are_ranked_as_ever(driver: Driver) -> None:
    join(driver, W1, LARGE, a=1)
    join(driver, W2, SMALL, a=1)
    join(driver, W3, SMALL, a=1)
    assert driver.where(driver.submit(**need(A))) == ["w2"]


def test_a_busy_holder_delays_nobody(driver: Driver) -> None:
    join(driver, W1, SMALL, a=1)
    join(driver, W2)
    driver.submit(cpu=2, **need(A))
    assert driver.where(driver.submit(cpu=2, **need(A))) == ["w2"]


def test_a_gang_takes_the_holders_first(driver: Driver) -> None:
    join(driver, W1)
    join(driver, W2, LARGE, a=1)
    join(driver, W3, LARGE, a=2)
    assert driver.where(driver.submit(node_count=3, **need(A))) == ["w3", "w2", "w1"]
    assert driver.where(driver.submit(node_count=2, **need(B))) == ["w1", "w2"]


def test_what_was_fetched_counts_at_once_by_sum_and_by_source(driver: Driver) -> None:
    join(driver, W1, LARGE)
    first = driver.submit(dataset_specs=[spec(name="d")])
    join(driver, W2)
    driver.do(DatasetAccessed(W1, TaskId(first), 1, "d", "file:///d", True, driver.at_us, A, 9))
    assert driver.where(driver.submit(dataset_specs=[spec(name="d")])) == ["w1"]
    assert driver.where(driver.submit(**need(A))) == ["w1"]


def test_what_could_not_be_fetched_does_not_count(driver: Driver) -> None:
    join(driver, W1, LARGE)
    first = driver.submit(**need(A))
    join(driver, W2)
    driver.do(DatasetAccessed(W1, TaskId(first), 1, "d0", "file:///d0", False, driver.at_us, A, error="gone"))
    assert driver.where(driver.submit(**need(A))) == ["w2"]


def test_heartbeats_say_what_changed(driver: Driver) -> None:
    join(driver, W1, LARGE)
    join(driver, W2)
    driver.beat(W1, datasets_added={A[:16]: 1})
    assert driver.where(driver.submit(**need(A))) == ["w1"]
    driver.beat(W1, datasets_dropped=[A[:16], B[:16]])
    assert driver.where(driver.submit(**need(A))) == ["w2"]


def test_a_hello_replaces_what_was_known(driver: Driver) -> None:
    join(driver, W1, LARGE, a=1)
    join(driver, W2)
    join(driver, W1, LARGE, b=1)
    assert driver.where(driver.submit(**need(A))) == ["w2"]
    assert driver.where(driver.submit(**need(B))) == ["w1"]


def test_nothing_of_it_is_in_the_record(driver: Driver) -> None:
    join(driver, W1, LARGE, a=1)
    driver.beat(W1, datasets_added={B[:16]: 1})
    assert driver.actions() == ["worker.join"]
    assert "datasets" not in driver.record[0].metadata
    again = replayed(driver)
    assert again.state.durable() == driver.core.state.durable()


# -- the book of it


def test_the_longest_unused_are_left_out() -> None:
    caches = Caches()
    caches.change(W1, {dataset_key(spec(name=str(n))): 1 for n in range(WORKER_KEYS_MAX)}, ())
    caches.change(W1, {dataset_key(spec(name="0")): 1}, ())  # used again
    caches.change(W1, {"new": 1}, ())
    held = [n for n in range(WORKER_KEYS_MAX) if caches.bytes_held([spec(name=str(n))])]
    assert held == [0, *range(2, WORKER_KEYS_MAX)]


def test_nothing_is_kept_of_what_nobody_holds() -> None:
    caches = Caches()
    caches.replace(W1, {"a": 1, "b": 2})
    caches.replace(W2, {"b": 2})
    caches.replace(W1, {})
    caches.change(W2, {}, ["b", "b"])
    assert caches._holders == {}


def test_one_dataset_named_twice_counts_once_and_an_empty_one_counts() -> None:
    caches = Caches()
    caches.replace(W1, {A[:16]: 0})
    assert caches.bytes_held([spec(A, "one"), spec(A, "two")]) == {W1: 1}


def test_of_many_holders_so_many_are_looked_at() -> None:
    caches = Caches()
    for number in range(HOLDERS_MAX + 9):
        caches.replace(WorkerId(f"n{number}"), {A[:16]: 2**62})
    assert len(caches.bytes_held([spec(A)])) == HOLDERS_MAX
    assert len(caches.bytes_held([spec(A), spec(B)])) == HOLDERS_MAX // 2
    caches.replace(W1, {A[:16]: 2**62, B[:16]: 2**62})
    assert caches.bytes_held([spec(B), spec(A)])[W1] == 2**62, "what the queue can hold"


def test_a_dataset_has_a_name_by_sum_and_one_by_source() -> None:
    assert dataset_key(spec(A)) == A[:16]
    assert len(dataset_key(spec())) == 16
    assert dataset_key(spec()) != dataset_key(spec(name="e"))
    assert keys_of(spec(), A) == [dataset_key(spec()), A[:16]]
    assert keys_of(spec(A), A) == [A[:16]]
