"""The index over a real ledger: lists, totals, following, rebuilding, and finding what was edited by hand."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from fetchmld.core.errors import Unavailable
from fetchmld.core.messages import Fact
from fetchmld.core.model import TaskId
from fetchmld.core.scheduler import Policy, Scheduler
from fetchmld.store import history as history_module
from fetchmld.store.history import History
from fetchmld.store.history_check import check_rows
from fetchmld.store.history_file import IndexDoubt
from fetchmld.store.ledger import Ledger, LedgerDamaged
from tests.store import task_facts as facts
from tests.store.task_facts import START_US

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US


class Place:
    """One data directory: a ledger to append to, and an index that can be opened again."""

    def __init__(self, directory: Path) -> None:
        self.ledger_dir = directory / "ledger"
        self.index = directory / "index.duckdb"
        self.ledger = Ledger.open(self.ledger_dir, segment_bytes=2**18)
        self._open: list[History] = []

    def history(self) -> History:
        opened = History(self.index, self.ledger_dir)
        self._open.append(opened)
        return opened

    def with_facts(self, *story: Fact) -> History:
        self.ledger.append(story)
        opened = self.history()
        opened.catch_up(self.ledger.next_seq - 1)
        return opened

    def edit(self, *statements: str) -> None:
        """Change the index by hand, as somebody with the disk could. It must not be open."""
        with duckdb.connect(str(self.index)) as db:
            for statement in statements:
                db.execute(statement)

    def bad_files(self) -> list[str]:
        return sorted(path.name for path in self.index.parent.glob("index.duckdb.bad-*"))

    def close(self) -> None:
        for opened in self._open:
            opened.close()
        self.ledger.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """An index of a few different tasks and logins, for tests that only read."""
    configs: dict[str, Any] = {"tensorboard": {}, "mlflow": {"uri": "x"}}
    made = Place(tmp_path_factory.mktemp("mixed"))
    yield made.with_facts(
        *facts.whole_life("done", START_US - DAY_US),
        facts.submit("plain", START_US + 1),
        facts.submit("two", START_US + 2, "bob", node_count=2, reservation_id="r1", plugin_configs=configs),
        facts.login("bob", at_us=START_US + 10),
        facts.login("ann", at_us=START_US + 11),
        facts.login("bob", at_us=START_US + 12),
    )
    made.close()


@pytest.fixture(scope="module")
def five_lives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with five tasks' whole lives, indexed and closed. To be copied."""
    directory = tmp_path_factory.mktemp("five")
    made = Place(directory)
    made.with_facts(*lives(5))
    made.close()
    return directory


def ids(page: dict[str, Any]) -> list[str]:
    return [task["id"] for task in page["tasks"]]


def lives(count: int, first: int = 0) -> list[Fact]:
    """`count` whole lives, one submitted each second, in the order of a real ledger: by time."""
    stories = [facts.whole_life(f"t{n:05d}", START_US + n * SECOND_US) for n in range(first, first + count)]
    return sorted((fact for story in stories for fact in story), key=lambda fact: fact.at_us)


# -- lists


def test_an_empty_ledger_gives_empty_answers(place: Place) -> None:
    history = place.history()
    assert history.catch_up() == 0
    assert history.tasks({}) == {"tasks": [], "total": 0}
    assert history.events({}) == {"events": [], "total": 0}
    assert history.experiments() == []
    assert history.task("t1") is None
    assert history.ended(START_US) == {"completed_today": 0, "failed_today": 0, "completed_24h": 0}
    assert history.check()["valid"]
    assert history.rebuilt == ""


def test_no_ledger_yet_is_an_empty_one(tmp_path: Path) -> None:
    history = History(tmp_path / "index.duckdb", tmp_path / "ledger")
    assert history.catch_up() == 0
    history.close()


def test_a_task_is_shown_as_its_newest_fact_left_it(place: Place) -> None:
    history = place.with_facts(*facts.whole_life("t1"))
    view = history.task("t1")
    assert view is not None
    assert (view["status"], view["last_seq"]) == ("completed", 2)


