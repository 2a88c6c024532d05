"""State snapshots: a start from one is a start from everything, and none is believed that does not fit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fetchmld.core.chain import Event
from fetchmld.core.state import State
from fetchmld.store import snapshot_maker, snapshots, state_form
from fetchmld.store.ledger import Ledger, LedgerDamaged
from fetchmld.store.tail import Tail
from tests.core.driver import Driver
from tests.store.ledger_samples import SEGMENT_BYTES, open_ledger, segment_paths


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


class Recorded:
    """A driver whose facts go to a ledger, a batch at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.driver = Driver()
        self.written = 0

    def live(self, tasks: int) -> int:
        """Some tasks come and go; the newest event."""
        ledger = open_ledger(self.directory)
        for _ in range(tasks):
            self.driver.join()
            task = self.driver.submit(job_name="j" * (self.driver.count % 50))
            if self.driver.count % 3:
                self.driver.cancel(task)
            ledger.append(self.driver.record[self.written :])
            self.written = len(self.driver.record)
        ledger.abandon()
        return self.written - 1


@pytest.fixture
def recorded(directory: Path) -> Recorded:
    return Recorded(directory)


def started(directory: Path) -> tuple[State, int]:
    """The state as a start finds it, and from which event on it read."""
    base = snapshots.newest(directory)
    state = base.state() if base else State()
    begun = state.seq
    with Ledger.open(directory, segment_bytes=SEGMENT_BYTES, since=base.mark if base else None) as ledger:
        for event in ledger.read(begun):
            state.apply(event.fact)
        assert state.seq == ledger.next_seq
        if begun:
            assert (ledger.root_hash, ledger.last_clock_us) == whole(directory)[1:]
    return state, begun


def whole(directory: Path) -> tuple[bytes, bytes, int]:
    """The same from the segments alone."""
    state = State()
    for event in ledger_events(directory):
        state.apply(event.fact)
        last = event
    return state_form.to_bytes(state), last.event_hash, last.fact.clock_us


def ledger_events(directory: Path) -> list[Event]:
    tail = Tail(directory)
    events = tail.read(None, 10**6)
    tail.close()
    return events


def test_a_start_from_a_snapshot_is_a_start_from_everything(recorded: Recorded) -> None:
    for _ in range(4):
        seq = recorded.live(20)
        assert snapshot_maker.make(recorded.directory, seq) == seq + 1
        assert snapshot_maker.make(recorded.directory, seq) == seq + 1
        recorded.live(7)
        state, begun = started(recorded.directory)
        assert begun == seq + 1
        assert state_form.to_bytes(state) == whole(recorded.directory)[0]
        assert state.durable() == recorded.driver.core.state.durable()
    assert len(segment_paths(recorded.directory)) > 3
    assert len(snapshots.listed(recorded.directory)) == snapshots.KEPT


def test_the_maker_is_a_program(recorded: Recorded) -> None:
    seq = recorded.live(10)

    def maker(*more: str) -> object:
        command = [sys.executable, "-m", "fetchmld.store.snapshot_maker", str(recorded.directory), str(seq), *more]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    assert maker() == {"seq": seq + 1}
    assert maker("--check") == {"seq": seq + 1}
    flip(segment_paths(recorded.directory)[0], 100)
    said = maker("--check")
    assert isinstance(said, dict)
    assert said["first_bad"] == 0


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def break_line(path: Path) -> None:
    flip(path, 30)


def break_body(path: Path) -> None:
    flip(path, path.stat().st_size - 40)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rename(path: Path) -> None:
    path.rename(path.with_name(f"{10**6:020d}.state"))


