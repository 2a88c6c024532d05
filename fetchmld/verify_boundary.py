"""The verifier's own reading of `pruned`: where the record begins, and what stands for the events before.

`docs/ledger-format.md` says what is in it. Of the events before nothing is left but their hashes in the tree's lowest
tiles; the chain vouches for this file through an event that names it, the checkpoints for the tiles.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from fetchmld.core.chain import HASH_BYTES, RECORD_TAG
from fetchmld.store.segment import ENTRY, ENTRY_EXTRA_BYTES, SIZE
from fetchmld.verify_merkle import leaf

NAME: Final = "pruned"
_TILE: Final = 256
_HEX: Final = ("prev_hash", "genesis", "edge", "carried", "state")
_WHOLE: Final = ("format", "first_seq", "at_us", "clock_us", "carried_bytes")


@dataclass(frozen=True, slots=True)
class Begins:
    """The record begins at event `first_seq`. `edge`: leaf hashes of those events before it that share its tile.

    `carried`: (sequence number, record, hash) of original records. `faults`: what is wrong in the file, as (event, why).
    """

    first_seq: int
    prev_hash: bytes
    genesis: bytes
    digest: bytes
    edge: list[bytes]
    carried: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)


def read_begins(ledger_dir: Path) -> Begins | None:
    """None where nothing was pruned. Raises ValueError where the file says nothing that can be used, OSError."""
    try:
        raw = (ledger_dir / NAME).read_bytes()
    except FileNotFoundError:
        return None
    line, _, rest = raw.partition(b"\n")
    fields = _fields(line)
    edge = bytes.fromhex(fields["edge"])
    prev_hash, genesis = bytes.fromhex(fields["prev_hash"]), bytes.fromhex(fields["genesis"])
    leaves = [edge[at : at + HASH_BYTES] for at in range(0, len(edge), HASH_BYTES)]
    begins = Begins(fields["first_seq"], prev_hash, genesis, blake3(line + b"\n").digest(), leaves)
    if len(begins.edge) != begins.first_seq % _TILE:
        raise ValueError(f"{NAME}: it has {len(begins.edge)} hashes before event {begins.first_seq}")
    if begins.edge and begins.edge[-1] != leaf(begins.prev_hash):
        raise ValueError(f"{NAME}: its last hash is not that of event {begins.first_seq - 1}")
    carried, state = rest[: fields["carried_bytes"]], rest[fields["carried_bytes"] :]
    _take_carried(begins, carried)
    wrong = [
        name for name, part in (("carried", carried), ("state", state)) if blake3(part).hexdigest() != fields[name]
    ]
    if wrong and not begins.faults:
        begins.faults.append((0, f"{NAME}: its {wrong[0]} part is not what was written"))
    return begins


def _fields(line: bytes) -> dict[str, Any]:
    fields: dict[str, Any]
    try:
        fields = json.loads(line)
        check = fields.pop("check")
        spelled = json.dumps(fields, separators=(",", ":")).encode()
        right = check == blake3(spelled).hexdigest() and line == spelled[:-1] + b',"check":"%s"}' % check.encode()
        typed = all(type(fields[name]) is int for name in _WHOLE) and all(type(fields[name]) is str for name in _HEX)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"{NAME} cannot be read: {problem}") from problem
    if not right or not typed or set(fields) != {*_HEX, *_WHOLE} or fields["format"] != 1:
        raise ValueError(f"the first line of {NAME} is not as it was written, or of a format that is not known here")
    return fields


def _take_carried(begins: Begins, raw: bytes) -> None:
    """Each record has the hash beside it and a number that rises; else the first that has not is at fault."""
    at = due = 0
    while at < len(raw):
        try:
            size, tag, seq, _ = ENTRY.unpack_from(raw, at)
        except struct.error:
            size, tag, seq = len(raw), b"", due
        record_at, end = at + SIZE.size, at + size + ENTRY_EXTRA_BYTES
        record, digest = raw[record_at : end - HASH_BYTES], raw[end - HASH_BYTES : end]
        if tag != RECORD_TAG or not due <= seq < begins.first_seq or blake3(record).digest() != digest:
            begins.faults.append(
                (seq if due <= seq < begins.first_seq else due, f"{NAME}: a carried record is damaged")
            )
            return
        begins.carried.append((seq, record, digest))
        at, due = end, seq + 1
