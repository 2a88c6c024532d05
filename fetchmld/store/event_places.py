"""Events by their numbers, out of the segments: what a page of events is read from, however far apart they lie.

The index gives whole batches quickly and single rows slowly: DuckDB reads a block of every column around each. A segment
gives one event in a few microseconds to whoever knows where it is. Of every `PLACE_EVERY`th event the place is kept, and
a reader goes on from there. A place is a hint: what is found there is believed by its number and its hash alone, and what
is not found is left to the index.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import duckdb

from fetchmld.core.chain import RECORD_TAG, event_hash
from fetchmld.store.blocks import cut
from fetchmld.store.event_rows import PLACE_EVERY, RawEvent, hashes_of
from fetchmld.store.history_file import IndexDoubt
from fetchmld.store.history_lists import LOAD_ROWS, numbers
from fetchmld.store.sealed import SegmentFile, open_segment
from fetchmld.store.segment import ENTRY, ENTRY_EXTRA_BYTES, HEADER, MAGIC, SIZE, TRAILER, list_segments

FILES_MAX: Final = 256  # segments that are kept open: a sealed one takes some milliseconds to find its way in
_READ_BYTES: Final = 4 * 1024


class EventPlaces:
    """Where events lie in the segments of `ledger_dir`. For one thread at a time."""

    def __init__(self, ledger_dir: Path) -> None:
        self._directory = ledger_dir / "segments"
        self._first = 0  # the event of the first place
        self._places = array("Q")
        self._files: dict[Path, SegmentFile] = {}  # open ones, the longest unused first

    def load(self, db: duckdb.DuckDBPyConnection) -> None:
        """Take in all that the index holds. Raises `IndexDoubt` where that has gaps."""
        ((first, last, count),) = db.execute("SELECT min(seq), max(seq), count(*) FROM places").fetchall()
        if count and last - first != PLACE_EVERY * (count - 1):
            raise IndexDoubt(f"its table places has gaps: {count} rows from event {first} to {last}")
        self._first, self._places = first or 0, array("Q")
        for batch in db.sql("SELECT lies_at FROM places ORDER BY seq").to_arrow_reader(LOAD_ROWS):
            self._places.extend(numbers(batch["lies_at"], "Q"))

    def add(self, places: Iterable[tuple[int, int]]) -> None:
        """Take in the places that a batch has, which follow the ones known."""
        for seq, at in places:
            if not self._places:
                self._first = seq
            self._places.append(at)

    def read(self, seqs: Sequence[int]) -> dict[int, RawEvent]:
        """Those of these events that could be read, whole and as they were hashed."""
        found: dict[int, RawEvent] = {}
        try:
            segments = list_segments(self._directory)
            self._close_all_but({path for _, path in segments})
            self._read(sorted(seqs), segments, found)
        except OSError:
            pass  # the index has them too
        return found

    def _read(self, seqs: Sequence[int], segments: Sequence[tuple[int, Path]], found: dict[int, RawEvent]) -> None:
        firsts = [first for first, _ in segments]
        reader = None
        for seq in seqs:
            number = bisect_right(firsts, seq) - 1
            if number < 0:
                continue
            start = self._start(seq, firsts[number])
            if reader is None or reader.path != segments[number][1] or not start[0] <= reader.seq <= seq:
                path = segments[number][1]
                reader = _Reader(path, self._file(path), *start)
            if (event := reader.go_to(seq)) is not None:
                found[seq] = event

    def _start(self, seq: int, segment_first: int) -> tuple[int, int]:
        """An event at or before `seq` in its segment, and where it lies there."""
        place = (seq - self._first) // PLACE_EVERY
        known = self._first + place * PLACE_EVERY
        return (
            (known, self._places[place])
            if 0 <= place < len(self._places) and known >= segment_first
            else (segment_first, 0)
        )

    def _file(self, path: Path) -> SegmentFile:
        file = self._files.pop(path, None) or open_segment(path)
        self._files[path] = file
        if len(self._files) > FILES_MAX:
            self._files.pop(next(iter(self._files))).close()
        return file

    def close_gone(self) -> None:
        """Let go of segments that were sealed or removed: as long as they are open they take up the disk."""
        if self._files:
            self._close_all_but({path for _, path in list_segments(self._directory)})

    def close(self) -> None:
        self._close_all_but(frozenset())

    def _close_all_but(self, kept: "set[Path] | frozenset[Path]") -> None:
        for path in self._files.keys() - kept:
            self._files.pop(path).close()


class _Reader:
    """Goes along the entries of a segment, from one to the next."""

    def __init__(self, path: Path, file: SegmentFile, seq: int, at: int) -> None:
        """At byte `at` lies event `seq`, or the end or beginning of a frame before it."""
        self.path = path
        self.seq = seq
        self._file, self._at = file, at
        self._read, self._read_at = b"", 0

    def go_to(self, wanted: int) -> RawEvent | None:
        """The event `wanted`, which is not before `seq`; None where it cannot be found, or is not as it was hashed."""
        while True:
            head = self._bytes(ENTRY.size)
            if head.startswith(TRAILER):
                self._at += len(TRAILER)
            elif head.startswith(MAGIC):
                self._at += HEADER.size
            else:
                if len(head) < ENTRY.size:
                    return None
                size, tag, seq, _ = ENTRY.unpack(head)
                if tag != RECORD_TAG or seq != self.seq:
                    return None
                if seq == wanted:
                    return self._event(size)
                self._at += size + ENTRY_EXTRA_BYTES
                self.seq += 1

    def _event(self, size: int) -> RawEvent | None:
        entry = self._bytes(size + ENTRY_EXTRA_BYTES)
        end = SIZE.size + size
        event = cut(entry, SIZE.size, end)
        return event if event is not None and event_hash(entry[SIZE.size : end]) == hashes_of(event)[1] else None

    def _bytes(self, size: int) -> bytes:
        """The next `size` bytes; fewer where the segment ends."""
        start = self._at - self._read_at
        if start < 0 or start + size > len(self._read):
            self._read, self._read_at, start = self._file.pread(max(size, _READ_BYTES), self._at), self._at, 0
        return self._read[start : start + size]
