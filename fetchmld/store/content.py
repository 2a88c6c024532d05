"""The content store: files kept under the BLAKE3 of their bytes, in `DIR/objects/<first two digits>/<hash>`.

An object is written beside its place, synced and then renamed, so that whatever has a name is whole; equal content is
stored once. Its modification time says when somebody last wanted it kept: to store what is there already renews it. So
retention needs no count of references: what nobody has stored since a day, no set made since that day has (`remove_old`).
What sets of artifacts are made of is `store.artifacts`.
"""

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from fetchmld.core.errors import Invalid, NotFound
from fetchmld.store.segment import sync_directory

CHUNK_BYTES: Final = 2**20
LEFT_OVER_S: Final = 86_400.0  # what has been on its way in for so long will not arrive any more

_ZEROS: Final = bytes(CHUNK_BYTES)
_GONE: Final = "gone-"  # in `incoming`: an object that is being removed
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class ContentStore:
    """Objects below one directory. Safe for several writers, in threads and in processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._unsynced: set[Path] = set()  # directories with names of objects that may not be on the disk yet
        self._rooted: set[Path] = set()  # directories whose own names are on the disk

    def path(self, digest: str) -> Path:
        """Where the object lies, or would. Raises `Invalid` for anything but 64 hex digits."""
        if not _HASH.fullmatch(digest):
            raise Invalid(f"{digest[:80]!r} is no hash of an object: 64 hexadecimal digits, lower case")
        return self._root / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Is it stored? False too for what is no hash of an object."""
        return _HASH.fullmatch(digest) is not None and self.path(digest).exists()

    def open(self, digest: str) -> BinaryIO:
        """The object's bytes, to be closed by the caller. Raises `NotFound`."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound(f"no object {digest} is stored here") from None

    def read(self, digest: str) -> bytes:
        """All of a small object. Raises `NotFound`."""
        with self.open(digest) as file:
            return file.read()

    def put(self, data: bytes) -> str:
        """Store `data`, durably, and all that was put before with it; its hash."""
        with self._incoming() as (file, name):
            file.write(data)
            digest = self._keep(file, name, blake3(data).hexdigest())
        self._settle()
        return digest

    def put_file(self, source: BinaryIO) -> tuple[str, int]:
        """Store all that `source` still has to read; its hash and size in bytes. Durable with the next `put`."""
        total, digest = 0, blake3()
        with self._incoming() as (file, name):
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                _write_sparse(file, chunk)
                total += len(chunk)
            return self._keep(file, name, digest.hexdigest()), total

    @contextlib.contextmanager
    def receive(self) -> Iterator["Incoming"]:
        """An object that comes in pieces; gone again unless it was kept."""
        with self._incoming() as (file, name):
            yield Incoming(file, lambda digest: self._keep_now(file, name, digest))

    def discard_unfinished(self) -> None:
        """Remove what a crash left of objects on their way in. For the only writer, before it begins."""
        incoming = self._root / "incoming"
        for name in os.listdir(incoming) if incoming.is_dir() else ():
            os.unlink(incoming / name)

    def renew(self, digest: str) -> bool:
        """Have the object kept for as long as one that is stored now; whether it is there."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def remove_old(self, before: float) -> tuple[int, int]:
        """Remove what nobody has stored or renewed since `before` (epoch seconds); how many objects and bytes that were.

        Others may store the same objects meanwhile. Killed at any moment, it has removed some of them.
        """
        count = freed_bytes = 0
        for shard in self._root.glob("[0-9a-f][0-9a-f]"):
            with os.scandir(shard) as entries:
                old = [entry for entry in entries if _HASH.fullmatch(entry.name) and _is_old(entry, before)]
            for entry in old:
                if (size := self._remove(Path(entry.path), before)) is not None:
                    count, freed_bytes = count + 1, freed_bytes + size
        self._remove_left_over(before)
        return count, freed_bytes

    def _remove(self, path: Path, before: float) -> int | None:
        """Its size, if it went. Who renews it until it has another name keeps it; who comes later stores it anew."""
        aside = self._root / "incoming" / f"{_GONE}{path.name}"
        aside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return None
        status = aside.stat()
        if status.st_mtime >= before:
            os.rename(aside, path)  # it is the same as whatever was stored there meanwhile
            return None
        os.unlink(aside)
        return status.st_size

    def _remove_left_over(self, before: float) -> None:
        """What a crash left in `incoming`; an object that was about to be removed and is wanted goes back."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root / "incoming") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.startswith(_GONE) and not _is_old(entry, before):
                        os.rename(entry.path, self.path(entry.name.removeprefix(_GONE)))
                    elif _is_old(entry, time.time() - LEFT_OVER_S):
                        os.unlink(entry.path)

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[tuple[BinaryIO, str]]:
        """A file to write to, and its name; gone again unless it was kept."""
        incoming = self._root / "incoming"
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=incoming)
        try:
            with open(fd, "wb") as file:
                yield file, name
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _keep(self, file: BinaryIO, name: str, digest: str) -> str:
        target = self.path(digest)
        if not self.renew(digest):
            file.flush()
            file.truncate(file.tell())  # a hole at the end has no length yet
            os.fchmod(file.fileno(), 0o400)
            os.fsync(file.fileno())
            target.parent.mkdir(mode=0o700, exist_ok=True)
            os.rename(name, target)
        self._unsynced.add(target.parent)  # also of one that was there: whoever stored it may not have settled yet
        return digest

    def _keep_now(self, file: BinaryIO, name: str, digest: str) -> None:
        self._keep(file, name, digest)
        with self._lock:
            self._sync(self.path(digest).parent)

    def _settle(self) -> None:
        with self._lock:  # whoever comes meanwhile waits until what it stored before is there too
            for directory in list(self._unsynced):
                self._unsynced.discard(directory)  # first: from here on another thread may store something there
                try:
                    self._sync(directory)
                except OSError:
                    self._unsynced.add(directory)
                    raise

    def _sync(self, directory: Path) -> None:
        sync_directory(directory)
        if directory not in self._rooted:
            for above in (self._root, self._root.parent):
                sync_directory(above)
            self._rooted.add(directory)


class Incoming:
    """An object on its way in: `write` its bytes, then `keep` it under the hash that they have."""

    def __init__(self, file: BinaryIO, keep: Callable[[str], None]) -> None:
        self._file = file
        self._keep = keep
        self._digest = blake3()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        _write_sparse(self._file, data)
        self.size += len(data)

    def keep(self, wanted: str) -> None:
        """Store it, durably. Raises `Invalid` where its hash is not `wanted`."""
        digest = self._digest.hexdigest()
        if digest != wanted:
            raise Invalid(
                f"the {self.size} bytes that came have the BLAKE3 {digest}, not {wanted}; did the file change?"
            )
        self._keep(digest)


def _write_sparse(file: BinaryIO, data: bytes) -> None:
    """What is all zeros takes no room."""
    if len(data) == CHUNK_BYTES and data == _ZEROS:
        file.seek(len(data), os.SEEK_CUR)
    else:
        file.write(data)


def _is_old(entry: os.DirEntry[str], before: float) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_mtime < before
    except FileNotFoundError:
        return False
