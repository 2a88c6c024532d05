"""Loss of power, after processes were killed and calls failed: what was acknowledged, or found at a start, is there."""

import os
import random
import shutil
from pathlib import Path

import pytest

from fetchmld.store.ledger import Ledger, LedgerUnavailable
from fetchmld.verify_walk import verify_segments
from tests.fault.conftest import count
from tests.fault.power import Disk, Killed, Left
from tests.store.ledger_samples import GENESIS, SEGMENT_BYTES, facts, fill, open_ledger

STORIES = count(200, 5_000)
LIVES_MAX = 3
CALLS_MAX = 150  # of a process before it ends
BATCHES_MAX = 40


def test_what_was_promised_survives_a_loss_of_power(tmp_path: Path) -> None:
    for number in range(STORIES):
        seed = random.randrange(2**32)
        root = tmp_path / str(number)
        left, promised = story(root, random.Random(seed))
        for way, dice in (("worst", None), ("mixed", random.Random(seed))):
            place = tmp_path / f"{number}-{way}"
            left.lay_out(root, place, dice)
            try:
                check(place / "ledger", promised)
            except Exception as problem:
                raise AssertionError(f"seed {seed}, {way}: {promised} events were promised") from problem
            shutil.rmtree(place)
        shutil.rmtree(root)


def check(directory: Path, promised: int) -> None:
    with open_ledger(directory) as ledger:
        assert [event.fact for event in ledger.read()] == facts(0, ledger.next_seq)
        assert ledger.next_seq >= promised
        fill(ledger, (3,))
    assert verify_segments(directory).valid


def story(root: Path, dice: random.Random) -> tuple[Left, int]:
    """Processes that were killed one after the other, and where the power failed; how many events were promised then."""
    root.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        disk = Disk(root, patched)
        lives = dice.randrange(LIVES_MAX) + 1
        for life in range(lives):
            fails = frozenset(call for call in range(CALLS_MAX) if dice.random() < dice.choice((0, 0, 0.05)))
            look_at = dice.randrange(CALLS_MAX) if life == lives - 1 else -1
            disk.begin(dice.randrange(CALLS_MAX), look_at, fails)
            live(disk, root / "ledger", dice)
        if disk.left is None:
            disk.look()
    assert disk.left is not None
    return disk.left, disk.promised


def live(disk: Disk, directory: Path, dice: random.Random) -> None:
    """One process, until it is killed or has written enough. What it found at its start, others were told."""
    ledger = None
    try:
        ledger = Ledger.open(directory, segment_bytes=SEGMENT_BYTES, genesis=GENESIS, sync=os.fdatasync)
        disk.acknowledged = ledger.next_seq
        for _ in range(BATCHES_MAX):
            try:
                fill(ledger, (dice.choice((1, 1, 2, 5, 12)),))
                disk.acknowledged = ledger.next_seq
            except LedgerUnavailable:
                pass
    except (Killed, LedgerUnavailable):
        pass
    finally:
        disk.begin()
        if ledger is not None:
            ledger.abandon()
