"""Flips and cuts of what is made of the ledger: index, tiles, checkpoints, signing key, sealed segments.

Each is refused, or found by a verification, or made anew; and what is then there is what the ledger says.
"""

import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from fetchmld.store import retention
from fetchmld.store.history import History
from fetchmld.store.ledger import Ledger, LedgerDamaged
from fetchmld.store.log_tree import LogTree
from fetchmld.store.notes import new_genesis
from fetchmld.verify_checkpoints import verify_ledger
from fetchmld.verify_merkle import read_signed
from tests.fault.conftest import count
from tests.fault.test_damage import damage
from tests.store import task_facts
from tests.store.ledger_samples import facts

SEGMENT_BYTES = 2**16
EVENTS = 700
TABLES = ("events", "tasks", "experiments", "meta")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with everything derived: an index, tiles of two widths, three checkpoints, sealed segments."""
    directory = tmp_path_factory.mktemp("data")
    ledger_dir = directory / "ledger"
    with Ledger.open(ledger_dir, segment_bytes=SEGMENT_BYTES, genesis=new_genesis(ledger_dir)) as ledger:
        with closing(LogTree(ledger_dir)) as tree:
            for size in (200, EVENTS - 220, 10):
                ledger.append(facts(ledger.next_seq, size))
                follow(tree, ledger)
                tree.sign()
        ledger.append([task_facts.submit(f"t{n}") for n in range(10)])
        with closing(History(directory / "index.duckdb", ledger_dir)) as history:
            history.catch_up(ledger.next_seq - 1)
        ledger._spare._join()
    retention.seal_old(ledger_dir, 1)
    return directory


def follow(tree: LogTree, ledger: Ledger) -> None:
    while not tree.advance(ledger.next_seq - 1, ledger.root_hash):
        pass


def each_damage(original: Path, copy: Path, name: str, times: int, judge: Callable[[Path], str]) -> dict[str, int]:
    """Damage a fresh copy's file again and again; how often each verdict was given."""
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    verdicts: dict[str, int] = {}
    for number in range(times):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        done = damage(copy / name, dice)
        if (copy / name).read_bytes() == (original / name).read_bytes():
            continue
        try:
            verdict = judge(copy)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, damage {number} to {name}: {done}: {error}") from error
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
    return verdicts


def rows(index: Path) -> list[object]:
    with duckdb.connect(str(index), read_only=True) as db:
        return [db.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall() for table in TABLES]


def test_a_damaged_index_is_made_anew_or_found(original: Path, tmp_path: Path) -> None:
    right = rows(original / "index.duckdb")

    def judge(copy: Path) -> str:
        index, ledger_dir = copy / "index.duckdb", copy / "ledger"
        with closing(History(index, ledger_dir)) as history:
            history.catch_up()
            anew, check = history.rebuilt, history.check()
            if not check["valid"]:
                assert check["problem"]
                history.start_anew(check["problem"])
                history.catch_up()
        assert rows(index) == right
        return "made anew" if anew else "harmless" if check["valid"] else "found"

    verdicts = each_damage(original, tmp_path / "copy", "index.duckdb", count(12, 1_000), judge)
    assert verdicts.get("made anew", 0) > 0, verdicts


def pages(directory: Path) -> list[object]:
    with closing(History(directory / "index.duckdb", directory / "ledger")) as history:
        assert history.rebuilt == ""
        events = [history.events({"limit": 100, "offset": offset}) for offset in range(0, EVENTS + 10, 100)]
        return [history.tasks({}), history.events({"user_id": "alice"}), *events]


@pytest.mark.parametrize("name", ["index.views", "ledger/segments/*.gz"])
def test_pages_do_not_believe_the_damaged_places_that_they_are_read_from(
    original: Path, tmp_path: Path, name: str
) -> None:
    right, path = pages(original), max(original.glob(name))

    def judge(copy: Path) -> str:
        assert pages(copy) == right
        return "right"

    verdicts = each_damage(original, tmp_path / "copy", str(path.relative_to(original)), count(12, 1_000), judge)
    assert set(verdicts) == {"right"}


@pytest.mark.parametrize("name", ["tiles/0/000", "tiles/0/001", "tiles/1/000.p/2", "checkpoints.log"])
def test_a_damaged_tree_is_refused_or_found_or_made_anew(
    original: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    size, root = tree_of(original)

    def judge(copy: Path) -> str:
        ledger_dir = copy / "ledger"
        caplog.clear()
        verified = verify_ledger(ledger_dir)
        try:
            found = tree_of(copy)
        except (ValueError, OSError, LedgerDamaged) as refusal:
            if not str(refusal):
                pytest.fail("a refusal without words")
            assert not verified.valid
            return "refused"
        assert found == (size, root)
        if not verified.valid:
            return "found"
        fewer = verify_ledger(original / "ledger").checkpoints - verified.checkpoints
        return "made anew" if caplog.text else "shorter" if fewer else "harmless"

    verdicts = each_damage(original, tmp_path / "copy", f"ledger/{name}", count(40, 1_000), judge)
    named = sum(number for verdict, number in verdicts.items() if verdict in ("refused", "found", "made anew"))
    assert named > sum(verdicts.values()) * 0.8, verdicts


def tree_of(directory: Path) -> tuple[int, bytes]:
    """Size and root that the next checkpoint would have."""
    ledger_dir = directory / "ledger"
    with Ledger.open(ledger_dir, segment_bytes=SEGMENT_BYTES) as ledger, closing(LogTree(ledger_dir)) as tree:
        follow(tree, ledger)
        ledger._spare._join()
        ledger.abandon()
        return tree.size, tree._tree.root()


def test_a_damaged_signing_key_is_refused_or_the_same_key(original: Path, tmp_path: Path) -> None:
    name = next((original / "ledger" / "keys").glob("*.key")).relative_to(original)

    def judge(copy: Path) -> str:
        ledger_dir = copy / "ledger"
        try:
            with closing(LogTree(ledger_dir)) as tree:
                key = tree.verifier_key
        except (ValueError, OSError) as refusal:
            if not str(refusal):
                pytest.fail("a refusal without words")
            return "refused"
        with closing(LogTree(original / "ledger")) as right:
            assert key == right.verifier_key
        return "the same key"

    assert each_damage(original, tmp_path / "copy", str(name), count(40, 1_000), judge).get("refused", 0)


def test_a_damaged_sealed_segment_is_found(original: Path, tmp_path: Path) -> None:
    first = min((original / "ledger" / "segments").glob("*.gz")).relative_to(original)

    def judge(copy: Path) -> str:
        found = verify_ledger(copy / "ledger")
        assert not found.valid
        assert 0 <= found.first_bad < EVENTS
        with pytest.raises(LedgerDamaged):
            Ledger.open(copy / "ledger", segment_bytes=SEGMENT_BYTES)
        return "refused"

    assert set(each_damage(original, tmp_path / "copy", str(first), count(40, 1_000), judge)) == {"refused"}


def test_the_sample_is_what_it_should_be(original: Path) -> None:
    assert verify_ledger(original / "ledger").checkpoints == 3
    with closing(LogTree(original / "ledger")) as tree:
        assert read_signed(tree.newest).size == EVENTS - 10
