"""Has state snapshots made now and then, by a process of their own, so that the next start is quick.

Lives in the scheduler actor and costs its loop nothing: `store.snapshot_maker` reads the disk for itself. Its first run
also walks what this start left out, because it began at a snapshot; what is damaged there is found then.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from actors.helper_process import ask_helper
from fetchmld.store.segment import LedgerDamaged

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
RETRY_S: Final = 60.0  # after one that failed
WORTH_EVENTS: Final = 2_000  # fewer are read again faster than a process starts


class SnapshotKeeper:
    """`reached`: events that the newest snapshot stands for. `newest`: asks for the newest acknowledged event."""

    def __init__(self, ledger_dir: Path, every_events: int, reached: int, newest: Callable[[], int]) -> None:
        self._ledger_dir = ledger_dir
        self._every = every_events
        self._reached = reached
        self._newest = newest
        self._check_due = reached > 0

    async def run(self) -> None:
        """Until cancelled. Raises LedgerDamaged where one of the makers found damage."""
        while True:
            due = self._newest() + 1 - self._reached >= self._every
            pause_s = LOOK_S
            if (due or self._check_due) and not await self.make():
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)

    async def make_last(self, within_s: float) -> None:
        """At a clean end: one more, if it is worth it and done in time."""
        if self._newest() + 1 - self._reached < WORTH_EVENTS:
            return
        try:
            async with asyncio.timeout(within_s):
                await self.make()
        except (TimeoutError, LedgerDamaged) as problem:
            log.warning("snapshot_not_made", extra={"why": str(problem) or f"not done in {within_s} s"})

    async def make(self) -> bool:
        """Run a maker to its end; whether it came to a good one. Raises LedgerDamaged."""
        said = await self._ask_maker()
        if "first_bad" in said:
            raise LedgerDamaged(said["first_bad"], said["why"])
        if "seq" not in said:
            log.warning("snapshot_not_made", extra={"why": said.get("error", "")})
            return False
        self._reached, self._check_due = said["seq"], False
        log.info("snapshot_made", extra={"seq": self._reached})
        return True

    async def _ask_maker(self) -> dict[str, Any]:
        arguments = [str(self._ledger_dir), str(self._newest()), *(["--check"] if self._check_due else [])]
        return await ask_helper("fetchmld.store.snapshot_maker", *arguments)
