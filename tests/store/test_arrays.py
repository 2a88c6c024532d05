"""Arrays in the index: rows for the elements that facts have named, and the others out of the array's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetchmld.core.messages import Fact
from fetchmld.core.model import ArrayRequest, TaskId
from fetchmld.core.scheduler import Policy, Scheduler
from fetchmld.store import state_form
from fetchmld.store.history import History
from tests.core.driver import W1, Driver
from tests.core.test_arrays import EIGHT, submit
from tests.store.test_history import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def played() -> tuple[Driver, str]:
    """An array of 20, 3 at a time: some ended, one retried, one cancelled alone, one raised; then all of it cancelled."""
    driver = Driver()
    driver.submit()
    array = submit(driver, 20, 3, params={"x": list(range(20))}, max_retries=1, priority=6)
    driver.reprioritise(f"{array}-7", 8)
    driver.join(W1, EIGHT)
    driver.end(f"{array}-7", exit_code=0)
    driver.end(f"{array}-0", exit_code=1, seed=0)
    driver.cancel(f"{array}-11")
    driver.reprioritise(array, 9)
    driver.end(f"{array}-1", exit_code=0)
    return driver, array


def ended() -> tuple[Driver, str]:
    driver, array = played()
    driver.cancel(array)
    for task_id, task in list(driver.core.state.tasks.items()):
        if task.array_id and task.assignments:
            driver.end(task_id, task.attempt, exit_code=0)
    assert driver.view(array)["ended_at"]
    return driver, array


def listed(history: History, **query: Any) -> list[str]:
    return [task["id"] for task in history.tasks(query)["tasks"]]


def test_an_array_is_one_line_and_all_its_elements_are_there(place: Place) -> None:
    driver, array = played()
    history = place.with_facts(*driver.record)
    assert listed(history) == [array, "t1"]
    page = history.tasks({"array_id": array, "limit": 5, "offset": 9})
    assert [task["array_index"] for task in page["tasks"]] == [9, 10, 11, 12, 13]
    assert page["total"] == 20
    assert [task["status"] for task in page["tasks"]] == ["queued", "queued", "failed", "queued", "queued"]
    assert page["tasks"][0]["params"] == {"x": 9}
    assert "array" not in page["tasks"][0]["request"]
    assert listed(history, array_id=array, status="completed") == [f"{array}-1", f"{array}-7"]
    assert listed(history, array_id=array, user_id="bob") == []
    assert listed(history, array_id="t1") == []
    assert history.tasks({"array_id": array, "status": "queued"})["total"] == 14
    assert history.check()["valid"], history.check()


def test_each_view_is_what_the_live_state_says(place: Place) -> None:
    driver, array = ended()
    history = place.with_facts(*driver.record)
    names = [array, *(f"{array}-{index}" for index in range(20))]
    for name in names:
        ours, live = history.task(name), driver.view(name)
        assert ours is not None
        for field in ("status", "error", "reason", "priority", "attempt", "retry_count", "ended_at", "user_id"):
            assert ours[field] == pytest.approx(live[field]), (name, field)
        assert ours.get("array") == live.get("array")
        assert ours.get("params") == live.get("params")
    assert history.task(f"{array}-20") is None
    assert history.check()["valid"], history.check()


def test_totals_count_elements(place: Place) -> None:
    driver, array = ended()
    driver.record = [fact for fact in driver.record if fact.resource.startswith(array)]
    history = place.with_facts(*driver.record)
    view = driver.view(array)["array"]
    totals = history.ended(driver.at_us)
    assert (totals["completed_today"], totals["failed_today"]) == (view["completed"], view["cancelled"])
    assert view["completed"] + view["cancelled"] == 20


def test_a_deleted_array_takes_its_elements_along(place: Place) -> None:
    driver, array = ended()
    driver.cancel(f"{array}-19")
    driver.cancel(f"{array}-7")
    history = place.with_facts(*driver.record)
    assert history.tasks({"array_id": array})["total"] == 18
    assert history.task(f"{array}-19") is None
    assert history.check()["valid"], history.check()
    driver.cancel(array)
    place.ledger.append(driver.record[-1:])
    history.catch_up(place.ledger.next_seq - 1)
    assert listed(history) == ["t1"]
    assert listed(history, array_id=array) == []
    assert history.task(f"{array}-1") is None
    assert history.task(f"{array}-15") is None
    assert history.check()["valid"], history.check()


def test_fact_by_fact_is_as_good_as_at_once(place: Place) -> None:
    driver, array = ended()
    history = place.with_facts(driver.record[0])
    for fact in driver.record[1:]:
        place.ledger.append([fact])
        history._live.clear()  # as where there are too many
        history.catch_up(place.ledger.next_seq - 1)
    assert history.check()["valid"], history.check()
    assert history.tasks({"array_id": array})["total"] == 20


def test_an_edited_element_is_found(place: Place) -> None:
    driver, array = ended()
    place.with_facts(*driver.record).close()
    place.edit(f"UPDATE tasks SET status = 'completed' WHERE id = '{array}-11'")
    found = place.history().check()
    assert not found["valid"]
    assert f"{array}-11" in found["problem"]


def test_a_snapshot_of_the_state_has_the_arrays() -> None:
    driver, array = played()
    again = state_form.from_bytes(state_form.to_bytes(driver.core.state))
    assert again.durable() == driver.core.state.durable()
    core = Scheduler(Policy(), state=again)
    core.replay([], driver.now)
    core.check()
    assert core.counts()["batch_queued"] == driver.core.counts()["batch_queued"]
    assert core.view(TaskId(array)) == driver.view(array)


def test_ten_thousand_elements_are_one_row(place: Place) -> None:
    asked = ArrayRequest(size=10_000)
    metadata = {"request": {"job_name": "j", "array": asked}, "priority": 5}
    history = place.with_facts(Fact("job_queued", "task.submit", "abc", "ann", metadata=metadata, at_us=1))
    assert history.file.db.execute("SELECT count(*) FROM tasks").fetchall() == [(1,)]
    page = history.tasks({"array_id": "abc", "limit": 1000, "offset": 9_500})
    assert (len(page["tasks"]), page["total"]) == (500, 10_000)
