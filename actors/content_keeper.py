"""Removes what the head keeps for longer than it is to be kept: artifacts, and the logs that machines sent.

Whatever is stored again, by whom and as part of what ever, is as new (`ContentStore.renew`), so nothing goes that a set of
artifacts needs which is not too old itself. What was removed is on record, as one fact for each time that anything was.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from fetchmld.core.errors import FetchmlError
from fetchmld.core.messages import Fact
from fetchmld.core.model import UserId
from fetchmld.store.clock import SteadyWall
from fetchmld.store.content import ContentStore
from fetchmld.store.shipped_logs import ShippedLogs

log = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
LOOK_S: Final = 3600.0
FIRST_LOOK_S: Final = 60.0
COLLECT_S: Final = DAY_S  # longest between a set's first object and its manifest
WHO: Final = UserId("fetchmld")


class ContentKeeper:
    """`log_days`, `artifact_days`: how long each is kept, 0: for ever. `record`: puts a fact on record."""

    def __init__(
        self,
        objects: ContentStore,
        shipped: ShippedLogs,
        log_days: float,
        artifact_days: float,
        record: Callable[[Fact], Awaitable[object]],
    ) -> None:
        self._objects = objects
        self._shipped = shipped
        self._log_s = log_days * DAY_S
        self._artifact_s = artifact_days * DAY_S
        self._record = record
        self._clock = SteadyWall()

    def has_expired(self, ended_at: float) -> bool:
        """Are the artifacts of an attempt that ended then too old to be there?"""
        return 0 < self._artifact_s < self._clock.now() - ended_at

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            try:
                await self.sweep()
            except (OSError, FetchmlError) as error:
                log.warning("content.not_removed", extra={"why": str(error)})
            await asyncio.sleep(LOOK_S)

    async def sweep(self) -> None:
        """Once, now. Raises OSError where something cannot be removed; the rest goes the next time."""
        now = self._clock.now()
        if self._artifact_s:
            before = now - self._artifact_s - COLLECT_S
            await self._removed("artifact.expire", before, await asyncio.to_thread(self._objects.remove_old, before))
        if self._log_s:
            before = now - self._log_s
            await self._removed("log.expire", before, await asyncio.to_thread(self._shipped.remove_old, before))

    async def _removed(self, action: str, before: float, what: tuple[int, int]) -> None:
        count, freed_bytes = what
        if not count:
            return
        log.info("content.removed", extra={"action": action, "files": count, "bytes": freed_bytes})
        fact = Fact("file_access", action, "objects", WHO)
        fact.metadata = {"files": count, "bytes": freed_bytes, "older_than": before}
        await self._record(fact)
