"""The transparency log over a living ledger: checkpoints in time, sinks, proofs, keys, and standing still where it must."""

import asyncio
import base64
import json
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from actors import sinks as sinks_module
from actors.audit import AuditActor
from actors.sinks import Sink, make_sink, syslog_line
from fetchmld.api import wire
from fetchmld.channel import Client
from fetchmld.core.chain import Genesis
from fetchmld.core.errors import NotFound, Unavailable
from fetchmld.store.notes import read_checkpoint
from fetchmld.verify import VALID
from fetchmld.verify_checkpoints import verify_ledger
from fetchmld.verify_proof import check_proof
from tests.actors.record import Record, until
from tests.memory_log import MemoryLog
from tests.store import task_facts as facts


class Room:
    def __init__(self, directory: Path, sinks: tuple[str, ...], genesis: Genesis | None) -> None:
        self.record = Record(directory, sinks, genesis)
        self.ledger_dir = self.record.paths.ledger_dir
        self.audit = AuditActor(self.record.settings)
        self.client: Client

    async def ask(self, kind: str, **body: Any) -> Any:
        return (await self.client.request(kind, body)).body

    def log_in(self, count: int) -> None:
        self.record.append(*(facts.login(f"user{number}") for number in range(count)))

    async def covered(self) -> str:
        """The checkpoint of all that is recorded."""
        await self.ask("prove", seq=self.record.ledger.next_seq - 1, size=None)
        return str(await self.ask("checkpoint"))

    async def anchored(self, wanted: bool = True) -> dict[str, Any]:
        status: dict[str, Any] = {}
        for _ in range(2000):
            status = await self.ask("status")
            if status["anchored"] == wanted:
                return status
            await asyncio.sleep(0.005)
        raise AssertionError(f"anchored is not {wanted}: {status}")


@asynccontextmanager
async def opened(directory: Path, sinks: tuple[str, ...], genesis: Genesis | None) -> AsyncIterator[Room]:
    room = Room(directory, sinks, genesis)
    await room.record.open()
    await room.audit.start()
    room.client = await room.record.client("audit")
    try:
        yield room
    finally:
        await room.client.close()
        await room.audit.shutdown()
        await room.record.close()


def play(
    directory: Path,
    story: Callable[[Room], Awaitable[None]],
    sinks: tuple[str, ...] = (),
    genesis: Genesis | None = None,
) -> None:
    async def run() -> None:
        async with opened(directory, sinks, genesis) as room:
            await story(room)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.transparency.LOOK_S", 0.02)
    monkeypatch.setattr("actors.transparency.RETRY_S", 0.02)
    monkeypatch.setattr(sinks_module, "BACK_OFF_FIRST_S", 0.01)


