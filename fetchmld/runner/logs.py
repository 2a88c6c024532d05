"""Attempts' output on disk: recycled live files, packed segments, and whole files. Standard library only.

    live/<n>.log          what running attempts write to, one slot each (a file, not a pipe: it outlives the runner)
    segments/<n>.seg      the output of ended attempts, packed: many short logs cost no file each
    whole/<key>.log       the output of an ended attempt that was too large to pack: the live file itself, renamed

A segment entry is `magic "FMLG", u16 key length, u16 zero, u32 payload length, u32 CRC-32 of the payload, key, payload`,
little-endian. A place (`LogPlace`) points at the payload. Segments are deleted whole, never rewritten.
"""

import os
import re
import struct
import time
import zlib
from typing import Any, Final

PACKED_BYTES_MAX: Final = 2**20
SEGMENT_BYTES: Final = 64 * 2**20
SEGMENT_S: Final = 86_400.0  # then it is left as well, so that what is old can go
FREE_SLOTS_MAX: Final = 256
READ_BYTES_MAX: Final = 4 * 2**20

_MAGIC: Final = b"FMLG"
_HEADER: Final = struct.Struct("<4sHHII")
_FILE: Final = re.compile(r"segments/[0-9]{1,12}\.seg|whole/[A-Za-z0-9_.-]{1,200}\.log|")

Place = dict[str, Any]  # {"file", "offset", "length"}: a LogPlace without its worker
NO_OUTPUT: Final[Place] = {"file": "", "offset": 0, "length": 0}


class LogPool:
    """The writer's side: hands out live files and puts ended output where it stays."""

    def __init__(self, directory: str, owned: set[int]) -> None:
        """Open `directory`; live files of slots that are not in `owned` are of no attempt any more and go."""
        self.directory = directory
        self._fds: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}  # by the user who may open them
        self._free_count = 0
        self._users: dict[int, int] = {}  # of each slot with a descriptor
        for name in ("live", "segments", "whole"):
            os.makedirs(f"{directory}/{name}", mode=0o700, exist_ok=True)
        self._next_slot = max(owned, default=-1) + 1
        self._drop_unowned(owned)
        numbers = [int(name[:-4]) for name in os.listdir(f"{directory}/segments") if name.endswith(".seg")]
        self._segment = max(numbers, default=-1) + 1  # the last one may end torn; never append to it again
        self._segment_fd = -1
        self._segment_size = 0
        self._segment_begun_t = 0.0

    def _drop_unowned(self, owned: set[int]) -> None:
        for name in os.listdir(f"{self.directory}/live"):
            stem = name.partition(".")[0]
            if not stem.isdigit() or int(stem) not in owned:
                os.unlink(f"{self.directory}/live/{name}")

    def live_path(self, slot: int) -> str:
        return f"{self.directory}/live/{slot}.log"

    def acquire(self, uid: int = -1) -> tuple[int, int]:
        """A slot that nobody uses, its file empty: (slot, descriptor). `uid` may open the file that it inherits anew."""
        slot = self._free_slot(uid)
        if slot < 0:
            slot, self._next_slot = self._next_slot, self._next_slot + 1
            self._open(slot)
        if uid >= 0 and self._users.get(slot, -1) != uid:
            os.fchown(self._fds[slot], uid, uid)
            self._users[slot] = uid
        return slot, self._fds[slot]

    def _free_slot(self, uid: int) -> int:
        """One that `uid` had before, else any once there are many; -1: another is to be made."""
        if uid not in self._free and self._free_count < FREE_SLOTS_MAX // 2:
            return -1
        owner = uid if uid in self._free else next(iter(self._free))
        slots = self._free[owner]
        slot = slots.pop()
        if not slots:
            del self._free[owner]
        self._free_count -= 1
        return slot

    def cut(self, slot: int, bytes_max: int) -> bool:
        """Cut a slot's file where it is longer than `bytes_max` and its mark; whether it was."""
        return os.fstat(self._fd(slot)).st_size > bytes_max and _cut(self.live_path(slot), bytes_max)

    def _open(self, slot: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = self._fds[slot] = os.open(self.live_path(slot), flags, 0o600)
        return fd

    def _fd(self, slot: int) -> int:
        return self._fds[slot] if slot in self._fds else self._open(slot)

    def keep(self, slot: int, key: str) -> Place:
        """Put the output of the ended attempt `key` where it stays; the slot itself stays taken until `release`."""
        fd = self._fd(slot)
        length = os.fstat(fd).st_size
        if length == 0:
            return dict(NO_OUTPUT)
        if length <= PACKED_BYTES_MAX:
            try:
                return self._pack(key, os.pread(fd, length, 0))
            except OSError:  # a full disk: renaming needs no room
                self._abandon_segment()
        os.rename(self.live_path(slot), f"{self.directory}/whole/{key}.log")
        self._close(slot)
        return {"file": f"whole/{key}.log", "offset": 0, "length": length}

    def find_kept(self, slot: int, key: str) -> Place:
        """As `keep`, for an attempt whose runner died: its output may have been renamed already."""
        path = f"{self.directory}/whole/{key}.log"
        if os.path.exists(path):
            return {"file": f"whole/{key}.log", "offset": 0, "length": os.stat(path).st_size}
        return self.keep(slot, key) if slot >= 0 else dict(NO_OUTPUT)

    def _pack(self, key: str, payload: bytes) -> Place:
        raw_key = key.encode("ascii")
        head = _HEADER.pack(_MAGIC, len(raw_key), 0, len(payload), zlib.crc32(payload)) + raw_key
        is_old = time.monotonic() - self._segment_begun_t > SEGMENT_S
        if self._segment_fd < 0 or self._segment_size > SEGMENT_BYTES or is_old:
            self._next_segment()
        offset = self._segment_size + len(head)
        data = memoryview(head + payload)
        while data:
            data = data[os.write(self._segment_fd, data) :]
        self._segment_size = offset + len(payload)
        return {"file": f"segments/{self._segment}.seg", "offset": offset, "length": len(payload)}

    def _next_segment(self) -> None:
        self._abandon_segment()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._segment_fd = os.open(f"{self.directory}/segments/{self._segment}.seg", flags, 0o600)
        self._segment_size = 0
        self._segment_begun_t = time.monotonic()

    def _abandon_segment(self) -> None:
        if self._segment_fd >= 0:
            os.close(self._segment_fd)
            self._segment_fd = -1
            self._segment += 1

    def release(self, slot: int, shared: bool = False) -> None:
        """The slot's output is kept elsewhere and acknowledged. `shared`: something may still hold its file open."""
        if slot < 0:
            return
        if not shared and slot in self._fds and self._free_count < FREE_SLOTS_MAX:
            if os.fstat(self._fds[slot]).st_size:
                os.ftruncate(self._fds[slot], 0)
            self._free.setdefault(self._users.get(slot, -1), []).append(slot)
            self._free_count += 1
            return
        self._close(slot)
        try:
            os.unlink(self.live_path(slot))
        except FileNotFoundError:
            pass  # renamed to whole/

    def _close(self, slot: int) -> None:
        self._users.pop(slot, None)
        fd = self._fds.pop(slot, -1)
        if fd >= 0:
            os.close(fd)


def mark_of_cut(bytes_max: int) -> bytes:
    """What stands where a log was cut."""
    return f"\n[FetchML: the log reached {bytes_max} bytes; the rest is not kept]\n".encode()


def _cut(path: str, bytes_max: int) -> bool:
    """Let the log end with the mark at `bytes_max`, whatever is behind; False where it does.

    Who writes to it goes on (it appends, so behind the mark), and is cut again.
    """
    mark = mark_of_cut(bytes_max)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)  # not the writers' O_APPEND
    try:
        marked = os.pread(fd, len(mark), bytes_max) == mark
        if marked and os.fstat(fd).st_size == bytes_max + len(mark):
            return False
        if not marked:
            os.pwrite(fd, mark, bytes_max)
        os.ftruncate(fd, bytes_max + len(mark))
        return True
    finally:
        os.close(fd)


