"""S13: whatever whoever holds the disk does to it, a checkpoint that was kept elsewhere shows it, at the right event.

Whoever holds the disk knows the format, and can make every hash, sum and head right again; what they cannot make is a
signature for the checkpoint that is not there. `FETCHML_TAMPERINGS` says how many (default few; a release has 1,000).
"""

import itertools
import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from fetchmld.core.chain import Genesis
from fetchmld.core.messages import Fact
from fetchmld.store.ledger import Ledger
from fetchmld.store.log_tree import LogTree
from fetchmld.store.notes import new_genesis
from fetchmld.verify import TAMPERED, VALID, offline
from tests.store.ledger_samples import facts

COUNT: Final = int(os.environ.get("FETCHML_TAMPERINGS", "40"))
SEGMENT_BYTES: Final = 64 * 1024
BATCHES: Final = (1, 30, 2, 90, 200, 1, 1, 40, 255, 3)
TOTAL: Final = sum(BATCHES)


class Original:
    """The ledger as it was written, the facts in it, and the checkpoint that somebody else keeps."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.facts = facts(0, TOTAL)
        ledger_dir = directory / "ledger"
        ledger_dir.mkdir(parents=True)
        genesis = new_genesis(ledger_dir)
        assert genesis is not None
        self.genesis = genesis
        ledger = Ledger.open(ledger_dir, segment_bytes=SEGMENT_BYTES, genesis=genesis)
        with ledger, closing(LogTree(ledger_dir)) as tree:
            for size in BATCHES:
                ledger.append(self.facts[ledger.next_seq : ledger.next_seq + size])
                while not tree.advance(ledger.next_seq - 1, ledger.root_hash):
                    pass
                tree.sign()
            self.kept = tree.newest


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return Original(tmp_path_factory.mktemp("original"))


def rewritten(original: Original, directory: Path, changed: list[Fact], rng: random.Random) -> None:
    """Another ledger in the place of this one: same genesis, all hashes, sums, links and `head` right."""
    ledger_dir = directory / "ledger"
    shutil.rmtree(ledger_dir / "segments")
    (ledger_dir / "head").unlink()
    (ledger_dir / "genesis.json").unlink()
    log = ledger_dir / "checkpoints.log"
    signed = log.read_bytes()
    log.unlink()  # the writer does not start on less than was signed
    with Ledger.open(ledger_dir, segment_bytes=SEGMENT_BYTES, genesis=original.genesis) as ledger:
        while ledger.next_seq < len(changed):
            ledger.append(changed[ledger.next_seq : ledger.next_seq + rng.randrange(1, 60)])
    log.write_bytes(signed)


# Each changes a list of facts, and returns it with the number of the first event that is not the one that was recorded.

Change = Callable[[list[Fact], random.Random], tuple[list[Fact], int]]


def edit(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    at = rng.randrange(TOTAL)
    return [*was[:at], replace(was[at], user_id="mallory"), *was[at + 1 :]], at


def edit_success(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    at = rng.randrange(TOTAL)
    return [*was[:at], replace(was[at], success=not was[at].success), *was[at + 1 :]], at


def delete(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    at = rng.randrange(TOTAL)
    return was[:at] + was[at + 1 :], at


def insert(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    at = rng.randrange(TOTAL)
    return [*was[:at], Fact("auth_attempt", "auth.success", "key:1", "mallory"), *was[at:]], at


def copy(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    at, other = sorted(rng.sample(range(TOTAL), 2))
    return [*was[:at], was[other], *was[at:]], at


def swap(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    one, two = sorted(rng.sample(range(TOTAL), 2))
    changed = list(was)
    changed[one], changed[two] = changed[two], changed[one]
    return changed, one


def rewrite_tail(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    at = rng.randrange(TOTAL)
    return was[:at] + [replace(fact, user_id="mallory") for fact in was[at:]], at


def cut_tail(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    at = rng.randrange(TOTAL)
    return was[:at], at


def roll_back(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    """An older state, and life goes on from there."""
    at = rng.randrange(TOTAL)
    more = [replace(fact, resource="task:other") for fact in facts(at, rng.randrange(1, 2 * TOTAL))]
    return was[:at] + more, at


def rewrite_all(was: list[Fact], rng: random.Random) -> tuple[list[Fact], int]:
    return [replace(fact, at_us=fact.at_us + 1) for fact in was], 0


CHANGES: Final[tuple[Change, ...]] = (
    edit,
    edit_success,
    delete,
    insert,
    copy,
    swap,
    rewrite_tail,
    cut_tail,
    roll_back,
    rewrite_all,
)


def checkpoints_removed(directory: Path) -> None:
    (directory / "ledger" / "checkpoints.log").write_bytes(b"")


def nothing_else(_directory: Path) -> None:
    pass


def test_the_untouched_ledger_is_vouched_for(original: Original) -> None:
    assert offline(original.directory, [original.kept]).code == VALID


def test_every_rewriting_is_found_at_its_number(original: Original, tmp_path: Path) -> None:
    """With the tree's tiles as they were: whoever changes those as well is found too, see below."""
    for number in range(COUNT):
        rng = random.Random(number)
        change, besides = rng.choice(CHANGES), rng.choice((nothing_else, checkpoints_removed))
        directory = tmp_path / str(number)
        shutil.copytree(original.directory, directory)
        changed, first_bad = change(original.facts, rng)
        rewritten(original, directory, changed, rng)
        besides(directory)
        report = offline(directory, [original.kept])
        assert report.segments is not None
        what = f"seed {number}: {change.__name__}, {besides.__name__}: {report.lines}"
        assert (report.code, report.segments.first_bad) == (TAMPERED, first_bad), what
        shutil.rmtree(directory)


