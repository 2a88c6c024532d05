"""The one writer of the ledger: takes a batch of facts, and returns when they are on disk.

Owns the directory `DIR/ledger` while it is open. `append` blocks (it runs in a thread, one call at a time): it encodes
and chains the whole batch, writes it as one frame and syncs once; nothing else stands between a decision and its
durability. A batch counts as a whole or not at all: after a failed write or sync the chain is where it was, and what may
have reached the disk is made zero again before the next batch goes there.

Each frame names the events that were acknowledged before it was written, so a later loss of those is never taken for
a torn tail. It knows nothing of what the facts mean.
"""

import errno
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from fetchmld.core.chain import Chain, Event, Genesis, genesis_hash
from fetchmld.core.errors import Unavailable
from fetchmld.core.messages import Fact
from fetchmld.store import boundary, snapshots
from fetchmld.store.landmarks import Head, Mark, read_genesis, read_head, write_genesis, write_head
from fetchmld.store.recovery import End, find_end
from fetchmld.store.sealed import read_segment
from fetchmld.store.segment import (
    LedgerDamaged,
    list_segments,
    pack_frame,
    segment_name,
    sync_directory,
    write_at,
    write_zeros,
)
from fetchmld.store.spare import Spare, fill
from fetchmld.store.tail import Tail
from fetchmld.store.tiles import signed_size

__all__ = ["Ledger", "LedgerDamaged", "LedgerUnavailable", "Recovery", "Tail"]

log = logging.getLogger(__name__)

SEGMENTS: Final = "segments"
LOCK_NAME: Final = "lock"
SEGMENT_BYTES: Final = 64 * 1024 * 1024
_READ_AT_ONCE: Final = 256  # few enough to die young: the collector then never walks them


class LedgerUnavailable(Unavailable):
    """The ledger cannot be written now. Nothing of the batch counts; try again later."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening found. `torn_seq` is the first event of a tail that was cut, -1 where none was."""

    total_events: int
    torn_bytes: int
    torn_seq: int
    repairs: tuple[str, ...] = ()


