"""Sees to it that the output of this machine's tasks is kept as long as it is wanted, and no longer.

A machine that joined sends it to the head, and keeps what the head has for one more day. The head's own machine keeps it
itself. Old files go whole, never the newest segment, which is the runner's.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from actors.log_shipper import LogShipper
from fetchmld.core.agent import RunKey
from fetchmld.core.model import LogPlace
from fetchmld.store.clock import SteadyWall
from fetchmld.store.log_files import KeptFile, remove_kept
from fetchmld.store.remote_logs import RemoteLogs

log = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
LOOK_S: Final = 3600.0
FIRST_LOOK_S: Final = 60.0


class LogKeeper:
    """`days`: how long output is kept after it was written, 0: for ever. `remote`: the head's copy, on other machines."""

    def __init__(self, directory: str, bytes_max: int, days: float, remote: RemoteLogs | None) -> None:
        self._directory = directory
        self._keep_s = days * DAY_S
        self._shipper = LogShipper(directory, bytes_max, remote, self._keep_s) if remote is not None else None
        self._clock = SteadyWall()

    def runs(self, key: RunKey, rank: int, slot: int) -> None:
        if self._shipper is not None:
            self._shipper.runs(key, rank, slot)

    def ended(self, key: RunKey, rank: int, place: LogPlace) -> None:
        if self._shipper is not None:
            self._shipper.ended(key, rank, place)

    def forget(self, key: RunKey, rank: int) -> None:
        if self._shipper is not None:
            self._shipper.forget(key, rank)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What is to be done as long as the agent lives."""
        return [self._trim(), *([self._shipper.run()] if self._shipper is not None else [])]

    async def _trim(self) -> None:
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            await asyncio.to_thread(self.remove_old)
            await asyncio.sleep(LOOK_S)

    def remove_old(self) -> None:
        """Once, now."""
        try:
            count, freed_bytes = remove_kept(self._directory, self._may_go)
        except OSError as error:
            log.warning("logs.not_removed", extra={"why": str(error)})
            return
        if count:
            log.info("logs.removed", extra={"files": count, "bytes": freed_bytes})

    def _may_go(self, file: KeptFile) -> bool:
        age_s = self._clock.now() - file.written_at
        is_there = self._shipper is not None and self._shipper.has_all(file.name, file.size)
        return (0 < self._keep_s < age_s) or (is_there and age_s > DAY_S)
