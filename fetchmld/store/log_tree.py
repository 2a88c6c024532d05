"""The transparency log over the ledger: follows its events, keeps tree and tiles, signs checkpoints, gives proofs.

Owns `DIR/ledger/tiles/`, `checkpoints.log` and which key is in force. It reads the ledger and never writes it. All calls
block and come from one thread at a time.

It never signs what contradicts a checkpoint of its own: where the ledger ends before the newest one, or tells another
story than it, `advance` raises LedgerDamaged for as long as that is so.
"""

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fetchmld.core.chain import Event, event_hash
from fetchmld.core.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    TILE_WIDTH,
    Tile,
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    range_hash,
    root_at,
)
from fetchmld.store import boundary
from fetchmld.store.boundary import Boundary
from fetchmld.store.landmarks import read_genesis
from fetchmld.store.notes import (
    KEYS,
    Checkpoint,
    Signer,
    is_signed,
    key_id,
    load_key,
    make_key,
    origin_of,
    read_checkpoint,
    rotated_to,
    rotation_note,
    sign,
    verifier_key,
)
from fetchmld.store.segment import LedgerDamaged
from fetchmld.store.tail import Tail
from fetchmld.store.tiles import CheckpointLog, TileStore

log = logging.getLogger(__name__)

ROTATE: Final = "key.rotate"
_STEP_EVENTS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That an event is a leaf of the tree of `size`; `note` is that tree's checkpoint, empty where none is kept.

    `record` is empty where the event itself was pruned: its hash in the tree is all that is left.
    """

    record: bytes
    leaf: bytes
    size: int
    proof: list[bytes]
    note: str


@dataclass(frozen=True, slots=True)
class Consistency:
    """That the tree of `new` leaves begins with that of `old`."""

    old: int
    new: int
    old_root: bytes
    new_root: bytes
    proof: list[bytes]
    old_note: str
    new_note: str


class LogTree:
    """See the module."""

    def __init__(self, ledger_dir: Path, anew: bool = False) -> None:
        """With `anew`, all tiles are made from the segments again; those of events that were pruned from the lowest.

        Raises OSError, ValueError (a damaged landmark, checkpoint or key) and LedgerDamaged.
        """
        self._directory = ledger_dir
        genesis = read_genesis(ledger_dir)
        self.origin = origin_of(genesis.installation)
        self._log = CheckpointLog(ledger_dir)
        self.torn_bytes = self._log.torn_bytes
        self._tiles = TileStore(ledger_dir)
        self._signed = Checkpoint(self.origin, 0, EMPTY_ROOT)
        self._tree = Tree()
        self._unwritten: list[Tile] = []
        self._leaving: Signer | None = None  # the key that signs once more beside its successor
        self._newest_hash = b""
        self._signer: Signer | None = None
        if self._log.newest:
            self._signed = read_checkpoint(self._log.newest)
            self._signer = self._signer_of(self._log.newest)
            if not anew:
                self._load()
        elif genesis.public_key:
            self._signer = load_key(ledger_dir, self.origin, genesis.public_key)
        begins = boundary.read(ledger_dir)
        if begins is not None and self._tree.size < begins.first_seq:
            self._begin(begins)
        self._tail = Tail(ledger_dir, from_seq=self._tree.size)

    def _signer_of(self, note: str) -> Signer:
        """The key that is in force at `note`: the one that signed it first, of those that are here."""
        for path in sorted((self._directory / KEYS).glob("*.pub")):
            public_key = bytes.fromhex(path.stem)
            first = note.rpartition("\n\n")[2].split("\n", 1)[0] + "\n"
            if is_signed(note.rpartition("\n\n")[0] + "\n\n" + first, self.origin, public_key):
                return load_key(self._directory, self.origin, public_key)
        raise ValueError(f"no key in {self._directory / KEYS} has signed the newest checkpoint")

    def _load(self) -> None:
        """The tree at the newest checkpoint, from its tiles; from the first event on where they do not give its root."""
        try:
            tree = Tree.load(self._signed.size, self._tiles.read)
            if tree.root() == self._signed.root:
                self._tree = tree
                return
            why = "they do not give the root that was signed"
        except (OSError, ValueError) as problem:
            why = str(problem)
        log.warning("tree_made_anew", extra={"why": why})

    def _begin(self, begins: Boundary) -> None:
        """The tree at the boundary, from the lowest tiles: of what was pruned nothing else is left."""
        self._tree = Tree()
        for index in range(begins.first_seq // TILE_WIDTH):
            hashes = self._tiles.read(0, index, TILE_WIDTH)
            full = self._tree.add_leaves([hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)])
            self._unwritten += [tile for tile in full if tile.level]
        self._tree.add_leaves(begins.edge)

    # -- following

    @property
    def size(self) -> int:
        return self._tree.size

    @property
    def newest(self) -> str:
        """The newest checkpoint, empty where there is none yet."""
        return self._log.newest

    @property
    def signed_size(self) -> int:
        return self._signed.size

    @property
    def verifier_key(self) -> str:
        return verifier_key(self.origin, self._signer.public_key) if self._signer else ""

    @property
    def has_key(self) -> bool:
        return self._signer is not None

    def advance(self, seq: int, root_hash: bytes) -> bool:
        """Take in the next events up to `seq`, which is durable and has this hash. False where more are left.

        Raises LedgerDamaged, and OSError; calling again goes on where it stopped.
        """
        self._flush()
        if self._signed.size > seq + 1:
            raise LedgerDamaged(
                seq + 1, f"a checkpoint was signed of {self._signed.size} events, and only {seq + 1} are here"
            )
        stop = self._signed.size - 1 if self.size < self._signed.size else seq
        hashes, rotations = self._tail.scan(stop, _STEP_EVENTS, ROTATE)
        if hashes:
            self._newest_hash = hashes[-1]
            self._unwritten = self._tree.add(hashes)
        if self.size > self._signed.size:
            for event in rotations:
                self._rotate(event)
        elif self.size == self._signed.size and self._tree.root() != self._signed.root:
            raise LedgerDamaged(0, f"its first {self.size} events are not those of which a checkpoint was signed")
        if self.size == seq + 1 and self._newest_hash and self._newest_hash != root_hash:
            raise LedgerDamaged(seq, "it is not the event that the scheduler wrote")
        self._flush()
        return self.size > seq

    def _flush(self) -> None:
        if self._unwritten:
            self._tiles.write_full(self._unwritten)
            self._unwritten = []

    def _rotate(self, event: Event) -> None:
        """Go over to the key that the event names, if it is handed over rightly."""
        current = self._signer.public_key if self._signer else b""
        fresh = rotated_to(str(event.fact.metadata.get("note", "")), self.origin, current)
        if fresh is not None:
            self._leaving = self._leaving or self._signer
            self._signer = load_key(self._directory, self.origin, fresh)

    def sign(self) -> str:
        """Sign and keep a checkpoint of all that was taken in; the note. Raises OSError."""
        assert self._signer is not None, "a key comes first: prepare_rotation"
        self._tiles.write_edge(self._tree.edge())
        checkpoint = Checkpoint(self.origin, self.size, self._tree.root())
        note = sign(checkpoint.text, [self._signer, self._leaving] if self._leaving else [self._signer])
        self._log.append(note)
        self._signed = checkpoint
        if self._leaving is not None:
            (self._directory / KEYS / f"{self._leaving.public_key.hex()}.key").unlink(missing_ok=True)
            self._leaving = None
        return note

    def prepare_rotation(self) -> dict[str, str]:
        """Make the next key; the metadata of the `key.rotate` that brings it into force. Raises OSError."""
        fresh = make_key(self._directory, self.origin)
        return {
            "public_key": fresh.public_key.hex(),
            "key_id": key_id(self.origin, fresh.public_key).hex(),
            "note": rotation_note(self.origin, self._signer, fresh),
        }

    def agrees(self, note: str) -> bool:
        """Whether a checkpoint that was kept elsewhere says of its size what the tree says. Raises ValueError."""
        kept = read_checkpoint(note)
        return kept.origin == self.origin and kept.size <= self.size and self._root(kept.size) == kept.root

    def _root(self, size: int) -> bytes:
        return self._tree.root() if size == self.size else root_at(size, self._read)

    # -- proofs

    def prove(self, seq: int, size: int) -> Inclusion:
        """`size` at most that of the newest checkpoint, and more than `seq`. Raises ValueError, OSError, LedgerDamaged."""
        record, there = self._record(seq), range_hash(seq, seq + 1, self._read)
        proof = inclusion_proof(seq, size, self._read)
        if record and there != leaf_hash(event_hash(record)):
            raise LedgerDamaged(seq, "it is not the event that the tree has")
        return Inclusion(record, there, size, proof, self._log.find(size))

    def _record(self, seq: int) -> bytes:
        """The event as it was hashed; nothing where it was pruned and is not carried."""
        if seq < boundary.first_seq(self._directory):
            pruned = boundary.load(self._directory)
            carried = () if pruned is None else pruned.carried
            return next((one.record for one in carried if one.seq == seq), b"")
        with closing(Tail(self._directory, from_seq=seq)) as tail:
            return tail.read_records(seq, 1)[0].record

    def prove_consistency(self, old: int, new: int) -> Consistency:
        """Both at most the size of the newest checkpoint. Raises as `prove`."""
        proof = consistency_proof(old, new, self._read)
        roots = self._root(old), self._root(new)
        return Consistency(old, new, *roots, proof, self._log.find(old), self._log.find(new))

    def _read(self, level: int, index: int, least: int) -> bytes:
        return self._tiles.read(level, index, least)

    def close(self) -> None:
        self._tail.close()
