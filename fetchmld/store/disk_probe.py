"""How long this disk takes to make a small write durable, and what kind of filesystem it is.

Every acknowledged request waits for one such sync, so it is the floor of what the daemon can promise.
"""

import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

SYNCS: Final = 50
WITHIN_S: Final = 2.0  # a slow disk is known to be slow after fewer
_WRITE: Final = b"\xaa" * 4096
_AREA_BYTES: Final = 1024 * 1024
MEMORY_KINDS: Final = frozenset({"tmpfs", "ramfs"})
NETWORK_KINDS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs"}
)


@dataclass(frozen=True, slots=True)
class SyncLatency:
    """Of `syncs` writes of 4 KiB, each followed by fdatasync, as the ledger does it."""

    syncs: int
    median_ms: float
    p99_ms: float


def sync_latency(directory: Path, syncs: int = SYNCS) -> SyncLatency:
    """Measured in a file of zeros in `directory`, removed at once. Raises OSError."""
    with tempfile.TemporaryFile(dir=directory, prefix=".probe") as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, bytes(_AREA_BYTES), 0)
        os.fsync(descriptor)
        took: list[float] = []
        begun = time.monotonic()
        while len(took) < syncs and (not took or time.monotonic() - begun < WITHIN_S):
            before = time.perf_counter()
            os.pwrite(descriptor, _WRITE, len(took) * len(_WRITE) % _AREA_BYTES)
            os.fdatasync(descriptor)
            took.append((time.perf_counter() - before) * 1e3)
    took.sort()
    p99 = took[min(len(took) - 1, int(0.99 * len(took)))]
    return SyncLatency(len(took), round(statistics.median(took), 3), round(p99, 3))


def filesystem_kind(directory: Path, mounts: str | None = None) -> str:
    """The kind of the filesystem that `directory` is on, as the kernel calls it; empty where it does not say."""
    text = Path("/proc/self/mountinfo").read_text() if mounts is None else mounts
    wanted, longest, kind = os.path.realpath(directory), -1, ""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            longest, kind = len(point), after.split()[0]
    return kind


def keep(path: Path, took: SyncLatency, at: str) -> None:
    """Note in `path` what was measured at this time (RFC 3339), for whoever asks later. Raises OSError."""
    path.write_text(json.dumps({"at": at, **asdict(took)}) + "\n")


def kept(path: Path) -> tuple[str, SyncLatency] | None:
    """(when, what) was measured last; None where nothing that can be read is there."""
    try:
        fields = json.loads(path.read_text())
        return fields.pop("at"), SyncLatency(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
