"""The Merkle tree over the event hashes: RFC 6962's tree (SHA-256), kept in tiles as C2SP's tlog-tiles cuts it.

Owns the arithmetic: how a tree grows by tiles, and which hashes prove that an event is in it or that one tree continues
another. It never touches a file; whoever keeps tiles hands them in. A leaf's data is one event hash, 32 bytes.

A tile at level L holds up to 256 hashes side by side, each of a whole subtree of 256**L leaves. A full tile's own hash
is one entry of the level above. Of a tree of n leaves every tile is full but the last one of each level.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
HASH_BYTES: Final = 32
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
EMPTY_ROOT: Final = sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class Tile:
    """`hashes` has `width` of them, 256 in a full tile."""

    level: int
    index: int
    hashes: bytes

    @property
    def width(self) -> int:
        return len(self.hashes) // HASH_BYTES


# (level, index, least width) -> the tile's hashes, at least so many
ReadTile = Callable[[int, int, int], bytes]


def leaf_hash(event_hash: bytes) -> bytes:
    return sha256(b"\0" + event_hash).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Where tlog-tiles has it: `0/x001/x234/067` for a full tile, with `.p/112` behind it for a partial one."""
    if level < 0 or index < 0 or not 0 < width <= TILE_WIDTH:
        raise ValueError(f"there is no tile {index} of width {width} at level {level}")
    name = f"{index % 1000:03d}"
    while index := index // 1000:
        name = f"x{index % 1000:03d}/{name}"
    return f"{level}/{name}" if width == TILE_WIDTH else f"{level}/{name}.p/{width}"


def partial_tiles(size: int) -> list[tuple[int, int, int]]:
    """(level, index, width) of each tile at the right edge of a tree of `size` leaves that is not full."""
    edge, level = [], 0
    while size:
        if width := size % TILE_WIDTH:
            edge.append((level, size // TILE_WIDTH, width))
        size, level = size // TILE_WIDTH, level + 1
    return edge


class Tree:
    """A growing tree's right edge: what is needed to add leaves and to name the root. The rest is in the tiles."""

    __slots__ = ("_edge", "size")

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[list[bytes]] = []  # per level, the hashes of the last tile while it is not full

    @classmethod
    def load(cls, size: int, read: ReadTile) -> "Tree":
        """The tree of the first `size` leaves, from the tiles at its right edge. Raises what `read` raises."""
        tree = cls()
        tree.size = size
        for level, index, width in partial_tiles(size):
            while len(tree._edge) <= level:
                tree._edge.append([])
            tree._edge[level] = _split(read(level, index, width))[:width]
        return tree

    def add(self, event_hashes: Sequence[bytes]) -> list[Tile]:
        """Append leaves. Returns the tiles that became full by it, each level in order, lower levels first."""
        hash_of = sha256
        return self.add_leaves([hash_of(b"\0" + event_hash).digest() for event_hash in event_hashes])

    def add_leaves(self, leaf_hashes: Sequence[bytes]) -> list[Tile]:
        """As `add`, for leaves of which only the hashes are left."""
        self.size += len(leaf_hashes)
        return self._push(0, list(leaf_hashes))

    def _push(self, level: int, hashes: list[bytes]) -> list[Tile]:
        if not hashes:
            return []
        if level == len(self._edge):
            self._edge.append([])
        index = (self.size >> TILE_HEIGHT * level) - len(hashes) >> TILE_HEIGHT
        held = self._edge[level] + hashes
        whole = len(held) - len(held) % TILE_WIDTH
        self._edge[level] = held[whole:]
        tops, full = [], []
        for at in range(0, whole, TILE_WIDTH):
            entries = held[at : at + TILE_WIDTH]
            full.append(Tile(level, index + at // TILE_WIDTH, b"".join(entries)))
            tops.append(subtree_hash(entries))
        return full + self._push(level + 1, tops)

    def edge(self) -> Iterator[Tile]:
        """The tiles at the right edge that are not full."""
        for level, hashes in enumerate(self._edge):
            if hashes:
                yield Tile(level, self.size >> TILE_HEIGHT * (level + 1), b"".join(hashes))

    def root(self) -> bytes:
        """RFC 6962's Merkle Tree Hash of all leaves."""
        carry: list[bytes] = []  # the lower levels together are the last, incomplete entry of the one above
        for hashes in self._edge:
            if entries := hashes + carry:
                carry = [subtree_hash(entries)]
        return carry[0] if carry else EMPTY_ROOT


def subtree_hash(entries: list[bytes]) -> bytes:
    """The hash over `entries`, at least one: each a subtree of equal size, the last one perhaps smaller.

    Pairing up from the left and passing a single last one on unchanged gives RFC 6962's tree, whose left half is always
    the largest power of two.
    """
    hash_of = sha256
    while (count := len(entries)) > 1:
        odd = entries[-1:] if count % 2 else []
        pairs = iter(entries)
        entries = [hash_of(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)] + odd
    return entries[0]


# ---- proofs ---------------------------------------------------------------------------------------------------------


def inclusion_proof(index: int, size: int, read: ReadTile) -> list[bytes]:
    """RFC 6962's PATH: proves that leaf `index` is in the tree of the first `size` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    return [range_hash(start, end, read) for start, end in _path(index, 0, size)]


def consistency_proof(old: int, new: int, read: ReadTile) -> list[bytes]:
    """RFC 6962's PROOF: that the tree of `new` leaves begins with that of `old`. Empty where either says nothing."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not continue one of {old}")
    return [range_hash(start, end, read) for start, end in _subproof(old, new)] if 0 < old < new else []


def root_at(size: int, read: ReadTile) -> bytes:
    return range_hash(0, size, read) if size else EMPTY_ROOT


def range_hash(start: int, end: int, read: ReadTile) -> bytes:
    """The hash over leaves [start, end), a range that RFC 6962's splitting yields: `start` is a multiple of the largest
    power of two within it."""
    size = end - start
    if size & (size - 1) == 0:
        return _complete(start, size.bit_length() - 1, read)
    left = _largest_power_below(size)
    return node_hash(range_hash(start, start + left, read), range_hash(start + left, end, read))


def _complete(start: int, height: int, read: ReadTile) -> bytes:
    """The hash of the complete subtree of 2**height leaves from `start` on, out of the tile that holds it."""
    level, above = divmod(height, TILE_HEIGHT)
    entry, count = start >> TILE_HEIGHT * level, 1 << above
    index, at = divmod(entry, TILE_WIDTH)
    hashes = read(level, index, at + count)[at * HASH_BYTES : (at + count) * HASH_BYTES]
    return subtree_hash(_split(hashes))


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def _largest_power_below(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def _path(index: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    if end - start == 1:
        return
    middle = start + _largest_power_below(end - start)
    if index < middle:
        yield from _path(index, start, middle)
        yield middle, end
    else:
        yield from _path(index, middle, end)
        yield start, middle


def _subproof(old: int, new: int) -> Iterator[tuple[int, int]]:
    """From leaf `start` on; a subtree that is the whole old tree need not be named (RFC 6962, 2.1.2)."""
    start, end, others = 0, new, list[tuple[int, int]]()
    while old != end:
        middle = start + _largest_power_below(end - start)
        if old <= middle:
            others.append((middle, end))
            end = middle
        else:
            others.append((start, middle))
            start = middle
    if start:
        yield start, end
    yield from reversed(others)
