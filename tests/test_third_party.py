"""Somebody else's reader of C2SP's formats accepts what we write, unmodified: metamorphic-log, a Rust library."""

from pathlib import Path

import metamorphic_log as theirs
import pytest

from fetchmld.core.merkle import leaf_hash
from fetchmld.core.messages import Fact
from fetchmld.store.notes import Checkpoint, Signer, sign, verifier_key
from tests.memory_log import MemoryLog
from tests.store.pruned_samples import Life

FACTS = [Fact("auth_attempt", "auth.success", f"key:{number}", f"user{number}") for number in range(700)]
LOG = MemoryLog(FACTS)
KEYS = [LOG.verifier_key]


def test_a_checkpoint() -> None:
    head = theirs.checkpoint_verify(LOG.note(700), KEYS)
    assert (head.origin, head.size, bytes(head.root)) == (LOG.signer.origin, 700, LOG.root(700))
    with pytest.raises(theirs.VerifyError):
        theirs.checkpoint_verify(LOG.note(700).replace("\n700\n", "\n701\n"), KEYS)


def test_a_checkpoint_that_two_keys_signed_is_accepted_with_either() -> None:
    fresh = Signer(LOG.signer.origin, b"f" * 32)
    note = sign(Checkpoint(fresh.origin, 700, LOG.root(700)).text, [fresh, LOG.signer])
    for key in (LOG.verifier_key, verifier_key(fresh.origin, fresh.public_key)):
        assert theirs.checkpoint_verify(note, [key]).size == 700


@pytest.mark.parametrize("seq", [0, 1, 255, 256, 511, 512, 698, 699])
def test_an_inclusion_proof(seq: int) -> None:
    leaf, proof = leaf_hash(LOG.hashes[seq]), LOG.inclusion(seq, 700)
    theirs.checkpoint_verify_inclusion(LOG.note(700), KEYS, seq, leaf, proof)
    with pytest.raises(theirs.VerifyError):
        theirs.checkpoint_verify_inclusion(LOG.note(700), KEYS, seq ^ 1, leaf, proof)


@pytest.mark.parametrize("old", [1, 2, 255, 256, 257, 512, 699])
def test_a_consistency_proof(old: int) -> None:
    proof = LOG.consistency(old, 700)
    theirs.checkpoint_verify_consistency(LOG.note(old), LOG.note(700), KEYS, proof)
    with pytest.raises(theirs.VerifyError):
        theirs.checkpoint_verify_consistency(LOG.note(old), LOG.note(700), KEYS, [*proof, bytes(32)])


def test_a_record_whose_beginning_was_pruned(tmp_path: Path) -> None:
    """A ledger on disk: its checkpoints from before and after, and proofs of what is gone and what is not."""
    life = Life(tmp_path / "ledger")
    life.days(8)
    before = life.tree.newest
    first = life.prune()
    life.days(2)
    after, size, keys = life.tree.newest, life.tree.size, [life.tree.verifier_key]
    for seq in (0, 3, 255, 256, first - 1, first, size - 1):
        found = life.tree.prove(seq, size)
        theirs.checkpoint_verify_inclusion(after, keys, seq, found.leaf, found.proof)
        with pytest.raises(theirs.VerifyError):
            theirs.checkpoint_verify_inclusion(after, keys, seq, bytes(32), found.proof)
    old = theirs.checkpoint_verify(before, keys).size
    theirs.checkpoint_verify_consistency(before, after, keys, life.tree.prove_consistency(old, size).proof)
    life.close()
