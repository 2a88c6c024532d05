"""The scheduler core, one thing that can happen at a time, its invariants checked after each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.core.errors import NotFound
from fetchmld.core.messages import (
    AcknowledgeEnd,
    DatasetAccessed,
    ExperimentCreated,
    ExperimentUpdated,
    Fact,
    FactNoted,
    KeyCreated,
    Launch,
    LiveAttempt,
    Persist,
    PhaseReported,
    Reply,
    StopAttempt,
    TaskSubmitted,
)
from fetchmld.core.model import Capacity, Gpu, TaskId, TaskRequest, UserId, WorkerId
from tests.core.driver import SMALL, W1, W2, WITH_GPUS, Driver, of, replayed

LARGE = Capacity(8, 32, 8, 1, tuple(Gpu(i, "H100", f"H-{i}") for i in range(4)))


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_task_lives_from_submission_to_completion(driver: Driver) -> None:
    driver.join()
    task = driver.submit(cpu=1)
    assert driver.view(task)["status"] == "preparing"
    driver.do(PhaseReported(W1, TaskId(task), 1, "running", driver.at_us))
    assert driver.view(task)["status"] == "running"
    effects = driver.end(task, exit_code=0)
    assert of(AcknowledgeEnd, effects) == [AcknowledgeEnd(W1, TaskId(task), 1)]
    assert driver.view(task)["status"] == "completed"
    assert driver.actions() == ["worker.join", "task.submit", "task.start", "task.completed"]


def test_facts_come_before_the_deeds_that_follow_from_them(driver: Driver) -> None:
    driver.join()
    effects = driver.do(TaskSubmitted(TaskId("t"), UserId("ada"), TaskRequest(job_name="j"), 1, ticket=5))
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Launch) > max(i for i, kind in enumerate(kinds) if kind is Persist)
    assert of(Reply, effects)[0].value["status"] == "preparing"


def test_submission_waits_without_a_worker_and_says_why(driver: Driver) -> None:
    task = driver.submit(cpu=1)
    assert driver.view(task)["wait_reason"] == "no worker is connected"
    driver.join()
    assert driver.view(task)["status"] == "preparing"


def test_higher_priority_starts_first(driver: Driver) -> None:
    low, high = driver.submit(cpu=2, priority=1), driver.submit(cpu=2, priority=9)
    driver.join()
    assert (driver.view(high)["status"], driver.view(low)["status"]) == ("preparing", "queued")
    assert "needs 2 cores" in driver.view(low)["wait_reason"]


def test_waiting_raises_the_aged_priority(driver: Driver) -> None:
    old = driver.submit(cpu=2, priority=1)
    driver.now += 5 * 600.0
    young = driver.submit(cpu=2, priority=5)
    driver.tick(0)
    assert driver.view(old)["priority_aged"] == pytest.approx(6.0)
    driver.join()
    assert (driver.view(old)["status"], driver.view(young)["status"]) == ("preparing", "queued")
    driver.tick(600)
    assert driver.view(old)["priority_aged"] == pytest.approx(6.0), "frozen at its start"


def test_gpus_are_given_by_index_and_come_back(driver: Driver) -> None:
    driver.join(W1, WITH_GPUS)
    first, second = driver.submit(gpu=3, cpu=1), driver.submit(gpu=1, cpu=1)
    third = driver.submit(gpu=2, cpu=1)
    gpus = [driver.view(task)["assignments"][0]["gpus"] for task in (first, second)]
    assert gpus == [[0, 1, 2], [3]]
    assert driver.view(third)["wait_reason"] == "needs 2 GPUs, worker w1 has 0 free"
    driver.end(first, exit_code=0)
    assert driver.view(third)["assignments"][0]["gpus"] == [0, 1]


def test_several_starts_of_one_event_get_different_gpus(driver: Driver) -> None:
    tasks = [driver.submit(gpu=2, cpu=1), driver.submit(gpu=2, cpu=1)]
    driver.join(W1, WITH_GPUS)
    assert [driver.view(task)["assignments"][0]["gpus"] for task in tasks] == [[0, 1], [2, 3]]


def test_a_request_that_nobody_could_meet_says_so(driver: Driver) -> None:
    driver.join()
    task = driver.submit(gpu=1, gpu_type="H100")
    assert driver.view(task)["wait_reason"] == "no worker is large enough: asks for 1 GPUs of H100, worker w1 has 0"


def test_a_task_of_several_nodes_waits(driver: Driver) -> None:
    driver.join()
    task = driver.submit(node_count=2)
    assert "asks for 2 nodes" in driver.view(task)["wait_reason"]


@pytest.mark.parametrize(
    ("report", "error"),
    [
        ({"exit_code": 3}, "EXIT_NONZERO: attempt 1 ended with exit status 3"),
        ({"signal": 11}, "SIGNALLED: attempt 1 was ended by signal 11"),
        ({"word": "DATASET_MISMATCH", "detail": "digits"}, "DATASET_MISMATCH: digits"),
    ],
)
def test_a_failure_is_on_record_with_its_word(driver: Driver, report: dict[str, Any], error: str) -> None:
    driver.join()
    task = driver.submit()
    driver.end(task, **report)
    assert (driver.view(task)["status"], driver.view(task)["error"]) == ("failed", error)
    assert driver.record[-1].error == error


def test_a_failed_program_is_retried_as_often_as_asked(driver: Driver) -> None:
    driver.join()
    task = driver.submit(max_retries=1)
    driver.end(task, 1, seed=2**31, exit_code=1)
    assert driver.view(task)["status"] == "queued"
    assert driver.view(task)["wait_reason"] == "held for 5 s before the next attempt"
    driver.tick(5.1)
    driver.beat()
    assert (driver.view(task)["status"], driver.view(task)["attempt"]) == ("preparing", 2)
    driver.end(task, 2, exit_code=1)
    assert (driver.view(task)["status"], driver.view(task)["retry_count"]) == ("failed", 1)


def test_what_was_not_the_programs_doing_is_retried_three_times(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    for attempt in range(1, 5):
        assert driver.view(task)["attempt"] == attempt
        driver.end(task, attempt, word="DATASET_UNAVAILABLE", detail="network", infrastructure=True)
        driver.tick(0.1)
    assert driver.view(task)["status"] == "failed"


def test_an_infrastructure_failure_keeps_the_age(driver: Driver) -> None:
    driver.join()
    task = driver.submit(priority=5)
    driver.now += 600
    driver.end(task, 1, seed=0, word="WORKER_LOST", detail="x", infrastructure=True)
    assert driver.core.state.tasks[TaskId(task)].submit_t == pytest.approx(1000.0)


def test_cancel_of_a_queued_task_ends_it_at_once(driver: Driver) -> None:
    task = driver.submit()
    effects = driver.cancel(task)
    assert of(Reply, effects)[0].error is None
    view = driver.view(task)
    assert (view["status"], view["reason"]) == ("failed", "cancelled")
    assert view["error"].startswith("CANCELLED: ")
    driver.join()
    assert driver.view(task)["status"] == "failed"


def test_cancel_of_a_running_task_is_on_record_before_it_is_stopped(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    effects = driver.cancel(task)
    assert driver.actions()[-1] == "task.cancel_requested"
    assert of(StopAttempt, effects) == [
        StopAttempt(W1, TaskId(task), 1, "CANCELLED", "by ada while preparing"),
    ]
    driver.cancel(task)
    assert driver.actions().count("task.cancel_requested") == 1
    driver.end(task, word="CANCELLED", detail="by ada")
    assert (driver.view(task)["status"], driver.view(task)["reason"]) == ("failed", "cancelled")


def test_what_an_attempt_left_is_on_record_before_its_end(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.end(task, exit_code=0, artifacts={"manifest": "ab" * 32, "file_count": 3, "total_bytes": 99})
    facts = [fact for fact in driver.record if fact.action in ("artifact.write", "task.completed")]
    assert [fact.action for fact in facts] == ["artifact.write", "task.completed"]
    assert (facts[0].event_type, facts[0].resource, facts[0].user_id) == ("file_access", "ab" * 32, "ada")
    assert facts[0].metadata == {
        "task_id": task, "attempt": 1, "worker_id": W1, "rank": 0, "files": 3, "bytes": 99
    }  # fmt: skip


def test_a_program_that_ended_well_before_the_stop_is_completed(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.cancel(task)
    driver.end(task, exit_code=0)
    assert driver.view(task)["status"] == "completed"


def test_delete_takes_an_ended_task_away(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.end(task, exit_code=0)
    driver.cancel(task)
    assert driver.core.view(TaskId(task)) is None
    assert isinstance(of(Reply, driver.cancel(task))[0].error, NotFound)
    assert of(Reply, driver.cancel("old", known_ended=True))[0].error is None


def test_reports_of_another_attempt_are_dropped_and_counted(driver: Driver) -> None:
    driver.join()
    driver.join(W2)
    task = driver.submit(max_retries=5)
    driver.end(task, 1, exit_code=1)
    driver.tick(20)
    before = driver.view(task)
    for attempt, worker in [(1, W1), (2, W2), (3, W1)]:
        acknowledged = driver.end(task, attempt, worker, exit_code=0)
        assert of(AcknowledgeEnd, acknowledged), "so that the worker forgets it"
    assert driver.view(task) == before
    assert driver.core.dropped_reports == 3


def test_a_second_report_of_the_same_end_changes_nothing(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.end(task, exit_code=0)
    facts = len(driver.record)
    driver.end(task, exit_code=1)
    assert len(driver.record) == facts


def test_a_silent_worker_gets_nothing_and_then_is_offline(driver: Driver) -> None:
    driver.join()
    driver.tick(3)
    task = driver.submit()
    assert driver.view(task)["status"] == "queued"
    driver.beat()
    assert driver.view(task)["status"] == "preparing"
    driver.tick(3)
    driver.tick(12)
    assert driver.core.worker_views()[0]["status"] == "offline"
    assert driver.actions()[-1] == "worker.offline"


def test_the_tasks_of_a_lost_worker_start_elsewhere_when_the_lease_is_over(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.tick(3)
    driver.tick(12)
    driver.tick(580)
    assert driver.view(task)["status"] == "preparing"
    driver.join(W2)
    driver.tick(5)
    assert driver.view(task)["status"] == "queued"
    driver.beat(W2)
    driver.tick(10)
    driver.beat(W2)
    assert (driver.view(task)["attempt"], driver.view(task)["assignments"][0]["worker_id"]) == (2, "w2")


def test_a_worker_that_comes_back_keeps_what_it_runs(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    effects = driver.join(W1, SMALL, LiveAttempt(TaskId(task), 1, "running"))
    assert not of(Launch, effects)
    assert driver.view(task)["status"] == "running"
    assert driver.actions().count("worker.join") == 1, "nothing changed, nothing to record"


def test_a_phase_that_is_read_late_changes_nothing(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.join(W1, SMALL, LiveAttempt(TaskId(task), 1, "collecting"))
    driver.do(PhaseReported(W1, TaskId(task), 1, "running", driver.at_us))
    assert driver.view(task)["status"] == "collecting"
    driver.join(W1, SMALL, LiveAttempt(TaskId(task), 1, "running"))
    assert driver.view(task)["status"] == "collecting"


def test_a_worker_that_never_got_the_launch_gets_it_again(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    launches = of(Launch, driver.join())
    assert [(launch.order["task_id"], launch.order["attempt"]) for launch in launches] == [(task, 1)]


def test_a_restarted_machine_has_lost_its_attempts(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.join(W1, SMALL, boot="boot2")
    assert driver.actions()[-1] == "task.requeue"
    driver.tick(10)
    driver.beat()
    assert driver.view(task)["attempt"] == 2


def test_an_attempt_that_is_not_ours_is_stopped(driver: Driver) -> None:
    stale = LiveAttempt(TaskId("gone"), 4, "running")
    (stop,) = of(StopAttempt, driver.join(W1, SMALL, stale))
    assert (stop.task_id, stop.attempt, stop.word) == ("gone", 4, "WORKER_LOST")


def test_a_cancel_survives_the_agents_restart(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.cancel(task)
    stops = of(StopAttempt, driver.join(W1, SMALL, LiveAttempt(TaskId(task), 1, "running")))
    assert [stop.word for stop in stops] == ["CANCELLED"]


def test_dataset_reads_are_on_record(driver: Driver) -> None:
    driver.join()
    task = driver.submit()
    driver.do(DatasetAccessed(W1, TaskId(task), 1, "digits", "file:///d", True, driver.at_us, "ab", 3))
    fact = driver.record[-1]
    assert (fact.event_type, fact.action, fact.resource, fact.user_id) == (
        "file_access",
        "dataset.read",
        "file:///d",
        "ada",
    )
    assert fact.metadata["bytes"] == 3


def test_keys_and_experiments_are_kept_once(driver: Driver) -> None:
    key = KeyCreated("k1", UserId("ada"), "admin", "ff", 0.0, UserId("ada"), driver.at_us, ticket=1)
    assert of(Reply, driver.do(key))[0].error is None
    assert of(Reply, driver.do(key))[0].error is not None
    experiment = ExperimentCreated("e1", "name", "text", UserId("ada"), driver.at_us, ticket=2)
    assert of(Reply, driver.do(experiment))[0].value["name"] == "name"
    assert of(Reply, driver.do(experiment))[0].error is not None


def test_an_experiment_changes_only_where_it_is_new(driver: Driver) -> None:
    def update(experiment_id: str, **changes: str) -> Reply:
        event = ExperimentUpdated(experiment_id, changes, UserId("ada"), driver.at_us, ticket=3)
        return of(Reply, driver.do(event))[0]

    driver.do(ExperimentCreated("e1", "name", "text", UserId("ada"), driver.at_us, ticket=2, commit_id="abcdef1"))
    assert update("e1", name="name", status="archived").value["status"] == "archived"
    fact = driver.record[-1]
    assert (fact.action, fact.resource, fact.metadata) == ("experiment.update", "e1", {"status": "archived"})
    recorded = len(driver.record)
    assert update("e1", name="name").value["commit_id"] == "abcdef1"
    assert len(driver.record) == recorded
    assert isinstance(update("e2", name="x").error, NotFound)
    update("e1", status="deleted")
    assert isinstance(update("e1", status="active").error, NotFound)


def test_noted_facts_are_recorded(driver: Driver) -> None:
    fact = Fact("auth_attempt", "auth.failure", "key", success=False, at_us=5)
    effects = driver.do(FactNoted(fact, ticket=3))
    assert [effect.fact for effect in of(Persist, effects)] == [fact]
    assert fact.clock_us == int(driver.now * 1e6)


def known(driver: Driver, number: int) -> str:
    """One of the tasks that were submitted, or one that was not; of an array, mostly an element."""
    name = f"t{1 + number % max(1, driver.count)}"
    task = driver.core.state.task(TaskId(name))
    return name if task is None or task.array is None or number % 4 == 0 else f"{name}-{number % 5}"


def submit_array(driver: Driver, number: int) -> None:
    request: dict[str, Any] = {"cpu": number % 3, "gpu": number % 2, "max_retries": number % 2}
    array: dict[str, Any] = {"size": 1 + number % 5}
    if number % 3:
        array["max_parallel"] = number % 3
    if number % 5 == 0:
        request["depends_on"] = [{"task_id": known(driver, number), "condition": ["ok", "any", "failed"][number % 3]}]
    if number % 7 == 0:
        request["reservation_id"] = f"r{number % 2}"
    submit_as(driver, {**request, "array": array})


def submit_odd(driver: Driver, number: int) -> None:
    """A request of many kinds; those that are refused are refused."""
    request: dict[str, Any] = {"cpu": number % 3, "gpu": number % 4, "node_count": 1 + (number % 5 == 0)}
    if number % 3 == 0:
        request["time_limit_s"] = 5 * number + 1
    if number % 4 == 0:
        request["depends_on"] = [{"task_id": known(driver, number), "condition": ["ok", "any", "failed"][number % 3]}]
    if number % 7 == 0:
        request["reservation_id"] = f"r{number % 2}"
    submit_as(driver, request)


def submit_as(driver: Driver, request: dict[str, Any]) -> None:
    name = f"t{driver.count + 1}"
    driver.do(TaskSubmitted(TaskId(name), UserId("ada"), cast(TaskRequest, {"job_name": "j", **request}), driver.at_us))
    driver.count += name in driver.core.state.tasks or name in driver.core.state.recent


STEPS: dict[str, Callable[[Driver, int], object]] = {
    "submit": lambda d, n: d.submit(cpu=n % 3, gpu=n % 2, priority=1 + n % 10, max_retries=n % 2),
    "odd": submit_odd,
    "array": submit_array,
    "join": lambda d, n: d.join([W1, W2][n % 2], [SMALL, WITH_GPUS][n % 2], boot=f"boot{n % 3}"),
    "cancel": lambda d, n: d.cancel(known(d, n)),
    "tick": lambda d, n: d.tick(float(n)),
    "beat": lambda d, n: d.beat([W1, W2][n % 2]),
    "end": lambda d, n: d.end(known(d, n), 1 + n % 2, [W1, W2][n % 2], seed=n, exit_code=n % 2),
    "lost": lambda d, n: d.end(known(d, n), 1, [W1, W2][n % 2], word="WORKER_LOST", detail="x", infrastructure=True),
    "drain": lambda d, n: d.drain([W1, W2][n % 2], wanted=n % 3 > 0),
    "prioritise": lambda d, n: d.reprioritise(known(d, n), 1 + n % 10),
    "reserve": lambda d, n: d.reserve(f"r{n % 2}", gpu_count=1 + n % 3, seconds=10.0 + n, starts_in_s=float(n % 3 * 5)),
    "give back": lambda d, n: d.give_back(f"r{n % 2}"),
    "restart": lambda d, n: setattr(d, "core", replayed(d)),
}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 30)), max_size=60))
def test_replaying_the_record_gives_the_state_at_every_point(steps: list[tuple[str, int]]) -> None:
    driver = Driver()
    for name, number in steps:
        STEPS[name](driver, number)
    live = driver.core.state.durable()
    assert replayed(driver).state.durable() == live


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 30)), max_size=40))
def test_when_faults_stop_everything_that_can_start_starts(steps: list[tuple[str, int]]) -> None:
    driver = Driver()
    for name, number in steps:
        STEPS[name](driver, number)
    driver.core = replayed(driver)
    for worker, capacity, boot in ((W1, LARGE, "boot0"), (W2, WITH_GPUS, "boot1")):
        driver.join(worker, capacity, boot=boot)
        driver.drain(worker, wanted=False)
    for _ in range(300):
        driver.tick(1.0)
        driver.beat(W1)
        driver.beat(W2)
        for task_id, task in list(driver.core.state.tasks.items()):
            for node in list(task.assignments):
                driver.end(task_id, task.attempt, WorkerId(node["worker_id"]), exit_code=0)
        if not driver.core.state.tasks:
            return
    pytest.fail(f"never ended: {[replace(t) for t in driver.core.state.tasks.values()]}")
