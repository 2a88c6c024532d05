"""The ledger against its signed checkpoints, its own and such as were kept elsewhere.

The chain shows what does not follow from what was before; a checkpoint shows what follows and yet is not what was
recorded: a rewritten tail, a cut one, a rollback, another ledger altogether. Where the tree's lowest tiles still give
the root that was signed, they say which event differs first; else it lies after the last checkpoint that agrees.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from fetchmld.core.chain import HASH_BYTES
from fetchmld.store.landmarks import read_genesis
from fetchmld.verify_boundary import Begins, read_begins
from fetchmld.verify_merkle import (
    Roots,
    Signed,
    first_wrong_tile,
    handed_over,
    kept_leaves,
    leaf,
    read_signed,
    root_of_leaves,
    tile_above,
    tile_leaves,
)
from fetchmld.verify_records import record_row
from fetchmld.verify_walk import SegmentResult, Walk

LOG_NAME: Final = "checkpoints.log"
TILES_NAME: Final = "tiles"
TILE: Final = 256
ROTATE: Final = "key.rotate"
POLICY: Final = "audit.policy"
_OWN: Final = 0
_OUTSIDE: Final = 1


def verify_ledger(ledger_dir: Path, upto: int | None = None, outside: Sequence[str] = ()) -> SegmentResult:
    """As `verify_segments`, and each checkpoint's signature and root, and the tree's tiles.

    `outside` are checkpoints that were kept elsewhere, as text. Raises OSError where a file cannot be read, ValueError
    where one of `outside` is no checkpoint.
    """
    return verify_against(ledger_dir, upto, read_log(ledger_dir), outside)


def verify_against(ledger_dir: Path, upto: int | None, log: bytes | None, outside: Sequence[str]) -> SegmentResult:
    """As `verify_ledger`, with a log of checkpoints that was read earlier: no later than `upto` was asked for."""
    kept, problem = _taken_apart(log)
    given = [read_signed(note) for note in outside]
    try:
        begins = read_begins(ledger_dir)
    except ValueError as unreadable:
        return SegmentResult(0, 0, str(unreadable), bytes(HASH_BYTES))
    tree = _Marked(ledger_dir / TILES_NAME, sorted({signed.size for signed in (*kept, *given)}))
    lost = tree.begin(begins) if begins is not None else []
    walk = Walk(ledger_dir, upto, tree.take, begins)
    chain = walk.result()
    judge = _Judge(ledger_dir, walk, chain, tree, begins)
    if log is None and any((ledger_dir / TILES_NAME).rglob("*")) and not (ledger_dir / LOG_NAME).exists():
        problem = f"{LOG_NAME} is gone"
    if problem:
        judge.fault(walk.next_seq, problem)
    if begins is not None:
        judge.weigh_boundary(begins, lost)
    judge.weigh(kept, given)
    return judge.verdict()


def read_log(ledger_dir: Path) -> bytes | None:
    try:
        return (ledger_dir / LOG_NAME).read_bytes()
    except FileNotFoundError:
        return None


def _taken_apart(log: bytes | None) -> tuple[list[Signed], str]:
    """The log's checkpoints, and what is wrong with it."""
    kept: list[Signed] = []
    if not log:
        return kept, ""
    parts = log.split(b"\n\n")
    if len(parts) % 2 == 0 or parts[-1]:
        return kept, f"{LOG_NAME} ends in the middle of a checkpoint"
    for at in range(0, len(parts) - 1, 2):
        try:
            kept.append(read_signed(f"{parts[at].decode()}\n\n{parts[at + 1].decode()}\n"))
        except ValueError as problem:
            return kept, f"{LOG_NAME}: its checkpoint {at // 2 + 1} cannot be read: {problem}"
        if len(kept) > 1 and kept[-2].size >= kept[-1].size:
            return kept, f"{LOG_NAME}: its checkpoint {at // 2 + 1} does not come after the one before it"
    return kept, ""


