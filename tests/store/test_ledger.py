"""The ledger's promise: what was acknowledged is there, what was not does not count, and a loss is never silent."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fetchmld.core.chain import Genesis, genesis_hash
from fetchmld.core.errors import Unavailable
from fetchmld.core.messages import Fact
from fetchmld.store import spare as spare_module
from fetchmld.store.ledger import Ledger, LedgerDamaged, LedgerUnavailable, Recovery
from fetchmld.store.recovery import find_end
from fetchmld.store.tail import Tail
from tests.store.ledger_samples import (
    GENESIS,
    SEGMENT_BYTES,
    entries_of,
    fact,
    facts,
    fill,
    frames_of,
    open_ledger,
    segment_paths,
)

BATCHES = (1, 3, 2, 8, 1, 5, 13, 1)
TOTAL = sum(BATCHES)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def crashed(directory: Path) -> Path:
    """A ledger of TOTAL events over some segments, left as by a kill."""
    ledger = open_ledger(directory)
    fill(ledger, BATCHES)
    ledger.abandon()
    return directory


def numbers(ledger: Ledger, from_seq: int = 0) -> list[int]:
    return [event.seq for event in ledger.read(from_seq)]


# ---- writing and reading --------------------------------------------------------------------------------------------


def test_a_new_ledger_is_empty_and_rooted_in_its_genesis(directory: Path) -> None:
    with open_ledger(directory) as ledger:
        assert (ledger.next_seq, ledger.root_hash) == (0, genesis_hash(GENESIS))
        assert ledger.recovery == Recovery(0, 0, -1)
        assert list(ledger.read()) == []
        assert ledger.append([]) == -1


def test_every_fact_comes_back_in_order(directory: Path) -> None:
    with open_ledger(directory) as ledger:
        last = [ledger.append(facts(ledger.next_seq, size)) for size in BATCHES][-1]
        assert last == TOTAL - 1
        events = list(ledger.read())
        assert [event.fact for event in events] == facts(0, TOTAL)
        assert [event.seq for event in events] == list(range(TOTAL))
        assert [event.prev_hash for event in events[1:]] == [event.event_hash for event in events[:-1]]
        assert (events[0].prev_hash, events[-1].event_hash) == (genesis_hash(GENESIS), ledger.root_hash)
        assert (ledger.last_at_us, ledger.last_clock_us) == (events[-1].fact.at_us, events[-1].fact.clock_us)
        assert [numbers(ledger, first) for first in range(TOTAL + 2)] == [
            list(range(first, TOTAL)) for first in range(TOTAL + 2)
        ]


def test_it_goes_on_over_segments_and_restarts(directory: Path) -> None:
    for round_number in range(6):
        with open_ledger(directory) as ledger:
            assert ledger.next_seq == ledger.recovery.total_events == round_number * TOTAL
            fill(ledger, BATCHES)
            root, at_us, clock_us = ledger.root_hash, ledger.last_at_us, ledger.last_clock_us
    with open_ledger(directory) as ledger:
        assert (ledger.root_hash, ledger.last_at_us, ledger.last_clock_us) == (root, at_us, clock_us)
        assert [event.fact for event in ledger.read()] == facts(0, 6 * TOTAL)
    assert len(segment_paths(directory)) > 5
    assert {path.stat().st_size for path in segment_paths(directory)} == {SEGMENT_BYTES}


def test_a_batch_larger_than_a_segment_has_one_of_its_own(directory: Path) -> None:
    with open_ledger(directory) as ledger:
        fill(ledger, (1, 200, 1))
        root = ledger.root_hash
    with open_ledger(directory) as ledger:
        assert (ledger.root_hash, numbers(ledger)) == (root, list(range(202)))


def test_one_batch_is_one_write_and_one_sync(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    ledger = Ledger.open(directory, segment_bytes=1 << 20, sync=lambda descriptor: calls.append("sync"))
    ledger._spare.close()  # its own writes are none of ours
    real = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        calls.append("write")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    ledger.append(facts(0, 100))
    assert calls == ["write", "sync"]
    monkeypatch.undo()
    ledger.close()


def test_a_fact_that_cannot_be_written_takes_nothing_with_it(directory: Path) -> None:
    with open_ledger(directory) as ledger:
        fill(ledger, (2,))
        root = ledger.root_hash
        with pytest.raises(ValueError, match=r"metadata\.n"):
            ledger.append([fact(2), Fact("job_queued", "a", "r", metadata={"n": float("nan")})])
        assert (ledger.next_seq, ledger.root_hash) == (2, root)
        fill(ledger, (2,))
        assert numbers(ledger) == [0, 1, 2, 3]


def test_a_chain_keeps_the_genesis_that_it_grew_from(directory: Path) -> None:
    open_ledger(directory).close()
    with Ledger.open(directory, segment_bytes=SEGMENT_BYTES, genesis=Genesis("other", 1, b"")) as ledger:
        assert ledger.genesis == GENESIS


def test_two_writers_are_refused(directory: Path) -> None:
    with open_ledger(directory), pytest.raises(LedgerUnavailable, match="another process"):
        open_ledger(directory)
    open_ledger(directory).close()


def test_a_closed_ledger_takes_nothing(directory: Path) -> None:
    ledger = open_ledger(directory)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.append(facts(0, 1))


# ---- torn tails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_a_tail_torn_at_any_byte_is_cut_and_nothing_else(tmp_path: Path, batch: int) -> None:
    whole = tmp_path / "whole"
    ledger = open_ledger(whole)
    fill(ledger, (2, 1))
    root = ledger.root_hash
    fill(ledger, (batch,))
    ledger.abandon()
    torn = frames_of(whole)[-1]
    image = torn.path.read_bytes()
    for length in range(torn.end - torn.start):
        overwrite(torn.path, torn.start + length, bytes(torn.end - torn.start - length))
        end = find_end(whole / "segments", genesis_hash(GENESIS))
        assert (end.next_seq, end.head_hash, end.offset) == (3, root, torn.start)
        assert 0 < end.torn_bytes <= length or not length
        if length % 64 == 1:
            goes_on(whole, tmp_path / "copy", root)
        torn.path.write_bytes(image)


def goes_on(torn: Path, directory: Path, root: bytes) -> None:
    """A ledger with a torn tail after three events is opened, written to and opened again."""
    shutil.copytree(torn, directory)
    with open_ledger(directory) as ledger:
        assert (ledger.next_seq, ledger.root_hash, ledger.recovery.torn_seq) == (3, root, 3)
        fill(ledger, (1,))
    with open_ledger(directory) as ledger:
        assert [event.fact for event in ledger.read()] == facts(0, 4)
        assert ledger.recovery == Recovery(4, 0, -1)
    shutil.rmtree(directory)


def test_a_tail_with_a_sector_that_never_reached_the_disk_is_cut(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    ledger = open_ledger(whole)
    fill(ledger, (2, 12))
    ledger.abandon()
    torn = frames_of(whole)[-1]
    for sector in range(torn.start // 512, (torn.end - 1) // 512 + 1):
        directory = tmp_path / "torn"
        shutil.copytree(whole, directory)
        start, end = max(torn.start, sector * 512), min(torn.end, sector * 512 + 512)
        overwrite(directory / "segments" / torn.path.name, start, bytes(end - start))
        with open_ledger(directory) as reopened:
            assert (reopened.next_seq, reopened.recovery.torn_seq) == (2, 2)
        shutil.rmtree(directory)


def test_a_tail_that_head_vouches_for_is_never_cut(crashed: Path) -> None:
    open_ledger(crashed).close()  # writes head
    last = frames_of(crashed)[-1]
    overwrite(last.path, last.start + 20, bytes(last.end - last.start - 20))
    with pytest.raises(LedgerDamaged) as damage:
        open_ledger(crashed)
    assert damage.value.first_bad == last.first_seq


# ---- damage ---------------------------------------------------------------------------------------------------------


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_flipped_bit_anywhere_is_refused_at_the_right_event(crashed: Path) -> None:
    """Also in the last frame: it was written whole, so it is no torn tail, though nothing after it says so."""
    for frame in frames_of(crashed):
        image = frame.path.read_bytes()
        for at in range(frame.start, frame.end, 7):
            overwrite(frame.path, at, bytes([image[at] ^ 1 << at % 8]))
            with pytest.raises(LedgerDamaged) as damage:
                open_ledger(crashed)
            assert damage.value.first_bad == frame.event_at(at)
            overwrite(frame.path, at, image[at : at + 1])
    with open_ledger(crashed) as ledger:
        assert numbers(ledger) == list(range(TOTAL))


def remove_first(directory: Path) -> int:
    segment_paths(directory)[0].unlink()
    return 0


def remove_middle(directory: Path) -> int:
    path = segment_paths(directory)[1]
    path.unlink()
    return int(path.stem)


def remove_all(directory: Path) -> int:
    shutil.rmtree(directory / "segments")
    return 0


def remove_last(directory: Path) -> int:
    path = segment_paths(directory)[-1]
    path.unlink()
    return int(path.stem)


def cut_first(directory: Path) -> int:
    frame = frames_of(directory)[1]
    os.truncate(frame.path, frame.start + 100)
    return frame.first_seq


def remove_genesis(directory: Path) -> int:
    (directory / "genesis.json").unlink()
    return 0


def edit_genesis(directory: Path) -> int:
    path = directory / "genesis.json"
    path.write_text(path.read_text().replace("8d2f", "8d3f"))
    return 0


def swap_frames(directory: Path) -> int:
    one, two = frames_of(directory)[:2]
    image = one.path.read_bytes()
    overwrite(one.path, one.start, image[two.start : two.end] + image[one.start : one.end])
    return one.first_seq


def append_rubbish(directory: Path) -> int:
    frame = frames_of(directory)[-1]
    overwrite(frame.path, frame.end, b"rubbish" * 10)
    return frame.entries[-1].seq + 1


@pytest.mark.parametrize(
    "damage",
    [
        remove_first,
        remove_middle,
        remove_last,
        remove_all,
        cut_first,
        remove_genesis,
        edit_genesis,
        swap_frames,
        append_rubbish,
    ],
)
def test_a_loss_is_never_taken_for_an_empty_or_shorter_ledger(crashed: Path, damage: Callable[[Path], int]) -> None:
    open_ledger(crashed).close()
    assert len(segment_paths(crashed)) >= 2
    first_bad = damage(crashed)
    with pytest.raises(LedgerDamaged) as refused:
        open_ledger(crashed)
    assert refused.value.first_bad == first_bad
    assert str(first_bad) in str(refused.value)


def test_a_broken_head_is_written_anew_and_named(crashed: Path) -> None:
    (crashed / "head").write_text("{")
    with open_ledger(crashed) as ledger:
        assert ledger.next_seq == TOTAL
        assert "head" in ledger.recovery.repairs[0]
    with open_ledger(crashed) as ledger:
        assert ledger.recovery.repairs == ()


def test_a_first_start_that_was_interrupted_begins_again(directory: Path) -> None:
    open_ledger(directory).close()
    (directory / "genesis.json").unlink()
    with open_ledger(directory) as ledger:
        fill(ledger, (2,))
        assert numbers(ledger) == [0, 1]


# ---- a disk that refuses --------------------------------------------------------------------------------------------


class Disk:
    """Stands between the ledger and the disk; fails as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write_error = self.sync_error = 0
        self.bytes_left = 0
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        if self.write_error and threading.current_thread().name != "ledger-spare":
            if not self.bytes_left:
                raise OSError(self.write_error, os.strerror(self.write_error))
            data = data[: self.bytes_left]
            self.bytes_left -= len(data)
        return self._pwrite(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        if self.sync_error:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        os.fdatasync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("where", ["write", "part", "sync"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_failed_batch_does_not_count_and_the_next_does(
    directory: Path, disk: Disk, code: int, where: str, restart: bool
) -> None:
    ledger = Ledger.open(directory, segment_bytes=SEGMENT_BYTES, genesis=GENESIS, sync=disk.sync)
    fill(ledger, (3, 1))
    for round_number in range(40):
        before = (ledger.next_seq, ledger.root_hash, ledger.last_clock_us)
        disk.write_error, disk.sync_error = (0, code) if where == "sync" else (code, 0)
        disk.bytes_left = 100 + 50 * round_number if where == "part" else 0
        doomed = [fact(9000 + number) for number in range(8)]
        with pytest.raises(LedgerUnavailable) as refused:
            ledger.append(doomed)
        assert isinstance(refused.value, Unavailable)
        assert (ledger.next_seq, ledger.root_hash, ledger.last_clock_us) == before
        disk.write_error = disk.sync_error = 0
        if restart and where != "sync":  # after a failed sync the batch may be there whole: then it may count
            ledger.abandon()
            ledger = Ledger.open(directory, segment_bytes=SEGMENT_BYTES, sync=disk.sync)
            assert ledger.next_seq == before[0]
        fill(ledger, (1 + round_number % 3,))
    total = ledger.next_seq
    assert [event.fact for event in ledger.read()] == facts(0, total)
    ledger.abandon()
    with open_ledger(directory) as again:
        assert [event.fact for event in again.read()] == facts(0, total)


def test_a_refused_batch_leaves_nothing_behind_what_counts(directory: Path, disk: Disk) -> None:
    """Else a later torn frame could end in its bytes, and count."""
    ledger = Ledger.open(directory, segment_bytes=SEGMENT_BYTES, genesis=GENESIS, sync=disk.sync)
    fill(ledger, (3,))
    disk.sync_error = errno.EIO
    with pytest.raises(LedgerUnavailable):
        ledger.append(facts(3, 8))
    disk.sync_error = 0
    fill(ledger, (1,))
    (path,) = segment_paths(directory)
    (*_, last) = frames_of(directory)
    assert path.read_bytes()[last.end :].strip(b"\0") == b""
    assert last.first_seq == 3
    ledger.abandon()


def test_a_frame_of_another_chain_is_refused(tmp_path: Path) -> None:
    """Right in itself, at its place by number, and grown from another event than the one before it."""
    for name, other in (("one", False), ("two", True)):
        with open_ledger(tmp_path / name) as ledger:
            first = facts(0, 2)
            ledger.append([replace(first[0], at_us=first[0].at_us + other), first[1]])
            fill(ledger, (3, 1))
    (path,), (theirs,) = segment_paths(tmp_path / "one"), segment_paths(tmp_path / "two")
    begins = frames_of(tmp_path / "one")[1].start
    path.write_bytes(path.read_bytes()[:begins] + theirs.read_bytes()[begins:])
    (tmp_path / "one" / "head").unlink()  # which would name the event that is gone
    with pytest.raises(LedgerDamaged) as refused:
        open_ledger(tmp_path / "one")
    assert refused.value.first_bad in (1, 2)


def test_a_disk_that_fails_for_good_is_refused_each_time(directory: Path, disk: Disk) -> None:
    ledger = Ledger.open(directory, segment_bytes=SEGMENT_BYTES, sync=disk.sync)
    fill(ledger, (2,))
    disk.write_error = disk.sync_error = errno.ENOSPC
    for _ in range(3):
        with pytest.raises(LedgerUnavailable, match="make room"):
            ledger.append(facts(2, 50))
    with pytest.raises(LedgerUnavailable):
        ledger.close()  # head could not be written
    disk.write_error = disk.sync_error = 0
    with open_ledger(directory) as again:
        assert numbers(again) == [0, 1]


def test_a_rotation_that_fails_anywhere_is_made_good(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the nth call of rename and fsync, for each n, while batches go over several segments."""
    state = {"countdown": 0}

    def failing(real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            if threading.current_thread().name != "ledger-spare":
                state["countdown"] -= 1
                if state["countdown"] == 0:
                    raise OSError(errno.EIO, "planted")
            real(*args)

        return call

    for name in ("fsync", "rename", "replace"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    ledger = open_ledger(directory)
    refused = 0
    for round_number in range(120):
        state["countdown"] = 1 + round_number % 6
        try:
            fill(ledger, (10,))
        except LedgerUnavailable:
            refused += 1
            state["countdown"] = 0
            fill(ledger, (10,))
    state["countdown"] = 0
    assert refused > 8
    assert [event.fact for event in ledger.read()] == facts(0, 1200)
    ledger.abandon()
    with open_ledger(directory) as again:
        assert numbers(again) == list(range(1200))


def test_a_rotation_that_failed_is_finished_also_before_a_batch_that_would_have_fitted(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next segment, which has its name already, would begin with an event of the old one."""
    ledger = open_ledger(directory)
    while ledger._offset < SEGMENT_BYTES - 3_000:
        fill(ledger, (10,))
    with monkeypatch.context() as patched:
        patched.setattr(spare_module, "sync_directory", _refuse)
        with pytest.raises(LedgerUnavailable):
            fill(ledger, (10,))
    fill(ledger, (1,))
    total = ledger.next_seq
    ledger.close()
    with open_ledger(directory) as again:
        assert numbers(again) == list(range(total))


def _refuse(_directory: Path) -> None:
    raise OSError(errno.EIO, "planted")


def test_a_full_disk_shows_one_segment_early(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(directory) as ledger:
        ledger._spare._join()
        real = os.pwrite

        def full(descriptor: int, data: bytes, offset: int) -> int:
            if threading.current_thread().name == "ledger-spare":
                raise OSError(errno.ENOSPC, "planted")
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", full)
        first = len(segment_paths(directory))
        while len(segment_paths(directory)) == first:
            fill(ledger, (5,))
        ledger._spare._join()
        assert "planted" in ledger.spare_problem
        fill(ledger, (5,))


# ---- tail -----------------------------------------------------------------------------------------------------------


def test_a_tail_reads_what_is_acknowledged_and_no_more(directory: Path) -> None:
    with open_ledger(directory) as ledger:
        tail = Tail(directory)
        assert tail.read(-1, 10) == tail.read(None, 10) == []
        fill(ledger, BATCHES)
        seen: list[int] = []
        for to_seq in (0, 1, 5, 5, 20, TOTAL - 1):
            while events := tail.read(to_seq, 4):
                seen += [event.seq for event in events]
            assert seen == list(range(to_seq + 1))
            assert tail.next_seq == to_seq + 1
        assert tail.read(None, 10) == []
        with pytest.raises(LedgerDamaged) as damage:
            tail.read(TOTAL, 10)
        assert damage.value.first_bad == TOTAL
        fill(ledger, (2,))
        assert [event.seq for event in tail.read(TOTAL, 10)] == [TOTAL]
        tail.close()


def test_a_tail_before_there_is_a_ledger_finds_nothing(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "nowhere")
    assert tail.read(None, 10) == []
    with open_ledger(tmp_path / "nowhere") as ledger:
        fill(ledger, (3,))
    assert [event.seq for event in tail.read(None, 10)] == [0, 1, 2]


def test_a_tail_begins_anywhere(crashed: Path) -> None:
    for first in range(TOTAL + 3):
        tail = Tail(crashed, from_seq=first)
        assert tail.next_seq == first
        assert [event.seq for event in tail.read(None, 1000)] == list(range(first, TOTAL))
        tail.close()


def test_a_tail_follows_while_another_writes(directory: Path) -> None:
    total = 3000
    ledger = open_ledger(directory)
    acknowledged = [-1]

    def write() -> None:
        while ledger.next_seq < total:
            acknowledged[0] = ledger.append(facts(ledger.next_seq, 1 + ledger.next_seq % 17))

    tails = (Tail(directory), Tail(directory))  # the second reads on into what is not acknowledged
    seen: tuple[list[int], list[int]] = ([], [])
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive() or any(len(found) < ledger.next_seq for found in seen):
        for tail, found, upto in zip(tails, seen, (acknowledged[0], None), strict=True):
            found += [event.seq for event in tail.read(upto, 100)]
    writer.join()
    for tail, found in zip(tails, seen, strict=True):
        assert found == list(range(ledger.next_seq))
        tail.close()
    ledger.close()
    assert len(segment_paths(directory)) > 50


def test_a_tail_does_not_keep_what_the_writer_took_back(tmp_path: Path) -> None:
    """A batch whose sync failed stood there whole for a moment; another one took its place and was acknowledged."""
    images = []
    for name, second in (("first", 2), ("second", 3)):
        with open_ledger(tmp_path / name) as ledger:
            fill(ledger, (1, second))
        images.append(segment_paths(tmp_path / name)[0].read_bytes())
    path, tail = segment_paths(tmp_path / "first")[0], Tail(tmp_path / "first")
    assert len(tail.read(0, 10)) == 1
    path.write_bytes(images[1])
    assert len(tail.read(3, 10)) == 3


def test_a_tail_refuses_a_link_that_does_not_hold(crashed: Path) -> None:
    """The writer's sums are made right again, as whoever edits on purpose would."""
    entry = entries_of(crashed)[4]
    image = entry.path.read_bytes()
    overwrite(entry.path, entry.digest.start, bytes([image[entry.digest.start] ^ 1]))
    with pytest.raises(LedgerDamaged):
        Tail(crashed).read(TOTAL - 1, 1000)
