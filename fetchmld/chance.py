"""Random bytes of the system, fetched many at a time: one call for each few of them costs more than what they are for."""

import os
from typing import Final

FETCHED_BYTES: Final = 4096


class _Store:
    """What was fetched and has not been given out. Nothing is given out twice, to a forked child neither."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0
        os.register_at_fork(after_in_child=self._forget)

    def take(self, count: int) -> bytes:
        begin, end = self._at, self._at + count
        if end > len(self._bytes):
            self._bytes, begin, end = os.urandom(max(FETCHED_BYTES, count)), 0, count
        self._at = end
        return self._bytes[begin:end]

    def _forget(self) -> None:
        self._bytes, self._at = b"", 0


random_bytes: Final = _Store().take