def test_checkpoints_follow_the_ledger(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.log_in(3)
        first = await room.covered()
        room.log_in(300)
        second = await room.covered()
        assert [read_checkpoint(note).size for note in (first, second)] == [3, 303]
        result = verify_ledger(room.ledger_dir, outside=[first])
        assert (result.valid, result.vouched) == (True, 3)
        status = await room.ask("status")
        assert (status["anchored"], status["checkpoint_size"], status["problem"]) == (False, 303, "")

    play(tmp_path, story)


def test_proofs_are_accepted_offline(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.log_in(9)
        early = await room.covered()
        room.log_in(300)
        found = await room.ask("prove", seq=308, size=None)
        assert check_proof(json.dumps(wire.inclusion(found)), [await room.ask("checkpoint")]).code == VALID
        found = await room.ask("prove", seq=4, size=9)
        assert check_proof(json.dumps(wire.inclusion(found)), [early]).code == VALID
        grown = await room.ask("consistency", old=9, new=None)
        assert check_proof(json.dumps(wire.consistency(grown)), [early]).code == VALID
        with pytest.raises(NotFound):
            await room.ask("prove", seq=309, size=None)
        with pytest.raises(NotFound):
            await room.ask("prove", seq=4, size=4)
        with pytest.raises(NotFound):
            await room.ask("consistency", old=0, new=1000)

    play(tmp_path, story)


def test_a_new_key_signs_after_a_rotation(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.log_in(3)
        before = await room.covered()
        rotated = await room.ask("rotate", **as_body())
        assert rotated["seq"] == 3
        room.log_in(2)
        after = await room.covered()
        result = verify_ledger(room.ledger_dir, outside=[before, rotated["note"], after])
        assert (result.valid, result.vouched) == (True, 6)
        assert rotated["note"].count("\n\u2014 ") == 2

    play(tmp_path, story)


def as_body() -> dict[str, Any]:
    return {"event_type": "auth_attempt", "action": "key.rotate", "resource": "ledger", "user_id": "admin"}


def test_a_ledger_without_a_key_gets_one_by_itself(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.log_in(3)
        await until(lambda: room.record.ledger.next_seq == 4, "the key is announced")
        note = await room.covered()
        assert verify_ledger(room.ledger_dir, outside=[note]).vouched == 4

    play(tmp_path, story, genesis=Genesis("old", 1, b""))


def test_damaged_tiles_are_made_anew(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.log_in(600)
        await room.covered()
        tile = room.ledger_dir / "tiles" / "0" / "000"
        right = tile.read_bytes()
        tile.write_bytes(right[:-1])
        with pytest.raises(Unavailable, match="made anew"):
            await room.ask("prove", seq=3, size=None)
        await room.ask("prove", seq=3, size=None)
        assert tile.read_bytes() == right

    play(tmp_path, story)


# -- sinks


def test_a_file_elsewhere_anchors_and_stops_a_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks_module, "_elsewhere", lambda *_: True)
    directory, file = tmp_path / "data", tmp_path / "kept"
    directory.mkdir()
    copy, sinks = tmp_path / "copy", (f"file://{file}",)

    async def before(room: Room) -> None:
        room.log_in(3)
        await room.covered()

    async def after(room: Room) -> None:
        room.log_in(4)
        note = await room.covered()
        status = await room.anchored()
        assert status["sinks"][0]["accepted_size"] == 7
        assert file.read_text() == note

    async def rolled_back(room: Room) -> None:
        room.log_in(1)
        await until(lambda: "does not continue" in room.audit._transparency.status()["problem"], "it stands still")
        with pytest.raises(Unavailable, match="does not continue"):
            await room.ask("checkpoint")
        assert not room.audit._transparency.status()["anchored"]
        assert read_checkpoint(file.read_text()).size == 7
        log = (room.ledger_dir / "checkpoints.log").read_bytes()
        chain = await room.audit._verify_chain(room.record.durable(), log)
        assert (chain.valid, chain.first_bad) == (False, 4)  # it ends there, and 7 were signed

    monkeypatch.setattr("actors.transparency.COVER_WAIT_MAX_S", 0.5)
    play(directory, before)
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*.sock"))
    monkeypatch.setattr("actors.transparency.COVER_WAIT_MAX_S", 10.0)
    play(directory, after, sinks)
    shutil.rmtree(directory)
    shutil.copytree(copy, directory)
    monkeypatch.setattr("actors.transparency.COVER_WAIT_MAX_S", 0.5)
    play(directory, rolled_back, sinks)


def test_a_file_on_the_same_file_system_vouches_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "kept"

    async def story(room: Room) -> None:
        room.log_in(3)
        note = await room.covered()
        await until(lambda: file.exists() and file.read_text() == note, "it is written all the same")
        status = await room.ask("status")
        assert (status["anchored"], status["sinks"][0]["vouches"]) == (False, False)

    play(tmp_path / "data", story, (f"file://{file}",))


class Witness:
    """Takes notes over HTTP; answers `status` to each."""

    def __init__(self) -> None:
        self.status = 200
        self.taken: list[str] = []


@contextmanager
def witness() -> Iterator[tuple[Witness, str]]:
    it = Witness()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            it.taken.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(it.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield it, f"http://127.0.0.1:{server.server_port}/log?x=1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("refusal", [500, 302, 404])
def test_a_url_is_tried_until_it_takes_the_newest(tmp_path: Path, refusal: int) -> None:
    with witness() as (it, url):
        it.status = refusal

        async def story(room: Room) -> None:
            room.log_in(3)
            await room.covered()
            await until(lambda: len(it.taken) > 2, "it is tried again")
            status = await room.anchored(False)
            assert f"it answered {refusal}" in status["sinks"][0]["problem"]
            room.log_in(1)
            note = await room.covered()
            it.status = 200
            status = await room.anchored()
            assert it.taken[-1] == note
            assert (status["sinks"][0]["problem"], status["sinks"][0]["accepted_size"]) == ("", 4)

        play(tmp_path, story, (url,))


def test_syslog_gets_one_line_that_holds_the_note(tmp_path: Path) -> None:
    note = MemoryLog([facts.login("u")]).note(1)
    line = syslog_line(note).decode()
    assert line.startswith("<110>1 2")
    assert base64.b64decode(line.rpartition("note=")[2]).decode() == note
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        sink = make_sink(f"syslog://{tmp_path}/log", tmp_path)
        sink.deliver(note)
        assert b" checkpoint - origin=" in server.recv(65536)
    assert sink.vouches
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        sink = make_sink(f"syslog://127.0.0.1:{server.getsockname()[1]}", tmp_path)
        sink.deliver(note)
        assert server.recv(65536).endswith(line.rpartition("note=")[2].encode())
    assert not sink.vouches  # nobody says that it arrived


def test_a_file_with_another_logs_checkpoint_is_left_alone(tmp_path: Path) -> None:
    ours, other = MemoryLog([facts.login("u")] * 3), MemoryLog([facts.login("u")], installation="other")
    sink = make_sink(f"file://{tmp_path}/kept", tmp_path)
    for kept in (other.note(1), ours.note(3), "no checkpoint"):
        (tmp_path / "kept").write_text(kept)
        with pytest.raises(ValueError, match="checkpoint"):
            sink.deliver(ours.note(2))
        assert (tmp_path / "kept").read_text() == kept
    (tmp_path / "kept").write_text(ours.note(1))
    sink.deliver(ours.note(2))
    assert (tmp_path / "kept").read_text() == ours.note(2)


def test_a_sink_that_falls_behind_anchors_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("actors.sinks.time.monotonic", lambda: now[0])
    log, taken = MemoryLog([facts.login("u")] * 3), list[str]()
    sink = Sink("test", taken.append, True)

    def anchors_after(seconds: float, *, delivered: bool = False) -> bool:
        now[0] += seconds
        if delivered:
            assert asyncio.run(sink._deliver_newest())
        return sink.anchors

    assert not anchors_after(0)
    sink.offer(log.note(1))
    assert anchors_after(0, delivered=True)
    sink.offer(log.note(2))
    assert anchors_after(1)
    assert not anchors_after(11)
    assert anchors_after(0, delivered=True)
    assert not anchors_after(200)  # nothing was heard of it for longer than two heartbeats
    assert taken == [log.note(1), log.note(2)]