def test_tasks_are_listed_in_the_order_of_the_ledger_whatever_the_clock_said(place: Place) -> None:
    history = place.with_facts(
        facts.submit("b", START_US + 5), facts.submit("a", START_US), facts.submit("c", START_US)
    )
    assert ids(history.tasks({})) == ["c", "a", "b"]


def test_pages_follow_one_another_without_gap_or_repetition(place: Place) -> None:
    story = [facts.submit(f"t{n}", START_US + n // 3) for n in range(20)]
    history = place.with_facts(*story)
    pages = [history.tasks({"limit": 7, "offset": offset}) for offset in (0, 7, 14, 21)]
    assert [len(page["tasks"]) for page in pages] == [7, 7, 6, 0]
    assert {page["total"] for page in pages} == {20}
    seen = [task for page in pages for task in ids(page)]
    assert seen == [f"t{n}" for n in range(19, -1, -1)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"status": "completed"}, ["done"]),
        ({"status": "queued"}, ["two", "plain"]),
        ({"status": "preparing"}, []),
        ({"user_id": "bob"}, ["two"]),
        ({"node_count": 2}, ["two"]),
        ({"node_count": None, "status": None, "plugins": None}, ["two", "plain", "done"]),
        ({"reservation_id": "r1"}, ["two"]),
        ({"plugins": ["mlflow"]}, ["two"]),
        ({"plugins": ("mlflow", "tensorboard")}, ["two"]),
        ({"plugins": ["mlflow", "other"]}, []),
        ({"plugins": []}, ["two", "plain", "done"]),
        ({"user_id": "ann' OR true --"}, []),
    ],
)
def test_each_filter_and_its_total(mixed: History, query: dict[str, Any], expected: list[str]) -> None:
    page = mixed.tasks(query)
    assert ids(page) == expected
    assert page["total"] == len(expected)


def test_a_deleted_task_is_out_of_the_listings(place: Place) -> None:
    history = place.with_facts(*facts.whole_life("t1"), *facts.whole_life("t2"), facts.deleted("t1"))
    assert ids(history.tasks({})) == ["t2"]
    assert history.task("t1") is None
    assert history.events({})["total"] == 7


def test_limits_are_bounded(place: Place) -> None:
    history = place.with_facts(*(facts.login("ann") for _ in range(1_100)))
    assert len(history.events({"limit": 10**9})["events"]) == 1_000
    assert len(history.events({"limit": 0})["events"]) == 0
    assert history.events({"offset": 10**12})["events"] == []


def test_events_come_newest_first_with_their_hashes(place: Place) -> None:
    history = place.with_facts(facts.submit("t1"), facts.login("bob", success=False))
    newest, first = history.events({})["events"]
    assert (newest["sequence_num"], newest["action"], newest["success"]) == (1, "auth.failure", False)
    assert newest["prev_hash"] == first["event_hash"]
    assert newest["event_hash"] == place.ledger.root_hash.hex()
    assert first["metadata"]["request"] == {"job_name": "train"}
    assert newest["metadata"] == {}


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({}, [7, 6, 5, 4, 3, 2, 1, 0]),
        ({"limit": 2, "offset": 1}, [6, 5]),
        ({"event_type": "auth_attempt"}, [7, 6, 5]),
        ({"event_type": "auth_attempt", "limit": 1, "offset": 1}, [6]),
        ({"user_id": "bob"}, [7, 5, 4]),
        ({"user_id": "bob", "offset": 1}, [5, 4]),
        ({"event_type": "auth_attempt", "user_id": "ann"}, [6]),
        ({"from_us": START_US + 10, "to_us": START_US + 11}, [6, 5]),
        ({"from_us": START_US + 12}, [7]),
        ({"user_id": "nobody"}, []),
    ],
)
def test_event_filters(mixed: History, query: dict[str, Any], numbers: list[int]) -> None:
    page = mixed.events(query)
    assert [event["sequence_num"] for event in page["events"]] == numbers
    whole = mixed.events({name: value for name, value in query.items() if name not in ("limit", "offset")})
    assert page["total"] == len(whole["events"])