@pytest.mark.parametrize("damage", [break_line, break_body, cut, empty, rename, os.unlink])
def test_a_damaged_snapshot_only_makes_the_start_slower(
    recorded: Recorded, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = recorded.live(10)
    snapshot_maker.make(recorded.directory, first)
    snapshot_maker.make(recorded.directory, recorded.live(10))
    damage(snapshots.listed(recorded.directory)[-1][1])
    state, begun = started(recorded.directory)
    assert begun == first + 1
    assert state_form.to_bytes(state) == whole(recorded.directory)[0]
    assert (damage is os.unlink) != ("snapshot_passed_over" in caplog.text)


def test_another_version_of_the_code_reads_everything(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_maker.make(recorded.directory, recorded.live(5))
    monkeypatch.setattr(state_form, "fingerprint", lambda: "of other code")
    assert started(recorded.directory)[1] == 0


def test_a_snapshot_of_another_chain_is_passed_over(recorded: Recorded, tmp_path: Path) -> None:
    other = Recorded(tmp_path / "other")
    snapshot_maker.make(recorded.directory, recorded.live(6))
    other.live(3)
    other.driver.submit("another")
    other.live(3)
    (other.directory / "snapshots").symlink_to(recorded.directory / "snapshots")
    assert snapshots.newest(other.directory) is None


def test_an_event_that_does_not_follow_the_snapshot_is_refused(recorded: Recorded) -> None:
    """As when the batch that the snapshot ends with were written anew with other events of the same size."""
    snapshot_maker.make(recorded.directory, recorded.live(6))
    found = snapshots.newest(recorded.directory)
    assert found is not None
    recorded.live(3)
    other = found.mark.__class__(found.mark.seq, bytes(32), found.mark.segment, found.mark.offset, 0, 0)
    with pytest.raises(LedgerDamaged) as damage:
        Ledger.open(recorded.directory, segment_bytes=SEGMENT_BYTES, since=other)
    assert damage.value.first_bad == found.mark.seq - 1


def test_a_snapshot_beyond_the_end_is_a_witness_of_a_loss(recorded: Recorded) -> None:
    recorded.live(3)
    image = segment_paths(recorded.directory)[-1].read_bytes()
    kept = recorded.written
    snapshot_maker.make(recorded.directory, recorded.live(2))
    segment_paths(recorded.directory)[-1].write_bytes(image)
    assert snapshots.newest(recorded.directory) is None
    with pytest.raises(LedgerDamaged) as damage:
        open_ledger(recorded.directory)
    assert damage.value.first_bad == kept


def test_a_segment_that_is_gone_is_noticed_at_once(recorded: Recorded) -> None:
    snapshot_maker.make(recorded.directory, recorded.live(60))
    gone = segment_paths(recorded.directory)[1]
    gone.unlink()
    assert snapshots.newest(recorded.directory) is None
    with pytest.raises(LedgerDamaged) as damage:
        open_ledger(recorded.directory)
    assert damage.value.first_bad == int(gone.stem)


def test_damage_before_a_snapshot_is_found_behind_the_start(recorded: Recorded) -> None:
    snapshot_maker.make(recorded.directory, recorded.live(60))
    snapshot_maker.check_skipped(recorded.directory)
    flip(segment_paths(recorded.directory)[0], 100)
    found = snapshots.newest(recorded.directory)
    assert found is not None
    Ledger.open(recorded.directory, segment_bytes=SEGMENT_BYTES, since=found.mark).abandon()
    with pytest.raises(LedgerDamaged) as damage:
        snapshot_maker.check_skipped(recorded.directory)
    assert damage.value.first_bad == 0
    assert snapshots.listed(recorded.directory) == []
    with pytest.raises(LedgerDamaged):
        open_ledger(recorded.directory)


def test_a_maker_makes_nothing_of_a_part_of_a_batch(recorded: Recorded) -> None:
    seq = recorded.live(4)
    with pytest.raises(ValueError, match="not the last of its batch"):
        snapshot_maker.make(recorded.directory, seq - 1)
    assert snapshots.listed(recorded.directory) == []


def test_a_full_disk_leaves_the_old_snapshots(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    first = recorded.live(4)
    snapshot_maker.make(recorded.directory, first)

    def full(*_: object) -> int:
        raise OSError(28, "planted")

    second = recorded.live(4)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="planted"):
        snapshot_maker.make(recorded.directory, second)
    monkeypatch.undo()
    assert [path.name for path in (recorded.directory / "snapshots").iterdir()] == [f"{first + 1:020d}.state"]
    assert started(recorded.directory)[1] == first + 1
