"""A reader that follows the ledger while another process writes it: history, audit, and the replay at start.

It goes from frame to frame, checks each frame's sum and each record's link to the one before, and remembers where it
stopped. It never writes. What is acknowledged is intact and there; so an acknowledged frame that cannot be read is
damage, and any other incomplete frame is simply not there yet.
"""

from pathlib import Path
from typing import Final, NamedTuple, Protocol

import orjson

from fetchmld.core.chain import HASH_BYTES, Event, event_hash, unpack
from fetchmld.store.sealed import SegmentFile, open_segment
from fetchmld.store.segment import (
    ENTRY,
    ENTRY_EXTRA_BYTES,
    FRAME_EXTRA_BYTES,
    HEADER,
    SIZE,
    FrameHeader,
    LedgerDamaged,
    list_segments,
    payload_intact,
    read_header,
)

BLOCK_BYTES_MAX: Final = 64 * 1024 * 1024  # of records handed over at a time, but for the rest of a frame
_READ_BYTES: Final = 256 * 1024


class Record(NamedTuple):
    """An event as it was hashed."""

    seq: int
    record: bytes
    event_hash: bytes


class Taker(Protocol):
    """Events that follow on each other, `payload_bytes` of records."""

    @property
    def payload_bytes(self) -> int: ...

    def take(
        self, payload: bytes, at: int, seq: int, count: int, prev: bytes | None, origin: int = 0
    ) -> tuple[int, bytes | None]:
        """Add the `count` events that lie in `payload` from byte `at` on, of which the first is `seq`: where the next one
        begins, and the last one's hash. `origin`: where in its segment `payload` begins. Raises `LedgerDamaged` where one
        does not follow from the one before it."""

    def take_frames(
        self, buffer: bytes, at: int, seq: int, end: int, prev: bytes | None, origin: int = 0
    ) -> tuple[int, int, bytes | None]:
        """Add the frames from byte `at` on that are there whole and intact, and end below event `end`; the first begins
        with `seq`: where the next one begins, its first event, and the hash before it. The rest as `take`."""


