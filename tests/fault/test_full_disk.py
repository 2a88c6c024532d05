"""A disk that fills and empties again: refused while full, seen one segment early, whole after. A real, small tmpfs."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetchmld.store.ledger import Ledger, LedgerUnavailable
from tests.fault.conftest import count
from tests.store.ledger_samples import GENESIS, facts, fill

CYCLES = count(5, 50)

SEGMENT_BYTES = 64 * 2**10
DISK_BYTES = (8 + 4 * CYCLES) * SEGMENT_BYTES
TRIES_MAX = 10_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with room for some segments a cycle."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


def test_a_full_disk_is_a_pause(disk: Path) -> None:
    ledger = Ledger.open(disk / "ledger", segment_bytes=SEGMENT_BYTES, genesis=GENESIS)
    for cycle in range(CYCLES):
        ledger._spare._join()
        fill_up(disk / "filler")
        seen_early = refused = False
        for _ in range(TRIES_MAX):
            before = ledger.next_seq
            try:
                fill(ledger, (20,))
                ledger._spare._join()
                seen_early = seen_early or bool(ledger.spare_problem)
            except LedgerUnavailable as problem:
                refused = "make room" in str(problem) and ledger.next_seq == before
                break
        assert refused, f"cycle {cycle}"
        assert seen_early, f"cycle {cycle}: the spare's failure was not seen before the disk's"
        assert sum(1 for _ in ledger.read()) == before, "reads go on"
        with pytest.raises(LedgerUnavailable):
            fill(ledger, (20,))
        (disk / "filler").unlink()
        fill(ledger, (20,))
        if cycle % 2:
            ledger.abandon()
            ledger = Ledger.open(disk / "ledger", segment_bytes=SEGMENT_BYTES)
    total = ledger.next_seq
    assert [event.fact for event in ledger.read()] == facts(0, total)
    ledger.close()
