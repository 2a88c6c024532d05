"""Sealed segments: smaller, and the same to whoever reads the ledger."""

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fetchmld.store import retention, sealed
from fetchmld.store.ledger import Ledger, LedgerDamaged
from fetchmld.store.sealed import BLOCK_BYTES, open_segment, read_segment, seal
from fetchmld.store.segment import list_segments
from fetchmld.store.tail import Tail
from fetchmld.verify_walk import verify_segments
from tests.store.ledger_samples import GENESIS, facts, fill, open_ledger

EVENTS = 400
SEGMENT_BYTES = 8 * 1024


class Stop(BaseException):
    """As if the process had ended here."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Several segments, closed in order."""
    with open_ledger(tmp_path / "ledger") as ledger:
        fill(ledger, [5] * (EVENTS // 5))
    return tmp_path / "ledger"


def names(directory: Path) -> list[str]:
    return [path.name for _, path in list_segments(directory / "segments")]


def test_it_is_a_gzip_file_and_takes_less(directory: Path) -> None:
    path = list_segments(directory / "segments")[0][1]
    raw = path.read_bytes()
    found = seal(path)
    assert not path.exists()
    assert gzip.decompress(found.read_bytes()) == raw
    assert read_segment(found) == (raw, "")
    assert found.stat().st_size < len(raw) / 3


@pytest.mark.parametrize("block_bytes", [BLOCK_BYTES, 2**20])
def test_any_part_of_any_size_can_be_read(tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "00000000000000000000.log"
    raw = os.urandom(block_bytes) + bytes(block_bytes) + b"end" * 1000
    path.write_bytes(raw)
    with monkeypatch.context() as patch:
        patch.setattr(sealed, "BLOCK_BYTES", block_bytes)  # older files have members of a MiB
        path = seal(path)
    file = open_segment(path)
    for start in (0, 7, block_bytes - 3, block_bytes, 2 * block_bytes - 1, len(raw) - 5, len(raw), len(raw) + 9):
        for size in (0, 1, 100, block_bytes, 3 * block_bytes):
            assert file.pread(size, start) == raw[start : start + size]
    assert file.problem == ""
    file.close()


@pytest.mark.parametrize("after", [1, 3])
def test_everybody_reads_on_as_before(directory: Path, after: int) -> None:
    before = verify_segments(directory)
    count = len(names(directory))
    assert retention.seal_old(directory, after) == count - after
    assert [name.endswith(".gz") for name in names(directory)] == [True] * (count - after) + [False] * after
    assert retention.seal_old(directory, after) == 0
    assert verify_segments(directory) == before
    with open_ledger(directory) as ledger:
        assert ledger.recovery.total_events == EVENTS
        assert [event.fact for event in ledger.read()] == facts(0, EVENTS)
        fill(ledger, [5])
    for start in range(0, EVENTS, 37):
        assert [event.fact for event in Tail(directory, start).read(EVENTS - 1, EVENTS)] == facts(start, EVENTS - start)


def test_a_tail_reads_on_while_segments_are_sealed_behind_it(directory: Path) -> None:
    tail = Tail(directory)
    found = tail.read(None, 30)
    retention.seal_old(directory, 1)
    while events := tail.read(None, 30):
        found += events
    assert [event.fact for event in found] == facts(0, EVENTS)


def test_a_name_that_was_listed_before_it_was_sealed_is_still_good(directory: Path) -> None:
    path = list_segments(directory / "segments")[0][1]
    raw = path.read_bytes()
    seal(path)
    assert read_segment(path) == (raw, "")
    with pytest.raises(FileNotFoundError):
        read_segment(path.with_name("00000000000000999999.log"))


@pytest.mark.parametrize("call", ["write_at", "fsync", "replace", "sync_directory", "unlink"])
@pytest.mark.parametrize("after", [0, 1])
def test_stopped_at_any_step_the_ledger_is_whole_and_the_next_run_goes_on(
    directory: Path, call: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0

    def stopping(right: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any) -> Any:
            nonlocal done
            done += 1
            if done > after:
                raise Stop
            return right(*arguments)

        return instead

    with monkeypatch.context() as patch:
        for where in (os, sealed, Path):
            if hasattr(where, call) and (where, call) != (os, "unlink"):
                patch.setattr(where, call, stopping(getattr(where, call)))
        with pytest.raises(Stop):
            retention.seal_old(directory, 1)
    assert verify_segments(directory).valid
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    with open_ledger(copy) as ledger:
        assert [event.fact for event in ledger.read()] == facts(0, EVENTS)
    retention.seal_old(directory, 1)
    assert sum(name.endswith(".log") for name in names(directory)) == 1
    assert not list((directory / "segments").glob("*.gz.new"))
    assert verify_segments(directory).total_events == EVENTS


def test_what_does_not_read_back_is_not_taken(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_all_of", lambda _file: (b"", ""))
    before = names(directory)
    with pytest.raises(OSError, match="does not read back"):
        retention.seal_old(directory, 1)
    assert names(directory) == before
    assert not list((directory / "segments").glob("*.gz.new"))


def test_a_changed_byte_anywhere_in_a_sealed_segment_is_found(directory: Path) -> None:
    first, path = list_segments(directory / "segments")[1]
    ends_before = next(found for found, _ in list_segments(directory / "segments") if found > first)
    found = seal(path)
    raw = found.read_bytes()
    for at in range(0, len(raw), 13):
        for changed in (raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :], raw[:at]):
            found.write_bytes(changed)
            result = verify_segments(directory)
            assert not result.valid, at
            assert first <= result.first_bad <= ends_before, (at, result)
            if at % 39 == 0:
                with pytest.raises(LedgerDamaged) as refusal:
                    Ledger.open(directory, segment_bytes=SEGMENT_BYTES, genesis=GENESIS)
                assert first <= refusal.value.first_bad <= ends_before
    found.write_bytes(raw)
    assert verify_segments(directory).valid


def test_a_newest_segment_that_is_sealed_has_lost_what_followed(directory: Path) -> None:
    retention.seal_old(directory, 1)
    list_segments(directory / "segments")[-1][1].unlink()
    (directory / "head").unlink()
    with pytest.raises(LedgerDamaged, match="others followed"):
        open_ledger(directory)


def test_the_process_says_what_it_did(directory: Path) -> None:
    command = [sys.executable, "-m", "fetchmld.store.retention", str(directory), "--seal-after", "1"]
    count = len(names(directory))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f'{{"sealed":{count - 1}}}\n'