class _Marked:
    """A tree that is read through, and its roots at the sizes asked for."""

    def __init__(self, tiles: Path, sizes: list[int]) -> None:
        self._tiles = tiles
        self.tree = Roots(tiles if tiles.is_dir() else None)
        self.roots: dict[int, bytes] = {}
        self.unknown: set[int] = set()  # sizes whose root cannot be told any more
        self._sizes = sizes[::-1]  # the next one last
        self._mark()

    def begin(self, begins: Begins) -> list[int]:
        """Take in what the lowest tiles have of the events that were pruned; the tiles that are gone, of which nothing is
        taken in but the hash over all, if the tile above has it."""
        lost = []
        for index in range(begins.first_seq // TILE):
            leaves = tile_leaves(self._tiles, index, TILE)
            if leaves is None:
                lost.append(index)
                self._skip(tile_above(self._tiles, index) or bytes(HASH_BYTES))
            else:
                self._take(leaves, self.tree.add_leaves)
        self._take(begins.edge, self.tree.add_leaves)
        return lost

    def _skip(self, whole: bytes) -> None:
        self.tree.add_tile(whole)
        while self._sizes and self._sizes[-1] < self.tree.size:
            self.unknown.add(self._sizes.pop())
        self._mark()

    def take(self, leaves: list[bytes]) -> None:
        self._take(leaves, self.tree.add)

    def _take(self, leaves: list[bytes], add: Callable[[list[bytes]], None]) -> None:
        at = 0
        while at < len(leaves):
            room = self._sizes[-1] - self.tree.size if self._sizes else len(leaves)
            part = leaves[at : at + room]
            add(part)
            at += len(part)
            self._mark()

    def _mark(self) -> None:
        if self._sizes and self._sizes[-1] == self.tree.size:
            self.roots[self._sizes.pop()] = self.tree.root()


class _Judge:
    """Collects what is wrong; the lowest sequence number is what counts."""

    def __init__(
        self, ledger_dir: Path, walk: Walk, chain: SegmentResult, tree: _Marked, begins: Begins | None
    ) -> None:
        self._directory = ledger_dir
        self._walk = walk
        self._chain = chain
        self._begins = begins
        self._roots, self._unknown = tree.roots, tree.unknown
        self._wrong_tile = tree.tree.wrong_tile
        self._faults: list[tuple[int, str]] = [] if chain.valid else [(chain.first_bad, chain.problem)]
        self._agreeing: tuple[list[int], list[int]] = (
            [],
            [],
        )  # sizes of our own checkpoints, and of those from outside
        self._disagreeing: tuple[list[Signed], list[Signed]] = ([], [])
        self._checkpoints = 0
        self._vouched = 0
        self._notice = ""
        self._origin, self._keys = self._read_keys()

    def _read_keys(self) -> tuple[str, list[tuple[int, bytes]]]:
        """The log's name, and (first tree size, public key) of each key that was in force, in order."""
        try:
            genesis = read_genesis(self._directory)
        except (FileNotFoundError, ValueError):
            return "", []
        origin, keys = f"fetchml/{genesis.installation}", [(0, genesis.public_key)]
        for seq, metadata in self._rotations():
            fresh = handed_over(str(json.loads(metadata).get("note", "")), origin, keys[-1][1])
            if fresh:
                keys.append((seq + 1, fresh))
        return origin, keys

    def _rotations(self) -> list[tuple[int, str]]:
        carried = self._begins.carried if self._begins else []
        rows = [(seq, record_row(record + digest, 0, len(record))) for seq, record, digest in carried]
        gone = [(seq, row[12]) for seq, row in rows if row[4] == ROTATE]
        return gone + [(seq, metadata) for seq, action, metadata in self._walk.notable if action == ROTATE]

    def weigh_boundary(self, begins: Begins, lost: list[int]) -> None:
        """The chain must name the file that stands for what was pruned, and the tiles must have what it carries."""
        for index in lost:
            self.fault(
                index * TILE, f"the tile with the hashes of events {index * TILE} to {index * TILE + 255} is gone"
            )
        for seq, problem in begins.faults:
            self.fault(seq, problem)
        policies = [json.loads(metadata) for _, action, metadata in self._walk.notable if action == POLICY]
        if self._chain.valid and begins.digest.hex() not in [policy.get("pruned") for policy in policies]:
            self.fault(
                0, "no event of the record names the file `pruned`: it was not written by a prune of this record"
            )
        tiles: dict[int, list[bytes] | None] = {}
        for seq, _, digest in begins.carried:
            index, at = divmod(seq, TILE)
            if index not in tiles:
                whole = index < begins.first_seq // TILE
                tiles[index] = tile_leaves(self._directory / TILES_NAME, index, TILE) if whole else begins.edge
            leaves = tiles[index]
            if leaves is not None and leaves[at] != leaf(digest) and not self._is_wrong(index):
                self.fault(seq, "pruned: it carries another event than the tree has")

    def _is_wrong(self, index: int) -> bool:
        """Whether it is the lowest tile that was changed, by what the one above says."""
        above, leaves = tile_above(self._directory / TILES_NAME, index), None
        if above is not None:
            leaves = tile_leaves(self._directory / TILES_NAME, index, TILE)
        return leaves is not None and root_of_leaves(leaves) != above

    def _key_at(self, size: int) -> bytes:
        return next((key for first, key in reversed(self._keys) if first <= size), b"")

    def fault(self, seq: int, problem: str) -> None:
        self._faults.append((seq, problem))

    def weigh(self, kept: list[Signed], given: list[Signed]) -> None:
        before = b""  # the key of the checkpoint before
        for signed in kept:
            key = self._key_at(signed.size)
            if signed.size <= self._walk.next_seq and not self._is_ours(signed, key, before):
                why = f"{LOG_NAME}: the checkpoint of {signed.size} events is not signed by the key in force"
                self.fault(self._walk.next_seq, why)
                continue
            before = key
            self._checkpoints += self._agrees(signed, _OWN)
        for signed in given:
            self._weigh_outside(signed)
        own, others = self._disagreeing
        if own or others:
            self._blame(sorted([*own, *others], key=lambda signed: signed.size))

    def _is_ours(self, signed: Signed, key: bytes, before: bytes) -> bool:
        """The first checkpoint after a rotation is signed by both keys, so that whoever knew the old one can follow."""
        if signed.origin != self._origin or not key or not signed.note.signed_by(self._origin, key):
            return False
        return before in (b"", key) or signed.note.signed_by(self._origin, before)

    def _weigh_outside(self, signed: Signed) -> None:
        if signed.origin != self._origin:
            self.fault(0, f"the checkpoint from outside is of {signed.origin}, and this ledger is {self._origin}")
        elif self._agrees(signed, _OUTSIDE):
            if self._is_ours(signed, self._key_at(signed.size), b""):
                self._vouched = max(self._vouched, signed.size)
            else:
                self._notice = "The checkpoint from outside is not signed by this ledger's key: it vouches for nothing."

    def _agrees(self, signed: Signed, whose: int) -> bool:
        """Whether the ledger holds the events of which this checkpoint was signed."""
        if self._roots.get(signed.size) == signed.root:
            self._agreeing[whose].append(signed.size)
            return True
        if signed.size in self._unknown:
            return False
        missing = self._walk.next_seq
        if signed.size > missing and self._chain.valid:
            self.fault(
                missing, f"the ledger ends before event {missing}; a checkpoint was signed of {signed.size} events"
            )
        self._disagreeing[whose].append(signed)
        return False

    def _blame(self, disagreeing: list[Signed]) -> None:
        """Find the first event that is not the one of which a checkpoint was signed.

        The newest and the oldest of those that disagree are tried: the tiles up to one of them may have been left.
        """
        for signed in (disagreeing[-1], disagreeing[0]):
            leaves = kept_leaves(self._directory / TILES_NAME, signed.size)
            if leaves is not None and root_of_leaves(leaves) == signed.root:
                differs = _Differs(leaves, self._walk.first_seq)
                if self._walk.next_seq > self._walk.first_seq:
                    Walk(self._directory, self._walk.next_seq - 1, differs.take, self._begins).result()
                if differs.first >= 0:
                    self.fault(differs.first, "it was rewritten: a checkpoint was signed of another event there")
                return
        if self._blame_tile(disagreeing[-1]):
            return
        first = disagreeing[0].size
        if first <= self._walk.next_seq:
            where = f"from here to {first - 1}, and the tree's tiles cannot say in which"
            why = f"the ledger was rewritten: a signed checkpoint disagrees, in an event {where}"
            self.fault(self._agreed_below(first), why)

    def _blame_tile(self, signed: Signed) -> bool:
        """Whether a tile with hashes of events that were pruned is what was changed."""
        index = first_wrong_tile(self._directory / TILES_NAME, signed.size, signed.root) if self._begins else -1
        if self._begins is None or not 0 <= index < self._begins.first_seq // TILE:
            return False
        where = f"events {index * TILE} to {index * TILE + TILE - 1}"
        self.fault(index * TILE, f"the tile with the hashes of {where}, which were pruned, was changed")
        return True

    def _agreed_below(self, size: int) -> int:
        """So many events, fewer than `size`, are as they were.

        The key lies beside our own checkpoints: whoever rewrote the ledger may have signed them anew. Where one of them
        disagrees, they were left as they were.
        """
        own = self._agreeing[_OWN] if self._disagreeing[_OWN] else []
        return max((agreed for agreed in (*own, *self._agreeing[_OUTSIDE]) if agreed < size), default=0)

    def verdict(self) -> SegmentResult:
        chain, tiles_wrong = self._chain, self._wrong_tile >= 0
        if tiles_wrong and not self._faults:
            self.fault(
                self._wrong_tile,
                "the tree's tile with its hash was changed, the event itself is right; a running daemon that verifies "
                "makes it anew",
            )
        first_bad, problem = min(self._faults, key=lambda fault: fault[0], default=(-1, ""))
        total = chain.total_events if first_bad < 0 else min(chain.total_events, first_bad)
        return replace(
            chain,
            total_events=total,
            first_bad=first_bad,
            problem=problem,
            checkpoints=self._checkpoints,
            vouched=self._vouched,
            notice=self._notice,
            tiles_wrong=tiles_wrong,
        )


class _Differs:
    """The first event whose leaf is not the one that the tiles have."""

    def __init__(self, leaves: list[bytes], first: int) -> None:
        self._leaves = leaves
        self._at = first
        self.first = -1

    def take(self, data: list[bytes]) -> None:
        for item in data:
            if self.first < 0 and self._at < len(self._leaves) and leaf(item) != self._leaves[self._at]:
                self.first = self._at
            self._at += 1
