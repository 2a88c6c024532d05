"""Tree, tiles and checkpoints over a ledger: built once or in parts, after crashes and over changed files."""

import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fetchmld.core.chain import Genesis, event_hash
from fetchmld.core.merkle import leaf_hash
from fetchmld.core.messages import Fact
from fetchmld.store import tiles
from fetchmld.store.ledger import Ledger
from fetchmld.store.log_tree import LogTree
from fetchmld.store.notes import KEYS, Checkpoint, Signer, load_key, new_genesis, sign
from fetchmld.store.segment import LedgerDamaged
from fetchmld.store.tiles import CHECKPOINTS, CHECKPOINTS_MAX, CheckpointLog, split_notes
from fetchmld.verify import TAMPERED, VALID, VALID_UNVOUCHED, offline
from fetchmld.verify_checkpoints import verify_against, verify_ledger
from fetchmld.verify_merkle import consistent, included, leaf, read_signed
from tests.store.ledger_samples import facts


def make(directory: Path) -> Ledger:
    return Ledger.open(directory, segment_bytes=2**18, genesis=new_genesis(directory))


def follow(tree: LogTree, ledger: Ledger) -> None:
    while not tree.advance(ledger.next_seq - 1, ledger.root_hash):
        pass


def grow(ledger: Ledger, tree: LogTree, count: int) -> str:
    """`count` more events, and a checkpoint of them."""
    ledger.append(facts(ledger.next_seq, count))
    follow(tree, ledger)
    return tree.sign()


def rotate(ledger: Ledger, tree: LogTree) -> None:
    ledger.append([Fact("auth_attempt", "key.rotate", "ledger", "admin", metadata=dict(tree.prepare_rotation()))])


def test_what_it_signs_and_proves_the_verifier_accepts(tmp_path: Path) -> None:
    with make(tmp_path) as ledger, closing(LogTree(tmp_path)) as tree:
        sizes = [read_signed(grow(ledger, tree, count)).size for count in (1, 3, 252, 300, 1)]
        assert sizes == [1, 4, 256, 556, 557]
        root = read_signed(tree.newest).root
        for seq in (0, 255, 256, 556):
            found = tree.prove(seq, 557)
            assert leaf_hash(event_hash(found.record)) == found.leaf
            assert included(found.leaf, seq, 557, found.proof, root)
            assert found.note == tree.newest
        for old, new in ((0, 557), (4, 557), (256, 556), (556, 557), (300, 400)):
            grown = tree.prove_consistency(old, new)
            assert consistent(old, new, grown.old_root, grown.new_root, grown.proof)
            assert bool(grown.old_note) == (old in sizes)
        result = verify_ledger(tmp_path, outside=[tree.newest])
        assert (result.valid, result.checkpoints, result.vouched) == (True, 5, 557)


def test_after_a_restart_it_goes_on_and_the_right_edge_is_found_again(tmp_path: Path) -> None:
    with make(tmp_path) as ledger:
        for count in (200, 200, 70_000, 3):
            with closing(LogTree(tmp_path)) as tree:
                grow(ledger, tree, count)
        for parts in sorted((tmp_path / "tiles").rglob("*.p")):
            for part in parts.iterdir():
                part.unlink()  # the partial tiles were never synced
        with closing(LogTree(tmp_path)) as tree:
            grow(ledger, tree, 5)
        assert verify_ledger(tmp_path, outside=[tree.newest]).vouched == 70_408


def test_damaged_tiles_are_made_anew(tmp_path: Path) -> None:
    with make(tmp_path) as ledger, closing(LogTree(tmp_path)) as tree:
        grow(ledger, tree, 1000)
        path = tmp_path / "tiles" / "0" / "001"
        right = path.read_bytes()
        path.write_bytes(bytes(32) + right[32:])
        damaged = verify_ledger(tmp_path)
        assert (damaged.first_bad, damaged.tiles_wrong) == (256, True)
        with pytest.raises(LedgerDamaged):
            tree.prove(256, 1000)
        with closing(LogTree(tmp_path, anew=True)) as anew:
            follow(anew, ledger)
        assert path.read_bytes() == right
        assert verify_ledger(tmp_path).valid


