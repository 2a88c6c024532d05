"""Sets of artifacts: what an attempt left in its output directory, as objects and a manifest of them.

Regular files alone, found through descriptors, so that no link leads out; in the order of their paths, so that which of
them go beyond a bound does not depend on the file system. Whatever is left out is named, with its reason. Several files are
stored at a time: what one of them costs is mostly waiting, for a disk or for the head.
"""

import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypedDict

from fetchmld.core.model import ArtifactSet, EndReport

FILES_MAX: Final = 100_000
BYTES_MAX: Final = 64 * 2**30
DEPTH_MAX: Final = 64
NAMED_MAX: Final = 100  # of those that are left out
AT_ONCE: Final = 8
OPEN_MAX: Final = 64  # files that wait to be stored

_KINDS: Final = {
    stat.S_IFLNK: "a link",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class ManifestEntry(TypedDict):
    """One file of a set: its path below the directory that was kept, its size, and the hex BLAKE3 of its bytes."""

    path: str
    bytes: int
    hash: str


class Changed(Exception):
    """A file was not the same when it was sent as when it was summed."""


class Store(Protocol):
    """Where objects go: here, or on another machine. Safe for several threads."""

    def put(self, data: bytes) -> str:
        """Returns once this object, and all that were put before, are on the disk."""

    def put_file(self, source: BinaryIO) -> tuple[str, int]:
        """Raises `Changed` where `source` is not the same each time it is read."""


@dataclass(slots=True)
class Kept:
    """What `keep_tree` did: the set, or None when there was no file; and what was left out, the first with reasons."""

    artifacts: ArtifactSet | None = None
    left_out: list[str] = field(default_factory=list)
    left_out_count: int = 0

    def leave_out(self, path: str, why: str) -> None:
        self.left_out_count += 1
        if len(self.left_out) < NAMED_MAX:
            self.left_out.append(f"{path} ({why})")


def keep_tree(
    store: Store, directory: Path, files_max: int = FILES_MAX, bytes_max: int = BYTES_MAX, owner: int = -1
) -> Kept:
    """Store every regular file below `directory` and a manifest of them.

    `owner`: whose files alone are taken (a second name of somebody else's file is none of theirs); -1 = anybody's.
    Raises OSError where the store cannot take them, or `directory` cannot be read.
    """
    kept, entries = Kept(), list[ManifestEntry]()
    with ThreadPoolExecutor(AT_ONCE, "artifacts") as threads:
        waiting = deque[tuple[str, int, Future[tuple[str, int]]]]()
        try:
            for path, fd in _within_bounds(directory, kept, files_max, bytes_max, owner):
                waiting.append((path, fd, threads.submit(_put, store, fd)))
                if len(waiting) >= OPEN_MAX:
                    _take(waiting.popleft(), entries, kept)
            while waiting:
                _take(waiting.popleft(), entries, kept)
        finally:
            for _, fd, future in waiting:
                if future.cancel():
                    os.close(fd)
    if entries:
        entries.sort(key=lambda entry: entry["path"])
        total_bytes = sum(entry["bytes"] for entry in entries)
        manifest = store.put(json.dumps(entries, separators=(",", ":")).encode())
        kept.artifacts = ArtifactSet(manifest=manifest, file_count=len(entries), total_bytes=total_bytes)
    return kept


def _put(store: Store, fd: int) -> tuple[str, int]:
    with open(fd, "rb", buffering=0) as source:
        return store.put_file(source)


def _take(one: tuple[str, int, Future[tuple[str, int]]], entries: list[ManifestEntry], kept: Kept) -> None:
    path, _, future = one
    try:
        digest, size = future.result()
    except Changed:
        kept.leave_out(path, "it changed while it was read")
    else:
        entries.append(ManifestEntry(path=path, bytes=size, hash=digest))


def _within_bounds(
    directory: Path, kept: Kept, files_max: int, bytes_max: int, owner: int
) -> Iterator[tuple[str, int]]:
    """Those that are to be stored, open; the others are closed, and named in `kept`."""
    count = total_bytes = 0
    for path, fd in regular_files(directory, kept):
        status = os.fstat(fd)
        if owner not in (-1, status.st_uid):
            why = "somebody else's file"
        elif count >= files_max:
            why = f"more than {files_max} files, artifact_files_max"
        elif total_bytes + status.st_size > bytes_max:
            why = f"{status.st_size} bytes, more than {bytes_max} in all, artifact_bytes_max"
        else:
            count, total_bytes = count + 1, total_bytes + status.st_size
            yield path, fd
            continue
        os.close(fd)
        kept.leave_out(path, why)


def entries_of(report: EndReport, read: Callable[[str], bytes]) -> list[ManifestEntry]:
    """All files that an attempt left; of a gang's other nodes below `rank-N/`. `read` gives an object, and its errors."""
    kept = [("", report["artifacts"])] if "artifacts" in report else []
    kept += [(f"rank-{other['rank']}/", other["artifacts"]) for other in report.get("artifacts_of_others", ())]
    return [
        ManifestEntry(path=below + entry["path"], bytes=entry["bytes"], hash=entry["hash"])
        for below, artifacts in kept
        for entry in json.loads(read(artifacts["manifest"]))
    ]


def regular_files(directory: Path, kept: Kept) -> Iterator[tuple[str, int]]:
    """(path below `directory`, open descriptor) of each regular file, through descriptors only: no link is followed."""

    def unreadable(error: OSError) -> None:
        kept.leave_out(repr(error.filename), f"a directory that cannot be read: {error.strerror}")

    for base, names, files, base_fd in os.fwalk(directory, follow_symlinks=False, onerror=unreadable):
        below = os.path.relpath(base, directory)
        names.sort()
        if below.count(os.sep) >= DEPTH_MAX:
            kept.leave_out(below, f"deeper than {DEPTH_MAX} directories")
            names.clear()
            continue
        for name in sorted(files + _links(names, base_fd)):
            path = os.path.normpath(os.path.join(below, name))
            fd, why = _open_regular(name, base_fd)
            if fd >= 0 and not _is_text(path):
                os.close(fd)
                fd, why = -1, "its name is not UTF-8"
            if fd < 0:
                kept.leave_out(path if _is_text(path) else repr(path), why)
            else:
                yield path, fd


def _links(names: list[str], base_fd: int) -> list[str]:
    """Those of the directories that are links to one: they are not walked, and said to be left out."""
    return [name for name in names if _kind(name, base_fd) == _KINDS[stat.S_IFLNK]]


def _open_regular(name: str, base_fd: int) -> tuple[int, str]:
    """A descriptor, or -1 and what stands in the way."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=base_fd)
    except OSError as error:
        return -1, _kind(name, base_fd) or str(error.strerror)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd, ""
    os.close(fd)
    return -1, _kind(name, base_fd) or "no regular file"


def _kind(name: str, base_fd: int) -> str:
    try:
        return _KINDS.get(stat.S_IFMT(os.lstat(name, dir_fd=base_fd).st_mode), "")
    except OSError:
        return ""


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
