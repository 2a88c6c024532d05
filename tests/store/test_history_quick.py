"""The quick look: it says yes to every index that is right, in whatever pieces it reads, and no to every other."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from fetchmld.core.messages import Fact
from fetchmld.store import history_quick
from fetchmld.store.history import History
from fetchmld.store.history_quick import all_right
from fetchmld.store.ledger import Ledger
from tests.core.driver import Driver
from tests.store import task_facts as facts
from tests.store import test_arrays
from tests.store.task_facts import START_US


def story() -> list[Fact]:
    """Lives that overlap, tasks that wait, run or were deleted, an experiment, and a fact about no task at all."""
    lives = [facts.whole_life(f"t{number:05d}", START_US + number) for number in range(12)]
    mixed = [fact for step in zip(*lives, strict=True) for fact in step]
    later = [facts.deleted("t00003"), facts.deleted("t00007"), facts.submit("waiting"), facts.submit("running")]
    return [facts.experiment("e1", "one"), *mixed, facts.login("ann"), *later, facts.start("running")]


def indexed(directory: Path, *more: Fact) -> Path:
    with Ledger.open(directory / "ledger", sync=lambda _file: None) as ledger:
        ledger.append([*story(), *more])
    history = History(directory / "index.duckdb", directory / "ledger")
    history.catch_up()
    history.close()
    return directory


def quick(directory: Path) -> bool:
    with duckdb.connect(str(directory / "index.duckdb")) as db, db.cursor() as other:
        ((upto,),) = db.execute("SELECT next_seq FROM meta").fetchall()
        return all_right(db, other, directory / "ledger", upto)


@pytest.mark.parametrize("batch", [1, 2, 7, 10_000])
@pytest.mark.parametrize("live_max", [0, 3, 1_000])
def test_an_index_that_is_right_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, live_max: int
) -> None:
    monkeypatch.setattr(history_quick, "BATCH_EVENTS", batch)
    monkeypatch.setattr(history_quick, "LIVE_ROWS_MAX", live_max)
    assert quick(indexed(tmp_path))


@pytest.mark.parametrize("batch", [1, 3, 10_000])
@pytest.mark.parametrize("how", [test_arrays.played, test_arrays.ended])
def test_elements_of_arrays_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, how: Callable[[], tuple[Driver, str]]
) -> None:
    monkeypatch.setattr(history_quick, "BATCH_EVENTS", batch)
    driver, array = how()
    gone = [facts.deleted(f"{array}-0"), facts.deleted(array), facts.deleted(f"{array}-19")]
    assert quick(indexed(tmp_path, *driver.record, *gone))


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE events SET metadata = metadata || ' ' WHERE seq = 2",
        "UPDATE events SET seq = NULL WHERE seq = 4",
        "INSERT INTO events SELECT * FROM events WHERE seq = 4",
        "DELETE FROM events WHERE seq = 40",
        "UPDATE experiments SET name = 'two'",
        "DELETE FROM experiments",
        "UPDATE tasks SET status = 'failed' WHERE id = 't00001'",
        "UPDATE tasks SET last_seq = last_seq - 1 WHERE id = 't00001'",
        "UPDATE tasks SET last_seq = last_seq + 1 WHERE id = 't00001'",
        "UPDATE tasks SET last_seq = NULL WHERE id = 't00001'",
        "UPDATE tasks SET deleted = false WHERE id = 't00003'",
        "UPDATE tasks SET user_id = 'eve' WHERE id = 'waiting'",
        "UPDATE tasks SET user_id = 'eve', last_seq = last_seq + 1 WHERE id = 'running'",
        "UPDATE tasks SET id = NULL WHERE id = 't00007'",
        "UPDATE tasks SET submit_seq = 10000 WHERE id = 't00007'",
        "INSERT INTO tasks SELECT * FROM tasks WHERE id = 't00003'",
        "INSERT INTO tasks SELECT * REPLACE ('x' AS id, 10000 AS submit_seq) FROM tasks WHERE id = 't00003'",
        "DELETE FROM tasks WHERE id = 't00003'",
        "DELETE FROM tasks WHERE id = 'waiting'",
    ],
)
@pytest.mark.parametrize("live_max", [0, 1_000])
def test_an_edited_one_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str, live_max: int) -> None:
    monkeypatch.setattr(history_quick, "LIVE_ROWS_MAX", live_max)
    directory = indexed(tmp_path)
    with duckdb.connect(str(directory / "index.duckdb")) as db:
        db.execute(edit)
    assert not quick(directory)
