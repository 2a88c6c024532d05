"""What a ledger found on disk holds: where its intact frames end, and whether what follows may be cut.

Reads only. Raises LedgerDamaged for everything that is neither intact nor a torn, unacknowledged tail.

A tail is torn where a part of it never reached the disk. The file was zeros before, so such a part shows as zeros: a
frame without its end, or a whole sector's share of the frame that is zero. A frame that is all there and wrong was
written whole and changed later: that is damage, also in the last frame, and is never cut. So is everything that is
followed by something else (it was acknowledged before the next was written) or that `head` or a state snapshot names.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fetchmld.core.chain import HASH_BYTES, Malformed, event_hash, unpack
from fetchmld.store import boundary
from fetchmld.store.landmarks import GENESIS_NAME, Mark, read_head
from fetchmld.store.sealed import SEALED, open_segment, read_segment
from fetchmld.store.segment import (
    ENTRY_EXTRA_BYTES,
    FRAME_EXTRA_BYTES,
    HEADER,
    MAGIC,
    SIZE,
    TRAILER,
    FrameHeader,
    LedgerDamaged,
    is_zero,
    list_segments,
    payload_intact,
    read_header,
)

_SECTOR: Final = 512  # the least that a disk writes whole
_RECORD_PREV_AT: Final = SIZE.size + 16  # where a payload's first record has its prev_hash


@dataclass(slots=True)
class End:
    """Where the intact frames end. `path` is the last segment, None where there is none."""

    next_seq: int
    head_hash: bytes
    path: Path | None = None
    segment: int = 0
    frame_at: int = 0  # where in it the last frame begins that was walked over; `offset` where there was none
    offset: int = 0
    file_bytes: int = 0
    torn_bytes: int = 0
    last_at_us: int = 0
    last_clock_us: int = 0


def find_end(
    segments: Path,
    genesis_hash: bytes,
    acknowledged: Iterable[tuple[int, bytes]] = (),
    since: Mark | None = None,
    prepared_bytes: int = 0,
) -> End:
    """Walk every frame of every segment, or those from `since` on. Raises LedgerDamaged, OSError.

    `acknowledged`: places that the chain must lead to, as (next number, hash of the event before it).
    `prepared_bytes`: what a segment has before anything is written to it; one that ends earlier, and in or right behind
    a frame, was cut off there.
    """
    end = End(0, genesis_hash) if since is None else _end_at(since)
    vouched = _Vouched(acknowledged, end.next_seq, end.head_hash)
    files = [(first, path) for first, path in list_segments(segments) if since is None or first >= since.segment]
    if since is not None and (not files or files[0][0] != since.segment):
        raise LedgerDamaged(since.segment, "its segment is gone")
    for index, (first_seq, path) in enumerate(files):
        begun = since is not None and index == 0
        if first_seq != end.next_seq and not begun:
            raise _not_due(first_seq, end.next_seq)
        _walk(path, end, vouched, end.offset if begun else 0)
        end.segment = first_seq
        if end.torn_bytes and index + 1 < len(files):
            raise LedgerDamaged(end.next_seq, f"{path.name} ends in an unfinished frame, yet another segment follows")
    vouched.reached(end.next_seq)
    if end.path is not None and end.path.suffix == SEALED:
        raise LedgerDamaged(end.next_seq, f"{end.path.name} was sealed while others followed, and they are gone")
    if end.file_bytes < prepared_bytes and (end.torn_bytes or end.offset == end.file_bytes):
        raise LedgerDamaged(end.next_seq, f"the newest segment has been cut off at its byte {end.file_bytes}")
    return end


def check_before(segments: Path, genesis_hash: bytes, mark: Mark, since: Mark | None = None) -> None:
    """Walk every frame before `mark`, which a start from there leaves out. Raises LedgerDamaged, OSError.

    `since`: where the record begins, once it was pruned.
    """
    end = End(0, genesis_hash) if since is None else _end_at(since)
    vouched = _Vouched((), end.next_seq, end.head_hash)
    files = [(first, path) for first, path in list_segments(segments) if since is None or first >= since.segment]
    for first_seq, path in files:
        if first_seq > mark.segment:
            break
        if first_seq != end.next_seq:
            raise _not_due(first_seq, end.next_seq)
        _walk(path, end, vouched, until=mark.offset if first_seq == mark.segment else None)
        if end.torn_bytes:
            raise LedgerDamaged(end.next_seq, f"{path.name} ends in an unfinished frame, yet others follow")
    if (end.next_seq, end.head_hash) != (mark.seq, mark.event_hash):
        raise LedgerDamaged(min(end.next_seq, mark.seq - 1), f"the chain does not lead to event {mark.seq - 1}")


def missing_at_beginning(ledger_dir: Path) -> str:
    """Why the first event of the record is not there, as one look shows; empty where it is, or none was written yet.

    Raises LedgerDamaged, OSError.
    """
    due = boundary.first_seq(ledger_dir)
    segments = boundary.segments_from(ledger_dir, due)
    if not segments:
        return "every segment is gone" if (ledger_dir / GENESIS_NAME).exists() else ""
    found, path = segments[0]
    if found != due:
        return _not_due(found, due).why
    file = open_segment(path)
    try:
        header = read_header(file.pread(HEADER.size, 0), 0)
    finally:
        file.close()
    if header is not None and header.first_seq == due:
        return ""
    is_new = len(segments) == 1 and header is None and _written(ledger_dir) == due
    return "" if is_new else f"event {due} is missing: {path.name} does not begin with it"


def _written(ledger_dir: Path) -> int:
    """So many events there were when `head` was written; -1 where it does not say."""
    try:
        return read_head(ledger_dir).next_seq
    except (FileNotFoundError, ValueError):
        return -1


def _end_at(mark: Mark) -> End:
    times = (mark.at_us, mark.clock_us)
    return End(mark.seq, mark.event_hash, None, mark.segment, mark.offset, mark.offset, 0, 0, *times)


def _not_due(first_seq: int, due: int) -> LedgerDamaged:
    if first_seq > due:
        gone = f"event {due} is missing" if first_seq == due + 1 else f"events {due} to {first_seq - 1} are missing"
        return LedgerDamaged(due, f"{gone}: the next segment begins with event {first_seq}")
    return LedgerDamaged(first_seq, f"a segment begins with event {first_seq}, due was {due}")


def _walk(path: Path, end: End, vouched: "_Vouched", offset: int = 0, until: int | None = None) -> None:
    """Advance `end` over the intact frames of one segment from `offset` on, and judge what follows them."""
    buffer, problem = read_segment(path)
    buffer, last, began = buffer[:until], None, end.next_seq
    while (header := read_header(buffer, offset)) is not None and payload_intact(buffer, offset, header):
        _check_place(buffer, offset, header, end)
        last = (buffer, offset, header)
        offset += header.frame_bytes
        hash_at = offset - len(TRAILER) - HASH_BYTES
        end.head_hash = buffer[hash_at : hash_at + HASH_BYTES]
        end.next_seq = header.next_seq
        vouched.passed(end.next_seq, end.head_hash)
    if last is not None:
        _note_times(*last, end)
    end.path, end.frame_at, end.offset, end.file_bytes = path, offset if last is None else last[1], offset, len(buffer)
    end.torn_bytes = 0 if is_zero(buffer, offset, len(buffer)) else _torn_bytes(buffer, offset, end)
    if problem:
        raise LedgerDamaged(max(began, end.next_seq - 1), problem)


def _check_place(buffer: bytes, offset: int, header: FrameHeader, end: End) -> None:
    """The frame is intact; is it the one that belongs here?"""
    prev_at = offset + HEADER.size + _RECORD_PREV_AT
    if header.first_seq != end.next_seq:
        raise LedgerDamaged(
            min(header.first_seq, end.next_seq), f"event {header.first_seq} stands where it does not belong"
        )
    if header.acked > header.first_seq or not header.events:
        raise LedgerDamaged(end.next_seq, "its frame's header contradicts itself")
    if buffer[prev_at : prev_at + HASH_BYTES] != end.head_hash:
        raise LedgerDamaged(max(0, end.next_seq - 1), f"event {end.next_seq} does not follow from the one before it")


def _note_times(buffer: bytes, offset: int, header: FrameHeader, end: End) -> None:
    """The times of the frame's last event: a replay goes on from them."""
    at, size = offset + HEADER.size, 0
    for _ in range(header.events):
        (size,) = SIZE.unpack_from(buffer, at)
        at += size + ENTRY_EXTRA_BYTES
    try:
        _, _, fact = unpack(buffer, at - HASH_BYTES - size, size)
    except Malformed as problem:
        raise LedgerDamaged(header.next_seq - 1, str(problem)) from problem
    end.last_at_us, end.last_clock_us = fact.at_us, fact.clock_us


