"""GPUs that fail: quarantine, who is stopped and tried elsewhere, and the way back."""

from typing import Any

import pytest

from fetchmld.core.messages import GpuReleaseAsked, HeartbeatReceived, LiveAttempt, StopAttempt
from fetchmld.core.model import TaskId, UserId
from fetchmld.core.scheduler import Policy
from tests.core.driver import W1, W2, WITH_GPUS, Driver, error_in, of, replayed

XID = {"GPU-0": "xid 79: fallen off the bus"}


def quarantined(driver: Driver) -> list[int]:
    (view, *_) = driver.core.worker_views()
    return [gpu["index"] for gpu in view["gpus"] if gpu["status"] == "quarantined"]


def test_a_failed_gpu_is_given_to_nobody() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.beat(gpu_faults=XID)
    (fact,) = [fact for fact in driver.record if fact.action == "gpu.quarantine"]
    assert (fact.resource, fact.metadata) == ("w1", {"index": 0, "uuid": "GPU-0", "cause": XID["GPU-0"]})
    three = driver.submit(gpu=3)
    assert driver.view(three)["assignments"][0]["gpus"] == [1, 2, 3]
    four = driver.submit(gpu=4)
    assert driver.view(four)["wait_reason"] == "needs 4 GPUs, worker w1 has 0 free, 1 in quarantine"
    driver.beat(gpu_faults=XID)
    assert driver.actions().count("gpu.quarantine") == 1, "a fault that is said again is the same one"


def test_who_holds_it_is_stopped_and_starts_elsewhere_without_a_retry_of_its_own() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    task = driver.submit(gpu=2)
    driver.join(W2, WITH_GPUS)
    (stop,) = of(StopAttempt, driver.do(HeartbeatReceived(W1, driver.at_us, gpu_faults=XID)))
    assert (stop.worker_id, stop.task_id, stop.word) == ("w1", task, "GPU_LOST")
    assert "GPU 0 of worker w1: xid 79" in stop.detail
    driver.end(task, word="GPU_LOST", detail=stop.detail)
    (requeue,) = [fact for fact in driver.record if fact.action == "task.requeue"]
    assert (requeue.metadata["cause"], requeue.metadata["avoid"]) == ("GPU_LOST", "w1")
    driver.tick(11)
    assert driver.where(task) == ["w2"]


@pytest.mark.parametrize("how", [{"exit_code": 1}, {"signal": 6}])
def test_a_program_that_dies_of_its_gpu_is_not_blamed(how: dict[str, Any]) -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    task = driver.submit(gpu=1)
    driver.beat(gpu_faults=XID)
    driver.end(task, **how)
    (requeue,) = [fact for fact in driver.record if fact.action == "task.requeue"]
    assert requeue.metadata["cause"] == "GPU_LOST"
    assert requeue.metadata["infrastructure"]
    assert "the program ended with" in requeue.metadata["detail"]


def test_success_and_a_cancel_stand_whatever_the_gpu_did() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    good, gone = driver.submit(gpu=1), driver.submit(gpu=1)
    driver.beat(gpu_faults={"GPU-0": "ecc", "GPU-1": "ecc"})
    driver.end(good, exit_code=0)
    assert driver.status(good) == "completed"
    driver.cancel(gone)
    driver.end(gone, word="GPU_LOST", detail="x")
    assert driver.view(gone)["error"].startswith("CANCELLED")


def test_a_restart_knows_the_quarantine_and_stops_the_holder_again() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    task = driver.submit(gpu=1)
    driver.beat(gpu_faults=XID)
    again = replayed(driver)
    assert again.state.durable() == driver.core.state.durable()
    driver.core = again
    stops = of(StopAttempt, driver.join(W1, WITH_GPUS, LiveAttempt(TaskId(task), 1, "running")))
    assert [(stop.task_id, stop.word) for stop in stops] == [(task, "GPU_LOST")]
    assert quarantined(driver) == [0]
    driver.end(task, word="GPU_LOST", detail="x")
    assert driver.view(task)["assignments"][0]["gpus"] == [1], "what its holder gave back is not free"


