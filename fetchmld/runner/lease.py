"""Until when this node's attempts may run without news from the head: kept in a file, so that it outlives the runner.

Standard library only.
"""

import os
from typing import Final

LEASE_GRACE_S: Final = 10.0  # SIGTERM comes this long before a lease's end
WORD: Final = "LEASE_EXPIRED"
DETAIL: Final = "the node could not reach the head for too long"


class Lease:
    """`until`: boot time; 0 = none was given since the machine started."""

    def __init__(self, path: str, boot_id: str) -> None:
        self.until = 0.0
        self._boot_id = boot_id
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        words = os.pread(self._fd, 200, 0).split()
        if len(words) == 2 and words[0].decode("ascii", "replace") == boot_id:
            self.until = float(words[1])

    def renew(self, until: float) -> None:
        """A lease is only ever prolonged. Raises OSError."""
        self.until = max(self.until, until)
        os.pwrite(self._fd, f"{self._boot_id} {self.until:020.6f}\n".encode("ascii"), 0)

    def is_ending(self, now: float) -> bool:
        """Whether attempts have to be told."""
        return self.until > 0 and now >= self.until - LEASE_GRACE_S

    def grace_s(self, now: float) -> float:
        """How long they may take to end."""
        return max(0.0, self.until - now)