class Tail:
    """`Tail(DIR/ledger, from_seq=n)` yields events from n on. One instance has one position and one user."""

    def __init__(self, directory: Path, from_seq: int = 0, prev_hash: bytes | None = None) -> None:
        """`prev_hash`: of the event before `from_seq`, where it is known: then the first one must follow from it."""
        self.next_seq = from_seq
        self._segments = directory / "segments"
        self._file: SegmentFile | None = None
        self._segment = -1
        self._offset = 0  # in the segment, of the frame that comes next
        self._frame_seq = 0  # that frame's first event
        self._buffer = b""
        self._buffer_at = 0
        self._payload = b""  # of the frame that is being read
        self._payload_from = 0  # where it begins in the segment
        self._payload_at = 0
        self._payload_left = 0  # events
        self._prev_hash = prev_hash  # of the event before next_seq, once known

    def read(self, to_seq: int | None, max_events: int) -> list[Event]:
        """The next events, none beyond `to_seq`, at most `max_events`; empty where there is none yet.

        `to_seq` is how far the writer has acknowledged. With None, all complete frames are read, also such as the
        writer may still take back: only for when nobody writes. Raises LedgerDamaged where an event up to `to_seq` is
        missing or does not follow from the one before it, and OSError.
        """
        events: list[Event] = []
        while count := self._part(to_seq, max_events - len(events)):
            self._take(events, count)
        return events

    def fill(self, block: Taker, to_seq: int | None, max_events: int) -> None:
        """Hand the next events to `block`, which makes of them what it likes. As `read`; fewer where they are long."""
        end = self.next_seq + max_events
        while block.payload_bytes <= BLOCK_BYTES_MAX:
            self._fill_frames(block, end if to_seq is None else min(end, to_seq + 1))
            count = self._part(to_seq, end - self.next_seq)
            if not count:
                break
            at, seq = self._payload_at, self.next_seq
            self._payload_at, self._prev_hash = block.take(
                self._payload, at, seq, count, self._prev_hash, self._payload_from
            )
            self.next_seq += count
            self._payload_left -= count

    def _fill_frames(self, block: Taker, end: int) -> None:
        """Hand over the whole frames below `end` that were read ahead."""
        at = self._offset - self._buffer_at
        if not self._payload_left and self._frame_seq == self.next_seq and 0 <= at < len(self._buffer):
            behind, self.next_seq, self._prev_hash = block.take_frames(
                self._buffer, at, self.next_seq, end, self._prev_hash, self._buffer_at
            )
            self._offset += behind - at
            self._frame_seq = self.next_seq

    def read_records(self, to_seq: int, max_events: int) -> list[Record]:
        """As `read`, each event as the bytes that were hashed. Raises LedgerDamaged also where that hash is another."""
        records: list[Record] = []
        while count := self._part(to_seq, max_events - len(records)):
            self._take_records(records, count)
        return records

    def _part(self, to_seq: int | None, room: int) -> int:
        """How many of the next events, at most `room`, to take from the current frame; 0 where that is all. As `read`."""
        if to_seq is not None:
            room = min(room, to_seq + 1 - self.next_seq)
            if room <= 0:
                self._buffer = b""  # what lies behind was not acknowledged: the writer may put something else there
        if room > 0 and not self._payload_left and not self._next_frame():
            if to_seq is not None:
                raise LedgerDamaged(self.next_seq, "it was acknowledged and cannot be read")
            return 0
        return max(0, min(room, self._payload_left))

    @property
    def place(self) -> tuple[int, int]:
        """(segment, offset) behind the frame that was read last. Raises ValueError where only a part of it was."""
        if self._payload_left:
            raise ValueError(f"event {self.next_seq - 1} is not the last of its batch")
        return self._segment, self._offset

    def scan(self, to_seq: int, max_events: int, action: str) -> tuple[list[bytes], list[Event]]:
        """The hashes of the next events, and those of these events that have this `action`. Raises as `read`.

        Decodes next to nothing, so it is several times faster.
        """
        hashes: list[bytes] = []
        found: list[Event] = []
        word = action.encode()
        while count := self._part(to_seq, max_events - len(hashes)):
            if word in self._payload:
                events: list[Event] = []
                self._take(events, count)
                hashes += [event.event_hash for event in events]
                found += [event for event in events if event.fact.action == action]
            else:
                self._pass(hashes, count)
        return hashes, found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self, events: list[Event], count: int) -> None:
        """The next `count` events of the current frame."""
        payload, at, seq, prev = self._payload, self._payload_at, self.next_seq, self._prev_hash
        for _ in range(count):
            (size,) = SIZE.unpack_from(payload, at)
            hash_at = at + SIZE.size + size
            found, prev_hash, fact = unpack(payload, at + SIZE.size, size, orjson.loads)
            if found != seq or (prev is not None and prev_hash != prev):
                raise LedgerDamaged(seq, "it does not follow from the event before it")
            at = hash_at + HASH_BYTES
            prev = payload[hash_at:at]
            events.append(Event(seq, prev_hash, prev, fact))
            seq += 1
        self._payload_at, self.next_seq, self._prev_hash = at, seq, prev
        self._payload_left -= count

    def _take_records(self, found: list[Record], count: int) -> None:
        """As `_take`, undecoded."""
        payload, prev = self._payload, self._prev_hash
        for seq in range(self.next_seq, self.next_seq + count):
            size, _tag, number, link = ENTRY.unpack_from(payload, self._payload_at)
            start = self._payload_at + SIZE.size
            end = start + size + HASH_BYTES
            record, digest = payload[start : start + size], payload[start + size : end]
            if number != seq or (prev is not None and link != prev) or event_hash(record) != digest:
                raise LedgerDamaged(seq, "it does not follow from the event before it, or has another hash")
            found.append(Record(seq, record, digest))
            self._payload_at, self.next_seq, prev = end, seq + 1, digest
        self._prev_hash = prev
        self._payload_left -= count

    def _pass(self, hashes: list[bytes], count: int) -> None:
        """As `_take`, for the hashes alone."""
        payload, at, seq, prev = self._payload, self._payload_at, self.next_seq, self._prev_hash
        for _ in range(count):
            size, _tag, number, link = ENTRY.unpack_from(payload, at)
            if number != seq or (prev is not None and link != prev):
                raise LedgerDamaged(seq, "it does not follow from the event before it")
            at += size + ENTRY_EXTRA_BYTES
            prev = payload[at - HASH_BYTES : at]
            hashes.append(prev)
            seq += 1
        self._payload_at, self.next_seq, self._prev_hash = at, seq, prev
        self._payload_left -= count

    def _next_frame(self) -> bool:
        """Load the frame that holds `next_seq`. False where it is not there yet."""
        while True:
            if self._file is None and not self._open():
                return False
            header = self._header()
            if header is None:
                if not self._open():
                    return False
                continue
            if header.next_seq > self.next_seq:
                return self._load(header)
            self._offset += header.frame_bytes
            self._frame_seq = header.next_seq

    def _header(self) -> FrameHeader | None:
        """The next frame's header, None where there is none yet. What was read ahead may be old: then read anew."""
        for fresh in (False, True):
            at = self._at(HEADER.size, fresh)
            header = read_header(self._buffer, at)
            if header is not None:
                if header.first_seq != self._frame_seq or not header.events:
                    raise LedgerDamaged(min(self._frame_seq, header.first_seq), "its frame is not where it belongs")
                return header
        return None

    def _load(self, header: FrameHeader) -> bool:
        for fresh in (False, True):
            at = self._at(header.frame_bytes, fresh)
            if payload_intact(self._buffer, at, header):
                break
        else:
            return False
        start = at + HEADER.size
        self._payload = self._buffer[start : start + header.payload_bytes]
        self._payload_from, self._payload_at, self._payload_left = self._offset + HEADER.size, 0, header.events
        self._offset += header.payload_bytes + FRAME_EXTRA_BYTES
        self._frame_seq = header.next_seq
        self._skip(self.next_seq - header.first_seq)
        return True

    def _skip(self, count: int) -> None:
        """Pass over the first events of the frame: reading begins in its middle."""
        for _ in range(count):
            (size,) = SIZE.unpack_from(self._payload, self._payload_at)
            end = self._payload_at + SIZE.size + size + HASH_BYTES
            self._prev_hash = self._payload[end - HASH_BYTES : end]
            self._payload_at = end
            self._payload_left -= 1

    def _at(self, size: int, fresh: bool) -> int:
        """Where in the buffer `size` bytes from the next frame on are; fewer where the file ends."""
        assert self._file is not None
        at = self._offset - self._buffer_at
        if fresh or at < 0 or at + size > len(self._buffer):
            self._buffer = self._file.pread(max(size, _READ_BYTES), self._offset)
            self._buffer_at, at = self._offset, 0
        return at

    def _open(self) -> bool:
        """Go to the segment that holds what comes next. False where there is no other than the present one."""
        wanted = self._frame_seq if self._file is not None else self.next_seq
        fitting = [(first, path) for first, path in list_segments(self._segments) if first <= wanted]
        if not fitting or (self._file is not None and fitting[-1][0] < wanted):
            return False
        first, path = fitting[-1]
        if self._file is not None and first == self._segment:
            return False
        fresh = open_segment(path)
        self.close()
        self._file, self._segment, self._frame_seq = fresh, first, first
        self._offset, self._buffer, self._buffer_at = 0, b"", 0
        return True