def test_it_is_used_again_once_it_was_well_for_long_enough() -> None:
    driver = Driver(Policy(gpu_release_after_s=60.0))
    driver.join(W1, WITH_GPUS)
    driver.beat(gpu_faults=XID)
    for _ in range(30):
        driver.beat(gpu_faults=XID)
        driver.tick(2)
    assert quarantined(driver) == [0], "it is still faulty"
    four = driver.submit(gpu=4)
    for _ in range(30):
        driver.beat()
        driver.tick(2)
    assert quarantined(driver) == []
    assert driver.actions()[-2:] == ["gpu.release", "task.start"]
    assert driver.view(four)["assignments"][0]["gpus"] == [0, 1, 2, 3]


def test_silence_is_not_health() -> None:
    driver = Driver(Policy(gpu_release_after_s=60.0))
    driver.join(W1, WITH_GPUS)
    driver.beat(gpu_faults=XID)
    for _ in range(100):
        driver.tick(2)
    assert quarantined(driver) == [0]


def test_somebody_may_release_it() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)

    def ask(index: int) -> object:
        asked = GpuReleaseAsked(W1, index, UserId("op"), driver.at_us, ticket=5)
        return type(error_in(driver.do(asked))).__name__

    driver.beat(gpu_faults=XID)
    assert ask(9) == "NotFound"
    assert ask(1) == "Conflict"
    assert ask(0) == "NoneType"
    assert (driver.record[-1].action, driver.record[-1].metadata["by"]) == ("gpu.release", "op")
    assert driver.core.worker_views()[0]["gpu_free"] == 4


def test_a_reservation_counts_on_no_failed_gpu() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.beat(gpu_faults=XID)
    assert "more than the cluster has" in str(error_in(driver.reserve(gpu_count=4)))
    assert error_in(driver.reserve(gpu_count=3)) is None
    driver.beat(gpu_faults={"GPU-1": "ecc"})
    view = driver.core.reservation_view("r1")
    assert view is not None
    assert view["held"] == {"w1": 2}


def held(driver: Driver, reservation: str = "r1") -> dict[str, int]:
    view = driver.core.reservation_view(reservation)
    assert view is not None
    return view["held"]


def test_a_reservation_moves_off_a_failed_gpu() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.reserve("r1", gpu_count=4)
    assert held(driver) == {"w1": 4}
    driver.beat(gpu_faults=XID)
    assert held(driver) == {"w1": 3}, "there is no other place: what is well stays"
    driver.join(W2, WITH_GPUS)
    assert held(driver) == {"w2": 4}
    assert driver.where(driver.submit(gpu=3, cpu=1)) == ["w1"], "what it left is everybody's"
    assert driver.where(driver.submit(gpu=4, cpu=1, reservation_id="r1")) == ["w2"]


def test_the_older_reservation_stays_where_a_gpu_failed_if_there_is_enough_for_it() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    for name in ("r1", "r2"):
        driver.reserve(name, gpu_count=2)
    driver.join(W2, WITH_GPUS)
    driver.beat(gpu_faults=XID)
    driver.tick(1)  # what one leaves, another gathers with the next look
    assert (held(driver, "r1"), held(driver, "r2")) == ({"w1": 2}, {"w2": 2})


def test_a_reservation_stays_with_its_running_task_where_a_gpu_failed() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.reserve("r1", gpu_count=4)
    task = driver.submit(gpu=1, cpu=1, reservation_id="r1")
    driver.join(W2, WITH_GPUS)
    driver.beat(gpu_faults={"GPU-3": "ecc"})
    assert held(driver) == {"w1": 3}
    driver.end(task, exit_code=0)
    assert held(driver) == {"w2": 4}


def test_use_is_shown_and_what_no_task_uses_is_told_apart() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    task = driver.submit(gpu=1)
    use = {"used_mb": 512, "utilization": 7, "processes": 1}
    driver.beat(gpu_use={"GPU-0": use, "GPU-1": use, "GPU-2": {**use, "processes": 0}})
    held, occupied, free, unknown = driver.core.worker_views()[0]["gpus"]
    assert (held["status"], held["held_by"], held["used_mb"], held["utilization"]) == ("held", task, 512, 7)
    assert (occupied["status"], free["status"], unknown["status"]) == ("occupied", "free", "free")
    assert "used_mb" not in unknown
