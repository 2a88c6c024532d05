"""The views of tasks once more, each in one piece: `index.views`, beside the index.

A page shows tasks that may lie anywhere, and around each DuckDB reads blocks of 256 KiB; here one read gives one view. It
is a copy and never synced. The index keeps each view's slot and its sum: what does not have that sum (it was lost, cut or
changed, or a crash came between the two files) is read from the index, and put back.

A view that changes keeps its slot while it fits; there is room for a start and an end.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fetchmld.store.task_rows import view_sum

UNIT_BYTES: Final = 64
ROOM_BYTES: Final = 384  # for what a start and an end add
_UNITS_BITS: Final = 20
_UNITS_MAX: Final = 2**_UNITS_BITS - 1  # of a view, that is 64 MiB; longer ones are in the index alone
_KEEP_SIZE_PUNCH_HOLE: Final = 3  # of fallocate(2)

NO_SLOT: Final = 0


class ViewFile:
    """The open file, made where there is none. A slot is one number: where it begins, and how long it is, in units."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = _units(os.fstat(self._file).st_size)

    def clear(self) -> None:
        os.ftruncate(self._file, 0)
        self._end = 0

    def reach(self, slot: int) -> None:
        """`slot` is taken, also where the file is shorter now: new ones lie behind it."""
        self._end = max(self._end, (slot >> _UNITS_BITS) + (slot & _UNITS_MAX))

    def put(self, views: Sequence[bytes], slots: Sequence[int], final: Sequence[bool]) -> list[int]:
        """Write these views; the slot of each. `slots`: those that they had. `final`: which will hardly grow.

        Raises OSError.
        """
        fresh, taken = bytearray(), []
        for view, slot, ends in zip(views, slots, final, strict=True):
            if len(view) <= (slot & _UNITS_MAX) * UNIT_BYTES:
                self.mend(slot, view)
                taken.append(slot)
                continue
            units = _units(len(view) + (0 if ends else max(ROOM_BYTES, len(view) // 4)))
            if units > _UNITS_MAX:
                taken.append(NO_SLOT)
                continue
            taken.append((self._end + len(fresh) // UNIT_BYTES) << _UNITS_BITS | units)
            fresh += view.ljust(units * UNIT_BYTES, b"\0")
        if fresh:
            os.pwrite(self._file, fresh, self._end * UNIT_BYTES)
            self._end += len(fresh) // UNIT_BYTES
        return taken

    def get(self, slot: int, total: int) -> bytes | None:
        """The view in `slot` whose sum is `total`; None where that is not there."""
        try:
            view = os.pread(self._file, (slot & _UNITS_MAX) * UNIT_BYTES, _begin(slot)).rstrip(b"\0")
        except OSError:
            return None
        return view if view_sum(view) == total else None

    def mend(self, slot: int, view: bytes) -> None:
        """Write a view where it belongs. Raises OSError."""
        size = (slot & _UNITS_MAX) * UNIT_BYTES
        if len(view) <= size:
            os.pwrite(self._file, view.ljust(size, b"\0"), _begin(slot))

    def free_before(self, slot: int | None) -> None:
        """Give back the disk that slots before this one take, or all; as far as the file system can."""
        size = self._end * UNIT_BYTES if slot is None else _begin(slot)
        libc = ctypes.CDLL(None)
        libc.fallocate(self._file, _KEEP_SIZE_PUNCH_HOLE, ctypes.c_longlong(0), ctypes.c_longlong(size))

    def close(self) -> None:
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)


def _units(size: int) -> int:
    return -(-size // UNIT_BYTES)


def _begin(slot: int) -> int:
    return (slot >> _UNITS_BITS) * UNIT_BYTES
