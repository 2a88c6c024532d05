"""Records of a segment taken apart by the verifier's own hand."""

from collections.abc import Iterator
from typing import Any

from fetchmld.core.chain import HASH_BYTES, RECORD_HEADER
from fetchmld.store.segment import ENTRY_EXTRA_BYTES, HEADER, SIZE, payload_intact, read_header


def records(buffer: bytes) -> Iterator[tuple[int, int]]:
    """(where it is, its bytes) of each record in a segment, as far as its frames are intact."""
    at = 0
    while (header := read_header(buffer, at)) is not None and payload_intact(buffer, at, header):
        entry_at = at + HEADER.size
        for _ in range(header.events):
            (size,) = SIZE.unpack_from(buffer, entry_at)
            yield entry_at + SIZE.size, size
            entry_at += ENTRY_EXTRA_BYTES + size
        at += header.frame_bytes


def record_row(buffer: bytes, start: int, size: int) -> tuple[Any, ...]:
    end = start + size
    _, seq, prev_hash, at_us, clock_us, flags, *sizes = RECORD_HEADER.unpack_from(buffer, start)
    at, parts = start + RECORD_HEADER.size, []
    for length in sizes:
        parts.append(buffer[at : at + length].decode())
        at += length
    kind, action, resource, user_id, ip_address, error, metadata = parts
    place = (seq, at_us, clock_us, kind, action, user_id, resource, bool(flags & 1), ip_address, error)
    return (*place, prev_hash, buffer[end : end + HASH_BYTES], metadata or "{}")
