"""The verifier's walk over frames in which all is right.

What it passes over is right by every rule of `docs/ledger-format.md` about frames and records; where it stops, the caller
looks again and says what is wrong. This is the specification in plain Python; `_verify.pass_over` says the same natively,
and one test suite drives both.
"""

import struct
from typing import Final

from blake3 import blake3

from fetchmld.core.chain import HASH_BYTES, RECORD_HEADER, RECORD_TAG
from fetchmld.store.segment import ENTRY, HEADER, SIZE, FrameHeader, payload_intact, read_header

NO_LIMIT: Final = 2**64 - 1


def plainly(
    buffer: bytes,
    at: int,
    seq: int,
    root: bytes,
    limit: int,
    leaves: list[bytes],
    actions: tuple[bytes, ...],
    marked: list[int],
) -> tuple[int, int, bytes]:
    """Go over the frames of a segment from byte `at` on, where event `seq` is due after the one with hash `root`.

    Stops before the first frame that is not right, has an event from `limit` on, or is not there: (where that is, the
    event due there, the hash before it). Each event's hash is added to `leaves`, and where
    the records with one of `actions` are, to `marked`.
    """
    while seq < limit:
        header = read_header(buffer, at)
        if header is None or header.first_seq != seq or header.acked > seq or not header.events:
            break
        if header.next_seq > limit or not payload_intact(buffer, at, header):
            break
        hashes = _hashes_if_right(buffer, at + HEADER.size, header, root)
        if not hashes:
            break
        leaves += hashes
        marked += _with_action(buffer, at + HEADER.size, header.events, actions)
        at, seq, root = at + header.frame_bytes, header.next_seq, hashes[-1]
    return at, seq, root


def _hashes_if_right(buffer: bytes, at: int, header: FrameHeader, prev: bytes) -> list[bytes]:
    """The hashes of the frame's events if each follows on `prev` and they fill its payload, else nothing."""
    hashes, stop = [], at + header.payload_bytes
    for due in range(header.first_seq, header.next_seq):
        try:
            size, tag, number, link = ENTRY.unpack_from(buffer, at)
        except struct.error:
            return []
        record, at = buffer[at + SIZE.size : at + SIZE.size + size], at + SIZE.size + size + HASH_BYTES
        digest = blake3(record).digest()
        if at > stop or tag != RECORD_TAG or number != due or link != prev or digest != buffer[at - HASH_BYTES : at]:
            return []
        hashes.append(digest)
        prev = digest
    return hashes if at == stop else []


def _with_action(buffer: bytes, at: int, events: int, actions: tuple[bytes, ...]) -> list[int]:
    """Where the records with one of these actions are, of `events` whose entries begin at byte `at`."""
    found = []
    for _ in range(events if actions else 0):
        (size,) = SIZE.unpack_from(buffer, at)
        at += SIZE.size
        if has_action(buffer[at : at + size], actions):
            found.append(at)
        at += size + HASH_BYTES
    return found


def has_action(record: bytes, actions: tuple[bytes, ...]) -> bool:
    """Whether the record's action is one of these."""
    if len(record) < RECORD_HEADER.size:
        return False
    *_, kind, action, _, _, _, _, _ = RECORD_HEADER.unpack_from(record)
    at = RECORD_HEADER.size + kind
    return record[at : at + action] in actions and len(record) >= at + action


try:
    from fetchmld._verify import pass_over as _quickly
except ImportError:  # not built: slower, and the same
    _quickly = plainly
pass_over: Final = _quickly
