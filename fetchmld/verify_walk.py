"""The verifier's walk over the segments: every frame, record, hash, link and number, in order.

Its reading is its own, so that a mistake in the writer's is not repeated here. What it reports is the lowest bad sequence
number. Each record stands beside its own hash, so an edited record is told from its neighbours; a record rewritten
together with its hash breaks its successor's link, and is named by that.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from fetchmld.core.chain import HASH_BYTES, RECORD_TAG, genesis_hash
from fetchmld.store.landmarks import Head, read_genesis, read_head
from fetchmld.store.sealed import read_segment
from fetchmld.store.segment import (
    ENTRY,
    HEADER,
    SIZE,
    TRAILER,
    FrameHeader,
    is_zero,
    list_segments,
    payload_intact,
    read_header,
)
from fetchmld.verify_boundary import Begins, read_begins
from fetchmld.verify_frames import NO_LIMIT, has_action, pass_over
from fetchmld.verify_records import record_row

_NOTABLE: Final = (b"key.rotate", b"audit.policy")


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """The first `total_events` were found right, pruned ones included; `first_bad` is -1 where nothing is wrong."""

    total_events: int
    first_bad: int
    problem: str
    root_hash: bytes  # of the last event whose own hash is right
    checkpoints: int = 0  # so many were found right
    vouched: int = 0  # so many events, from the first on, a checkpoint from outside vouches for
    notice: str = ""  # what is no fault, but should be known
    tiles_wrong: bool = False  # the tree's tiles are not what the events give; they can be made anew
    first_seq: int = 0  # those before it were pruned

    @property
    def valid(self) -> bool:
        return self.first_bad < 0


class Bad(Exception):
    def __init__(self, seq: int, problem: str) -> None:
        super().__init__(seq, problem)
        self.seq = seq
        self.problem = problem


def verify_segments(ledger_dir: Path, upto: int | None = None) -> SegmentResult:
    """Check genesis, every frame, record, hash, link and number, the head file, and that nothing else is there.

    With `upto`, only events up to that one, which must be there: for a ledger that is being written, where `upto` is
    the newest acknowledged. Raises OSError where a file cannot be read.
    """
    return Walk(ledger_dir, upto).result()


class Walk:
    """One pass over the segments, in order. Everything below `next_seq` was found right.

    `begins`: where the record begins, once it was pruned; without it, that is read. `take_leaves` is given the hashes of
    events found right, in order and each once. `notable` are the events that hand over to another signing key or set
    the policy of retention: (sequence number, action, metadata as JSON).
    """

    def __init__(
        self,
        ledger_dir: Path,
        upto: int | None = None,
        take_leaves: Callable[[list[bytes]], None] | None = None,
        begins: Begins | None = None,
    ) -> None:
        self._directory = ledger_dir
        self._upto = upto
        self._head: Head | None = None
        self._take_leaves = take_leaves
        self._leaves: list[bytes] = []
        self._begins = begins
        self.first_seq = self._leaves_at = 0  # the first one's number
        self.next_seq = 0
        self.root_hash = bytes(HASH_BYTES)
        self.notable: list[tuple[int, str, str]] = []
        self._actions = _NOTABLE if take_leaves is not None else ()
        self._marked: list[int] = []  # where in the present segment those events are

    def result(self) -> SegmentResult:
        try:
            self.run()
        except Bad as bad:
            total = min(self.next_seq, bad.seq)
            return SegmentResult(total, bad.seq, bad.problem, self.root_hash, first_seq=self.first_seq)
        finally:
            self._hand_over_leaves()
        return SegmentResult(self.next_seq, -1, "", self.root_hash, first_seq=self.first_seq)

    def _hand_over_leaves(self) -> None:
        leaves = self._leaves[: self.next_seq - self._leaves_at]
        self._leaves, self._leaves_at = [], self.next_seq
        if leaves and self._take_leaves is not None:
            self._take_leaves(leaves)

    def _done(self) -> bool:
        return self._upto is not None and self.next_seq > self._upto

    def run(self) -> None:
        head_problem = self._read_landmarks()
        self._compare_head()
        for first_seq, path in list_segments(self._directory / "segments"):
            if first_seq < self.first_seq:
                continue  # a prune was stopped before it had removed it
            if self._done():
                return
            if first_seq != self.next_seq:
                raise self._not_due(first_seq, path.name)
            buffer, wrapping = read_segment(path)
            try:
                self._segment(buffer, path.name)
            finally:
                self._note(buffer)
            self._hand_over_leaves()
            if wrapping:
                raise Bad(max(first_seq, self.next_seq - 1), wrapping)
        if self._upto is not None and not self._done():
            raise Bad(self.next_seq, f"the ledger ends before event {self.next_seq}; {self._upto} was its last")
        if self._head is not None and self._upto is None:
            raise Bad(self.next_seq, f"the ledger ends before event {self.next_seq}; head names {self._head.next_seq}")
        if head_problem and self._upto is None:
            raise Bad(self.next_seq, head_problem)

    def _not_due(self, found: int, name: str) -> Bad:
        due = self.next_seq
        if found < due:
            return Bad(found, f"due was event {due}, but {name} follows")
        gone = f"event {due} is missing" if found == due + 1 else f"events {due} to {found - 1} are missing"
        return Bad(due, f"{gone}: {name} follows")

    def _read_landmarks(self) -> str:
        try:
            self.root_hash = genesis_hash(read_genesis(self._directory))
        except (FileNotFoundError, ValueError) as problem:
            raise Bad(0, f"genesis.json: {problem}") from problem
        self._begin()
        try:
            self._head = read_head(self._directory)
        except (FileNotFoundError, ValueError) as problem:
            return f"head: {problem}"
        return ""

    def _begin(self) -> None:
        """At the boundary, where there is one."""
        try:
            begins = self._begins or read_begins(self._directory)
        except ValueError as problem:
            raise Bad(0, str(problem)) from problem
        if begins is None:
            return
        if begins.genesis != self.root_hash:
            raise Bad(0, "genesis.json is not what the record grew from")
        self.first_seq = self.next_seq = self._leaves_at = begins.first_seq
        self.root_hash = begins.prev_hash

    def _compare_head(self) -> None:
        """Called at each frame's end: the head file was written at one of those."""
        head = self._head
        if head is None or self.next_seq < head.next_seq:
            return
        if self.next_seq > head.next_seq or self.root_hash != head.event_hash:
            raise Bad(max(0, head.next_seq - 1), "it is not the event that the head file names")
        self._head = None

    def _segment(self, buffer: bytes, name: str) -> None:
        at = 0
        while not self._done():
            at = self._pass_over(buffer, at)
            if self._done():
                return
            header = read_header(buffer, at)
            if header is None:
                if is_zero(buffer, at, len(buffer)):
                    return
                raise Bad(self.next_seq, f"{name} has a broken or unfinished frame at byte {at}")
            at = self._frame(buffer, at, header, name)

    def _note(self, buffer: bytes) -> None:
        """Of the segment's events that were found right."""
        for start in self._marked:
            (size,) = SIZE.unpack_from(buffer, start - SIZE.size)
            row = record_row(buffer, start, size)
            if row[0] < self.next_seq:
                self.notable.append((row[0], row[4], row[12]))
        self._marked.clear()

    def _pass_over(self, buffer: bytes, at: int) -> int:
        """Go over frames in which all is right, fast; stop where a second look is needed, or where the end is."""
        limit = self._upto + 1 if self._upto is not None else NO_LIMIT
        if self._head is not None:
            limit = min(limit, self._head.next_seq)
        at, self.next_seq, self.root_hash = pass_over(
            buffer, at, self.next_seq, self.root_hash, limit, self._leaves, self._actions, self._marked
        )
        self._compare_head()
        return at

    def _frame(self, buffer: bytes, at: int, header: FrameHeader, name: str) -> int:
        first, records_at = self.next_seq, at + HEADER.size
        if header.first_seq > first:
            raise Bad(first, f"{name} has event {header.first_seq} where {first} is due")
        if header.first_seq < first:
            raise self._blame(buffer, records_at, first, self.root_hash)
        if header.acked > first or not header.events:
            raise Bad(first, f"{name}: the frame's header at byte {at} contradicts itself")
        self._records(buffer, records_at, header)
        if self._done() and self.next_seq < header.next_seq:
            return at  # only a part of the frame was asked for
        if not payload_intact(buffer, at, header):  # links confirm all of its events but the last
            raise Bad(header.next_seq - 1, f"{name}: the frame at byte {at} has another sum or end than was written")
        self._compare_head()
        return at + header.frame_bytes

    def _records(self, buffer: bytes, at: int, header: FrameHeader) -> None:
        """Each record's own hash, link, number and tag. What is wrong is worked out in `_blame`."""
        stop, seq, prev, last = at + header.payload_bytes, self.next_seq, self.root_hash, header.next_seq
        if self._upto is not None:
            last = min(last, self._upto + 1)
        unpack_from, hash_of, right_tag = ENTRY.unpack_from, blake3, RECORD_TAG
        with suppress(struct.error):  # the file ends within the frame
            while seq < last:
                size, tag, number, link = unpack_from(buffer, at)
                hash_at = at + 4 + size
                digest = hash_of(buffer[at + 4 : hash_at]).digest()
                after = hash_at + HASH_BYTES
                if digest != buffer[hash_at:after] or link != prev or number != seq or tag != right_tag:
                    break
                if has_action(buffer[at + SIZE.size : hash_at], self._actions):
                    self._marked.append(at + SIZE.size)
                prev, at, seq = digest, after, seq + 1
                self._leaves.append(digest)
        self.next_seq, self.root_hash = seq, prev
        if seq < last:
            raise self._blame(buffer, at, seq, prev)
        if seq == header.next_seq and at != stop:
            self.next_seq = header.first_seq
            raise Bad(header.first_seq, "its frame has another length than its events")

    def _blame(self, buffer: bytes, at: int, seq: int, prev: bytes) -> Bad:
        """Which event is at fault, where the entry at `at` is not the right one for `seq`."""
        found = _entry(buffer, at)
        if found is None:
            return Bad(seq, "its bytes do not have the hash that stands beside them")
        digest, tag, number, _, after = found
        if tag != RECORD_TAG:
            return Bad(seq, f"its record has the unknown version {tag!r}")
        if number > seq:
            return Bad(seq, f"event {number} stands where it is due")
        if number < self.first_seq:
            return Bad(seq, f"event {number} stands where it is due")
        if number < seq:
            if self._hash_of(number) == digest:
                return Bad(seq, f"a copy of event {number} stands where it is due")
            return Bad(number, "two different events have this number")
        if seq > self.first_seq and _link_at(buffer, after) in (digest, None):
            return Bad(seq - 1, f"it was rewritten together with its hash: event {seq} does not follow from it")
        return Bad(seq, "it does not follow from the event before it")

    def _hash_of(self, seq: int) -> bytes:
        """The hash of an event that was found right, by a second walk."""
        walk = Walk(self._directory, seq, begins=self._begins)
        with suppress(Bad):
            walk.run()
        return walk.root_hash


def _entry(buffer: bytes, at: int) -> tuple[bytes, bytes, int, bytes, int] | None:
    """(hash, tag, number, prev_hash, where the next begins) of the entry at `at`; None where its hash is another."""
    try:
        size, tag, number, link = ENTRY.unpack_from(buffer, at)
    except struct.error:
        return None
    hash_at = at + 4 + size
    digest = blake3(buffer[at + 4 : hash_at]).digest()
    after = hash_at + HASH_BYTES
    return (digest, tag, number, link, after) if digest == buffer[hash_at:after] else None


def _link_at(buffer: bytes, at: int) -> bytes | None:
    """The prev_hash of the entry at `at`, or of the first in the next frame; None where there is none."""
    if buffer[at : at + len(TRAILER)] == TRAILER:
        at += len(TRAILER)
        if read_header(buffer, at) is None:
            return None
        at += HEADER.size
    found = _entry(buffer, at)
    return None if found is None else found[3]
