"""Flips and cuts of every file of a ledger: refused and named, or repaired and named, and never another record."""

import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetchmld.core.messages import Fact
from fetchmld.store import snapshot_maker, snapshots
from fetchmld.store.clock import LogicalClock
from fetchmld.store.ledger import Ledger, LedgerDamaged
from tests.fault.conftest import count
from tests.store.ledger_samples import GENESIS, SEGMENT_BYTES

DAMAGES = count(200, 1_000)  # of each file
BATCHES = (3, 1, 5, 2, 7, 4, 1)


def harmless(number: int) -> Fact:
    """A fact that every fold takes."""
    return Fact("auth_attempt", "auth.failure", f"key{number}", "ada", False, metadata={"n": "x" * (number * 37 % 300)})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as a kill leaves it: several segments, two snapshots, a spare, and events behind all of them."""
    directory = tmp_path_factory.mktemp("data")
    LogicalClock(directory / "clock", 1, "boot", lambda: 100.0)
    for _ in range(3):
        ledger = Ledger.open(directory / "ledger", segment_bytes=SEGMENT_BYTES, genesis=GENESIS)
        for size in BATCHES * 2:
            ledger.append([harmless(ledger.next_seq + n) for n in range(size)])
        ledger._spare._join()
        ledger.abandon()
        if len(snapshots.listed(directory / "ledger")) < 2:
            snapshot_maker.make(directory / "ledger", ledger.next_seq - 1)
    return directory


def files(directory: Path) -> list[Path]:
    ours = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    return sorted(path for path in ours if path.name != "lock")


def damage(path: Path, dice: random.Random) -> str:
    """Flip one bit, or cut."""
    raw = bytearray(path.read_bytes())
    used = len(raw.rstrip(b"\0")) or len(raw)
    at = dice.randrange(used if dice.random() < 0.8 else len(raw))
    if dice.random() < 0.7:
        raw[at] ^= 1 << dice.randrange(8)
        path.write_bytes(raw)
        return f"bit flipped at {at}"
    os.truncate(path, at)
    return f"cut at {at} of {len(raw)}"


def started(directory: Path) -> list[Fact]:
    """What a start finds: the walk that it does at once, and the one that follows it."""
    base = snapshots.newest(directory / "ledger")
    with Ledger.open(directory / "ledger", segment_bytes=SEGMENT_BYTES, since=base.mark if base else None) as ledger:
        snapshot_maker.check_skipped(directory / "ledger")
        LogicalClock(directory / "clock", 1, "boot", lambda: 100.0)
        for repair in ledger.recovery.repairs:
            logging.getLogger("repairs").warning(repair)
        if ledger.recovery.torn_bytes:
            logging.getLogger("repairs").warning("torn at %d", ledger.recovery.torn_seq)
        found = [event.fact for event in ledger.read()]
        ledger._spare._join()
        return found


@pytest.fixture
def copy() -> Iterator[Path]:
    """In memory where that can be had: thousands of syncs tell nothing here."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="fetchml-damage-", dir=memory if os.access(memory, os.W_OK) else None))
    yield directory / "copy"
    shutil.rmtree(directory)


# An older snapshot is not among them: nobody reads it while the newest is right.
NAMES = ("clock", "genesis.json", "head", "spare", "00000000000000000000.log", "last.log", "last.state")


@pytest.mark.parametrize("name", NAMES)
def test_no_damage_is_silent(original: Path, copy: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    chosen = pick(files(original), name)
    with Ledger.open(original / "ledger", segment_bytes=SEGMENT_BYTES) as ledger:
        right = [event.fact for event in ledger.read()]
        ledger.abandon()
    refused = repaired = 0
    for number in range(DAMAGES):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        caplog.clear()
        done = damage(copy / chosen, dice)
        what = f"seed {seed}, damage {number} to {chosen}: {done}"
        if (copy / chosen).read_bytes() == (original / chosen).read_bytes():
            continue
        try:
            found = started(copy)
        except LedgerDamaged as refusal:
            refused += 0 <= refusal.first_bad <= len(right)
            continue
        only_zeros = not (original / chosen).read_bytes()[(copy / chosen).stat().st_size :].strip(b"\0")
        assert caplog.text or only_zeros, f"{what}: nobody said anything"
        assert found == right, what
        repaired += 1
    assert refused + repaired > DAMAGES * 0.8, f"{refused} refused, {repaired} repaired"


def pick(names: list[Path], name: str) -> Path:
    """`first.x` and `last.x` by order of their names."""
    stem, _, ending = name.partition(".")
    if stem in ("first", "last"):
        return [path for path in names if path.suffix == f".{ending}"][0 if stem == "first" else -1]
    return next(path for path in names if path.name == name)