def test_ended_counts_by_the_utc_day_and_by_the_last_24_hours(place: Place) -> None:
    midnight = START_US - START_US % DAY_US
    history = place.with_facts(
        *facts.whole_life("today", midnight + SECOND_US),
        *facts.whole_life("yesterday", midnight - 60 * SECOND_US),
        *facts.whole_life("long ago", midnight - 2 * DAY_US),
        facts.submit("bad", midnight),
        facts.end("bad", "failed", midnight + SECOND_US, error="EXIT_NONZERO: 1"),
        facts.submit("running", midnight),
        facts.start("running", midnight),
    )
    counts = history.ended(midnight + 3600 * SECOND_US)
    assert counts == {"completed_today": 1, "failed_today": 1, "completed_24h": 2}


def test_an_experiment_is_as_its_newest_fact_left_it(place: Place) -> None:
    more = [facts.experiment_update("e1", status="archived"), facts.experiment_update("unknown", name="x")]
    history = place.with_facts(facts.experiment("e1", "one"), facts.experiment("e2", "two"), *more)
    assert {one["id"]: one["status"] for one in history.experiments()} == {"e1": "archived", "e2": "active"}
    place.ledger.append([facts.experiment_update("e1", name="uno", commit_id="abcdef1")])
    history.catch_up(place.ledger.next_seq - 1)
    (changed,) = [one for one in history.experiments() if one["id"] == "e1"]
    assert (changed["name"], changed["status"], changed["commit_id"]) == ("uno", "archived", "abcdef1")
    assert history.check()["valid"]


def test_tasks_of_an_experiment(place: Place) -> None:
    lives = [fact for n in range(3) for fact in facts.whole_life(f"t{n}", experiment_id="e1")]
    history = place.with_facts(*lives, *facts.whole_life("other"), facts.deleted("t1"))
    page = history.tasks({"experiment_id": "e1"})
    assert ([view["id"] for view in page["tasks"]], page["total"]) == (["t2", "t0"], 2)
    page = history.experiment_tasks("e1", 1, 1)
    assert ([view["id"] for view in page["tasks"]], page["total"]) == (["t0"], 2)
    assert history.tasks({"experiment_id": "none"})["total"] == 0


def test_experiments_newest_first(place: Place) -> None:
    history = place.with_facts(facts.experiment("e1", "one"), facts.experiment("e2", "two", START_US + 1))
    newest, oldest = history.experiments()
    assert (newest["id"], oldest["id"]) == ("e2", "e1")
    assert oldest == {
        "id": "e1",
        "name": "one",
        "description": "about one",
        "status": "active",
        "commit_id": "",
        "created_at": START_US / 1e6,
        "user_id": "ann",
    }


def test_views_are_those_of_the_core(place: Place) -> None:
    """The index and the live state fold the same facts; what both know, they say alike."""
    story = [facts.submit("t1"), facts.end("t1", "cancelled", attempt=0, error="CANCELLED: by ann")]
    history = place.with_facts(*story)
    core = Scheduler(Policy())
    for fact in story:
        core.state.apply(fact)
    live = core.view(TaskId("t1"))
    assert live is not None
    assert history.task("t1") == {**live, "priority_aged": 5.0}


# -- following


def test_it_reads_no_further_than_it_is_told(place: Place) -> None:
    place.ledger.append([facts.login("ann") for _ in range(10)])
    history = place.history()
    assert history.catch_up(3) == 4
    assert history.events({})["total"] == 4
    assert history.catch_up(3) == 4
    assert history.catch_up(9) == 10


def test_facts_of_a_task_may_come_in_different_batches(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "BATCH_EVENTS", 3)
    monkeypatch.setattr(history_module, "LIVE_ROWS_MAX", 2)  # most rows have to be read back
    history = place.with_facts(*lives(20))
    assert history.tasks({"status": "completed"})["total"] == 20
    assert history.tasks({})["total"] == 20
    assert history.check() == {"valid": True, "first_bad": -1, "problem": "", "checked": 60, "damaged": False}


def test_a_restart_goes_on_where_it_was(place: Place) -> None:
    place.with_facts(facts.submit("t1"), facts.start("t1")).close()
    history = place.history()
    assert history.next_seq == 2
    place.ledger.append([facts.end("t1")])
    history.catch_up(2)
    view = history.task("t1")
    assert view is not None
    assert view["status"] == "completed"
    assert history.rebuilt == ""


