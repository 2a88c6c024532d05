"""The verifier's own tree and notes: RFC 6962 and C2SP's checkpoints, written anew from their texts.

Shares nothing with `core.merkle` and `store.notes`, which write what this reads; the tests hold the two against each
other and against published vectors. Reads files, asks no daemon.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_TILE: Final = 256
_HASH: Final = 32
_SIGNATURES_MAX: Final = 16
_NOTE_BYTES_MAX: Final = 64 * 1024


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


# ---- a tree that is only read through ---------------------------------------------------------------------------------


class Roots:
    """Takes leaves in order and knows the root so far: one pending node for each bit of the size.

    With `tiles` (a directory), what lies there is compared with what should; `wrong_tile` is then the first event whose
    hash a tile has otherwise, -1 where there is none.
    """

    def __init__(self, tiles: Path | None = None) -> None:
        self.size = 0
        self.wrong_tile = -1
        self._pending: list[bytes | None] = []
        self._tiles = tiles
        self._parts: dict[int, list[bytes]] = {}
        self._tile_index: dict[int, int] = {}

    def add(self, data: Sequence[bytes]) -> None:
        sha256 = hashlib.sha256
        self.add_leaves([sha256(b"\x00" + item).digest() for item in data])

    def add_leaves(self, hashes: Sequence[bytes]) -> None:
        """As `add`, for leaves of which only the hashes are left."""
        self.size += len(hashes)
        self._carry(list(hashes))

    def add_tile(self, whole: bytes) -> None:
        """The next 256 leaves, of which only the hash over all is known. `size` is a multiple of 256."""
        self.size += _TILE
        self._carry([whole], 8)

    def _carry(self, nodes: list[bytes], height: int = 0) -> None:
        sha256, pending = hashlib.sha256, self._pending
        pending += [None] * (height - len(pending))
        while nodes:
            if self._tiles is not None and height % 8 == 0:
                self._compare(height // 8, nodes)
            if height == len(pending):
                pending.append(None)
            held = pending[height]
            if held is not None:
                nodes.insert(0, held)
            pending[height] = nodes.pop() if len(nodes) % 2 else None
            nodes = [
                sha256(b"\x01" + nodes[at] + nodes[at + 1]).digest() for at in range(0, len(nodes), 2)
            ]  # fmt: skip
            height += 1

    def root(self) -> bytes:
        carried = b""
        for held in self._pending:
            if held is not None:
                carried = node(held, carried) if carried else held
        return carried or hashlib.sha256(b"").digest()

    def _compare(self, level: int, nodes: list[bytes]) -> None:
        part = self._parts.setdefault(level, [])
        part += nodes
        whole = len(part) - len(part) % _TILE
        for at in range(0, whole, _TILE):
            index = self._tile_index.get(level, 0)
            self._tile_index[level] = index + 1
            self._compare_tile(level, index, part[at : at + _TILE])
        del part[:whole]

    def _compare_tile(self, level: int, index: int, right: list[bytes]) -> None:
        assert self._tiles is not None
        try:
            found = tile_file(self._tiles, level, index).read_bytes()
        except FileNotFoundError:
            return  # made anew when it is needed
        if found != b"".join(right):
            differs = next((i for i, item in enumerate(right) if found[i * _HASH : (i + 1) * _HASH] != item), 0)
            first = (index * _TILE + differs) * _TILE**level
            self.wrong_tile = first if self.wrong_tile < 0 else min(first, self.wrong_tile)


def tile_file(tiles: Path, level: int, index: int) -> Path:
    digits = f"{index:03d}"
    digits = digits.zfill(len(digits) + -len(digits) % 3)
    parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return tiles.joinpath(str(level), *(f"x{part}" for part in parts[:-1]), parts[-1])


def kept_leaves(tiles: Path, size: int) -> list[bytes] | None:
    """The hashes of the first `size` leaves as the lowest tiles have them; None where some are not there."""
    hashes: list[bytes] = []
    for index in range(-(-size // _TILE)):
        found = tile_leaves(tiles, index, min(_TILE, size - index * _TILE))
        if found is None:
            return None
        hashes += found
    return hashes


def tile_leaves(tiles: Path, index: int, count: int) -> list[bytes] | None:
    """The first `count` hashes of a lowest tile; None where they are not there."""
    raw = _widest(tile_file(tiles, 0, index), count)
    return None if raw is None else [raw[at : at + _HASH] for at in range(0, count * _HASH, _HASH)]


def tile_above(tiles: Path, index: int) -> bytes | None:
    """The hash over a full lowest tile, as the tile above has it; None where that is not there."""
    at = index % _TILE
    raw = _widest(tile_file(tiles, 1, index // _TILE), at + 1)
    return None if raw is None else raw[at * _HASH : (at + 1) * _HASH]


def first_wrong_tile(tiles: Path, size: int, root: bytes) -> int:
    """The first full lowest tile that is not what the tile above says, if with those above's word the tree of `size`
    leaves has this root; else -1."""
    tree, wrong = Roots(), -1
    for index in range(-(-size // _TILE)):
        count = min(_TILE, size - index * _TILE)
        leaves, above = tile_leaves(tiles, index, count), tile_above(tiles, index) if count == _TILE else None
        if above is not None and (leaves is None or root_of_leaves(leaves) != above):
            wrong = index if wrong < 0 else wrong
            tree.add_tile(above)
        elif leaves is None:
            return -1
        else:
            tree.add_leaves(leaves)
    return wrong if tree.root() == root else -1


def _widest(full: Path, needed: int) -> bytes | None:
    """A tile's bytes, of the full one or of a partial one that has `needed` hashes."""
    parts = full.with_name(full.name + ".p")
    try:
        partial = [parts / name for name in sorted((p.name for p in parts.iterdir()), key=len)]
    except OSError:
        partial = []
    for path in (full, *partial):
        try:
            raw = path.read_bytes()
        except OSError:
            continue
        if len(raw) >= needed * _HASH:
            return raw
    return None