def test_it_signs_nothing_that_contradicts_what_it_signed(tmp_path: Path) -> None:
    """The ledger of an older copy under the tree of a newer one, and another ledger with the same genesis."""
    with make(tmp_path) as ledger, closing(LogTree(tmp_path)) as tree:
        grow(ledger, tree, 100)
    for segment in (tmp_path / "segments").iterdir():
        segment.unlink()
    (tmp_path / "genesis.json").rename(tmp_path / "kept")
    (tmp_path / "head").unlink()
    genesis, log = ledger.genesis, tmp_path / CHECKPOINTS
    log.rename(tmp_path / "put away")
    with Ledger.open(tmp_path, segment_bytes=2**18, genesis=genesis) as other:
        other.append(facts(0, 60))
        (tmp_path / "put away").rename(log)
        with closing(LogTree(tmp_path)) as tree, pytest.raises(LedgerDamaged, match="only 60 are here"):
            follow(tree, other)
        other.append(facts(7, 100))
        with closing(LogTree(tmp_path, anew=True)) as tree, pytest.raises(LedgerDamaged, match="not those of which"):
            follow(tree, other)


def test_the_writer_does_not_start_on_less_than_was_signed(tmp_path: Path) -> None:
    with make(tmp_path) as ledger, closing(LogTree(tmp_path)) as tree:
        grow(ledger, tree, 60)
        head = (tmp_path / "head").read_bytes()
        image = {path: path.read_bytes() for path in (tmp_path / "segments").glob("*.log")}
        grow(ledger, tree, 40)
    for path, raw in image.items():
        path.write_bytes(raw)
    (tmp_path / "head").write_bytes(head)
    with pytest.raises(LedgerDamaged, match="signed of 100 events") as refused:
        Ledger.open(tmp_path, segment_bytes=2**18)
    assert refused.value.first_bad == 60


def test_the_newest_event_is_the_one_that_the_writer_knows(tmp_path: Path) -> None:
    with make(tmp_path) as ledger, closing(LogTree(tmp_path)) as tree:
        ledger.append(facts(0, 9))
        with pytest.raises(LedgerDamaged, match="scheduler wrote"):
            tree.advance(8, bytes(32))


def test_keys_are_rotated_and_the_verifier_follows(tmp_path: Path) -> None:
    with make(tmp_path) as ledger, closing(LogTree(tmp_path)) as tree:
        first = tree.verifier_key
        grow(ledger, tree, 10)
        rotate(ledger, tree)
        rotate(ledger, tree)  # by the first key too: it was still in force when this one was made; it changes nothing
        both = grow(ledger, tree, 3)
        assert both.count("\n\u2014 ") == 2
        assert tree.verifier_key != first
        assert len(list((tmp_path / KEYS).glob("*.key"))) == 2  # the one in force, and the one that came too late
        alone = grow(ledger, tree, 3)
        assert alone.count("\n\u2014 ") == 1
    with Ledger.open(tmp_path, segment_bytes=2**18) as ledger, closing(LogTree(tmp_path)) as tree:
        rotate(ledger, tree)
        grow(ledger, tree, 1)
        last = grow(ledger, tree, 1)
    for note in (both, alone, last):
        result = verify_ledger(tmp_path, outside=[note])
        assert (result.valid, result.checkpoints, result.vouched) == (True, 5, read_signed(note).size), result


def test_a_checkpoint_by_a_key_that_was_not_in_force_is_not_valid(tmp_path: Path) -> None:
    with make(tmp_path) as ledger, closing(LogTree(tmp_path)) as tree:
        grow(ledger, tree, 10)
        rotate(ledger, tree)
        both = grow(ledger, tree, 3)
    log = tmp_path / CHECKPOINTS
    head, _, _ = both.rpartition("\u2014")  # without the line of the old key
    log.write_text(log.read_text().replace(both, head))
    result = verify_ledger(tmp_path)
    assert (result.first_bad, "not signed by the key in force" in result.problem) == (14, True)


def test_a_ledger_that_began_without_a_key_gets_one(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, segment_bytes=2**18, genesis=Genesis("old", 1, b"")) as ledger:
        with closing(LogTree(tmp_path)) as tree:
            ledger.append(facts(0, 5))
            follow(tree, ledger)
            assert not tree.has_key
            rotate(ledger, tree)
            note = grow(ledger, tree, 2)
        assert verify_ledger(tmp_path, outside=[note]).vouched == 8