def test_a_failed_batch_leaves_nothing_behind(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    history = place.with_facts(facts.submit("t1"))

    def break_off(*_: Any) -> None:
        raise MemoryError

    place.ledger.append([facts.start("t1"), facts.end("t1")])
    with monkeypatch.context() as patch:
        patch.setattr(History, "_replace_tasks", break_off)
        with pytest.raises(MemoryError):
            history.catch_up(2)
    assert history.events({})["total"] == 1
    assert history.catch_up(2) == 3
    assert history.check()["valid"]


def test_what_lies_before_damaged_events_is_indexed(place: Place) -> None:
    place.ledger.append([facts.login("ann") for _ in range(10)])
    place.ledger.append([facts.login("bob"), facts.login("unlucky")])
    path = next((place.ledger_dir / "segments").glob("*.log"))
    path.write_bytes(path.read_bytes().replace(b"unlucky", b"uNlucky"))
    history = place.history()
    with pytest.raises(LedgerDamaged):
        history.catch_up(11)
    assert history.next_seq == 10
    found = history.check()
    assert found["valid"]


def test_events_that_do_not_follow_are_refused(place: Place, tmp_path: Path) -> None:
    """The writer took back a batch that had been read: what is indexed is not what the ledger says now."""
    history = place.with_facts(facts.login("ann"), facts.login("bob"))
    other = Place(tmp_path / "other")
    other.ledger.append([facts.login("eve") for _ in range(3)])
    history._ledger_dir, history._tail = other.ledger_dir, None
    with pytest.raises(IndexDoubt, match="event 2 does not follow"):
        history.catch_up(2)
    history.start_anew("it went another way")
    assert history.catch_up(2) == 3
    assert history.check()["valid"]
    other.close()


# -- the file


def test_it_is_ours_alone(place: Place) -> None:
    place.with_facts(*lives(2))
    assert place.index.stat().st_mode & 0o777 == 0o600


def test_a_deleted_index_is_made_again(place: Place) -> None:
    place.with_facts(*lives(5)).close()
    place.index.unlink()
    history = place.history()
    history.catch_up(14)
    assert history.tasks({"status": "completed"})["total"] == 5
    assert history.check()["valid"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"this is no database",
        lambda raw: b"",
        lambda raw: bytes(4096) + raw[4096:],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:4096] + os.urandom(len(raw) - 4096),
    ],
    ids=["text", "empty", "no header", "cut", "noise"],
)
def test_a_damaged_file_is_moved_aside_and_made_again(place: Place, spoil: Callable[[bytes], bytes]) -> None:
    place.with_facts(*lives(5)).close()
    place.index.write_bytes(spoil(place.index.read_bytes()))
    history = place.history()
    assert history.rebuilt != ""
    assert place.bad_files() == ["index.duckdb.bad-1"]
    history.catch_up(14)
    assert history.tasks({})["total"] == 5
    assert history.check()["valid"]


def test_only_the_newest_bad_file_is_kept(place: Place) -> None:
    place.ledger.append([facts.login("ann")])
    for expected in ("index.duckdb.bad-1", "index.duckdb.bad-2", "index.duckdb.bad-3"):
        place.index.write_bytes(b"no database")
        place.history().close()
        assert place.bad_files() == [expected]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ("UPDATE meta SET last_hash = 'x'::BLOB", "newest event"),
        ("UPDATE meta SET next_seq = 7", "newest event"),
        ("UPDATE meta SET next_seq = 10000", "newest event"),
        ("UPDATE meta SET installation = 'x'::BLOB", "another ledger"),
        ("UPDATE meta SET schema_version = 0", "layout"),
        ("DELETE FROM meta", "layout"),
        ("ALTER TABLE meta DROP COLUMN last_hash", "last_hash"),
    ],
)
def test_an_index_of_something_else_is_made_again(place: Place, edit: str, why: str) -> None:
    place.with_facts(*lives(5)).close()
    place.edit(edit)
    history = place.history()
    assert why in history.rebuilt
    history.catch_up(14)
    assert history.check()["valid"]


def test_an_index_without_its_ledger_is_moved_aside(place: Place, tmp_path: Path) -> None:
    place.with_facts(*lives(5)).close()
    history = History(place.index, tmp_path / "nothing")
    assert "no ledger" in history.rebuilt
    assert history.tasks({})["total"] == 0
    history.close()


