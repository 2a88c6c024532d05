"""A proof in a file, checked by itself: no daemon, no ledger, nothing but the file and what was kept elsewhere.

The file is what `GET /v1/audit/proof` or `/v1/audit/consistency` answered. A checkpoint that was kept elsewhere, or a key
that was, makes the proof worth something; the checkpoint and the key in the file itself come from whoever gave it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from fetchmld.verify import TAMPERED, UNREADABLE, VALID, VALID_UNVOUCHED
from fetchmld.verify_merkle import Signed, consistent, included, leaf, read_signed, read_verifier_key


@dataclass(frozen=True, slots=True)
class ProofReport:
    """`code` is the exit status of `fetchmld audit check`, `lines` its words."""

    code: int
    lines: tuple[str, ...]


class _Wrong(Exception):
    """The proof does not prove what it says."""


class _Useless(Exception):
    """What is there cannot be compared."""


def check_proof(text: str, kept: Sequence[str] = (), key: str = "") -> ProofReport:
    """Check the proof in `text` against the checkpoints in `kept` and the verifier key `key`, each from elsewhere."""
    try:
        proof = json.loads(text)
        notes = [read_signed(note) for note in kept]
        name, public_key = read_verifier_key(key or proof["verifier_key"])
        check = {"inclusion": _inclusion, "consistency": _consistency}[proof["kind"]]
        trees, said = check(proof)
        inside = _own_notes(proof, trees, name, public_key)
        vouched = _compare(trees, notes) or (bool(key) and bool(inside))
        _check_signatures(notes, name, public_key, bool(key))
    except _Wrong as wrong:
        return ProofReport(TAMPERED, (f"INVALID: {wrong}",))
    except _Useless as useless:
        return ProofReport(UNREADABLE, (f"cannot be checked: {useless}",))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        return ProofReport(UNREADABLE, (f"unreadable: {type(problem).__name__}: {problem}",))
    if vouched:
        return ProofReport(VALID, (said,))
    advice = (
        "Nothing from outside vouches for it: name a checkpoint that was kept elsewhere (--checkpoint FILE) or the key"
    )
    return ProofReport(VALID_UNVOUCHED, (said, f"{advice} (--key)."))


def _inclusion(proof: dict[str, Any]) -> tuple[dict[int, bytes], str]:
    """The trees that the proof is about (size -> root), and what it shows."""
    seq, size, root = int(proof["sequence_num"]), int(proof["tree_size"]), bytes.fromhex(proof["root"])
    event_hash = _event_hash(proof, seq) if "record" in proof else None
    found = bytes.fromhex(proof["leaf_hash"]) if event_hash is None else leaf(event_hash)
    if not included(found, seq, size, _nodes(proof), root):
        raise _Wrong(f"event {seq} is not in the tree of {size} events with the root {root.hex()}")
    if event_hash is None:
        said = f"the leaf hash {found.hex()}; retention has removed the event itself"
        return {size: root}, f"valid: event {seq} is in the record of {size} events, with {said}"
    return {size: root}, f"valid: event {seq} is in the record of {size} events, {event_hash.hex()}"


def _event_hash(proof: dict[str, Any], seq: int) -> bytes:
    record = bytes.fromhex(proof["record"])
    event_hash = blake3(record).digest()
    if (
        event_hash.hex() != proof["event_hash"]
        or proof.get("leaf_hash", leaf(event_hash).hex()) != leaf(event_hash).hex()
    ):
        raise _Wrong("the event's bytes do not have the hash that stands beside them")
    if record[:8] != b"FMLEVT01" or int.from_bytes(record[8:16], "big") != seq:
        raise _Wrong(f"the bytes are not the record of event {seq}")
    return event_hash


def _consistency(proof: dict[str, Any]) -> tuple[dict[int, bytes], str]:
    old, new = int(proof["from"]), int(proof["to"])
    roots = bytes.fromhex(proof["from_root"]), bytes.fromhex(proof["to_root"])
    if not consistent(old, new, *roots, _nodes(proof)):
        raise _Wrong(f"the record of {new} events does not continue that of {old}")
    return {old: roots[0], new: roots[1]}, f"valid: the record of {new} events begins with that of {old}"


def _nodes(proof: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(node) for node in proof["proof"]]


def _own_notes(proof: dict[str, Any], trees: dict[int, bytes], name: str, public_key: bytes) -> list[Signed]:
    """The checkpoints in the file, which must say what it says and be signed."""
    found = [read_signed(proof[at]) for at in ("checkpoint", "from_checkpoint", "to_checkpoint") if at in proof]
    for signed in found:
        if trees.get(signed.size) != signed.root or signed.origin != name:
            raise _Wrong(f"its own checkpoint of {signed.size} events is of another tree")
    right = [signed for signed in found if signed.note.signed_by(name, public_key)]
    if len(found) > len(right) and found[-1] not in right:
        raise _Wrong(f"its own checkpoint of {found[-1].size} events is not signed by the key {name}")
    return right


def _compare(trees: dict[int, bytes], notes: list[Signed]) -> bool:
    """Whether checkpoints from elsewhere are of these trees. All that are given must be."""
    for signed in notes:
        root = trees.get(signed.size)
        if root is None:
            sizes = " and ".join(map(str, trees))
            raise _Useless(
                f"the proof is of {sizes} events, the checkpoint of {signed.size}; ask for one that fits: "
                "fetchmld audit prove --checkpoint FILE"
            )
        if root != signed.root:
            raise _Wrong(f"the checkpoint that was kept elsewhere has another root for {signed.size} events")
    return bool(notes)


def _check_signatures(notes: list[Signed], name: str, public_key: bytes, is_given: bool) -> None:
    """With a key from elsewhere, checkpoints from elsewhere must be signed by it."""
    for signed in notes:
        if is_given and not (signed.origin == name and signed.note.signed_by(name, public_key)):
            raise _Wrong(f"the checkpoint of {signed.size} events is not signed by the key that was given")
