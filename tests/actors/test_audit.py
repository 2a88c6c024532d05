"""The audit actor as a plain class, beside a real history actor and a real ledger."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

import actors.audit
from actors.audit import AuditActor
from actors.history import HistoryActor
from fetchmld.channel import Client
from fetchmld.core.errors import BadRequest, Unavailable
from fetchmld.core.messages import Fact
from fetchmld.verify_checkpoints import verify_against
from fetchmld.verify_walk import SegmentResult
from tests.actors.record import Record, until
from tests.store import task_facts as facts


class Room:
    def __init__(self, directory: Path) -> None:
        self.record = Record(directory)
        self.history = HistoryActor(self.record.settings)
        self.audit = AuditActor(self.record.settings)
        self.client: Client

    async def ask(self, kind: str) -> Any:
        return (await self.client.request(kind)).body

    def edit_segment(self, seq: int) -> None:
        """Change one letter of event `seq`, whose user is named `user<seq>`."""
        path = next((self.record.paths.ledger_dir / "segments").glob("*.log"))
        raw = path.read_bytes()
        assert raw.count(b"user%d" % seq) == 1
        path.write_bytes(raw.replace(b"user%d" % seq, b"usee%d" % seq))


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Room]:
    room = Room(directory)
    await room.record.open()
    await room.history.start()
    await room.audit.start()
    room.client = await room.record.client("audit")
    try:
        yield room
    finally:
        await room.client.close()
        await room.audit.shutdown()
        await room.history.shutdown()
        await room.record.close()


def play(directory: Path, story: Callable[[Room], Awaitable[None]]) -> None:
    async def run() -> None:
        async with opened(directory) as room:
            await story(room)

    asyncio.run(run())


def logins(count: int) -> list[Fact]:
    return [facts.login(f"user{number}") for number in range(count)]


def test_a_record_that_is_as_written_is_valid(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.record.append(*facts.whole_life("t1"))
        result = await room.ask("verify")
        assert result.pop("verified_at") > 1.7e9
        assert result == {
            "valid": True,
            "total_events": 3,
            "first_seq": 0,
            "first_bad": -1,
            "problem": "",
            "root_hash": room.record.ledger.root_hash.hex(),
            "index_valid": True,
            "index_first_bad": -1,
        }

    play(tmp_path, story)


def test_an_empty_record_is_valid(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        result = await room.ask("verify")
        assert (result["valid"], result["total_events"]) == (True, 0)
        assert result["root_hash"] == room.record.ledger.root_hash.hex()

    play(tmp_path, story)


def test_the_root_is_the_newest_event(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.record.append(*facts.whole_life("t1"))
        root = await room.ask("root")
        assert root == {
            "root_hash": room.record.ledger.root_hash.hex(),
            "at_us": facts.START_US + 3_000_000,
            "total_events": 3,
        }

    play(tmp_path, story)


def test_an_edited_segment_is_found(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.record.append(*logins(9))
        assert (await room.ask("verify"))["valid"]
        room.edit_segment(4)
        result = await room.ask("verify")
        assert (result["valid"], result["first_bad"], result["total_events"]) == (False, 4, 4)
        assert (result["index_valid"], result["index_first_bad"]) == (False, -1)  # nothing to hold its rows against

    play(tmp_path, story)


def test_an_edited_row_is_found_beside_a_chain_that_is_right(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.record.append(*logins(9))
        assert (await room.ask("verify"))["valid"]
        await room.history.shutdown()
        with duckdb.connect(str(room.record.paths.index)) as db:
            db.execute("UPDATE events SET user_id = 'eve' WHERE seq = 6")
        room.history = HistoryActor(room.record.settings)
        await room.history.start()
        result = await room.ask("verify")
        assert (result["valid"], result["first_bad"]) == (False, -1)
        assert (result["index_valid"], result["index_first_bad"]) == (False, 6)
        assert result["problem"].startswith("index: ")

    play(tmp_path, story)


def test_a_chain_that_the_scheduler_did_not_write_is_not_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the disk can rewrite everything, hashes and all; the living writer still knows its own end."""

    async def story(room: Room) -> None:
        room.record.append(*logins(3))
        durable = {**room.record.durable(), "root_hash": "00" * 32}
        monkeypatch.setattr(room.record, "durable", lambda: durable)
        result = await room.ask("verify")
        assert (result["valid"], result["first_bad"], result["index_valid"]) == (False, 2, True)

    play(tmp_path, story)


def test_all_who_ask_during_a_verification_share_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def counting(ledger_dir: Path, upto: int, *rest: Any) -> SegmentResult:
        begun.append(upto)
        return verify_against(ledger_dir, upto, *rest)

    monkeypatch.setattr(actors.audit, "verify_against", counting)

    async def story(room: Room) -> None:
        room.record.append(facts.login("ann"))
        first = asyncio.create_task(room.ask("verify"))
        await until(lambda: bool(begun), "the first one runs")
        room.record.append(facts.login("bob"))
        later = await asyncio.gather(*(room.ask("verify") for _ in range(20)))
        assert (await first)["total_events"] == 1
        assert {result["total_events"] for result in later} == {2}
        assert begun == [0, 1]

    play(tmp_path, story)


def test_a_failed_verification_does_not_block_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> SegmentResult:
        raise PermissionError(13, "no")

    async def story(room: Room) -> None:
        room.record.append(facts.login("ann"))
        with monkeypatch.context() as patch:
            patch.setattr(actors.audit, "verify_against", refuse)
            with pytest.raises(Unavailable, match="cannot be read"):
                await room.ask("verify")
        assert (await room.ask("verify"))["valid"]

    play(tmp_path, story)


def test_without_the_history_a_bad_chain_is_still_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.audit, "VERIFY_TIMEOUT_S", 0.2)

    async def story(room: Room) -> None:
        room.record.append(*logins(5))
        await room.history.shutdown()
        with pytest.raises(Unavailable):
            await room.ask("verify")
        room.edit_segment(3)
        result = await room.ask("verify")
        assert (result["valid"], result["first_bad"], result["index_valid"]) == (False, 3, False)

    play(tmp_path, story)


def test_unknown_requests_are_refused(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(BadRequest, match="no request 'sing'"):
            await room.ask("sing")
        assert (await room.audit.ping())["started"]

    play(tmp_path, story)
