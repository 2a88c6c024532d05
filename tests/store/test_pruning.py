"""The record's beginning removed: the rest starts, verifies and proves, and no change of what stands for it is missed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fetchmld.core.chain import event_hash
from fetchmld.core.state import State
from fetchmld.store import boundary, pruning, retention, snapshot_maker, snapshots, state_form
from fetchmld.store.ledger import Ledger, LedgerDamaged
from fetchmld.store.log_tree import LogTree
from fetchmld.store.segment import list_segments
from fetchmld.verify_checkpoints import verify_ledger
from fetchmld.verify_merkle import included, leaf, read_signed
from fetchmld.verify_walk import verify_segments
from tests.fault.conftest import LONG
from tests.store.pruned_samples import LONG_LIVED, SEGMENT_BYTES, Life, folded, policy


class Stop(BaseException):
    """As if the process had ended here."""


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path / "ledger")
    yield life
    life.close()


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A pruned ledger at rest, its first event, and a checkpoint that somebody else keeps."""
    life = Life(tmp_path_factory.mktemp("pruned") / "ledger")
    life.days(4)
    life.rotate()
    life.finish_elements(3)
    life.days(12)
    first = life.prune(before_days=3)
    life.days(1)
    kept = life.tree.newest
    life.close()
    assert first > 600
    return life.directory, first, kept


def test_what_is_left_starts_and_verifies(life: Life) -> None:
    life.days(10)
    kept = life.tree.newest
    whole = folded(life.directory, 0, State())
    first = life.prune(before_days=2)
    assert list_segments(life.directory / "segments")[0][0] == first
    for _ in range(2):
        life.days(2)
        result = verify_ledger(life.directory, outside=[kept])
        assert (result.problem, result.first_seq, result.total_events) == ("", first, life.ledger.next_seq)
        assert result.vouched == read_signed(kept).size
        life.again()
    assert life.ledger.recovery.repairs == ()
    base = snapshots.newest(life.directory)
    assert base is not None
    assert base.mark.seq == first
    assert state_form.to_bytes(folded(life.directory, first, base.state())) == state_form.to_bytes(
        folded(life.directory, whole.seq, whole)
    )


def test_again_and_again_the_state_and_what_lives_are_carried_on(life: Life) -> None:
    life.days(8)
    whole = folded(life.directory, 0, State())
    firsts = []
    for _ in range(4):
        firsts.append(life.prune())
        life.finish_elements(2)
        life.rotate()
        life.days(6)
        whole = folded(life.directory, whole.seq, whole)
        assert verify_ledger(life.directory).problem == ""
    assert firsts == sorted(set(firsts))
    life.prune()
    base = snapshots.newest(life.directory)
    assert base is not None
    again = folded(life.directory, base.mark.seq, base.state())
    whole = folded(life.directory, whole.seq, whole)
    assert state_form.to_bytes(again) == state_form.to_bytes(whole)
    loaded = boundary.load(life.directory)
    assert loaded is not None
    facts = [pruning._fact(one) for one in loaded.carried]
    assert [one.seq for one in loaded.carried] == sorted(one.seq for one in loaded.carried)
    assert sum(fact.action == "key.rotate" for fact in facts) >= 3
    assert {fact.resource for fact in facts if fact.action == "experiment.create"} == {"e1"}
    tasks = {fact.resource for fact in facts if fact.action == "task.submit"}
    assert {LONG_LIVED, life.array} <= tasks <= set(whole.tasks)
    assert {f"{life.array}-{n}" for n in range(7)} <= {
        fact.resource for fact in facts if fact.action.startswith("task.")
    }
    assert verify_ledger(life.directory).problem == ""


