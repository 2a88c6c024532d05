"""A disk that forgets what was not synced: stands behind `os`, and gives what a loss of power would leave.

A write reaches the disk by a sync of its file, a name by a sync of its directory. What was written since may be there or
not, each sector for itself. A sync that fails has dropped what it was to write: the file still reads as if all were there,
and a later sync writes nothing of it, as Linux does.
"""

import errno
import itertools
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_SECTOR = 512
_WATCHED = ("open", "pwrite", "fsync", "fdatasync", "rename", "replace", "unlink", "mkdir", "ftruncate")


class Killed(BaseException):
    """The process ends here. What it has written stays with the system."""


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # (offset, data); an offset below 0: cut to ~offset

    def reach(self, at: int, data: bytes) -> None:
        if at < 0:
            del self.durable[~at:]
            return
        self.durable.extend(bytes(max(0, at + len(data) - len(self.durable))))
        self.durable[at : at + len(data)] = data


@dataclass(slots=True)
class Left:
    """What the disk has: directories with their names, files with what reached them and what may have."""

    directories: dict[Path, dict[str, int]]  # durable names
    seen: dict[Path, dict[str, int]]  # names as the process sees them
    files: dict[int, _File]

    def lay_out(self, root: Path, target: Path, dice: random.Random | None) -> None:
        """Put below `target` what may be left below `root`; without dice, nothing but what was synced."""
        target.mkdir()
        named = self.seen if dice is not None and dice.random() < 0.5 else self.directories
        for name, identity in named.get(root, {}).items():
            if identity < 0:
                self.lay_out(root / name, target / name, dice)
            else:
                (target / name).write_bytes(_after(self.files[identity], dice))


def _after(file: _File, dice: random.Random | None) -> bytes:
    left = _File(bytearray(file.durable))
    if dice is not None:
        for at, data in file.pending:
            for place, part in _sectors(at, data):
                if dice.random() < 0.5:
                    left.reach(place, part)
    return bytes(left.durable)


def _sectors(at: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """A write as the disk may do it, each sector for itself; a cut in one piece."""
    if at < 0:
        yield at, data
        return
    end = at + len(data)
    edges = [at, *range(at - at % _SECTOR + _SECTOR, end, _SECTOR), end]
    for start, stop in itertools.pairwise(edges):
        yield start, data[start - at : stop - at]


class Disk:
    """Watches every call of `os` that changes something below `root`.

    `kill_at`: the call, counted from 0, before which the process ends. `fail_at`: the calls that fail with EIO.
    `look_at`: the call before which `left` is kept, with what `acknowledged` was then. Threads other than the main one
    are watched, and neither ended nor counted.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.kill_at = self.look_at = -1
        self.fail_at: frozenset[int] = frozenset()
        self.acknowledged = self.promised = 0
        self.left: Left | None = None
        self._calls = 0
        self._lock = threading.RLock()
        self._files: dict[int, _File] = {}
        self._identities: dict[int, int] = {}  # of the inode
        self._durable: dict[Path, dict[str, int]] = {}
        for name in _WATCHED:
            monkeypatch.setattr(os, name, self._between(getattr(os, name), getattr(self, f"_{name}", None)))

    def begin(self, kill_at: int = -1, look_at: int = -1, fail_at: frozenset[int] = frozenset()) -> None:
        """A new process: its calls are counted anew."""
        self.kill_at, self.look_at, self.fail_at, self._calls = kill_at, look_at, fail_at, 0

    def look(self) -> None:
        """Keep what there is now, and what was promised."""
        with self._lock:
            seen = {path: self._names(path) for path in (self.root, *self.root.rglob("*")) if path.is_dir()}
            files = {key: _File(bytearray(file.durable), list(file.pending)) for key, file in self._files.items()}
            self.left = Left({path: dict(names) for path, names in self._durable.items()}, seen, files)
            self.promised = self.acknowledged

    # -- between `os` and whoever calls it

    def _between(self, real: Callable[..., Any], note: Callable[..., None] | None) -> Callable[..., Any]:
        syncs = real.__name__ in ("fsync", "fdatasync")

        def call(*args: Any, **named: Any) -> Any:
            with self._lock:
                if real.__name__ == "open" and not self._creates(args):
                    return real(*args, **named)
                fails = self._due()
                if fails and syncs:
                    self._drop(args[0])
                if fails:
                    raise OSError(errno.EIO, "planted")
                before = self._before(real.__name__, args)
                result = real(*args, **named)
                if note is not None:
                    note(args, result, before)
                return result

        return call

    def _due(self) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return False
        number, self._calls = self._calls, self._calls + 1
        if number == self.look_at:
            self.look()
        if number == self.kill_at:
            raise Killed
        return number in self.fail_at

    def _creates(self, args: tuple[Any, ...]) -> bool:
        return bool(args[1] & (os.O_CREAT | os.O_TRUNC)) and self.root in Path(args[0]).parents

    def _before(self, name: str, args: tuple[Any, ...]) -> bool:
        return name == "open" and Path(args[0]).exists()

    def _open(self, args: tuple[Any, ...], descriptor: int, existed: bool) -> None:
        if not existed:
            self._identify(os.fstat(descriptor).st_ino, anew=True)
        elif args[1] & os.O_TRUNC:
            self._file(descriptor).pending.append((~0, b""))

    def _pwrite(self, args: tuple[Any, ...], written: int, _before: bool) -> None:
        self._file(args[0]).pending.append((args[2], bytes(args[1][:written])))

    def _fsync(self, args: tuple[Any, ...], _result: None, _before: bool) -> None:
        status = os.fstat(args[0])
        if stat.S_ISDIR(status.st_mode):
            path = Path(os.readlink(f"/proc/self/fd/{args[0]}"))
            self._durable[path] = self._names(path)
            return
        file = self._file(args[0])
        for at, data in file.pending:
            file.reach(at, data)
        file.pending.clear()

    _fdatasync = _fsync

    def _ftruncate(self, args: tuple[Any, ...], _result: None, _before: bool) -> None:
        self._file(args[0]).pending.append((~args[1], b""))

    def _drop(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode):
            self._file(descriptor).pending.clear()

    # -- what is where

    def _file(self, descriptor: int) -> _File:
        return self._files[self._identify(os.fstat(descriptor).st_ino)]

    def _identify(self, inode: int, anew: bool = False) -> int:
        """Inodes are used again; each file has a number of its own here."""
        if anew or inode not in self._identities:
            self._identities[inode] = len(self._files)
            self._files[len(self._files)] = _File()
        return self._identities[inode]

    def _names(self, directory: Path) -> dict[str, int]:
        """Of a directory -1, of a file its number."""
        with os.scandir(directory) as entries:
            return {one.name: -1 if one.is_dir() else self._identify(one.inode()) for one in entries}