def tiles_removed(directory: Path) -> None:
    shutil.rmtree(directory / "ledger" / "tiles")


def tiles_of_another(directory: Path) -> None:
    """Make tree and tiles right for the ledger as it is now. The key is on the same disk, so sign them, too."""
    ledger_dir = directory / "ledger"
    shutil.rmtree(ledger_dir / "tiles")
    (ledger_dir / "checkpoints.log").unlink()
    with Ledger.open(ledger_dir, segment_bytes=SEGMENT_BYTES) as ledger, closing(LogTree(ledger_dir)) as tree:
        if ledger.next_seq:
            while not tree.advance(ledger.next_seq - 1, ledger.root_hash):
                pass
        tree.sign()


@pytest.mark.parametrize("besides", [tiles_removed, tiles_of_another])
@pytest.mark.parametrize("change", CHANGES)
def test_without_the_tiles_it_is_found_and_bounded(
    original: Original, tmp_path: Path, change: Change, besides: Callable[[Path], None]
) -> None:
    """Then the first bad number is the first that may be: no checkpoint agrees beyond it."""
    rng = random.Random(7)
    directory = tmp_path / "changed"
    shutil.copytree(original.directory, directory)
    changed, first_bad = change(original.facts, rng)
    rewritten(original, directory, changed, rng)
    besides(directory)
    report = offline(directory, [original.kept])
    assert report.segments is not None
    assert report.code == TAMPERED, report.lines
    known = len(changed) if len(changed) < TOTAL else first_bad  # that it is too short is all that one can say
    assert 0 <= report.segments.first_bad <= max(first_bad, known), report.lines
    if besides is tiles_removed:  # the checkpoints are as they were: between two of them it is
        sizes = [0, *itertools.accumulate(BATCHES)]
        assert report.segments.first_bad == max(size for size in sizes if size <= first_bad) or change is cut_tail


def test_a_ledger_of_another_installation_is_found(original: Original, tmp_path: Path) -> None:
    """Rewritten from the genesis on: name, key, signatures and all."""
    for genesis in (None, Genesis(original.genesis.installation, original.genesis.created_us, b"")):
        directory = tmp_path / str(genesis is None)
        ledger_dir = directory / "ledger"
        ledger_dir.mkdir(parents=True)
        with Ledger.open(ledger_dir, genesis=genesis or new_genesis(ledger_dir)) as ledger:
            ledger.append(original.facts)
        report = offline(directory, [original.kept])
        assert report.segments is not None
        assert (report.code, report.segments.first_bad) == (TAMPERED, 0), report.lines