def _torn_bytes(buffer: bytes, offset: int, end: End) -> int:
    """How many bytes after `offset` an unfinished write left. Raises LedgerDamaged where it was not unfinished."""
    last = offset + len(buffer[offset:].rstrip(b"\0"))
    header = read_header(buffer, offset)
    if header is not None and last > offset + header.frame_bytes:
        raise LedgerDamaged(_first_bad(buffer, offset, header), "its frame is broken, yet others follow it")
    _check_not_cut(buffer, offset, header, end)
    until = last if header is None else offset + header.frame_bytes
    cut_in_header = last - offset < HEADER.size and MAGIC.startswith(buffer[offset:last][: len(MAGIC)])
    cut_later = buffer[until - 1 : until] in (b"", b"\0")
    if not (cut_in_header or cut_later or _has_unwritten_sector(buffer, offset, until)):
        bad = end.next_seq if header is None else _first_bad(buffer, offset, header)
        raise LedgerDamaged(bad, "its frame was written whole and has been changed since")
    return last - offset


def _check_not_cut(buffer: bytes, offset: int, header: FrameHeader | None, end: End) -> None:
    """A file is prepared in its full size, and a frame goes there only where it fits, unless it is the file's first:
    one that reaches beyond the file's end was cut off."""
    least = FRAME_EXTRA_BYTES + 1 if header is None else header.frame_bytes
    if offset and offset + least > len(buffer):
        raise LedgerDamaged(end.next_seq, "the file was cut off within its frame")


