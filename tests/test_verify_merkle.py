"""The verifier's tree, proofs and notes: against published examples, against the writer, against everything changed."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.core.merkle import Tree, consistency_proof, inclusion_proof, leaf_hash
from fetchmld.store.notes import Checkpoint, Signer, rotation_note, sign, verifier_key
from fetchmld.store.tiles import TileStore
from fetchmld.verify_merkle import (
    Roots,
    consistent,
    handed_over,
    included,
    kept_leaves,
    leaf,
    read_note,
    read_signed,
    read_verifier_key,
    root_of_leaves,
    tile_file,
)
from tests.core.test_merkle import CT_CONSISTENCY, CT_LEAVES, CT_PATHS, CT_ROOTS, kept, numbered

# Go's golang.org/x/mod/sumdb/note: the example of its documentation.
NEUMANN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The example of C2SP's tlog-checkpoint; its key is not published.
C2SP_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
SIGNER = Signer("fetchml/test", bytes(range(32)))


def test_the_published_note_is_signed_by_its_key() -> None:
    name, public_key = read_verifier_key(NEUMANN_KEY)
    assert read_note(NEUMANN_NOTE).signed_by(name, public_key)
    assert verifier_key(name, public_key) == NEUMANN_KEY
    assert not read_note(NEUMANN_NOTE.replace("problem is", "problem was")).signed_by(name, public_key)
    assert not read_note(NEUMANN_NOTE).signed_by("Somebody", public_key)
    assert not read_note(NEUMANN_NOTE).signed_by(name, bytes(32))


def test_the_published_checkpoint_is_read() -> None:
    signed = read_signed(C2SP_CHECKPOINT)
    assert (signed.origin, signed.size, signed.root[:2]) == ("example.com/behind-the-sofa", 20852163, b"\x0a\xc5")
    assert Checkpoint(signed.origin, signed.size, signed.root).text == signed.note.text


def test_the_reference_tests_of_certificate_transparency() -> None:
    roots = [bytes.fromhex(root) for root in CT_ROOTS]
    tree = Roots()
    for data, root in zip(CT_LEAVES, roots, strict=True):
        tree.add([data])
        assert tree.root() == root
    for (index, size), path in CT_PATHS.items():
        proof = [bytes.fromhex(node) for node in path]
        assert included(leaf(CT_LEAVES[index]), index, size, proof, roots[size - 1])
    for (old, new), path in CT_CONSISTENCY.items():
        proof = [bytes.fromhex(node) for node in path]
        assert consistent(old, new, roots[old - 1], roots[new - 1], proof)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_the_writer_proves_the_verifier_accepts_and_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 900))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    leaves = numbered(size)
    read, root = kept(leaves).read, kept(leaves).tree.root()
    old_root = kept(leaves[:old]).tree.root()
    assert root_of_leaves([leaf_hash(item) for item in leaves]) == root
    path, proof = inclusion_proof(index, size, read), consistency_proof(old, size, read)
    assert included(leaf(leaves[index]), index, size, path, root)
    assert consistent(old, size, old_root, root, proof)
    assert not included(leaf(b"other"), index, size, path, root)
    assert not included(leaf(leaves[index]), index, size, [*path, root], root)
    if 0 < old < size:
        assert not consistent(old, size, bytes(32), root, proof)
        assert not consistent(old, size, old_root, root, proof[:-1])
        assert not consistent(old, size, old_root, root, [*proof, root])
    for at in range(len(path)):
        changed = [*path[:at], sha256(path[at]).digest(), *path[at + 1 :]]
        assert not included(leaf(leaves[index]), index, size, changed, root)
        assert not included(leaf(leaves[index]), index, size, path[:at] + path[at + 1 :], root)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=4))
def test_both_trees_agree_however_they_are_fed(batches: list[int]) -> None:
    leaves, writer, verifier, at = numbered(sum(batches)), Tree(), Roots(), 0
    for count in batches:
        writer.add(leaves[at : at + count])
        verifier.add(leaves[at : at + count])
        at += count
        assert (writer.size, writer.root()) == (verifier.size, verifier.root())


def test_a_changed_tile_names_its_first_event(tmp_path: Path) -> None:
    leaves, tree, store = numbered(70_000), Tree(), TileStore(tmp_path)
    store.write_full(tree.add(leaves))
    store.write_edge(tree.edge())
    tiles = tmp_path / "tiles"
    assert kept_leaves(tiles, 70_000) == [leaf(item) for item in leaves]

    def wrong() -> int:
        roots = Roots(tiles)
        for start in range(0, 70_000, 999):
            roots.add(leaves[start : start + 999])
        return roots.wrong_tile

    assert wrong() == -1
    for level, index, at, event in ((0, 200, 5, 200 * 256 + 5), (1, 0, 3, 3 * 256)):
        path = tile_file(tiles, level, index)
        right = path.read_bytes()
        path.write_bytes(right[: at * 32 + 7] + b"!" + right[at * 32 + 8 :])
        assert wrong() == event
        path.write_bytes(right[:-1])
        assert wrong() >= 0
        path.write_bytes(right)
    tile_file(tiles, 0, 7).unlink()
    assert kept_leaves(tiles, 70_000) is None


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "text only\n",
        "a\n\n",
        "a\n\n- name AAAAAAAA\n",
        "a\n\n\u2014 name\n",
        "a\n\n\u2014 name AAAA\n",
        "a\n\n\u2014 name !!!!!!!!\n",
        "a\tb\n\n\u2014 name AAAAAAAA\n",
        "a\n\n\u2014 name AAAAAAAA",
        "a\n\n" + "\u2014 name AAAAAAAA\n" * 17,
        "x" * 70_000 + "\n\n\u2014 name AAAAAAAA\n",
    ],
)
def test_what_is_no_note_is_refused(raw: str) -> None:
    with pytest.raises(ValueError, match="."):
        read_note(raw)


@pytest.mark.parametrize(
    "text",
    [
        "o\n1\n",
        "o\n01\nAAAA\n",
        "o\n-1\nAAAA\n",
        "o\n1\nAAAA\n",
        "o\n\u0661\nAAAA\n",
        "o\n1\n" + "A" * 43 + "\n",
        "o\n\n1\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        read_signed(sign(text, [SIGNER]))


def test_a_key_is_handed_over_only_by_the_one_before_it() -> None:
    fresh, other = Signer(SIGNER.origin, bytes(32)), Signer(SIGNER.origin, b"o" * 32)
    note = rotation_note(SIGNER.origin, SIGNER, fresh)
    assert handed_over(note, SIGNER.origin, SIGNER.public_key) == fresh.public_key
    assert handed_over(note, SIGNER.origin, other.public_key) == b""
    assert handed_over(note, "fetchml/else", SIGNER.public_key) == b""
    assert handed_over(note, SIGNER.origin, b"") == b""
    text = note.partition("\n\n")[0] + "\n"
    assert handed_over(sign(text, [fresh]), SIGNER.origin, SIGNER.public_key) == b""
    assert handed_over(sign(text, [SIGNER]), SIGNER.origin, SIGNER.public_key) == b""
    assert handed_over("nothing", SIGNER.origin, SIGNER.public_key) == b""
    first = rotation_note(SIGNER.origin, None, fresh)
    assert handed_over(first, SIGNER.origin, b"") == fresh.public_key
