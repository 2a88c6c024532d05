"""The logical clock: what the core decides by.

It runs with CLOCK_BOOTTIME, which no administrator sets and which counts a machine's sleep, and never goes back: after a
restart of ours on the same boot it goes on as if we had been there, and after a restart of the machine it goes on from
the record's newest time. Jumps of the wall clock change nothing.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from fetchmld.runner.loop import boottime
from fetchmld.runner.proctree import boot_id

log = logging.getLogger(__name__)


class LogicalClock:
    """`now()` in seconds, at least `last_clock_us` of the record. `file` remembers the offset to this boot's time."""

    def __init__(
        self, file: Path, last_clock_us: int, boot: str | None = None, source: Callable[[], float] = boottime
    ) -> None:
        self._source = source
        boot = boot_id() if boot is None else boot
        last = last_clock_us / 1e6
        offset = _remembered(file, boot)
        if offset is None or source() + offset < last:
            offset = last - source()
            _remember(file, boot, offset)
        self._offset = offset

    def now(self) -> float:
        return self._source() + self._offset


class SteadyWall:
    """Wall time as it was when we began, and what has passed since: how old files are does not change by a jump."""

    def __init__(self) -> None:
        self._offset = time.time() - boottime()

    def now(self) -> float:
        return boottime() + self._offset


def _remembered(file: Path, boot: str) -> float | None:
    """Nothing at a first start, and where the file is not what was written: the record's time is enough."""
    try:
        kept = json.loads(file.read_text())
        offset = float(kept["offset"])
        if kept["check"] != _check(kept["boot_id"], offset):
            raise ValueError("its check does not fit")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        log.warning("clock_file_passed_over", extra={"path": str(file), "why": str(problem)})
        return None
    return offset if kept["boot_id"] == boot else None


def _remember(file: Path, boot: str, offset: float) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({"boot_id": boot, "offset": offset, "check": _check(boot, offset)}))
    os.replace(fresh, file)


def _check(boot: str, offset: float) -> str:
    return blake3(f"{boot} {offset!r}".encode()).hexdigest()
