"""Old segments, compressed: `<first sequence number>.log.gz`, and how any segment is read, compressed or not.

A sealed segment is an ordinary gzip file (`zcat` gives the segment's bytes) of one member for each 16 KiB (in older ones
for each MiB). Each member's header says how long the member is, so that a reader goes to any place by hopping over the
headers. What is sealed replaces the segment only once it is durable and was read back, so at each moment one of the two is
there and whole.
"""

import errno
import os
import struct
import zlib
from array import array
from pathlib import Path
from typing import Final, Protocol

from fetchmld.store.segment import sync_directory, write_at

SEALED: Final = ".gz"
BLOCK_BYTES: Final = 16 * 1024  # one event costs 0.1 ms; a MiB compresses a tenth better, and costs 2.5
_OLDER_BLOCK_BYTES: Final = 1024 * 1024
LEVEL: Final = 1  # level 6 takes three times as long for a tenth less
# RFC 1952, with one extra field: FM, 8 bytes: length of the whole member, crc32 of what follows the header.
_HEADER: Final = struct.Struct("<4sIBBH2sHII")
_TRAILER: Final = struct.Struct("<II")  # crc32 and length of what was compressed
_BEGIN: Final = (b"\x1f\x8b\x08\x04", 0, 0, 255, 12, b"FM", 8)
_PART_BYTES: Final = 512  # of damaged data, taken at a time: what lies before the damage is still to be had


class SegmentFile(Protocol):
    """An open segment. `problem`: what is wrong with its wrapping, as far as it was read; empty where nothing is."""

    problem: str
    size: int

    def pread(self, size: int, offset: int) -> bytes: ...
    def close(self) -> None: ...


def open_segment(path: Path) -> SegmentFile:
    """The segment that `list_segments` named `path`, also where it was sealed since. Raises OSError."""
    if path.suffix != SEALED:
        try:
            return _Plain(path)
        except FileNotFoundError:
            path = path.with_name(path.name + SEALED)
    return _Sealed(path)


def read_segment(path: Path) -> tuple[bytes, str]:
    """(all bytes of the segment, what is wrong with its wrapping). Raises OSError.

    Of damaged parts what can be had is there, then zeros: their sums and hashes tell what is lost.
    """
    return _all_of(open_segment(path))


def seal(path: Path) -> Path:
    """Replace the segment at `path`, to which nothing is written any more, by its sealed form. Raises OSError,
    also where what was written cannot be read back; the segment is then left as it is."""
    raw = path.read_bytes()
    sealed = path.with_name(path.name + SEALED)
    fresh = sealed.with_name(sealed.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        end = 0
        for start in range(0, len(raw), BLOCK_BYTES):
            member = _member(raw[start : start + BLOCK_BYTES])
            write_at(descriptor, member, end)
            end += len(member)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if _all_of(_Sealed(fresh)) != (raw, ""):
        fresh.unlink()
        raise OSError(errno.EIO, "what was written does not read back the same: the disk is failing", str(fresh))
    os.replace(fresh, sealed)
    sync_directory(path.parent)
    path.unlink()
    sync_directory(path.parent)
    return sealed


def _all_of(file: SegmentFile) -> tuple[bytes, str]:
    try:
        return file.pread(file.size, 0), file.problem
    finally:
        file.close()


def _member(raw: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = packer.compress(raw) + packer.flush()
    rest = data + _TRAILER.pack(zlib.crc32(raw), len(raw))
    return _HEADER.pack(*_BEGIN, _HEADER.size + len(rest), zlib.crc32(rest)) + rest


class _Opened:
    """A descriptor that is closed with its owner."""

    def __init__(self, path: Path) -> None:
        self._file = -1
        self._file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size
        self.problem = ""

    def close(self) -> None:
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class _Plain(_Opened):
    """A segment as it was written."""

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self._file, size, offset)


class _Sealed(_Opened):
    """A sealed one. Keeps the block that was read last."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._name = path.name
        self._members = array("Q")  # where each begins, and where the last one ends
        self._member_bytes = BLOCK_BYTES  # of the segment, in each but the last
        self._block_at = -1
        self._block = b""
        self._file_bytes, self.size = self.size, 0
        self._find_members()

    def _find_members(self) -> None:
        at, end, last = 0, self._file_bytes, 0
        between = os.pread(self._file, _HEADER.size, 0)  # two members: the trailer of one and the header of the next
        while at < end and not self.problem:
            head = between[-_HEADER.size :]
            fields = _HEADER.unpack(head) if len(head) == _HEADER.size else (b"", 0, 0)
            size, whole = fields[-2], last == self._member_bytes or not at
            if fields[:-2] != _BEGIN or not _HEADER.size + _TRAILER.size < size <= end - at or not whole:
                self._complain(at)
                break
            self._members.append(at)
            between = os.pread(self._file, _TRAILER.size + _HEADER.size, at + size - _TRAILER.size)
            _, last = _TRAILER.unpack_from(between)
            if not at and last == _OLDER_BLOCK_BYTES:
                self._member_bytes = last
            if not 0 < last <= self._member_bytes:
                self._complain(at)
                last = self._member_bytes
            self.size += last
            at += size
        self._members.append(at)

    def _complain(self, at: int) -> None:
        self.problem = self.problem or f"{self._name} is damaged at its byte {at}"

    def pread(self, size: int, offset: int) -> bytes:
        parts = []
        while size > 0 and offset < self.size:
            number, start = divmod(offset, self._member_bytes)
            part = self._read(number)[start : start + size]
            if not part:
                break
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return b"".join(parts)

    def _read(self, number: int) -> bytes:
        if number != self._block_at:
            at, behind = self._members[number : number + 2]
            member = os.pread(self._file, behind - at, at)
            crc, length = _TRAILER.unpack(member[-_TRAILER.size :])
            length = min(length, self._member_bytes)
            block, whole = _unpacked(member[_HEADER.size : -_TRAILER.size], length)
            sums = (zlib.crc32(memoryview(member)[_HEADER.size :]), zlib.crc32(block))
            if not whole or sums != (_HEADER.unpack_from(member)[-1], crc):
                self._complain(at)
            self._block_at, self._block = number, block.ljust(length, b"\0")
        return self._block


def _unpacked(data: bytes, length: int) -> tuple[bytes, bool]:
    """What can be had of compressed `data`, at most `length` bytes, and whether that is all and nothing follows."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(data, length + 1)
        return found[:length], len(found) == length and unpacker.eof and not unpacker.unused_data
    except zlib.error:
        return _before_damage(data, length), False


def _before_damage(data: bytes, length: int) -> bytes:
    unpacker, found = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    try:
        for at in range(0, len(data), _PART_BYTES):
            found += unpacker.decompress(data[at : at + _PART_BYTES])
            if len(found) >= length:
                break
    except zlib.error:
        pass
    return bytes(found[:length])
