"""The content store: files kept under the BLAKE3 of their bytes, in `DIR/objects/<first two digits>/<hash>`.

Owns artifacts (and, with later parts, snapshots and shipped logs). An object is written beside its place, synced and then
renamed, so that whatever has a name is whole; equal content is stored once. Knows nothing of tasks.
"""

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypedDict

from blake3 import blake3

from fetchmld.core.errors import Invalid, NotFound
from fetchmld.core.model import ArtifactSet

FILES_MAX: Final = 10_000
BYTES_MAX: Final = 64 * 2**30
DEPTH_MAX: Final = 64
CHUNK_BYTES: Final = 2**20

_HASH: Final = re.compile(r"[0-9a-f]{64}")


class ManifestEntry(TypedDict):
    """One file of a set: its path below the directory that was kept, its size, and the hex BLAKE3 of its bytes."""

    path: str
    bytes: int
    hash: str


class ContentStore:
    """Objects below one directory. Safe for several writers, in threads and in processes."""

    def __init__(self, root: Path) -> None:
        self._root = root

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
        """Store `data`, durably; its hash."""
        with self._incoming() as (file, name):
            file.write(data)
            return self._keep(file, name, blake3(data).hexdigest())

    def put_file(self, source: BinaryIO) -> tuple[str, int]:
        """Store all that `source` still has to read, durably; its hash and size in bytes."""
        total, digest = 0, blake3()
        with self._incoming() as (file, name):
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
                total += len(chunk)
            return self._keep(file, name, digest.hexdigest()), total

    @contextlib.contextmanager
    def receive(self) -> Iterator["Incoming"]:
        """An object that comes in pieces; gone again unless it was kept."""
        with self._incoming() as (file, name):
            yield Incoming(file, lambda digest: self._keep(file, name, digest))

    def discard_unfinished(self) -> None:
        """Remove what a crash left of objects on their way in. For the only writer, before it begins."""
        incoming = self._root / "incoming"
        for name in os.listdir(incoming) if incoming.is_dir() else ():
            os.unlink(incoming / name)

    def put_tree(
        self, directory: Path, files_max: int = FILES_MAX, bytes_max: int = BYTES_MAX, owner: int = -1
    ) -> "Kept":
        """Store every regular file below `directory` and a manifest of them; see `put_tree` of this module."""
        return put_tree(self, directory, files_max, bytes_max, owner)

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
        if not target.exists():
            file.flush()
            os.fchmod(file.fileno(), 0o400)
            os.fsync(file.fileno())
            target.parent.mkdir(mode=0o700, exist_ok=True)
            os.rename(name, target)
            _sync_directory(target.parent)
        return digest


class Incoming:
    """An object on its way in: `write` its bytes, then `keep` it under the hash that they have."""

    def __init__(self, file: BinaryIO, keep: Callable[[str], str]) -> None:
        self._file = file
        self._keep = keep
        self._digest = blake3()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)

    def keep(self, wanted: str) -> None:
        """Store it, durably. Raises `Invalid` where its hash is not `wanted`."""
        digest = self._digest.hexdigest()
        if digest != wanted:
            raise Invalid(
                f"the {self.size} bytes that came have the BLAKE3 {digest}, not {wanted}; did the file change?"
            )
        self._keep(digest)


class Kept:
    """What `put_tree` did: the set, or None when there was no file, and the paths that were left out, with the reason."""

    def __init__(self, artifacts: ArtifactSet | None, left_out: list[str]) -> None:
        self.artifacts = artifacts
        self.left_out = left_out


class Store(Protocol):
    """Where objects go: here, or on another machine."""

    def put(self, data: bytes) -> str: ...

    def put_file(self, source: BinaryIO) -> tuple[str, int]: ...


def put_tree(store: Store, directory: Path, files_max: int, bytes_max: int, owner: int = -1) -> "Kept":
    """Store every regular file below `directory` and a manifest of them. Links and special files are left out.

    `owner`: whose files alone are taken (a second name of somebody else's file is none of theirs); -1 = anybody's.
    What goes beyond the bounds is left out as well, and said so in `Kept.left_out`.
    """
    entries: list[ManifestEntry] = []
    left_out: list[str] = []
    total = 0
    for relative, fd in regular_files(directory, left_out):
        with open(fd, "rb", buffering=0) as source:
            status = os.fstat(fd)
            size = status.st_size
            if owner not in (-1, status.st_uid):
                left_out.append(f"{relative} (somebody else's file)")
                continue
            if len(entries) >= files_max or total + size > bytes_max:
                left_out.append(f"{relative} ({size} bytes)")
                continue
            digest, size = store.put_file(source)
        total += size
        entries.append(ManifestEntry(path=relative, bytes=size, hash=digest))
    if not entries:
        return Kept(None, left_out)
    entries.sort(key=lambda entry: entry["path"])
    manifest = store.put(json.dumps(entries, separators=(",", ":")).encode())
    return Kept(ArtifactSet(manifest=manifest, file_count=len(entries), total_bytes=total), left_out)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def regular_files(directory: Path, left_out: list[str]) -> Iterator[tuple[str, int]]:
    """(path below `directory`, open descriptor) of each regular file, through descriptors only: no link is followed."""
    for base, names, files, base_fd in os.fwalk(directory, follow_symlinks=False):
        below = os.path.relpath(base, directory)
        if below.count(os.sep) >= DEPTH_MAX:
            left_out.append(f"{below} (deeper than {DEPTH_MAX})")
            names.clear()
            continue
        for name in sorted(files):
            relative = os.path.normpath(os.path.join(below, name))
            fd = _open_regular(name, base_fd)
            if fd < 0 or not _is_text(relative):
                left_out.append(
                    f"{relative!r} (no regular file)" if fd < 0 else f"{relative!r} (its name is not UTF-8)"
                )
                if fd >= 0:
                    os.close(fd)
                continue
            yield relative, fd


def _open_regular(name: str, base_fd: int) -> int:
    """A descriptor, or -1 for a link, a device, a pipe, or something that went away."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=base_fd)
    except OSError:
        return -1
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