def test_an_index_of_a_ledger_that_was_begun_anew_is_made_again(place: Place) -> None:
    place.with_facts(*lives(5)).close()
    place.ledger.close()
    shutil.rmtree(place.ledger_dir)
    with Ledger.open(place.ledger_dir) as fresh:
        history = place.history()
        assert "another ledger" in history.rebuilt
        assert (history.next_seq, fresh.next_seq) == (0, 0)


def _gone(segment: Path) -> None:
    segment.unlink()


def _empty(segment: Path) -> None:
    segment.write_bytes(b"")


def _zeros(segment: Path) -> None:
    segment.write_bytes(bytes(100) + segment.read_bytes()[100:])


@pytest.mark.parametrize("spoil", [_gone, _empty, _zeros])
def test_an_index_is_not_doubted_where_the_ledger_lacks_its_first_event(
    place: Place, spoil: Callable[[Path], None]
) -> None:
    """The ledger is at fault, and its own checks say so; the copy is whole."""
    ledger = Ledger.open(place.ledger_dir.with_name("other"), segment_bytes=4096)
    while len(list(ledger.directory.glob("segments/*.log"))) < 3:
        ledger.append([facts.login("ann")])
    with closing(History(place.index, ledger.directory)) as history:
        indexed = history.catch_up(ledger.next_seq - 1)
    spoil(min(ledger.directory.glob("segments/*.log")))
    with closing(History(place.index, ledger.directory)) as history:
        assert (history.rebuilt, history.next_seq) == ("", indexed)
    ledger.abandon()


def test_an_index_that_is_ahead_of_an_older_copy_of_the_ledger_is_made_again(place: Place, tmp_path: Path) -> None:
    place.with_facts(*lives(5)).close()
    older = tmp_path / "older"
    shutil.copytree(place.ledger_dir, older)
    place.with_facts(*lives(2)).close()
    with closing(History(place.index, older)) as history:
        assert "is not in the ledger" in history.rebuilt


