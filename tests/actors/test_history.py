"""The history actor as a plain class, over a real ledger, a real index and real sockets."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

import actors.history
from actors.history import HistoryActor
from fetchmld.channel import Client
from fetchmld.core.errors import BadRequest, Internal, Invalid, Unavailable
from tests.actors.record import Record, until
from tests.store import task_facts as facts


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is busy with others a batch took longer than users are let wait: not what these tests are about."""
    monkeypatch.setattr(actors.history, "WAIT_MAX_S", 25.0)


class Room:
    def __init__(self, directory: Path) -> None:
        self.record = Record(directory)
        self.actor = HistoryActor(self.record.settings)
        self.client: Client

    async def ask(self, kind: str, **body: Any) -> Any:
        return (await self.client.request(kind, body)).body

    async def restart(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        await self.actor.shutdown()
        meanwhile()
        self.actor = HistoryActor(self.record.settings)
        await self.actor.start()


@asynccontextmanager
async def opened(directory: Path, scheduler: bool = True) -> AsyncIterator[Room]:
    room = Room(directory)
    if scheduler:
        await room.record.open()
    await room.actor.start()
    room.client = await room.record.client("history")
    try:
        yield room
    finally:
        await room.client.close()
        await room.actor.shutdown()
        await room.record.close()


def play(directory: Path, story: Callable[[Room], Awaitable[None]], scheduler: bool = True) -> None:
    async def run() -> None:
        async with opened(directory, scheduler) as room:
            await story(room)

    asyncio.run(run())


def edit(room: Room, statement: str) -> None:
    with duckdb.connect(str(room.record.paths.index)) as db:
        db.execute(statement)


def test_what_somebody_was_told_is_in_every_later_answer(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        for number in range(20):
            seq = room.record.append(facts.submit(f"t{number}"))
            page = await room.ask("tasks", query={}, min_seq=seq)
            assert page["total"] == number + 1

    play(tmp_path, story, scheduler=False)


def test_each_request(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        seq = room.record.append(*facts.whole_life("t1"), facts.experiment("e1", "one"), facts.login("bob"))
        assert (await room.ask("task", id="t1", min_seq=seq))["status"] == "completed"
        assert await room.ask("task", id="t2", min_seq=seq) is None
        assert (await room.ask("tasks", query={"user_id": "bob"}, min_seq=seq))["total"] == 0
        page = await room.ask("events", query={"user_id": "bob", "limit": 5, "from_us": None}, min_seq=seq)
        assert [event["action"] for event in page["events"]] == ["auth.success"]
        assert [experiment["id"] for experiment in await room.ask("experiments", min_seq=seq)] == ["e1"]
        assert set(await room.ask("ended", min_seq=seq)) == {"completed_today", "failed_today", "completed_24h"}
        assert (await room.ask("check", min_seq=seq))["valid"]
        assert (await room.ask("tasks", query={}))["total"] == 1

    play(tmp_path, story)


def test_people_s_questions(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        seq = room.record.append(*facts.whole_life("t1"))
        asked = {"sql": "SELECT status FROM tasks", "audit": False, "redacted": False, "rows_max": None}
        assert (await room.ask("ask", **asked, min_seq=seq))["rows"] == [["completed"]]
        with pytest.raises(Invalid, match="no table 'events'"):
            await room.ask("ask", **{**asked, "sql": "SELECT * FROM events"})
        at_us = facts.START_US + 1_000_000
        page = await room.ask("tasks_at", query={"at_us": at_us}, min_seq=seq)
        assert [task["status"] for task in page["tasks"]] == ["running"]
        assert (await room.ask("task_at", id="t1", at_us=at_us))["status"] == "running"
        assert await room.ask("task_at", id="t1", at_us=0) is None

    play(tmp_path, story)


def test_a_long_question_holds_up_nobody_and_too_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.history, "ASKING_MAX", 2)

    async def story(room: Room) -> None:
        room.actor._time_max_s = 0.5
        await room.ask("tasks", query={}, min_seq=room.record.append(*facts.whole_life("t1")))
        long = {"sql": "SELECT count(*) FROM range(1000000000000) a, range(1000000000) b"}
        bounds = {"audit": False, "redacted": False, "rows_max": 5}
        asking = [asyncio.create_task(room.ask("ask", **long, **bounds)) for _ in range(2)]
        await until(lambda: room.actor._asking_count == 2, "both are there")
        assert (await room.ask("tasks", query={}))["total"] == 1
        with pytest.raises(Unavailable, match="waiting already"):
            await room.ask("ask", **long, **bounds)
        for answer in asking:
            with pytest.raises(Invalid, match=r"more than 0.5 s"):
                await answer

    play(tmp_path, story)


def test_many_at_once_are_all_answered(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        seqs = [room.record.append(facts.submit(f"t{number}")) for number in range(50)]
        pages = await asyncio.gather(*(room.ask("tasks", query={}, min_seq=seq) for seq in reversed(seqs)))
        assert min(page["total"] for page in pages) >= 1
        assert pages[0]["total"] == 50

    play(tmp_path, story)


def test_when_idle_it_follows_by_itself(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.record.append(facts.submit("t1"), facts.submit("t2"))
        await until(lambda: room.actor._history.next_seq == 2, "two events indexed")
        assert (await room.actor.ping())["next_seq"] == 2

    play(tmp_path, story)


def test_an_answer_that_cannot_be_had_in_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.history, "WAIT_MAX_S", 0.2)

    async def story(room: Room) -> None:
        room.record.append(facts.submit("t1"))
        with pytest.raises(Unavailable, match="not up to date"):
            await room.ask("tasks", query={}, min_seq=10)
        assert (await room.ask("tasks", query={}, min_seq=0))["total"] == 1

    play(tmp_path, story, scheduler=False)


def test_bad_requests_are_answered_as_such(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(BadRequest, match="no request 'sing'"):
            await room.ask("sing")
        with pytest.raises(BadRequest, match="takes an object"):
            await room.client.request("tasks", [1])
        with pytest.raises(Internal):
            await room.ask("tasks")
        assert (await room.ask("tasks", query={}))["total"] == 0

    play(tmp_path, story)


def test_too_many_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.history, "REQUESTS_MAX", 3)

    async def story(room: Room) -> None:
        answers = await asyncio.gather(*(room.ask("tasks", query={}) for _ in range(10)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [dict] * 3 + [Unavailable] * 7

    play(tmp_path, story)


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        await room.ask("tasks", query={}, min_seq=room.record.append(*facts.whole_life("t1")))
        await room.restart()
        assert (await room.actor.ping())["next_seq"] == 3
        seq = room.record.append(facts.submit("t2"))
        assert (await room.ask("tasks", query={}, min_seq=seq))["total"] == 2
        assert (await room.actor.ping())["rebuilt"] == ""

    play(tmp_path, story)


@pytest.mark.parametrize("spoil", ["damage", "delete"])
def test_a_bad_or_missing_file_is_made_anew(tmp_path: Path, spoil: str) -> None:
    async def story(room: Room) -> None:
        seq = room.record.append(*facts.whole_life("t1"))
        await room.ask("tasks", query={}, min_seq=seq)
        index = room.record.paths.index
        await room.restart(index.unlink if spoil == "delete" else lambda: index.write_bytes(b"no database"))
        assert (await room.ask("tasks", query={"status": "completed"}, min_seq=seq))["total"] == 1
        assert bool((await room.actor.ping())["rebuilt"]) == (spoil == "damage")

    play(tmp_path, story)


def test_an_edited_row_is_found_and_stays_found(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        seq = room.record.append(*facts.whole_life("t1"), *facts.whole_life("t2"))
        await room.ask("tasks", query={}, min_seq=seq)
        await room.restart(lambda: edit(room, "UPDATE tasks SET user_id = 'eve' WHERE id = 't1'"))
        seq = room.record.append(facts.login("ann"))
        for _ in range(2):
            found = await room.ask("check", min_seq=seq)
            assert (found["valid"], found["first_bad"], found["checked"]) == (False, 2, 7)

    play(tmp_path, story)


def test_damage_that_shows_while_it_runs_is_reported_then_repaired(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        seq = room.record.append(*facts.whole_life("t1"))
        await room.ask("tasks", query={}, min_seq=seq)
        room.actor._history.file.db.execute("DROP TABLE experiments")
        assert (await room.ask("check", min_seq=seq))["damaged"]
        await until(lambda: room.actor._history.rebuilt != "", "made anew")
        assert (await room.ask("tasks", query={}, min_seq=seq))["total"] == 1
        assert (await room.ask("check", min_seq=seq))["valid"]

    play(tmp_path, story)


def test_a_read_that_meets_damage_says_try_again(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        seq = room.record.append(*facts.whole_life("t1"))
        await room.ask("tasks", query={}, min_seq=seq)
        room.actor._history.file.db.execute("DROP TABLE tasks")
        with pytest.raises(Unavailable, match="made anew"):
            await room.ask("task", id="t1", min_seq=seq)
        assert (await room.ask("tasks", query={}, min_seq=seq))["total"] == 1

    play(tmp_path, story)


def test_it_does_not_make_the_index_anew_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.history, "ANEW_MAX", 1)

    async def story(room: Room) -> None:
        seq = room.record.append(*facts.whole_life("t1"))
        for _ in range(2):
            await room.ask("tasks", query={}, min_seq=seq)
            room.actor._history.file.db.execute("DROP TABLE tasks")
            with pytest.raises(Unavailable):
                await room.ask("task", id="t1", min_seq=seq)
        await until(lambda: "made anew 1 times" in room.actor._problem, "it says why it stopped")
        monkeypatch.setattr(actors.history, "WAIT_MAX_S", 0.3)
        with pytest.raises(Unavailable, match="made anew 1 times"):
            await room.ask("tasks", query={}, min_seq=room.record.append(facts.login("ann")))

    play(tmp_path, story)


def test_it_waits_for_a_dying_predecessor_to_let_go(tmp_path: Path) -> None:
    hold = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.readline()"

    async def run() -> None:
        record = Record(tmp_path)
        actor = HistoryActor(record.settings)
        command = [sys.executable, "-c", hold, str(record.paths.index)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdin is not None
            assert other.stdout.readline() == b"open\n"
            starting = asyncio.create_task(actor.start())
            await asyncio.sleep(0)
            other.stdin.close()
            await starting
        assert (await actor.ping())["started"]
        await actor.shutdown()
        await record.close()

    asyncio.run(run())


def test_shutdown_without_start_is_harmless(tmp_path: Path) -> None:
    record = Record(tmp_path)
    asyncio.run(HistoryActor(record.settings).shutdown())
    record.ledger.close()