class Ledger:
    """Open with `Ledger.open`. Not safe for two calls of `append` at a time."""

    def __init__(
        self,
        directory: Path,
        genesis: Genesis,
        end: End,
        recovery: Recovery,
        lock: int,
        segment_bytes: int,
        sync: Callable[[int], None],
    ) -> None:
        self.directory = directory
        self.genesis = genesis
        self.recovery = recovery
        self.last_at_us = end.last_at_us
        self.last_clock_us = end.last_clock_us
        self._chain = Chain(end.next_seq, end.head_hash)
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._sync = sync
        self._segments = directory / SEGMENTS
        self._spare = Spare(self._segments, segment_bytes)
        self._first_seq = end.segment
        self._offset = end.offset
        self._dirty_until = 0  # bytes from _offset to here may hold what never counted
        self._rotating = False  # the next segment may have its name already: nothing more goes into the old one
        self._file = os.open(self._segments / segment_name(end.segment), os.O_RDWR)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        genesis: Genesis | None = None,
        sync: Callable[[int], None] = os.fdatasync,
        since: Mark | None = None,
    ) -> "Ledger":
        """The ledger in `directory` (`DIR/ledger`), made on first use, with a torn tail cut.

        `genesis` is what a new chain grows from (default: a fresh uuid, no key); an existing one keeps its own. With
        `since`, a place that is known to be right, only what lies behind it is looked at. Raises LedgerDamaged
        where acknowledged events are lost or anything is not as it was written, and LedgerUnavailable where the disk
        refuses or another process has the ledger open.
        """
        try:
            (directory / SEGMENTS).mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = _take_lock(directory / LOCK_NAME)
        except OSError as problem:
            raise LedgerUnavailable(f"the ledger in {directory} cannot be opened: {problem}") from problem
        try:
            grown_from = _genesis(directory, genesis, segment_bytes)
            end, recovery = _recover(directory, grown_from, segment_bytes, since)
            ledger = cls(directory, grown_from, end, recovery, lock, segment_bytes, sync)
        except OSError as problem:
            os.close(lock)
            raise LedgerUnavailable(f"the ledger in {directory} cannot be opened: {problem}") from problem
        except BaseException:
            os.close(lock)
            raise
        ledger._spare.prepare()
        return ledger

    @property
    def next_seq(self) -> int:
        return self._chain.next_seq

    @property
    def root_hash(self) -> bytes:
        """The newest event's hash; before event 0, the genesis record's."""
        return self._chain.head_hash

    @property
    def spare_problem(self) -> str:
        """Why the next segment could not be prepared (the disk is filling up), else empty."""
        return self._spare.problem

    def read(self, from_seq: int = 0) -> Iterator[Event]:
        """Every event from `from_seq` to the newest, in order. Raises LedgerDamaged, also where retention removed some."""
        last = self.next_seq - 1
        tail = Tail(self.directory, from_seq=from_seq)
        try:
            while tail.next_seq <= last:
                yield from tail.read(last, _READ_AT_ONCE)
        finally:
            tail.close()

    def append(self, facts: Sequence[Fact]) -> int:
        """Make `facts` durable in this order; the last one's sequence number. Blocks for one write and one sync.

        Raises LedgerUnavailable when the disk refuses, and ValueError for a fact that the format cannot carry; in both
        cases nothing of the batch counts and the next call goes on from the same place.
        """
        if self._file < 0:
            raise LedgerUnavailable("the ledger is closed")
        if not facts:
            return self.next_seq - 1
        chain = Chain(self.next_seq, self.root_hash)
        entries = [chain.append(fact)[1:] for fact in facts]
        frame = pack_frame(self.next_seq, self.next_seq, entries)
        try:
            self._write(frame)
        except OSError as problem:
            self._clean_quietly()
            raise LedgerUnavailable(_what_to_do(problem)) from problem
        self._offset += len(frame)
        self._dirty_until = 0
        self._chain = chain
        self.last_at_us, self.last_clock_us = facts[-1].at_us, facts[-1].clock_us
        if self._spare.problem:
            self._spare.prepare()
        return chain.next_seq - 1

    def close(self) -> None:
        """Write `head` and let go of the directory. Raises LedgerUnavailable where `head` could not be written."""
        if self._file < 0:
            return
        try:
            self._write_head()
        except OSError as problem:
            raise LedgerUnavailable(_what_to_do(problem)) from problem
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the directory as a crash would, writing nothing."""
        descriptors, self._file, self._lock = (self._file, self._lock), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)
        self._spare.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.abandon()

    def _write(self, frame: bytes) -> None:
        if self._dirty_until:
            self._clean()
        if self._rotating or (self._offset and self._offset + len(frame) > self._segment_bytes):
            self._rotate()
        self._dirty_until = self._offset + len(frame)
        write_at(self._file, frame, self._offset)
        self._sync(self._file)

    def _clean(self) -> None:
        """Zeros over what a failed batch may have left: else a later torn frame could end in its bytes."""
        write_zeros(self._file, self._offset, self._dirty_until)
        self._sync(self._file)
        self._dirty_until = 0

    def _clean_quietly(self) -> None:
        try:
            self._clean()
        except OSError:
            pass  # the next append does it first

    def _rotate(self) -> None:
        """Go on in the spare. All that is in the old segment is acknowledged, and `head` says so, if there is room for
        it: it is a hint, and the spare is there to be used when the disk is full."""
        try:
            self._write_head()
        except OSError as problem:
            log.warning("ledger_head_not_written", extra={"error": str(problem)})
        path = self._segments / segment_name(self.next_seq)
        self._rotating = True
        if path.exists():  # a rotation that failed after the rename
            sync_directory(self._segments)
        else:
            self._spare.take(path)
        fresh = os.open(path, os.O_RDWR)
        os.close(self._file)
        self._file, self._first_seq, self._offset, self._rotating = fresh, self.next_seq, 0, False
        self._spare.prepare()

    def _write_head(self) -> None:
        write_head(self.directory, Head(self.next_seq, self.root_hash, self._first_seq, self._offset))


def _take_lock(path: Path) -> int:
    """A descriptor whose lock ends with it, or with the process. Raises OSError where another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        os.close(descriptor)
        raise OSError(errno.EBUSY, "another process writes it; stop that one first", str(path)) from problem
    return descriptor