def test_snapshots_go_on_and_a_maker_starts_from_the_boundary(life: Life) -> None:
    life.days(8)
    snapshot_maker.make(life.directory, life.ledger.next_seq - 1)
    first = life.prune()
    life.days(1)
    found = snapshots.newest(life.directory)
    assert found is not None
    snapshot_maker.check_skipped(life.directory)
    shutil.rmtree(life.directory / "snapshots", ignore_errors=True)
    seq = snapshot_maker.make(life.directory, life.ledger.next_seq - 1)
    found = snapshots.newest(life.directory)
    assert found is not None
    assert (found.mark.seq, found.mark.seq > first) == (seq, True)
    snapshot_maker.check_skipped(life.directory)
    life.again()
    assert verify_ledger(life.directory).problem == ""


def test_what_is_gone_is_still_proved_by_its_hash(life: Life) -> None:
    life.days(3)
    before = {seq: life.tree.prove(seq, life.tree.size) for seq in (0, 3, 100, 255, 256)}
    life.days(8)
    first = life.prune()
    life.days(2)
    life.again()
    life.days(1)
    root, size = read_signed(life.tree.newest).root, life.tree.size
    for seq, earlier in before.items():
        found = life.tree.prove(seq, size)
        assert found.leaf == leaf(event_hash(earlier.record))
        assert included(found.leaf, seq, size, found.proof, root)
        assert found.record in (b"", earlier.record)
    loaded = boundary.load(life.directory)
    assert loaded is not None
    assert life.tree.prove(loaded.carried[0].seq, size).record == loaded.carried[0].record
    assert life.tree.prove(first, size).record
    for old in (1, 200, first - 1, first, first + 1):
        assert life.tree.prove_consistency(old, size).new_root == root


def test_the_tree_is_made_anew_from_the_lowest_tiles(life: Life) -> None:
    life.days(10)
    life.prune()
    life.days(1)
    life.tree.close()
    upper = life.directory / "tiles" / "1"
    right = {path: path.read_bytes() for path in upper.rglob("*") if path.is_file()}
    shutil.rmtree(upper)
    life.tree = LogTree(life.directory, anew=True)
    life.days(1)
    newest = max(right, key=lambda path: int(path.name))
    assert any(path.read_bytes().startswith(right[newest]) for path in upper.rglob("*") if path.is_file())
    assert verify_ledger(life.directory).problem == ""


def test_only_what_is_old_and_signed_and_not_the_newest_segment_goes(life: Life) -> None:
    assert pruning.plan(life.directory, 2**62) is None
    life.days(6)
    plans = [pruning.plan(life.directory, life.driver.at_us - int(days * 86_400e6)) for days in (7, 4, 2, 0)]
    assert plans[0] is None
    found = [plan for plan in plans if plan is not None]
    assert [plan.first_seq for plan in found] == sorted(plan.first_seq for plan in found)
    newest = list_segments(life.directory / "segments")[-1][0]
    assert found[-1].first_seq == newest
    assert all(plan.until_us < life.driver.at_us for plan in found)
    (life.directory / "checkpoints.log").write_bytes(b"")
    assert pruning.plan(life.directory, 2**62) is None
    (life.directory / "head").write_text("broken")
    with pytest.raises(pruning.Later, match="head"):
        pruning.plan(life.directory, 2**62)


def test_nothing_goes_while_tiles_or_events_are_not_what_was_written(life: Life) -> None:
    life.days(10)
    found = pruning.plan(life.directory, 2**62)
    assert found is not None
    for path in (life.directory / "tiles" / "0" / "001", next((life.directory / "tiles" / "1").rglob("*.p")) / "2"):
        if path.exists():
            right = path.read_bytes()
            path.write_bytes(bytes(64) + right[64:])
            with pytest.raises(pruning.Later, match="audit verify"):
                pruning.prepare(life.directory, found.first_seq)
            path.write_bytes(right)
    segment = list_segments(life.directory / "segments")[0][1]
    raw = segment.read_bytes()
    segment.write_bytes(raw[:5000] + bytes([raw[5000] ^ 1]) + raw[5001:])
    with pytest.raises(LedgerDamaged):
        pruning.prepare(life.directory, found.first_seq)
    segment.write_bytes(raw)
    assert pruning.prepare(life.directory, found.first_seq)


