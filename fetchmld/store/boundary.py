"""Where the record begins, once its older part was pruned: `DIR/ledger/pruned`, one file that stands for what is gone.

    first line   JSON: the first event that is there, how it is reached, sizes and hashes of what follows, `check`
    then         records that are carried: of tasks that live at the boundary, of experiments, of changes of the key
    then         the state before the first event, as `state_form` writes it

A carried record is an original one, beside its hash, whose place in the tree the tiles still prove; the state is what a
start folds on from. An event `audit.policy` behind the boundary names the hash of the first line, so that the chain
vouches for all of it. Segments below the boundary, where a prune was stopped before it had removed them, count as gone.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from blake3 import blake3

from fetchmld.core.chain import HASH_BYTES
from fetchmld.store.landmarks import Mark
from fetchmld.store.segment import (
    ENTRY,
    ENTRY_EXTRA_BYTES,
    SIZE,
    LedgerDamaged,
    list_segments,
    sync_directory,
    write_at,
)
from fetchmld.store.tail import Record

PRUNED: Final = "pruned"
NEXT: Final = "pruned.next"
FORMAT: Final = 1
_LINE_BYTES_MAX: Final = 64 * 1024
_STEP_BYTES: Final = 4 * 1024 * 1024  # synced in steps, so that the writer's own syncs never wait behind all of it


@dataclass(frozen=True, slots=True)
class Boundary:
    """The record begins at event `first_seq`; `at_us` and `clock_us` are the times of the event before it."""

    first_seq: int
    prev_hash: bytes
    at_us: int
    clock_us: int
    genesis: bytes  # the genesis hash: nothing else that is left binds genesis.json
    edge: tuple[bytes, ...]  # leaf hashes of the tile that the boundary is in, up to it
    carried_bytes: int = 0
    carried_hash: bytes = b""
    state_hash: bytes = b""
    digest: bytes = b""  # BLAKE3 of the first line: what `audit.policy` names

    @property
    def mark(self) -> Mark:
        """Where a walk along the chain begins."""
        return Mark(self.first_seq, self.prev_hash, self.first_seq, 0, self.at_us, self.clock_us)


@dataclass(frozen=True, slots=True)
class Pruned:
    """All of the file, found right in itself."""

    boundary: Boundary
    carried: tuple[Record, ...]
    state: bytes


def read(ledger_dir: Path) -> Boundary | None:
    """The boundary, from the first line alone; None where nothing was pruned. Raises LedgerDamaged, OSError."""
    try:
        with (ledger_dir / PRUNED).open("rb") as file:
            return _parsed(file.readline(_LINE_BYTES_MAX))
    except FileNotFoundError:
        return None


def load(ledger_dir: Path, name: str = PRUNED) -> Pruned | None:
    """All of it, every hash compared; None where nothing was pruned. Raises LedgerDamaged, OSError."""
    try:
        raw = (ledger_dir / name).read_bytes()
    except FileNotFoundError:
        return None
    end = raw.find(b"\n") + 1
    boundary = _parsed(raw[:end])
    carried, state = raw[end : end + boundary.carried_bytes], raw[end + boundary.carried_bytes :]
    if (blake3(carried).digest(), blake3(state).digest()) != (boundary.carried_hash, boundary.state_hash):
        raise LedgerDamaged(0, f"{name} is not as it was written")
    return Pruned(boundary, tuple(_entries(carried)), state)


def first_seq(ledger_dir: Path) -> int:
    """The first event that the record still has. Raises LedgerDamaged, OSError."""
    boundary = read(ledger_dir)
    return 0 if boundary is None else boundary.first_seq


def segments_from(ledger_dir: Path, first: int) -> list[tuple[int, Path]]:
    """(first sequence number, path) of each segment from the boundary on, in order."""
    return [(seq, path) for seq, path in list_segments(ledger_dir / "segments") if seq >= first]


def write_next(ledger_dir: Path, boundary: Boundary, carried: Sequence[Record], state: bytes) -> bytes:
    """Write what is to become the boundary to `pruned.next`, durably; the hash of its first line. Raises OSError.

    `boundary`'s own sizes and hashes are made here.
    """
    entries = b"".join(SIZE.pack(len(one.record)) + one.record + one.event_hash for one in carried)
    line = _first_line(boundary, entries, state)
    data, path = line + entries + state, ledger_dir / NEXT
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for start in range(0, len(data), _STEP_BYTES):
            write_at(descriptor, data[start : start + _STEP_BYTES], start)
            os.fdatasync(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return blake3(line).digest()


def take_next(ledger_dir: Path) -> None:
    """`pruned.next` is the boundary from here on, durably. Raises OSError."""
    os.replace(ledger_dir / NEXT, ledger_dir / PRUNED)
    sync_directory(ledger_dir)


def remove_left_over(ledger_dir: Path) -> None:
    """What a prune left that did not come to its end. Raises LedgerDamaged, OSError."""
    (ledger_dir / NEXT).unlink(missing_ok=True)
    remove_below(ledger_dir, first_seq(ledger_dir))


def remove_below(ledger_dir: Path, first: int) -> int:
    """Remove the segments that lie below the boundary; how many bytes they had. Raises OSError."""
    segments, freed = ledger_dir / "segments", 0
    below = [
        path for path in sorted(segments.glob("*.log*")) if path.name[:20].isdecimal() and int(path.name[:20]) < first
    ]
    for path in below:
        freed += path.stat().st_size
        path.unlink()
    if below:
        sync_directory(segments)
    return freed


def _first_line(boundary: Boundary, entries: bytes, state: bytes) -> bytes:
    fields: dict[str, Any] = {
        "format": FORMAT,
        "first_seq": boundary.first_seq,
        "prev_hash": boundary.prev_hash.hex(),
        "at_us": boundary.at_us,
        "clock_us": boundary.clock_us,
        "genesis": boundary.genesis.hex(),
        "edge": b"".join(boundary.edge).hex(),
        "carried_bytes": len(entries),
        "carried": blake3(entries).hexdigest(),
        "state": blake3(state).hexdigest(),
    }
    return orjson.dumps({**fields, "check": _check(fields)}) + b"\n"


def _check(fields: dict[str, Any]) -> str:
    return blake3(orjson.dumps(fields)).hexdigest()


def _parsed(line: bytes) -> Boundary:
    try:
        fields = orjson.loads(line)
        check = fields.pop("check")
        edge = bytes.fromhex(fields["edge"])
        boundary = Boundary(
            fields["first_seq"],
            *(bytes.fromhex(fields["prev_hash"]), fields["at_us"], fields["clock_us"]),
            bytes.fromhex(fields["genesis"]),
            tuple(edge[at : at + HASH_BYTES] for at in range(0, len(edge), HASH_BYTES)),
            fields["carried_bytes"],
            *(bytes.fromhex(fields["carried"]), bytes.fromhex(fields["state"])),
            blake3(line).digest(),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise LedgerDamaged(0, f"{PRUNED} cannot be read: {problem}") from problem
    if check != _check(fields) or orjson.dumps({**fields, "check": check}) + b"\n" != line:
        raise LedgerDamaged(0, f"the first line of {PRUNED} is not as it was written")
    if fields["format"] != FORMAT:
        raise LedgerDamaged(0, f"{PRUNED} has the format {fields['format']!r}; this version knows {FORMAT}")
    return boundary


def _entries(raw: bytes) -> Iterator[Record]:
    at = 0
    while at < len(raw):
        size, _, seq, _ = ENTRY.unpack_from(raw, at)
        record_at = at + SIZE.size
        at += size + ENTRY_EXTRA_BYTES
        yield Record(seq, raw[record_at : record_at + size], raw[at - HASH_BYTES : at])
