"""What was kept long enough goes, is on record, and nothing that is still wanted goes with it."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from actors.content_keeper import DAY_S, ContentKeeper
from fetchmld.core.messages import Fact
from fetchmld.core.model import ArtifactSet
from fetchmld.store.artifacts import keep_tree
from fetchmld.store.content import ContentStore
from fetchmld.store.shipment import Piece
from fetchmld.store.shipped_logs import ShippedLogs


class Head:
    def __init__(self, top: Path, log_days: float = 30, artifact_days: float = 30) -> None:
        self.top = top
        self.objects = ContentStore(top / "objects")
        self.shipped = ShippedLogs(top / "objects" / "logs")
        self.facts: list[Fact] = []
        self.keeper = ContentKeeper(self.objects, self.shipped, log_days, artifact_days, self._record)

    async def _record(self, fact: Fact) -> None:
        self.facts.append(fact)

    def collect(self, **files: str) -> ArtifactSet:
        out = self.top / "out"
        out.mkdir(exist_ok=True)
        for name in os.listdir(out):
            (out / name).unlink()
        for name, text in files.items():
            (out / name).write_text(text)
        found = keep_tree(self.objects, out).artifacts
        assert found is not None
        return found

    def days_pass(self, days: float) -> None:
        """Everything becomes older."""
        for path in (self.top / "objects").rglob("*"):
            if path.is_file():
                at = path.stat().st_mtime - days * DAY_S
                os.utime(path, (at, at))

    def sweep(self) -> None:
        asyncio.run(self.keeper.sweep())

    def is_whole(self, kept: ArtifactSet) -> bool:
        if not self.objects.has(kept["manifest"]):
            return False
        return all(self.objects.has(entry["hash"]) for entry in json.loads(self.objects.read(kept["manifest"])))


def test_a_set_goes_when_it_is_old_and_what_a_younger_one_shares_with_it_stays(tmp_path: Path) -> None:
    head = Head(tmp_path)
    first = head.collect(model="shared", old="only in the first")
    head.days_pass(20)
    second = head.collect(model="shared", new="only in the second")
    head.days_pass(15)
    head.sweep()
    assert (head.is_whole(first), head.is_whole(second)) == (False, True)
    assert [(fact.action, fact.metadata["files"]) for fact in head.facts] == [("artifact.expire", 2)]
    head.sweep()
    assert len(head.facts) == 1  # nothing was removed, nothing is to be said
    head.days_pass(30)
    head.sweep()
    assert not list((tmp_path / "objects").glob("??/*"))


def test_whatever_is_shown_is_whole(tmp_path: Path) -> None:
    """A set is not shown any more before the first of its objects goes, however long its collection took."""
    head = Head(tmp_path)
    kept = head.collect(a="a")
    now = time.time()
    for days in range(33):
        shown = not head.keeper.has_expired(now - days * DAY_S)
        head.sweep()
        assert head.is_whole(kept) or not shown
        head.days_pass(1)
    assert not head.is_whole(kept)


def test_logs_that_machines_sent_go_too_and_those_that_grow_stay(tmp_path: Path) -> None:
    head = Head(tmp_path)
    head.shipped.take("w", [Piece("segments/0.seg", 0, b"old"), Piece("live/t-1-0.log", 0, b"old")])
    head.shipped.take("v", [Piece("whole/u-1-0.log", 0, b"old"), Piece("segments/0.seg", 0, b"grows")])
    head.days_pass(31)
    head.shipped.take("v", [Piece("segments/0.seg", 5, b"!")])
    head.sweep()
    assert (head.shipped.lengths("w"), head.shipped.lengths("v")) == ({}, {"segments/0.seg": 6})
    assert [(fact.action, fact.metadata["files"], fact.metadata["bytes"]) for fact in head.facts] == [
        ("log.expire", 3, 9)
    ]


def test_nothing_goes_where_nothing_is_to_go(tmp_path: Path) -> None:
    head = Head(tmp_path, log_days=0, artifact_days=0)
    kept = head.collect(a="a")
    head.shipped.take("w", [Piece("segments/0.seg", 0, b"old")])
    head.days_pass(36_500)
    head.sweep()
    assert head.is_whole(kept)
    assert head.shipped.lengths("w") == {"segments/0.seg": 3}
    assert not head.keeper.has_expired(0.0)


@pytest.mark.parametrize("jump_s", [86_400 * 400, -86_400 * 400])
def test_a_jump_of_the_clock_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    head = Head(tmp_path)
    kept = head.collect(a="a")
    jumped = time.time() + jump_s
    monkeypatch.setattr(time, "time", lambda: jumped)
    head.sweep()
    assert head.is_whole(kept)
