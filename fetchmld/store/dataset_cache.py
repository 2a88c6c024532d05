"""A worker's cache of datasets, `DIR/node/cache/<sha256>`: whole, verified files, the longest unused removed first.

A file gets its name only once it is complete, verified and on the disk; what a crash left unfinished has another name and
is removed at the next start. Cached files are read-only and bear one fixed modification time: a job that wrote through its
link, which only a job with our own rights could, changes that time, and such a file is verified again, and dropped if it
differs, before the next use. The access time says when it was last wanted, so that the order survives a restart.

Never removed: what somebody is about to link (`let_go` ends that), and what an attempt has linked, which the file's link
count says, whoever made the link. So the cache may be over its limit for as long as the attempts need it to be.
"""

import contextlib
import hashlib
import os
import re
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fetchmld.core.caches import KEY_CHARACTERS

CACHED_MTIME_NS: Final = 10**9  # of every cached file; any other means that somebody wrote to it
INCOMING: Final = "incoming-"
KEYS_MAX: Final = 8  # by which one file is known

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True, frozen=True)
class Dataset:
    """A verified dataset in the cache. `cached`: it was there already."""

    path: Path
    sha256: str
    total_bytes: int
    cached: bool


class DatasetCache:
    """The files, and who needs them. Any thread may call; the slow work (summing, copying) is done without the lock."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        """Take over what an agent before us left."""
        self.directory = directory
        self.total_bytes = 0
        self.version = 0  # counts changes of what is here and under which names
        self._bytes_max = bytes_max
        self._sizes: OrderedDict[str, int] = OrderedDict()  # the longest unused first
        self._keys: dict[str, dict[str, None]] = {}  # by which tasks ask for it
        self._pins: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._load()

    def _load(self) -> None:
        found: list[tuple[int, str, int]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.startswith(INCOMING):
                    os.unlink(entry.path)
                elif _SHA256.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_atime_ns, entry.name, status.st_size))
        for _, sha256, size in sorted(found):
            self._add(sha256, size)
        self.trim()

    def take(self, sha256: str, source_key: str) -> Dataset | None:
        """The dataset of that sum, if it is here and nobody has written to it. It stays until `let_go`.

        `source_key` is what the task that wants it calls it (`core.caches.dataset_key`).
        """
        with self._lock:
            if sha256 not in self._sizes:
                return None
            self._pins[sha256] += 1
        if not _is_good(self.directory / sha256, sha256):
            with self._lock:
                self._unpin(sha256)
                self._remove(sha256)
            return None
        with self._lock:
            return self._used(sha256, source_key, cached=True)

    def put(self, file: Path, sha256: str, total_bytes: int, source_key: str) -> Dataset:
        """Take in a complete, synced file of `directory` whose sum was found to be `sha256`. Else as `take`."""
        seal(file)
        with self._lock:
            os.rename(file, self.directory / sha256)
            self._add(sha256, total_bytes)
            self._pins[sha256] += 1
            found = self._used(sha256, source_key, cached=False)
        self.trim()
        return found

    def _add(self, sha256: str, total_bytes: int) -> None:
        self.total_bytes += total_bytes - self._sizes.get(sha256, 0)
        self._sizes[sha256] = total_bytes
        self._keys.setdefault(sha256, {sha256[:KEY_CHARACTERS]: None})

    def _used(self, sha256: str, source_key: str, cached: bool) -> Dataset:
        self._sizes.move_to_end(sha256)
        keys = self._keys[sha256]
        if len(keys) < KEYS_MAX:
            keys[source_key] = None
        self.version += 1
        return Dataset(self.directory / sha256, sha256, self._sizes[sha256], cached)

    def pin(self, sha256: str) -> None:
        """One more who needs it. It is pinned already."""
        with self._lock:
            self._pins[sha256] += 1

    def let_go(self, sha256: str) -> None:
        """One of those who took it has linked it, or does not want it any more."""
        with self._lock:
            self._unpin(sha256)
        self.trim()

    def _unpin(self, sha256: str) -> None:
        self._pins[sha256] -= 1
        if not self._pins[sha256]:
            del self._pins[sha256]

    def trim(self) -> None:
        """Remove the longest unused of those that nobody needs, until the rest is within the limit."""
        with self._lock:
            for sha256 in list(self._sizes) if self.total_bytes > self._bytes_max else ():
                if self.total_bytes <= self._bytes_max:
                    return
                if not self._pins[sha256] and not _is_linked(self.directory / sha256):
                    self._remove(sha256)

    def _remove(self, sha256: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.directory / sha256)
        self.total_bytes -= self._sizes.pop(sha256, 0)
        self._keys.pop(sha256, None)
        self.version += 1

    def held(self, keys_max: int) -> dict[str, int]:
        """Keys (`core.caches`) of what is here, to bytes; the longest unused first, and left out where there are more."""
        found: dict[str, int] = {}
        with self._lock:
            for sha256 in reversed(self._sizes):
                found |= {key: self._sizes[sha256] for key in self._keys[sha256] if len(found) < keys_max}
        return dict(reversed(found.items()))


def seal(path: Path) -> None:
    """Make a cached file what cached files are, and say that it is wanted now."""
    os.chmod(path, 0o444)
    os.utime(path, ns=(time.time_ns(), CACHED_MTIME_NS))


def _is_good(path: Path, sha256: str) -> bool:
    """Whether the file is what it was; then it is sealed once more."""
    try:
        if path.stat().st_mtime_ns != CACHED_MTIME_NS:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return False
        seal(path)
    except FileNotFoundError:
        return False
    return True


def _is_linked(path: Path) -> bool:
    try:
        return path.stat().st_nlink > 1
    except FileNotFoundError:
        return False