def _has_unwritten_sector(buffer: bytes, start: int, end: int) -> bool:
    """Whether some sector's share of [start, end) is all zeros; no part of a frame that long ever is."""
    edges = [start, *range(start - start % _SECTOR + _SECTOR, end, _SECTOR), end]
    return any(is_zero(buffer, a, b) for a, b in itertools.pairwise(edges))


def _first_bad(buffer: bytes, offset: int, header: FrameHeader) -> int:
    """The first event of a broken frame whose bytes do not have the hash that stands beside them; else its last."""
    at = offset + HEADER.size
    stop = at + header.payload_bytes
    for seq in range(header.first_seq, header.next_seq):
        if at + SIZE.size > len(buffer):
            return seq
        (size,) = SIZE.unpack_from(buffer, at)
        record_at, hash_at = at + SIZE.size, at + SIZE.size + size
        at = hash_at + HASH_BYTES
        if at > stop or event_hash(buffer[record_at:hash_at]) != buffer[hash_at:at]:
            return seq
    return header.next_seq - 1


class _Vouched:
    """Compares the chain, as it is walked, with what is known to have been acknowledged: (next number, hash before it)."""

    def __init__(self, places: Iterable[tuple[int, bytes]], next_seq: int, head_hash: bytes) -> None:
        self._left = sorted({place for place in places if place[0] >= next_seq})
        self.passed(next_seq, head_hash)

    def passed(self, next_seq: int, head_hash: bytes) -> None:
        while self._left and next_seq >= self._left[0][0]:
            due, digest = self._left.pop(0)
            if next_seq != due or head_hash != digest:
                raise LedgerDamaged(max(0, due - 1), "it is not the event that was acknowledged under this number")

    def reached(self, next_seq: int) -> None:
        """The chain ends here."""
        if self._left:
            raise LedgerDamaged(next_seq, f"events up to {self._left[-1][0] - 1} were acknowledged and are gone")
