"""The head's copy of the output of tasks that run on other machines: `DIR/objects/logs/<worker id>/`, files as there.

    live/<task>-<attempt>-<rank>.log     what has come of an attempt that was not over when it came
    segments/, whole/                    as `runner.logs` keeps them; a place in the record counts here too

Files only grow. What is behind a file's end is taken, what the file has already is not taken again, and what would leave
a gap is refused by saying where the end is: so whoever sends may repeat, and goes on where it was. Segments and whole files
are on the disk before their new length is told; live ones are not waited for, their machine has them until it is over.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fetchmld.core.errors import BadRequest
from fetchmld.core.model import LogPlace
from fetchmld.runner.logs import read_place
from fetchmld.store.log_files import kept_files
from fetchmld.store.room import room
from fetchmld.store.segment import sync_directory
from fetchmld.store.shipment import Piece, live_name

PARTS: Final = ("live", "segments", "whole")
_WORKER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ShippedLogs:
    """All of it. Any thread may call; one process writes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()

    def lengths(self, worker_id: str) -> dict[str, int]:
        """How long each file of a worker is here."""
        found: dict[str, int] = {}
        for part in PARTS:
            with contextlib.suppress(FileNotFoundError), os.scandir(self._of(worker_id) / part) as entries:
                found |= {f"{part}/{entry.name}": entry.stat().st_size for entry in entries}
        return found

    def take(self, worker_id: str, pieces: Iterable[Piece]) -> dict[str, int]:
        """Put down what came; how long each file that was named is now. Raises `Unavailable` where the disk is full."""
        top, lengths = self._of(worker_id), dict[str, int]()
        with self._lock, room():
            for part in PARTS:
                (top / part).mkdir(mode=0o700, parents=True, exist_ok=True)
            named = [(piece.file, _put(top, piece)) for piece in pieces]
            for file, _ in named:
                lengths[file] = _settle(top, file)
            if any(is_new for _, is_new in named):
                for part in PARTS[1:]:
                    sync_directory(top / part)
        return lengths

    def read(self, place: LogPlace, owner: str, offset: int, limit: int) -> bytes | None:
        """As `runner.logs.read_place`; None where not all of that output is here."""
        try:
            top = self._of(place["worker_id"])
            if place["file"] and (top / place["file"]).stat().st_size < place["offset"] + place["length"]:
                return None
            return read_place(str(top), dict(place), owner, offset, limit)
        except (FileNotFoundError, ValueError, BadRequest):
            return None

    def read_loose(self, attempt: str, offset: int, limit: int) -> tuple[bytes, int] | None:
        """What came of an attempt ("<task>-<attempt>-<rank>") of which no place is known, and how much that is in all."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", attempt):
            return None
        for file in (live_name(attempt), f"whole/{attempt}.log"):
            for path in self._root.glob(f"*/{file}"):
                with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as opened:
                    size = os.fstat(opened.fileno()).st_size
                    return os.pread(opened.fileno(), max(0, min(limit, size - offset)), offset), size
        return None

    def remove_old(self, before: float) -> tuple[int, int]:
        """Remove files that nothing was added to since `before` (epoch seconds); how many and how many bytes."""
        count = freed_bytes = 0
        for top in self._root.glob("*"):
            with self._lock:
                for file in [file for file in kept_files(str(top), PARTS) if file.written_at < before]:
                    (top / file.name).unlink(missing_ok=True)
                    count, freed_bytes = count + 1, freed_bytes + file.size
        return count, freed_bytes

    def _of(self, worker_id: str) -> Path:
        if not _WORKER.fullmatch(worker_id):
            raise BadRequest(f"{worker_id[:80]!r} is no worker id")
        return self._root / worker_id


def _put(top: Path, piece: Piece) -> bool:
    """Do what the piece says; whether a name in a directory has changed."""
    path = top / piece.file
    if piece.gone:
        path.unlink(missing_ok=True)
        return False
    if piece.was:
        with contextlib.suppress(FileNotFoundError):  # nothing of it came while it was called so
            if not path.exists():
                os.rename(top / piece.was, path)
                return True
        return False
    is_new = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        skipped = os.fstat(fd).st_size - piece.offset
        data = memoryview(piece.data)[skipped:] if skipped >= 0 else memoryview(b"")
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
    return is_new


def _settle(top: Path, file: str) -> int:
    """The file's length, which is on the disk unless the file is live; 0 where it is gone."""
    try:
        fd = os.open(top / file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        size = os.fstat(fd).st_size
        if not file.startswith("live/"):
            os.fdatasync(fd)
        return size
    finally:
        os.close(fd)
