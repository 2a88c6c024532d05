"""The record pruned beside everything that reads it: the audit, the history, proofs, and whoever follows."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import pytest

from actors import pruner
from fetchmld.core.errors import Conflict, FetchmlError
from fetchmld.core.messages import Fact
from fetchmld.store import boundary
from fetchmld.store.segment import list_segments
from fetchmld.store.tail import Tail
from tests.actors.record import until
from tests.actors.test_audit import Room, logins, play
from tests.store import task_facts as facts

LATER_US = facts.START_US + 86_400_000_000
SOON_US = facts.START_US + 10 * 86_400_000_000


async def filled(room: Room) -> None:
    """Several segments, the tree and the index at their end."""
    room.record.append(facts.submit("t1"), facts.experiment("e1", "one"))
    for number in range(8):
        room.record.append(*logins(400), facts.login(f"late{number}", at_us=LATER_US))
    await room.client.request("checkpoint")
    size = room.record.ledger.next_seq
    await until(lambda: room.audit._transparency.status()["checkpoint_size"] >= size, "all is signed")


async def prune(room: Room, before_us: int, dry_run: bool = False) -> dict[str, int]:
    fact = Fact("plugin_configured", "audit.policy", "ledger", "admin", metadata={"trace_id": "abc"})
    body = {"before_us": before_us, "dry_run": dry_run, "fact": asdict(fact)}
    found: dict[str, int] = (await room.client.request("prune", body, timeout_s=60)).body
    return found


def test_what_is_old_goes_and_everybody_goes_on(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        await filled(room)
        ledger_dir = room.record.paths.ledger_dir
        planned = await prune(room, SOON_US, dry_run=True)
        assert planned["events"] > 0
        assert boundary.first_seq(ledger_dir) == 0
        verifying = asyncio.create_task(room.ask("verify"))
        done = await prune(room, SOON_US)
        assert (await verifying)["valid"]
        first = done["first_seq"]
        assert (
            first
            == planned["first_seq"]
            == boundary.first_seq(ledger_dir)
            == list_segments(ledger_dir / "segments")[0][0]
        )
        event = Tail(ledger_dir, done["seq"]).read(done["seq"], 1)[0].fact
        assert (event.action, event.user_id, event.metadata["events"]) == ("audit.policy", "admin", done["events"])
        assert event.metadata["trace_id"] == "abc"
        result = await room.ask("verify")
        assert (result["valid"], result["problem"], result["first_seq"]) == (True, "", first)
        assert (await room.ask("status"))["first_seq"] == first
        assert room.history._history.first_seq == first
        assert room.history._history.task("t1")
        gone = (await room.client.request("prove", {"seq": 7, "size": None})).body
        assert (gone["record"], len(gone["leaf_hash"])) == ("", 64)
        there = (await room.client.request("prove", {"seq": first, "size": None})).body
        assert there["record"]
        assert (await room.client.request("prove", {"seq": 0, "size": None})).body["record"]  # of a task that lives
        assert await prune(room, SOON_US) == {"first_seq": first, "events": 0, "bytes": 0, "dry_run": False}

    play(tmp_path, story)


def test_the_setting_removes_what_is_older_and_asks_for_no_more(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        await filled(room)
        assert (await _with_days(room, 30_000).by_policy())["events"] == 0
        done = await _with_days(room, 90).by_policy()
        assert done["events"] > 0
        event = Tail(room.record.paths.ledger_dir, done["seq"]).read(done["seq"], 1)[0].fact
        assert (event.user_id, event.metadata["audit_retention_days"]) == ("fetchmld", 90)

    play(tmp_path, story)


def _with_days(room: Room, days: int) -> pruner.Pruner:
    room.audit._pruner._days = days
    return room.audit._pruner


def test_what_is_damaged_is_not_removed(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        await filled(room)
        path = list_segments(room.record.paths.ledger_dir / "segments")[0][1]
        raw = path.read_bytes()
        path.write_bytes(raw[:3000] + bytes([raw[3000] ^ 1]) + raw[3001:])
        with pytest.raises(Conflict, match="nothing was removed: event"):
            await prune(room, SOON_US)
        assert boundary.first_seq(room.record.paths.ledger_dir) == 0

    play(tmp_path, story)


def test_what_cannot_be_done_now_is_said_and_the_loop_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(room: Room) -> None:
        await filled(room)
        (room.record.paths.ledger_dir / "head").write_text("broken")
        monkeypatch.setattr(pruner, "FIRST_LOOK_S", 0.0)
        monkeypatch.setattr(pruner, "LOOK_S", 0.05)
        loop = asyncio.create_task(_with_days(room, 90).run())
        with pytest.raises(FetchmlError, match="head cannot be read"):
            await prune(room, SOON_US)
        assert not loop.done()
        room.record.ledger._write_head()
        await until(lambda: boundary.first_seq(room.record.paths.ledger_dir) > 0, "it prunes once it can")
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)

    play(tmp_path, story)