def test_a_file_that_another_process_has_open_is_left_alone(place: Place) -> None:
    place.with_facts(*lives(1)).close()
    hold = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(place.index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(Unavailable, match="another process has"):
            place.history()
        other.stdin.close()
        other.wait(10)
    assert place.bad_files() == []
    assert place.history().next_seq == 3


def test_damage_while_it_is_open_is_a_doubt(place: Place) -> None:
    history = place.with_facts(*lives(5))
    history.file.db.execute("DROP TABLE tasks")
    with pytest.raises(IndexDoubt):
        history.task("t1")
    history.start_anew("tasks were gone")
    history.catch_up(14)
    assert history.tasks({})["total"] == 5
    assert history.rebuilt == "tasks were gone"


# -- finding what was edited


EDITS = [
    ("UPDATE events SET user_id = 'eve' WHERE seq = 4", 4),
    ("UPDATE events SET success = NOT success WHERE seq = 0", 0),
    ("UPDATE events SET metadata = '{}' WHERE seq = 7", 7),
    ("UPDATE events SET metadata = 'no json' WHERE seq = 7", 7),
    ("UPDATE events SET at_us = at_us + 1 WHERE seq = 14", 14),
    ("UPDATE events SET event_hash = prev_hash WHERE seq = 5", 5),
    ("UPDATE events SET error = NULL WHERE seq = 5", 5),
    ("UPDATE events SET seq = 100 WHERE seq = 6", 6),
    ("UPDATE events SET seq = NULL WHERE seq = 6", 6),
    ("DELETE FROM events WHERE seq = 3", 3),
    ("DELETE FROM events WHERE seq >= 13", 13),
    ("DELETE FROM events", 0),
    ("INSERT INTO events SELECT * FROM events WHERE seq = 9", 9),
    ("INSERT INTO events SELECT * REPLACE (99 AS seq) FROM events WHERE seq = 9", 99),
    ("INSERT INTO events SELECT * REPLACE (NULL AS seq) FROM events WHERE seq = 9", 15),
    ("UPDATE tasks SET user_id = 'eve' WHERE id = 't00002'", None),
    ("UPDATE tasks SET view = replace(view, 'completed', 'failed') WHERE id = 't00000'", None),
    ("UPDATE tasks SET status = 'failed' WHERE id = 't00001'", None),
    ("UPDATE tasks SET deleted = true WHERE id = 't00001'", None),
    ("UPDATE tasks SET last_seq = 10000 WHERE id = 't00001'", None),
    ("UPDATE tasks SET plugins = ['mlflow'] WHERE id = 't00003'", None),
    ("UPDATE tasks SET error = NULL WHERE id = 't00003'", None),
    ("DELETE FROM tasks WHERE id = 't00004'", None),
    ("UPDATE tasks SET id = 'zzz' WHERE id = 't00002'", None),
    ("UPDATE tasks SET id = NULL WHERE id = 't00002'", None),
    ("INSERT INTO tasks SELECT * FROM tasks WHERE id = 't00002'", None),
]


@pytest.mark.parametrize(("edit", "seq"), EDITS, ids=[edit for edit, _ in EDITS])
def test_a_row_edited_by_hand_is_found_with_its_sequence_number(
    five_lives: Path, tmp_path: Path, edit: str, seq: int | None
) -> None:
    directory = shutil.copytree(five_lives, tmp_path / "copy")
    last = {fact.resource: number for number, fact in enumerate(lives(5))}
    with closing(History(directory / "index.duckdb", directory / "ledger")) as history:
        history.file.db.execute(edit)
        found = history.check()
        assert not found["valid"], found
        assert found["first_bad"] == (last[edit.split("'")[-2]] if seq is None else seq)
        assert found["problem"]
        assert not found["damaged"]


def test_an_edit_while_it_was_closed_is_found_and_not_repaired_by_looking(place: Place) -> None:
    place.with_facts(*lives(5)).close()
    place.edit("UPDATE events SET user_id = 'eve' WHERE seq = 4")
    history = place.history()
    assert [history.check()["first_bad"] for _ in range(2)] == [4, 4]
    assert history.rebuilt == ""


@pytest.mark.parametrize(
    ("edit", "seq"),
    [
        ("UPDATE experiments SET name = 'other' WHERE id = 'e2'", 2),
        ("DELETE FROM experiments WHERE id = 'e1'", 1),
        ("INSERT INTO experiments SELECT * REPLACE (0 AS seq) FROM experiments WHERE id = 'e1'", 0),
    ],
)
def test_an_edited_experiment_is_found(place: Place, edit: str, seq: int) -> None:
    place.with_facts(facts.login("ann"), facts.experiment("e1", "one"), facts.experiment("e2", "two")).close()
    place.edit(edit)
    assert place.history().check()["first_bad"] == seq


def test_the_lowest_of_several_is_named(place: Place) -> None:
    story = lives(5)
    place.with_facts(*story).close()
    place.edit("UPDATE events SET user_id = 'eve' WHERE seq = 12", "DELETE FROM tasks WHERE id = 't00001'")
    lowest = max(number for number, fact in enumerate(story) if fact.resource == "t00001")
    assert lowest < 12
    assert place.history().check()["first_bad"] == lowest


def test_an_event_gone_does_not_blame_an_earlier_one(place: Place) -> None:
    """Without its end the task's fold would stop at an earlier event; that one is not what is wrong."""
    place.with_facts(facts.submit("t1"), facts.login("ann"), facts.start("t1"), facts.end("t1")).close()
    place.edit("DELETE FROM events WHERE seq = 3")
    assert place.history().check()["first_bad"] == 3


def test_rows_are_checked_in_batches(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchmld.store.history_check.BATCH_EVENTS", 4)
    place.with_facts(*lives(30)).close()
    assert place.history().check()["valid"]


def test_a_check_sees_one_state_while_the_index_moves_on(place: Place) -> None:
    history = place.with_facts(*lives(3))
    checked = history.check()
    place.ledger.append(lives(3, first=3))
    history.catch_up(17)
    assert (checked["checked"], history.check()["checked"]) == (9, 18)
    assert history.check()["valid"]


def test_without_a_daemon_the_same_check_reads_the_file(place: Place) -> None:
    place.with_facts(*lives(3)).close()
    with duckdb.connect(str(place.index), read_only=True) as db:
        assert check_rows(db, place.ledger_dir)["valid"]
    place.edit("UPDATE events SET user_id = 'eve' WHERE seq = 4")
    with duckdb.connect(str(place.index), read_only=True) as db:
        assert check_rows(db, place.ledger_dir)["first_bad"] == 4


@pytest.mark.parametrize("spoil", ["changed", "gone"])
@pytest.mark.parametrize(
    ("edit", "seq"),
    [
        ("", -1),
        ("UPDATE events SET user_id = 'eve' WHERE seq = 9", 9),
        ("UPDATE tasks SET user_id = 'eve' WHERE id = 't1'", 2),
        ("UPDATE events SET user_id = 'eve' WHERE seq = 11", -1),  # nothing is left to hold it against
    ],
)
def test_damaged_segments_are_no_fault_of_the_index(place: Place, spoil: str, edit: str, seq: int) -> None:
    place.ledger.append([*facts.whole_life("t1"), *(facts.login("ann") for _ in range(7))])
    place.with_facts(facts.login("bob"), facts.login("unlucky"), facts.login("ann")).close()
    path = next((place.ledger_dir / "segments").glob("*.log"))
    whole = path.read_bytes()
    if spoil == "changed":
        path.write_bytes(whole.replace(b"unlucky", b"uNlucky"))
    else:
        at = whole.index(b"bob")
        path.write_bytes(whole[:at] + bytes(len(whole) - at))
    place.edit(edit or "SELECT 1")
    with duckdb.connect(str(place.index), read_only=True) as db:
        found = check_rows(db, place.ledger_dir)
    assert (found["valid"], found["first_bad"], found["checked"]) == (False, seq, 13)
    assert ("not compared from event 10 on" in found["problem"]) == (seq < 0)


def test_a_block_that_cannot_be_read_is_damage(place: Place) -> None:
    history = place.with_facts(*lives(3))
    history.file.db.execute("DROP TABLE tasks")
    found = history.check()
    assert (found["valid"], found["damaged"]) == (False, True)


# -- beside the index


def test_pages_are_the_same_without_their_copies_which_are_put_back(place: Place) -> None:
    history = place.with_facts(*lives(80), facts.submit("waits"), facts.start("waits"))
    queries: list[dict[str, Any]] = [
        {},
        {"status": "running"},
        {"limit": 9, "offset": 44},
        {"user_id": "ann", "limit": 100},
    ]
    right = [history.tasks(query) for query in queries]
    events = [history.events(query) for query in queries]
    history.close()
    views = place.index.with_suffix(".views")
    whole = views.read_bytes()
    for broken in (b"", whole[:1000], whole[300:], bytes(len(whole))):
        views.write_bytes(broken)
        history = place.history()
        assert history.rebuilt == ""
        assert [history.tasks(query) for query in queries] == right
        assert history.check()["valid"]
        history.close()
        assert views.read_bytes() == whole
    views.unlink()
    place.edit("DELETE FROM places")
    history = place.history()
    assert [history.tasks(query) for query in queries] == right
    assert [history.events(query) for query in queries] == events
    history.close()
    place.edit("INSERT INTO places VALUES (0, 40), (96, 40)")
    assert "places has gaps" in place.history().rebuilt


def test_a_crash_between_the_copy_and_the_index_shows_the_index(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    history = place.with_facts(*(facts.submit(f"t{n}") for n in range(5)))
    right = history.tasks({})
    place.ledger.append([facts.start(f"t{n}") for n in range(5)])

    def stop(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(History, "_replace_tasks", stop)
        with pytest.raises(InterruptedError):
            history.catch_up()
    assert history.tasks({}) == right
    history.close()
    history = place.history()
    assert history.tasks({}) == right
    history.catch_up()
    assert {task["status"] for task in history.tasks({})["tasks"]} == {"running"}
    assert history.check()["valid"]


def test_an_edited_sum_is_found(place: Place) -> None:
    history = place.with_facts(*lives(5))
    task = history.task("t00003")
    assert task is not None
    history.close()
    place.edit("UPDATE tasks SET view_sum = view_sum + 1 WHERE id = 't00003'")
    assert place.history().check()["first_bad"] == task["last_seq"]