def root_of_leaves(leaf_hashes: list[bytes]) -> bytes:
    roots = Roots()
    roots.add_leaves(leaf_hashes)
    return roots.root()


# ---- proofs: RFC 6962, 2.1.1 and 2.1.2, from their definitions -----------------------------------------------------------


def included(leaf_hash: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
    """Whether `proof` shows that the tree of `size` leaves with `root` has this leaf at `index`."""
    return 0 <= index < size and _climb(leaf_hash, index, size, list(proof)) == root


def _climb(leaf_hash: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that follows from the leaf and the whole of the proof; nothing where it has too few or too many nodes."""
    if size == 1:
        return leaf_hash if not proof else b""
    if not proof:
        return b""
    split, other = _split(size), proof.pop()
    if index < split:
        below = _climb(leaf_hash, index, split, proof)
        return below and node(below, other)
    below = _climb(leaf_hash, index - split, size - split, proof)
    return below and node(other, below)


def consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: list[bytes]) -> bool:
    """Whether `proof` shows that the tree of `new` leaves begins with the tree of `old` leaves."""
    if not 0 <= old <= new:
        return False
    if old in (0, new):
        return not proof and (old_root == new_root if old == new else old_root == hashlib.sha256(b"").digest())
    return _both(old, new, True, old_root, list(proof)) == (old_root, new_root)


def _both(old: int, new: int, whole: bool, old_root: bytes, proof: list[bytes]) -> tuple[bytes, bytes] | None:
    """(old root, new root) of this part as the proof has them; None where it has too few or too many nodes."""
    if old == new:
        if whole:
            return (old_root, old_root) if not proof else None
        return (proof[0], proof[0]) if len(proof) == 1 else None
    if not proof:
        return None
    split, other = _split(new), proof.pop()
    if old <= split:
        below = _both(old, split, whole, old_root, proof)
        return below and (below[0], node(below[1], other))
    below = _both(old - split, new - split, False, old_root, proof)
    return below and (node(other, below[0]), node(other, below[1]))


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    power = 1
    while power * 2 < size:
        power *= 2
    return power


# ---- notes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note taken apart. `signatures`: (name, key id, signature)."""

    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]

    def signed_by(self, name: str, public_key: bytes) -> bool:
        """Whether this key has signed, and its signature is right."""
        key_id = hashlib.sha256(name.encode() + b"\n\x01" + public_key).digest()[:4]
        for signer, signer_id, signature in self.signatures:
            if (signer, signer_id) == (name, key_id):
                try:
                    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, self.text.encode())
                except (InvalidSignature, ValueError):
                    return False
                return True
        return False


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint: the first `size` events have this root."""

    note: Note
    origin: str
    size: int
    root: bytes


def read_note(raw: str) -> Note:
    """Raises ValueError where it is no signed note."""
    if len(raw) > _NOTE_BYTES_MAX or any(ord(letter) < 0x20 and letter != "\n" for letter in raw):
        raise ValueError("a note is short, and has no control characters")
    text, blank, below = raw.rpartition("\n\n")
    if not blank or not text or not below.endswith("\n"):
        raise ValueError("a note has a text, an empty line and signature lines")
    lines = below[:-1].split("\n")
    if len(lines) > _SIGNATURES_MAX:
        raise ValueError(f"a note with {len(lines)} signatures")
    return Note(text + "\n", tuple(_signature(line) for line in lines))


def _signature(line: str) -> tuple[str, bytes, bytes]:
    words = line.split(" ")
    if len(words) != 3 or words[0] != "\u2014" or not words[1]:
        raise ValueError(f"no signature line: {line[:120]!r}")
    raw = _decode(words[2])
    if len(raw) <= 4:
        raise ValueError(f"a signature line without a signature: {line[:120]!r}")
    return words[1], raw[:4], raw[4:]


def read_signed(raw: str) -> Signed:
    """Raises ValueError where it is no checkpoint."""
    note = read_note(raw)
    lines = note.text[:-1].split("\n")
    if len(lines) < 3 or "" in lines:
        raise ValueError("a checkpoint has an origin, a size and a root")
    origin, size, root = lines[:3]
    if not size.isascii() or not size.isdecimal() or str(int(size)) != size:
        raise ValueError(f"a checkpoint of the size {size[:40]!r}")
    decoded = _decode(root)
    if len(decoded) != _HASH:
        raise ValueError(f"a checkpoint with the root {root[:80]!r}")
    return Signed(note, origin, int(size), decoded)


def handed_over(raw: str, origin: str, current: bytes) -> bytes:
    """The key that the note of a `key.rotate` brings after `current`; nothing where it is not rightly signed."""
    try:
        note = read_note(raw)
        lines = note.text[:-1].split("\n")
        gone = base64.b64encode(current).decode() if current else "-"
        if len(lines) != 4 or lines[:3] != ["fetchml/key-rotate/v1", origin, gone]:
            return b""
        fresh = _decode(lines[3])
    except ValueError:
        return b""
    signed = note.signed_by(origin, fresh) and (not current or note.signed_by(origin, current))
    return fresh if signed else b""


def read_verifier_key(line: str) -> tuple[str, bytes]:
    """(name, public key) of `<name>+<key id>+<base64>`. Raises ValueError."""
    parts = line.strip().split("+", 2)
    raw = _decode(parts[2]) if len(parts) == 3 else b""
    if len(raw) != 33 or raw[0] != 1:
        raise ValueError(f"no Ed25519 verifier key: {line[:120]!r}")
    return parts[0], raw[1:]


def _decode(text: str) -> bytes:
    """Base64 in its one spelling. Raises ValueError."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError(f"no base64: {text[:80]!r}")
    return raw
