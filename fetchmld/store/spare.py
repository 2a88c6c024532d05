"""The next segment, prepared before it is needed: zero-filled to its full size, so that a full disk shows early.

Filling takes a tenth of a second and more, so it runs in a thread; the writer only renames the file.
"""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

from fetchmld.store.segment import is_zero, sync_directory, write_zeros

SPARE_NAME: Final = "spare"
RETRY_AFTER_S: Final = 5.0
_STEP_BYTES: Final = 4 * 1024 * 1024  # synced in steps, so that the writer's own syncs never wait behind all of it

log = logging.getLogger(__name__)


class Spare:
    """One zero-filled file in `directory`, made anew after each `take`. `problem` says why there is none, else empty."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._directory = directory
        self._path = directory / SPARE_NAME
        self._size_bytes = size_bytes
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._retry_at = 0.0
        self.problem = ""

    def prepare(self) -> None:
        """Start making one if there is none; not more often than every few seconds while that fails."""
        if self._thread is not None and (self._thread.is_alive() or not self.problem):
            return
        if self.problem and time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + RETRY_AFTER_S
        self._thread = threading.Thread(target=self._make_quietly, name="ledger-spare", daemon=True)
        self._thread.start()

    def take(self, path: Path) -> None:
        """Give the spare the name `path`, durably; makes it now where it is not ready. Raises OSError."""
        self._join()
        if self.problem or not self._path.exists():
            self._make()
        os.rename(self._path, path)
        self._thread = None
        sync_directory(self._directory)

    def close(self) -> None:
        self._closing.set()
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _make_quietly(self) -> None:
        try:
            self._make()
        except OSError as problem:
            self.problem = str(problem)
            log.warning("ledger_spare_failed", extra={"path": str(self._path), "error": self.problem})

    def _make(self) -> None:
        if not self._left_over():
            fresh = self._path.with_name(SPARE_NAME + ".new")
            fill(fresh, self._size_bytes, self._closing)
            if not self._closing.is_set():
                os.replace(fresh, self._path)
        self.problem = ""

    def _left_over(self) -> bool:
        """Whether one from an earlier run is there. Looked at, as anything but zeros in it would be damage later."""
        try:
            if self._path.stat().st_size != self._size_bytes:
                log.warning("ledger_spare_of_another_size", extra={"path": str(self._path)})
                return False
            with self._path.open("rb") as file:
                while part := file.read(_STEP_BYTES):
                    if not is_zero(part, 0, len(part)):
                        log.warning("ledger_spare_not_zero", extra={"path": str(self._path)})
                        return False
        except FileNotFoundError:
            return False
        return True


def fill(path: Path, size_bytes: int, stop: threading.Event | None = None) -> None:
    """A file of `size_bytes` zeros at `path`, allocated and synced; half of one where `stop` was set. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for start in range(0, size_bytes, _STEP_BYTES):
            if stop is not None and stop.is_set():
                return
            write_zeros(descriptor, start, min(size_bytes, start + _STEP_BYTES))
            os.fdatasync(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