def test_offline_codes(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    directory.mkdir()
    with make(directory) as ledger, closing(LogTree(directory)) as tree:
        early = grow(ledger, tree, 10)
        grow(ledger, tree, 10)
    assert offline(tmp_path).code == VALID_UNVOUCHED
    assert offline(tmp_path, [early]).code == VALID
    assert "10 came later" in offline(tmp_path, [early]).lines[-1]
    assert offline(tmp_path, [early.replace("fetchml/", "fetchml/x")]).code == TAMPERED
    forged = early.rpartition("\u2014 ")[0] + f"\u2014 {tree.origin} " + "A" * 92 + "\n"
    report = offline(tmp_path, [forged])
    assert (report.code, "vouches for nothing" in report.lines[-2]) == (VALID_UNVOUCHED, True)
    with pytest.raises(ValueError, match="note"):
        offline(tmp_path, ["no checkpoint"])
    came_to_be_meanwhile = verify_against(directory, None, None, ())
    assert came_to_be_meanwhile.valid
    (directory / CHECKPOINTS).unlink()
    report = offline(tmp_path, [early])
    assert (report.code, report.segments and report.segments.first_bad) == (TAMPERED, 20)


def test_an_unfinished_checkpoint_is_cut_and_any_other_damage_is_named(tmp_path: Path) -> None:
    with make(tmp_path) as ledger, closing(LogTree(tmp_path)) as tree:
        notes = [grow(ledger, tree, 3) for _ in range(4)]
    log = tmp_path / CHECKPOINTS
    whole = log.read_bytes()
    for cut in range(1, len(notes[-1].encode()) + 1):
        log.write_bytes(whole[:-cut])
        assert not verify_ledger(tmp_path).valid
        opened = CheckpointLog(tmp_path)
        assert (opened.newest, opened.count) == (notes[-2], 3)
        assert verify_ledger(tmp_path).checkpoints == 3
    for at in range(0, len(whole), 7):
        log.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert not verify_ledger(tmp_path).valid, at


def test_a_checkpoint_that_could_be_neither_written_nor_cut_leaves_nothing_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = Signer("fetchml/x", bytes(32))
    notes = [sign(Checkpoint("fetchml/x", size, bytes(32)).text, [signer]) for size in (1, 2)]
    log = CheckpointLog(tmp_path)
    log.append(notes[0])
    with monkeypatch.context() as patched:
        real = os.pwrite
        patched.setattr(tiles, "write_at", lambda file, data, at: _half(real, file, data, at))
        patched.setattr(os, "ftruncate", _refuse)
        with pytest.raises(OSError, match="planted"):
            log.append(notes[1])
    log.append(notes[1])
    assert split_notes((tmp_path / CHECKPOINTS).read_bytes()) == (notes, 0)


def _half(pwrite: Callable[[int, bytes, int], int], file: int, data: bytes, at: int) -> None:
    pwrite(file, data[: len(data) // 2], at)
    raise OSError(errno.EIO, "planted")


def _refuse(*_: int) -> None:
    raise OSError(errno.EIO, "planted, too")


def test_the_log_of_checkpoints_is_thinned(tmp_path: Path) -> None:
    log = CheckpointLog(tmp_path)
    for number in range(CHECKPOINTS_MAX + 1):
        lines = "\u2014 o AAAAAAAA\n" * (2 if number == 8 else 1)
        log.append(f"o\n{number + 1}\n{'A' * 43}=\n\n{lines}")
    kept, torn = split_notes((tmp_path / CHECKPOINTS).read_bytes())
    sizes = [int(note.split("\n")[1]) for note in kept]
    assert (len(kept), torn) == (log.count, 0)
    assert CHECKPOINTS_MAX / 2 < len(kept) < CHECKPOINTS_MAX * 3 / 4
    assert {9, 2, CHECKPOINTS_MAX + 1} <= set(sizes)
    assert sizes == sorted(sizes)
    assert log.find(9).count("\u2014") == 2
    assert log.find(CHECKPOINTS_MAX * 9) == ""


def test_key_files_are_ours_alone_and_checked(tmp_path: Path) -> None:
    genesis = new_genesis(tmp_path)
    assert genesis is not None
    origin = f"fetchml/{genesis.installation}"
    (key,) = (tmp_path / KEYS).glob("*.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / KEYS).stat().st_mode & 0o777 == 0o700
    assert load_key(tmp_path, origin, genesis.public_key).public_key == genesis.public_key
    text = key.read_text()
    assert text.startswith(f"PRIVATE+KEY+{origin}+")
    key.write_text(text[:-10] + "AAAAAAAA=\n")
    with pytest.raises(ValueError, match="holds"):
        load_key(tmp_path, origin, genesis.public_key)
    assert leaf_hash(b"") != leaf(b"x")
