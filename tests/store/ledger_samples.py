"""Small ledgers to break, and where in their files each event lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fetchmld.core.chain import Genesis
from fetchmld.core.messages import Fact
from fetchmld.store.ledger import Ledger
from fetchmld.store.segment import HEADER, SIZE, list_segments, read_header

GENESIS = Genesis("8d2f6b0e-1111-4222-8333-444455556666", 1_760_000_000_000_000, b"")
SEGMENT_BYTES = 8 * 1024


def fact(number: int) -> Fact:
    """A fact of its own for each number, of various lengths."""
    metadata = {"task_id": f"t{number}", "attempt": number % 3, "args": "x" * (number * 37 % 190), "share": number / 7}
    return Fact(
        "job_started",
        "task.start",
        f"task:t{number}",
        ("alice", "", "b\u00e9a")[number % 3],
        number % 5 != 0,
        "127.0.0.1" if number % 2 else "",
        "EXIT_NONZERO: 1" if number % 5 == 0 else "",
        metadata if number % 11 else {},
        1_760_000_000_000_000 + number,
        number * 1000,
    )


def facts(first: int, count: int) -> list[Fact]:
    return [fact(number) for number in range(first, first + count)]


def open_ledger(directory: Path) -> Ledger:
    return Ledger.open(directory, segment_bytes=SEGMENT_BYTES, genesis=GENESIS)


def fill(ledger: Ledger, batches: Sequence[int]) -> None:
    for size in batches:
        ledger.append(facts(ledger.next_seq, size))


def segment_paths(directory: Path) -> list[Path]:
    return [path for _, path in list_segments(directory / "segments")]


@dataclass(frozen=True)
class Entry:
    """One event in its file: its entry is [start, end), its record and hash within it."""

    path: Path
    seq: int
    start: int
    record: slice
    digest: slice
    end: int


@dataclass(frozen=True)
class Frame:
    path: Path
    first_seq: int
    start: int
    end: int
    entries: tuple[Entry, ...]

    def event_at(self, at: int) -> int:
        """Whose bytes these are: the header counts as the first event's, the trailer as the last one's."""
        inside = [entry.seq for entry in self.entries if at < entry.end]
        return inside[0] if inside and at >= self.entries[0].start else self.entries[0 if inside else -1].seq


def frames_of(directory: Path) -> list[Frame]:
    return [frame for path in segment_paths(directory) for frame in _frames(path)]


def entries_of(directory: Path) -> list[Entry]:
    return [entry for frame in frames_of(directory) for entry in frame.entries]


def _frames(path: Path) -> list[Frame]:
    buffer, at, found = path.read_bytes(), 0, []
    while (header := read_header(buffer, at)) is not None:
        entries, start = [], at + HEADER.size
        for seq in range(header.first_seq, header.next_seq):
            (size,) = SIZE.unpack_from(buffer, start)
            record, digest = start + 4, start + 4 + size
            entries.append(Entry(path, seq, start, slice(record, digest), slice(digest, digest + 32), digest + 32))
            start = digest + 32
        found.append(Frame(path, header.first_seq, at, at + header.frame_bytes, tuple(entries)))
        at += header.frame_bytes
    return found
