"""Has old segments of the ledger sealed, by a process of its own, whenever some are due."""

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

from actors.helper_process import ask_helper
from fetchmld.store.retention import unsealed

log = logging.getLogger(__name__)

LOOK_S: Final = 10.0
RETRY_S: Final = 300.0  # after one that failed: a full disk, most likely


class RetentionKeeper:
    """`seal_after`: so many of the newest segments stay as they were written; 0: all do."""

    def __init__(self, ledger_dir: Path, seal_after: int) -> None:
        self._ledger_dir = ledger_dir
        self._seal_after = seal_after

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause_s = LOOK_S
            if self._seal_after and unsealed(self._ledger_dir, self._seal_after) and not await self.seal():
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)

    async def seal(self) -> bool:
        """Run a sealer to its end; whether it came to a good one."""
        arguments = (str(self._ledger_dir), "--seal-after", str(self._seal_after))
        said: dict[str, Any] = await ask_helper("fetchmld.store.retention", *arguments)
        if "sealed" not in said:
            log.warning("segments_not_sealed", extra={"why": said.get("error", "")})
            return False
        log.info("segments_sealed", extra={"count": said["sealed"]})
        return True