def _genesis(directory: Path, wanted: Genesis | None, segment_bytes: int) -> Genesis:
    """The ledger's genesis; makes the ledger if there is none. Raises LedgerDamaged where there was one."""
    try:
        return read_genesis(directory)
    except ValueError as problem:
        raise LedgerDamaged(0, str(problem)) from problem
    except FileNotFoundError as problem:
        if not _never_used(directory):
            raise LedgerDamaged(0, "genesis.json is gone, and events are there") from problem
    genesis = wanted or Genesis(str(uuid.uuid4()), time.time_ns() // 1000, b"")
    first = directory / SEGMENTS / segment_name(0)
    fill(first, segment_bytes)
    sync_directory(first.parent)
    write_head(directory, Head(0, genesis_hash(genesis), 0, 0))
    write_genesis(directory, genesis)  # last: from here on there is a ledger
    return genesis


def _never_used(directory: Path) -> bool:
    """Whether what is there is at most the rest of a first start that did not come to its end."""
    segments = list_segments(directory / SEGMENTS)
    if not segments:
        return not (directory / "head").exists()
    return [first for first, _ in segments] == [0] and not read_segment(segments[0][1])[0].strip(b"\0")


def _recover(directory: Path, genesis: Genesis, segment_bytes: int, since: Mark | None) -> tuple[End, Recovery]:
    """Find the end, cut a torn tail, and bring the files back into the form that the writer needs."""
    repairs: list[str] = []
    head = _head(directory, repairs)
    acknowledged = [(mark.seq, mark.event_hash) for mark in snapshots.marks(directory)]
    if head is not None:
        acknowledged.append((head.next_seq, head.event_hash))
    beginning = _beginning(directory, genesis)
    end = find_end(directory / SEGMENTS, genesis_hash(genesis), acknowledged, since or beginning, segment_bytes)
    if end.path is None:
        raise LedgerDamaged(0, "every segment is gone")
    if (signed := signed_size(directory)) > end.next_seq:
        raise LedgerDamaged(end.next_seq, f"a checkpoint was signed of {signed} events; the rest of them is gone")
    if end.file_bytes < segment_bytes:
        repairs.append(f"{end.path.name} had {end.file_bytes} bytes and gets its {segment_bytes} back")
    _settle(directory, end, segment_bytes)
    if repairs:
        write_head(directory, Head(end.next_seq, end.head_hash, end.segment, end.offset))
    boundary.remove_left_over(directory)
    torn_seq = end.next_seq if end.torn_bytes else -1
    return end, Recovery(end.next_seq, end.torn_bytes, torn_seq, tuple(repairs))


def _beginning(directory: Path, genesis: Genesis) -> Mark | None:
    """Where the chain begins that retention has left; None where all of it is there. Raises LedgerDamaged, OSError."""
    pruned = boundary.load(directory)
    if pruned is None:
        return None
    if pruned.boundary.genesis != genesis_hash(genesis):
        raise LedgerDamaged(0, "genesis.json is not what the record grew from")
    return pruned.boundary.mark


def _head(directory: Path, repairs: list[str]) -> Head | None:
    try:
        return read_head(directory)
    except (FileNotFoundError, ValueError) as problem:
        repairs.append(f"head was unreadable and is written anew: {problem}")
        return None


def _settle(directory: Path, end: End, segment_bytes: int) -> None:
    """Make durable all that was found, for from here on it counts: whoever wrote it may have been killed before its sync.

    The last frame is written once more, as a sync that failed has dropped it, and would not write it now. Behind it come
    zeros where a torn tail is, or where the file has lost its full size.
    """
    assert end.path is not None
    descriptor = os.open(end.path, os.O_RDWR)
    try:
        write_at(descriptor, os.pread(descriptor, end.offset - end.frame_at, end.frame_at), end.frame_at)
        if end.torn_bytes or end.file_bytes < segment_bytes:
            write_zeros(descriptor, end.offset, max(end.file_bytes, segment_bytes))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for place in (end.path.parent, directory, directory.parent):
        sync_directory(place)


def _what_to_do(problem: OSError) -> str:
    hint = "make room on the disk" if problem.errno == errno.ENOSPC else "look at the disk"
    return f"the ledger could not be written ({problem}); {hint}, it goes on by itself"
