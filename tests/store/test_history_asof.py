"""Lists as they were: beside what the list showed when it was so."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fetchmld.core.errors import Unavailable
from fetchmld.core.messages import Fact
from fetchmld.store import history_asof
from fetchmld.store.history import History
from fetchmld.store.ledger import Ledger
from tests.store import task_facts as facts
from tests.store.task_facts import START_US

TIME_S = 60.0
QUERIES: list[dict[str, Any]] = [
    {},
    {"status": "queued"},
    {"status": "running"},
    {"status": "completed"},
    {"status": "failed"},
    {"user_id": "bob"},
    {"node_count": 2},
    {"plugins": ("mlflow",)},
    {"status": "running", "user_id": "ann"},
    {"limit": 2, "offset": 1},
]
TASKS = [f"t{number}" for number in range(5)]
steps = st.lists(st.tuples(st.sampled_from(TASKS), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=16)


def story(chosen: list[tuple[str, int, int]]) -> list[Fact]:
    """Facts that could be: each task is submitted first, at times that never go back, several perhaps at once."""
    known: dict[str, int] = {}
    found: list[Fact] = []
    at_us = START_US
    for task_id, what, gap in chosen:
        at_us += gap
        if task_id not in known:
            number = TASKS.index(task_id)
            configs: dict[str, Any] = {"plugin_configs": {"mlflow": {}}} if number == 3 else {}
            user = "bob" if number % 2 else "ann"
            found.append(facts.submit(task_id, at_us, user, node_count=1 + number % 2, **configs))
            known[task_id] = 0
            continue
        known[task_id] += what == 0
        found.append(_fact(task_id, what, at_us, known[task_id]))
    return found


def _fact(task_id: str, what: int, at_us: int, attempt: int) -> Fact:
    match what:
        case 0:
            return facts.start(task_id, at_us, attempt)
        case 1:
            return facts.requeue(task_id, at_us, attempt)
        case 2:
            return facts.end(task_id, "completed", at_us, attempt)
        case 3:
            return facts.end(task_id, "failed", at_us, attempt, error="EXIT_NONZERO: 1")
        case 4:
            return facts.end(task_id, "cancelled", at_us, attempt, error="CANCELLED: by ann")
        case 5:
            return facts.deleted(task_id, at_us)
    return facts.login("ann", at_us=at_us)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_each_list_is_what_it_was(tmp_path_factory: pytest.TempPathFactory, chosen: list[tuple[str, int, int]]) -> None:
    directory = tmp_path_factory.mktemp("walk")
    ledger = Ledger.open(directory / "ledger", segment_bytes=2**18)
    history = History(directory / "index.duckdb", directory / "ledger")
    seen: dict[int, list[Any]] = {START_US - 1: [{"tasks": [], "total": 0}] * len(QUERIES)}
    for fact in story(chosen):
        ledger.append([fact])
        history.catch_up(ledger.next_seq - 1)
        seen[fact.at_us] = [history.tasks(query) for query in QUERIES]
    for at_us, pages in seen.items():
        assert [history.tasks_at({**query, "at_us": at_us}, TIME_S) for query in QUERIES] == pages
        for task_id in TASKS:
            live = [task for task in pages[0]["tasks"] if task["id"] == task_id]
            assert history.task_at(task_id, at_us, TIME_S) == (live[0] if live else None)
    history.close()
    ledger.close()


def test_between_two_events_it_is_as_the_earlier_left_it(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger", segment_bytes=2**18) as ledger:
        ledger.append(facts.whole_life("t1"))
    history = History(tmp_path / "index.duckdb", tmp_path / "ledger")
    history.catch_up()
    found = [
        history.tasks_at({"at_us": START_US + offset}, TIME_S)["tasks"] for offset in (-1, 999_999, 2_999_999, 2**50)
    ]
    assert [[task["status"] for task in page] for page in found] == [[], ["queued"], ["running"], ["completed"]]
    history.close()


def test_where_the_clock_was_set_back_it_is_a_state_that_was(tmp_path: Path) -> None:
    """The moment lies twice in the ledger; the later place counts, with all that was recorded before it."""
    with Ledger.open(tmp_path / "ledger", segment_bytes=2**18) as ledger:
        ledger.append([facts.submit("a", START_US), facts.submit("b", START_US + 10), facts.submit("c", START_US + 5)])
    history = History(tmp_path / "index.duckdb", tmp_path / "ledger")
    history.catch_up()
    page = history.tasks_at({"at_us": START_US + 5}, TIME_S)
    assert ([task["id"] for task in page["tasks"]], page["total"]) == (["c", "b", "a"], 3)
    history.close()


def test_it_is_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(tmp_path / "ledger", segment_bytes=2**18) as ledger:
        ledger.append([fact for number in range(500) for fact in facts.whole_life(f"t{number}")])
    history = History(tmp_path / "index.duckdb", tmp_path / "ledger")
    history.catch_up()
    monkeypatch.setattr(
        history_asof,
        "task_page",
        lambda db, _: db.execute("SELECT count(*) FROM range(1000000000000) a, range(1000000000) b"),
    )
    with pytest.raises(Unavailable):
        history.tasks_at({"at_us": 2**52}, 0.1)
    monkeypatch.undo()
    assert history.tasks_at({"at_us": 2**52}, TIME_S)["total"] == 500
    history.close()