def read_live(directory: str, slot: int, offset: int, limit: int, bytes_max: int = 0) -> tuple[bytes, int]:
    """Up to `limit` bytes of a live file from `offset`, and its size; nothing when it has just been put away.

    `bytes_max`: what it may have, 0 = any number. What is behind and not cut off yet is not shown.
    """
    try:
        with open(f"{directory}/live/{slot}.log", "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if 0 < bytes_max < size:
                mark = mark_of_cut(bytes_max)
                size = bytes_max + (len(mark) if os.pread(file.fileno(), len(mark), bytes_max) == mark else 0)
            return os.pread(file.fileno(), max(0, min(limit, READ_BYTES_MAX, size - offset)), offset), size
    except FileNotFoundError:
        return b"", 0


def read_place(directory: str, place: Place, owner: str, offset: int, limit: int) -> bytes:
    """Up to `limit` bytes of an ended attempt's output from `offset`, of `owner` ("<task>-<attempt>-") and nobody else.

    Raises ValueError when `place` is not one that a runner gives, or holds another attempt's output; FileNotFoundError
    when retention has removed it.
    """
    file, start, length = str(place["file"]), int(place["offset"]), int(place["length"])
    if not _FILE.fullmatch(file) or start < 0 or length < 0:
        raise ValueError(f"{place!r} is no place of a log")
    if not file or offset >= length:
        return b""
    with open(f"{directory}/{file}", "rb", buffering=0) as opened:
        if not _owned(opened.fileno(), file, start, length, owner):
            raise ValueError(f"{place!r} does not hold the output of {owner.rstrip('-')}")
        return os.pread(opened.fileno(), min(limit, length - offset, READ_BYTES_MAX), start + offset)


def _owned(fd: int, file: str, start: int, length: int, owner: str) -> bool:
    if file.startswith("whole/"):
        return file.startswith(f"whole/{owner}")
    for key_length in range(len(owner) + 1, len(owner) + 7):  # the rank behind it has one to six digits
        at = start - key_length - _HEADER.size
        if at < 0:
            return False
        head = os.pread(fd, _HEADER.size + key_length, at)
        magic, stated, _, payload_length, _ = _HEADER.unpack_from(head)
        if magic == _MAGIC and stated == key_length:
            return bool(payload_length == length and head[_HEADER.size :].startswith(owner.encode("ascii")))
    return False
