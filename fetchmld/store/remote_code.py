"""Snapshots of code on a machine that joined: fetched from the head by hash, checked, and kept for the next task.

The cache is emptied when it is full; what is being read stays readable.
"""

import os
import shutil
import threading
from pathlib import Path
from typing import BinaryIO, Final

from fetchmld.manifest import CodeManifest, from_canonical
from fetchmld.store.content import ContentStore
from fetchmld.store.remote_content import RemoteContent

CACHE_BYTES_MAX: Final = 20 * 2**30


class RemoteCode:
    """What `task_code` needs of a store of code. Any thread may call."""

    def __init__(self, remote: RemoteContent, directory: Path) -> None:
        self._remote = remote
        self._directory = directory
        self._cache = ContentStore(directory)
        self._lock = threading.Lock()
        self._bytes = sum(file.stat().st_size for file in directory.glob("??/*"))

    def manifest(self, snapshot_id: str) -> CodeManifest:
        """What is in a snapshot. Raises `NotFound`, or OSError where the head cannot be reached for long."""
        with self.open_blob(snapshot_id) as file:
            return from_canonical(file.read())

    def open_blob(self, digest: str) -> BinaryIO:
        """A file's content. Raises as `manifest` does."""
        if not self._cache.has(digest):
            self._fetch(digest)
        return self._cache.open(digest)

    def _fetch(self, digest: str) -> None:
        with self._lock:
            if self._bytes > CACHE_BYTES_MAX:
                self._empty()
            self._bytes += self._remote.fetch(digest, self._cache)

    def _empty(self) -> None:
        gone = self._directory.with_name(self._directory.name + ".gone")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(self._directory, gone)
        shutil.rmtree(gone, ignore_errors=True)
        self._bytes = 0
