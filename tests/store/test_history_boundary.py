"""The index of a pruned record: shortened in place or made anew, it is the same, and no change of it is missed."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from fetchmld.core.errors import BadRequest
from fetchmld.store.history import History
from fetchmld.store.history_file import IndexDoubt
from fetchmld.verify import TAMPERED, VALID_UNVOUCHED, offline
from tests.store import task_facts
from tests.store.pruned_samples import LONG_LIVED, Life

TABLES = ("meta", "events", "places", "carried", "(SELECT * EXCLUDE slot FROM tasks)", "experiments")


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path / "ledger")
    yield life
    life.close()


def rows(index: Path) -> list[object]:
    with duckdb.connect(str(index), read_only=True) as db:
        return [db.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall() for table in TABLES]


def lived(life: Life) -> list[str]:
    """Much happens around the boundary: an array loses elements, tasks end and are deleted on either side."""
    life.days(3)
    life.finish_elements(4)
    ended = [life.driver.submit() for _ in range(3)]
    for task in ended:
        life.driver.cancel(task)
    life.days(6)
    life.driver.reprioritise(LONG_LIVED, 7)
    life.write()
    return ended


def delete(life: Life, *tasks: str) -> None:
    life.write(*(task_facts.deleted(task, life.driver.at_us) for task in tasks))


def test_shortened_it_is_what_a_new_one_is(life: Life, tmp_path: Path) -> None:
    old, new = tmp_path / "old.duckdb", tmp_path / "new.duckdb"
    ended = lived(life)
    with closing(History(old, life.directory)) as history:
        history.catch_up()
        for _ in range(2):
            first = life.prune()
            history.follow_boundary()
            delete(life, ended.pop())
            life.finish_elements(2)
            life.days(7)
            history.catch_up()
            assert (history.first_seq, history.next_seq, history.rebuilt) == (first, life.ledger.next_seq, "")
            assert history.check() == {
                "valid": True,
                "first_bad": -1,
                "problem": "",
                "checked": history.next_seq,
                "damaged": False,
            }
    with closing(History(new, life.directory)) as history:
        history.catch_up()
        assert history.first_seq == first
        assert history.check()["valid"]
    assert rows(new) == rows(old)


def test_lists_begin_at_the_boundary_and_what_lives_is_in_them(life: Life, tmp_path: Path) -> None:
    ended = lived(life)
    with closing(History(tmp_path / "index.duckdb", life.directory)) as history:
        history.catch_up()
        before = history.tasks({"limit": 1000})["total"]
        first = life.prune(before_days=2)
        history.follow_boundary()
        history.catch_up()
        events = history.events({"limit": 1000})
        assert [event["sequence_num"] for event in events["events"]] == list(
            range(life.ledger.next_seq - 1, first - 1, -1)
        )
        logins = history.events({"limit": 5, "offset": 3, "user_id": "eve"})["events"]
        assert all(event["user_id"] == "eve" for event in logins)
        assert history.events({"limit": 0})["total"] == life.ledger.next_seq - first
        tasks = history.tasks({"limit": 1000})
        assert tasks["total"] == len(tasks["tasks"]) < before
        assert {LONG_LIVED, life.array} <= {task["id"] for task in tasks["tasks"]}
        assert history.task(ended[0]) is None
        kept = history.task(LONG_LIVED)
        assert kept is not None
        assert kept["priority"] == 7
        assert history.tasks({"array_id": life.array, "status": "completed"})["total"] == 4
        assert [found["name"] for found in history.experiments()] == ["first"]
        assert history.changes(first - 2, 10) is None
        assert history.changes(first - 1, 10)
        answer = history.ask(
            "SELECT count(*), min(seq) FROM events", rows_max=5, time_max_s=20, audit=True, redacted=False
        )
        assert answer["rows"] == [[life.ledger.next_seq - first, first]]
        sql = f"SELECT count(*) FROM attempts WHERE starts_with(task_id, '{life.array}')"
        assert history.ask(sql, rows_max=5, time_max_s=20, audit=True, redacted=False)["rows"][0][0] >= 4


def test_as_it_was_is_known_from_the_boundary_on(life: Life, tmp_path: Path) -> None:
    lived(life)
    with closing(History(tmp_path / "index.duckdb", life.directory)) as history:
        history.catch_up()
        moments = [life.driver.at_us - int(days * 86_400e6) for days in (0, 1, 2.5)]
        whole = [history.tasks_at({"at_us": at_us, "limit": 1000}, 20) for at_us in moments]
        life.prune(before_days=3)
        history.follow_boundary()
        history.catch_up()
        for at_us, before in zip(moments, whole, strict=True):
            found = history.tasks_at({"at_us": at_us, "limit": 1000}, 20)
            ids = {task["id"] for task in found["tasks"]}
            assert [task for task in before["tasks"] if task["id"] in ids] == found["tasks"]
            assert all(task["status"] in ("completed", "failed") for task in before["tasks"] if task["id"] not in ids)
        assert history.task_at(LONG_LIVED, moments[2], 20)
        with pytest.raises(BadRequest, match="pruned"):
            history.tasks_at({"at_us": life.driver.at_us - int(30 * 86_400e6)}, 20)


def test_one_that_was_away_is_shortened_and_one_that_is_too_far_behind_is_made_anew(life: Life, tmp_path: Path) -> None:
    index = tmp_path / "index.duckdb"
    life.days(8)
    with closing(History(index, life.directory)) as history:
        history.catch_up()
    shutil.copy(index, tmp_path / "behind.duckdb")
    first = life.prune()
    stale = offline(tmp_path)
    assert (stale.code, "not compared" in stale.lines[1]) == (VALID_UNVOUCHED, True)
    with closing(History(index, life.directory)) as history:
        assert (history.first_seq, history.rebuilt) == (first, "")
    life.days(8)
    behind = tmp_path / "behind.duckdb"
    with closing(History(behind, life.directory)) as history:
        assert history.first_seq == first
        life.prune()
        with pytest.raises(IndexDoubt, match="ends before"):
            history.follow_boundary()
    with closing(History(behind, life.directory)) as history:
        assert "ends before" in history.rebuilt
        history.catch_up()
        assert history.check()["valid"]


CHANGES = {
    "an event": "UPDATE events SET error = 'x' WHERE seq = (SELECT max(seq) - 3 FROM events)",
    "an event more": "INSERT INTO events SELECT * REPLACE (1::UBIGINT AS seq) FROM events LIMIT 1",
    "a carried one": "UPDATE carried SET user_id = 'eve' WHERE action = 'task.submit'",
    "none carried": "DELETE FROM carried",
    "a task": "UPDATE tasks SET status = 'completed' WHERE id = 'long'",
    "a task more": "INSERT INTO tasks SELECT * REPLACE ('x' AS id, 2::UBIGINT AS submit_seq) FROM tasks LIMIT 1",
    "a task less": "DELETE FROM tasks WHERE id = 'long'",
    "an experiment": "UPDATE experiments SET name = 'other'",
    "its beginning": "UPDATE meta SET first_seq = first_seq + 1",
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_is_found(life: Life, tmp_path: Path, change: str) -> None:
    lived(life)
    life.prune(before_days=2)
    with closing(History(tmp_path / "index.duckdb", life.directory)) as history:
        history.catch_up()
        assert history.check()["valid"]
    assert offline(tmp_path).code == VALID_UNVOUCHED
    with duckdb.connect(str(tmp_path / "index.duckdb")) as db:
        db.execute(CHANGES[change])
    assert offline(tmp_path).code == TAMPERED, change
