"""The bytes of a segment file: frames one after the other, then zeros up to the file's end.

    frame  = header (40)  payload  trailer (8)
    header = magic, first sequence number, acknowledged events, number of events, payload bytes, payload CRC, header CRC
    payload = for each event: record bytes (u32), record, event_hash (32)

One frame is one batch: written at once, synced at once, and whole or absent. Owns the layout and the names; knows
nothing of who writes when. `docs/ledger-format.md` is the same for a reader without this code.
"""

import os
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from fetchmld.core.chain import HASH_BYTES

MAGIC: Final = b"FMLFRM01"  # no byte of magic or trailer is zero: a sector never written shows as zeros
TRAILER: Final = b"FMLEND01"
HEADER: Final = struct.Struct(">8sQQIIII")
SIZE: Final = struct.Struct(">I")
ENTRY: Final = struct.Struct(">I8sQ32s")  # an event's entry begins: length, then the record's tag, number and prev_hash
FRAME_BYTES_MAX: Final = 1024 * 1024 * 1024
ENTRY_EXTRA_BYTES: Final = SIZE.size + HASH_BYTES
FRAME_EXTRA_BYTES: Final = HEADER.size + len(TRAILER)

_NAME: Final = re.compile(r"\d{20}\.log(\.gz)?")
_ZEROS: Final = bytes(1024 * 1024)


class LedgerDamaged(Exception):
    """The ledger's bytes are not what was written. `first_bad` is the lowest sequence number that is lost or wrong."""

    final = True  # to start again would find the same: the daemon ends instead

    def __init__(self, first_bad: int, why: str) -> None:
        super().__init__(first_bad, why)
        self.first_bad = first_bad
        self.why = why

    def __str__(self) -> str:
        return (
            f"the ledger is damaged from event {self.first_bad} on: {self.why}. "
            "Run `fetchmld audit verify --data-dir DIR`, then restore the ledger from a copy"
        )


class FrameHeader(NamedTuple):
    first_seq: int
    acked: int  # events below this sequence number were acknowledged when the frame was written
    events: int
    payload_bytes: int
    payload_crc: int

    @property
    def frame_bytes(self) -> int:
        return FRAME_EXTRA_BYTES + self.payload_bytes

    @property
    def next_seq(self) -> int:
        return self.first_seq + self.events


def segment_name(first_seq: int) -> str:
    return f"{first_seq:020d}.log"


def list_segments(directory: Path) -> list[tuple[int, Path]]:
    """(first sequence number, path) of each segment, in order. Empty where the directory is not there.

    One that is there sealed (`store.sealed`) and as it was written, too, counts as it was written.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found: dict[int, Path] = {}
    for name in sorted(names):
        if _NAME.fullmatch(name):
            found.setdefault(int(name[:20]), directory / name)
    return list(found.items())


def pack_frame(first_seq: int, acked: int, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The frame of these (record, event_hash) pairs. Raises ValueError beyond 1 GiB."""
    payload = b"".join([part for record, digest in entries for part in (SIZE.pack(len(record)), record, digest)])
    if len(payload) > FRAME_BYTES_MAX:
        raise ValueError(f"a batch of {len(payload)} bytes: append it in parts of at most {FRAME_BYTES_MAX}")
    head = HEADER.pack(MAGIC, first_seq, acked, len(entries), len(payload), zlib.crc32(payload), 0)[:-4]
    return b"".join((head, SIZE.pack(zlib.crc32(head)), payload, TRAILER))


def read_header(buffer: bytes, offset: int) -> FrameHeader | None:
    """The header at `offset`, or None where no intact one is."""
    if len(buffer) < offset + HEADER.size:
        return None
    magic, first_seq, acked, events, payload_bytes, payload_crc, crc = HEADER.unpack_from(buffer, offset)
    if magic != MAGIC or zlib.crc32(buffer[offset : offset + HEADER.size - 4]) != crc:
        return None
    return FrameHeader(first_seq, acked, events, payload_bytes, payload_crc)


def payload_intact(buffer: bytes, offset: int, header: FrameHeader) -> bool:
    """Whether the whole frame at `offset` is there and its payload is what the header says."""
    start = offset + HEADER.size
    end = start + header.payload_bytes
    return (
        buffer[end : end + len(TRAILER)] == TRAILER and zlib.crc32(memoryview(buffer)[start:end]) == header.payload_crc
    )


def is_zero(buffer: bytes, start: int, end: int) -> bool:
    """Whether `buffer[start:end]` holds nothing but zeros."""
    for at in range(start, end, len(_ZEROS)):
        part = buffer[at : min(end, at + len(_ZEROS))]
        if part != _ZEROS[: len(part)]:
            return False
    return True


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """All of `data` at `offset`. Raises OSError."""
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        data = data[written:]
        offset += written
        written = os.pwrite(descriptor, data, offset)


def write_zeros(descriptor: int, start: int, end: int) -> None:
    """Zeros, really written (no hole), over [start, end). Raises OSError, for one when the disk is full."""
    for at in range(start, end, len(_ZEROS)):
        write_at(descriptor, _ZEROS[: min(end - at, len(_ZEROS))], at)


def sync_directory(directory: Path) -> None:
    """Make names created in, renamed in or removed from `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