def test_sealed_segments_go_as_well(life: Life) -> None:
    life.days(10)
    assert retention.seal_old(life.directory, 2) > 1
    first = life.prune()
    assert not [path for path in (life.directory / "segments").iterdir() if path.name < f"{first:020d}"]
    life.again()
    assert verify_ledger(life.directory).problem == ""


def test_as_a_process(life: Life) -> None:
    life.days(10)

    def say(*arguments: str) -> Any:
        command = [sys.executable, "-m", "fetchmld.store.pruning", str(life.directory), *arguments]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    assert say("plan", "5") == {"first_seq": -1}
    planned = say("plan", str(2**62))
    prepared = say("prepare", str(2**62))
    assert prepared == {**planned, "pruned": prepared["pruned"]}
    assert "not the one" in say("commit", "00")["error"]
    life.write(policy(prepared["pruned"], prepared["first_seq"], life.driver.at_us))
    assert say("commit", prepared["pruned"]) == {"first_seq": planned["first_seq"], "freed_bytes": planned["bytes"]}
    assert verify_segments(life.directory).valid


# ---- stopped at any step ------------------------------------------------------------------------------------------------

CALLS = ("write_at", "fsync", "fdatasync", "replace", "sync_directory", "unlink")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 6] if LONG else [0, 2])
def test_stopped_at_any_step_what_is_left_starts_and_verifies_and_the_next_run_goes_on(
    life: Life, call: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.days(10)
    done = 0

    def stopping(right: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            if done > after:
                raise Stop
            return right(*arguments, **more)

        return instead

    def stopped(work: Callable[[], object]) -> bool:
        with monkeypatch.context() as patch:
            for where in (os, boundary, pruning, sys.modules["fetchmld.store.tiles"], Path):
                if hasattr(where, call) and (where, call) != (os, "unlink"):
                    patch.setattr(where, call, stopping(getattr(where, call)))
            try:
                work()
            except Stop:
                return True
        return False

    found = pruning.plan(life.directory, life.driver.at_us)
    assert found is not None
    digest = ""

    def prepare() -> None:
        nonlocal digest
        digest = pruning.prepare(life.directory, found.first_seq)

    was_stopped = stopped(prepare)
    if not was_stopped:
        life.write(policy(digest, found.first_seq, life.driver.at_us))
        was_stopped = stopped(lambda: pruning.commit(life.directory, digest))
    assert verify_ledger(life.directory).problem == ""
    life.again()
    assert not (life.directory / "pruned.next").exists()
    assert verify_ledger(life.directory).problem == ""
    firsts = [seq for seq, _ in list_segments(life.directory / "segments")]
    assert firsts[0] == boundary.first_seq(life.directory)
    life.days(2)
    assert life.prune() > firsts[0]
    life.again()
    assert verify_ledger(life.directory).problem == ""
    assert was_stopped or after, "the test has stopped nothing"


# ---- changed by somebody ------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(pruned: tuple[Path, int, str], tmp_path: Path) -> Path:
    shutil.copytree(pruned[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_each_byte_of_the_file_that_stands_for_the_rest(pruned: tuple[Path, int, str], copy: Path) -> None:
    path = copy / "pruned"
    raw = path.read_bytes()
    begins = raw.index(b"\n") + 1
    loaded = boundary.load(copy)
    assert loaded is not None
    ends = begins + loaded.boundary.carried_bytes
    carried: list[tuple[int, int, int]] = []
    at = begins
    for one in loaded.carried:
        carried.append((at, at + len(one.record) + 36, one.seq))
        at += len(one.record) + 36
    assert at == ends
    steps = (5, 11, 97) if LONG else (53, 149, 1009)
    places = [*range(0, begins, steps[0]), *range(begins, ends, steps[1]), *range(ends, len(raw), steps[2])]
    for place in places:
        path.write_bytes(raw[:place] + bytes([raw[place] ^ (1 << place % 8)]) + raw[place + 1 :])
        found = verify_ledger(copy, outside=[pruned[2]])
        assert found.first_bad >= 0, place
        inside = [seq for start, end, seq in carried if start <= place < end]
        numbers = {seq for _, _, seq in carried}
        if inside and place >= min(start for start, _, seq in carried if seq == inside[0]) + 20:
            assert found.first_bad == inside[0], (place, found)
        elif inside:  # its length or its number: where the next begins is lost with it
            assert found.first_bad in numbers or found.first_bad <= inside[0], (place, found)
        else:
            assert found.first_bad == 0, (place, found)
        if place % 3 == 0:
            with pytest.raises(LedgerDamaged):
                Ledger.open(copy, segment_bytes=SEGMENT_BYTES)
    for size in (0, 10, begins, (begins + ends) // 2, ends, len(raw) - 1):
        path.write_bytes(raw[:size])
        assert verify_ledger(copy).first_bad >= 0
    path.write_bytes(raw + b" ")
    assert verify_ledger(copy).first_bad == 0
    path.unlink()
    assert verify_ledger(copy).first_bad == 0
    with pytest.raises(LedgerDamaged):
        Ledger.open(copy, segment_bytes=SEGMENT_BYTES)


def test_each_tile(pruned: tuple[Path, int, str], copy: Path) -> None:
    _, first, kept = pruned
    for path in sorted(path for path in (copy / "tiles").rglob("*") if path.is_file()):
        level, index = int(path.relative_to(copy / "tiles").parts[0]), path.relative_to(copy / "tiles").parts[1]
        partial = path.parent.suffix == ".p"
        raw = path.read_bytes()
        for place in range(0, len(raw), 1009 if level == 0 else 31):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 16]) + raw[place + 1 :])
            found = verify_ledger(copy, outside=[kept])
            if partial:
                continue  # what a partial tile says, a later one says again; nothing is believed of it alone
            assert not found.valid, (path, place)
            start = int(index) * 256
            if level == 0 and start + 256 <= first:
                assert found.first_bad == start, (path, place, found)
            elif level == 0:
                assert found.first_bad == start + place // 32, (path, place, found)
        path.unlink()
        found = verify_ledger(copy, outside=[kept])
        if level == 0 and not partial and int(index) * 256 + 256 <= first:
            assert (found.first_bad, "is gone" in found.problem) == (int(index) * 256, True)
        path.write_bytes(raw)
    assert verify_ledger(copy, outside=[kept]).problem == ""


def test_events_behind_the_boundary_and_other_landmarks(pruned: tuple[Path, int, str], copy: Path) -> None:
    _, first, kept = pruned
    path = list_segments(copy / "segments")[0][1]
    raw = path.read_bytes()
    path.write_bytes(raw[:90] + bytes([raw[90] ^ 1]) + raw[91:])
    assert verify_ledger(copy).first_bad == first
    path.unlink()
    assert verify_ledger(copy, outside=[kept]).first_bad == first
    with pytest.raises(LedgerDamaged):
        Ledger.open(copy, segment_bytes=SEGMENT_BYTES)
    path.write_bytes(raw)
    genesis = (copy / "genesis.json").read_text()
    fields = json.loads(genesis)
    fields["created_us"] += 1
    (copy / "genesis.json").write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")
    assert verify_ledger(copy).first_bad == 0
    with pytest.raises(LedgerDamaged, match="grew from"):
        Ledger.open(copy, segment_bytes=SEGMENT_BYTES)


def test_a_file_that_no_event_names_is_not_believed(pruned: tuple[Path, int, str], copy: Path) -> None:
    """As somebody does who removes more, and writes a file for it that is right in itself."""
    loaded = boundary.load(copy)
    assert loaded is not None
    digest = boundary.write_next(copy, loaded.boundary, loaded.carried[:-1], loaded.state)
    boundary.take_next(copy)
    assert digest != loaded.boundary.digest
    found = verify_ledger(copy, outside=[pruned[2]])
    assert (found.first_bad, "no event of the record names" in found.problem) == (0, True)
