"""Tasks of several nodes: all or none, from the start to the end."""

from fetchmld.core.messages import AcknowledgeEnd, Launch, LiveAttempt, StopAttempt
from fetchmld.core.model import TaskId, WorkerId
from tests.core.driver import SMALL, W1, W2, WITH_GPUS, Driver, of, replayed

W3 = WorkerId("w3")


def gang(driver: Driver) -> str:
    driver.join(W1, WITH_GPUS)
    driver.join(W2, WITH_GPUS)
    return driver.submit(node_count=2, gpu=2, cpu=1)


def test_all_nodes_start_in_one_step_each_with_its_rank() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    task = driver.submit(node_count=2, gpu=2)
    assert driver.status(task) == "queued"
    assert driver.view(task)["wait_reason"].startswith("asks for 2 nodes at once, 1 of the workers")
    launches = of(Launch, driver.join(W2, WITH_GPUS))
    assert [(launch.worker_id, launch.order["rank"]) for launch in launches] == [("w1", 0), ("w2", 1)]
    assert [node["gpus"] for node in driver.view(task)["assignments"]] == [[0, 1], [0, 1]]


def test_gangs_of_one_machine_meet_at_different_ports() -> None:
    driver = Driver()
    driver.join(W1, WITH_GPUS)
    driver.join(W2, WITH_GPUS)
    driver.join(W3, WITH_GPUS, boot="another machine")
    gangs = [driver.submit(node_count=2, cpu=2) for _ in range(3)]

    def place(task: str) -> tuple[str, str]:
        first = driver.view(task)["assignments"][0]
        assert "rendezvous" not in driver.view(task)["assignments"][1]
        return first["worker_id"], first["rendezvous"]

    places = [place(task) for task in gangs]
    assert places[0] == ("w1", "host:29500")
    here = [port for worker, port in places if worker != W3]
    assert len(set(here)) == len(here)
    driver.end(gangs[0], worker=W1, exit_code=0)
    assert replayed(driver).state.durable() == driver.core.state.durable()


def test_success_needs_every_node() -> None:
    driver = Driver()
    task = gang(driver)
    assert not of(AcknowledgeEnd, driver.end(task, worker=W2, exit_code=0)), "a crash of ours must not lose this end"
    assert driver.status(task) == "preparing"
    effects = driver.end(task, worker=W1, exit_code=0)
    assert driver.status(task) == "completed"
    assert {ack.worker_id for ack in of(AcknowledgeEnd, effects)} == {"w1", "w2"}


def test_what_every_node_left_is_with_the_end() -> None:
    driver = Driver()
    task = gang(driver)
    sets = {w: {"manifest": w * 32, "file_count": 1, "total_bytes": 2} for w in (W1, W2)}
    driver.end(task, worker=W2, exit_code=0, artifacts=sets[W2])
    driver.end(task, worker=W1, exit_code=0, artifacts=sets[W1])
    report = driver.view(task)["report"]
    assert report is not None
    assert report["artifacts"] == sets[W1]
    assert report["artifacts_of_others"] == [{"rank": 1, "artifacts": sets[W2]}]
    written = [fact.metadata["worker_id"] for fact in driver.record if fact.action == "artifact.write"]
    assert written == [W2, W1]
    assert replayed(driver).state.durable() == driver.core.state.durable()


def test_one_failing_node_ends_the_attempt_on_all() -> None:
    driver = Driver()
    task = gang(driver)
    (stop,) = of(StopAttempt, driver.end(task, worker=W2, exit_code=3))
    assert (stop.worker_id, stop.word) == ("w1", "EXIT_NONZERO")
    driver.end(task, worker=W1, word="EXIT_NONZERO", detail="stopped")
    assert driver.view(task)["error"] == "EXIT_NONZERO: attempt 1 ended with exit status 3"


def test_a_repeated_report_of_one_node_is_not_the_end_of_the_other() -> None:
    driver = Driver()
    task = gang(driver)
    for _ in range(2):
        driver.end(task, worker=W2, exit_code=0)
    assert driver.status(task) == "preparing"


def test_a_lost_node_ends_it_and_it_starts_again_elsewhere() -> None:
    driver = Driver()
    task = gang(driver)
    driver.join(W3, WITH_GPUS)
    stops = of(StopAttempt, driver.join(W2, WITH_GPUS, boot="boot2"))
    assert [stop.worker_id for stop in stops] == ["w1"]
    driver.end(task, worker=W1, word="WORKER_LOST", detail="stopped")
    driver.tick(11)
    for worker in (W1, W2, W3):
        driver.beat(worker)
    assert sorted(driver.where(task)) == ["w1", "w3"], "not on the worker it was lost with"


def test_where_there_is_no_other_worker_the_same_one_will_do() -> None:
    driver = Driver()
    task = gang(driver)
    driver.join(W3, SMALL)
    driver.end(task, worker=W2, word="WORKER_LOST", detail="x", infrastructure=True)
    driver.end(task, worker=W1, word="WORKER_LOST", detail="x")
    driver.tick(0.1)
    assert sorted(driver.where(task)) == ["w1", "w2"]


def test_an_end_that_we_forgot_is_told_again() -> None:
    driver = Driver()
    task = gang(driver)
    driver.end(task, worker=W2, exit_code=1)
    driver.core = replayed(driver)
    driver.join(W1, WITH_GPUS, LiveAttempt(TaskId(task), 1, "running"))
    driver.join(W2, WITH_GPUS, LiveAttempt(TaskId(task), 1, "collecting"))
    (stop,) = of(StopAttempt, driver.end(task, worker=W2, exit_code=1))
    assert stop.worker_id == "w1"


def test_a_reboot_that_we_forgot_is_seen_from_the_record() -> None:
    driver = Driver()
    task = gang(driver)
    driver.join(W2, WITH_GPUS, boot="boot2")
    driver.core = replayed(driver)
    driver.join(W1, WITH_GPUS, LiveAttempt(TaskId(task), 1, "running"))
    effects = driver.join(W2, WITH_GPUS, boot="boot2")
    assert not of(Launch, effects), "one member must not begin anew beside the others"
    assert [stop.worker_id for stop in of(StopAttempt, effects)] == ["w1"]


def test_a_cancel_reaches_every_node() -> None:
    driver = Driver()
    task = gang(driver)
    assert {stop.worker_id for stop in of(StopAttempt, driver.cancel(task))} == {"w1", "w2"}
    for worker in (W1, W2):
        driver.end(task, worker=worker, word="CANCELLED", detail="by ada")
    assert driver.view(task)["reason"] == "cancelled"


def test_a_silent_node_is_lost_when_its_lease_is_over() -> None:
    driver = Driver()
    task = gang(driver)
    for _ in range(40):
        driver.tick(16)
        driver.beat(W1)
    assert driver.core.state.workers[W2].status == "offline"
    driver.end(task, worker=W1, word="WORKER_LOST", detail="stopped")
    assert driver.status(task) == "queued"
