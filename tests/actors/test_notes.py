"""Facts that nobody waits for: they reach the record whatever happens to the scheduler, and hold nobody up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import notes
from actors.notes import Notes
from fetchmld.channel import Client, Message, Peer, Server, serve
from fetchmld.core.errors import Unavailable
from fetchmld.core.messages import Fact
from tests.actors.fake_scheduler import until


class Room:
    """Notes, and a scheduler that is there only once it is opened."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "scheduler.sock"
        self.batches: list[list[dict[str, Any]]] = []
        self.refuses = 0
        self.server: Server | None = None
        self.client = Client(self._resolve)
        self.notes = Notes(self.client)

    async def _resolve(self) -> Path:
        return self.path

    async def open(self) -> None:
        self.server = await serve(self.path, self._on_messages)

    def _on_messages(self, _peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            if self.refuses:
                self.refuses -= 1
                message.fail(Unavailable("the record cannot be written"))
            else:
                self.batches.append(message.body["facts"])
                message.reply(0)

    def heard(self) -> list[str]:
        return [fact["error"] for batch in self.batches for fact in batch if fact["action"] == "auth.failure"]

    def gaps(self) -> list[int]:
        return [fact["metadata"]["count"] for batch in self.batches for fact in batch if fact["action"] == "audit.gap"]

    def fail_times(self, *numbers: int) -> None:
        for number in numbers:
            self.notes.note(Fact("auth_attempt", "auth.failure", "api", success=False, error=str(number)))


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Room]:
    room = Room(directory)
    await room.client.start()
    room.notes.start()
    try:
        yield room
    finally:
        await room.notes.close()
        await room.client.close()
        if room.server is not None:
            room.server.close()


def play(directory: Path, story: Callable[[Room], Awaitable[None]]) -> Room:
    async def run() -> Room:
        async with opened(directory) as room:
            await story(room)
        return room

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "RETRY_S", 0.01)
    monkeypatch.setattr(notes, "LAST_S", 0.2)


def test_what_is_noted_while_nobody_is_there_arrives_later_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "BATCH_MAX", 3)

    async def story(room: Room) -> None:
        room.fail_times(*range(7))
        await room.open()
        await until(lambda: len(room.heard()) == 7, "all of them")
        assert room.heard() == [str(number) for number in range(7)]
        assert [len(batch) for batch in room.batches] == [3, 3, 1]

    play(tmp_path, story)


def test_what_is_refused_comes_again(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.refuses = 2
        await room.open()
        room.fail_times(1, 2)
        await until(lambda: room.heard() == ["1", "2"], "both")

    play(tmp_path, story)


def test_what_does_not_fit_is_one_gap_with_its_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "NOTES_MAX", 4)

    async def story(room: Room) -> None:
        room.fail_times(*range(10))
        await room.open()
        await until(lambda: len(room.heard()) == 4 and room.gaps(), "what fits, and the gap")
        assert room.gaps() == [6]
        room.fail_times(11)
        await until(lambda: room.heard()[-1] == "11", "the next one")
        assert room.gaps() == [6]

    play(tmp_path, story)


def test_a_clean_stop_delivers_what_is_left_if_it_can(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        await room.open()
        await room.client.request("notes", {"facts": []})
        room.fail_times(1)

    assert play(tmp_path, story).heard() == ["1"]


def test_a_stop_does_not_wait_for_a_scheduler_that_is_gone(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.fail_times(1)

    assert play(tmp_path, story).heard() == []
