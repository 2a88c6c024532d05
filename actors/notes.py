"""Facts that nobody waits for, on their way to the record: logins. Whoever notes one is never held up by it.

They go in batches, one at a time, and again until the scheduler has them on disk, so that its restart loses none of them;
one whose answer was lost may be on record twice. What does not fit into the buffer meanwhile is counted, and the count is
on record as one gap.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import asdict
from typing import Final

from fetchmld.channel import Client
from fetchmld.core.errors import FetchmlError
from fetchmld.core.messages import Fact

log = logging.getLogger(__name__)

NOTES_MAX: Final = 10_000
BATCH_MAX: Final = 500
RETRY_S: Final = 1.0
LAST_S: Final = 2.0  # for what is left at a clean stop


class Notes:
    """`start` it, `note` facts, `close` it. For one event loop."""

    def __init__(self, scheduler: Client) -> None:
        self._scheduler = scheduler
        self._waiting: deque[Fact] = deque()
        self._lost_count = 0
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._deliver())

    async def close(self) -> None:
        """Deliver what is left, if that is quick."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self._idle.wait()
        if self._waiting or self._lost_count:
            log.error("notes.lost count=%d", len(self._waiting) + self._lost_count)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def note(self, fact: Fact) -> None:
        """On record soon; counted as lost where too many wait."""
        if len(self._waiting) >= NOTES_MAX:
            self._lost_count += 1
        else:
            self._waiting.append(fact)
        self._idle.clear()
        self._news.set()

    async def _deliver(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting or self._lost_count:
                if not await self._deliver_some():
                    await asyncio.sleep(RETRY_S)
            self._idle.set()

    async def _deliver_some(self) -> bool:
        batch = [self._waiting[at] for at in range(min(BATCH_MAX, len(self._waiting)))]
        lost_count = self._lost_count
        gap = [_gap(lost_count)] if lost_count else []
        try:
            await self._scheduler.request("notes", {"facts": [asdict(fact) for fact in (*gap, *batch)]})
        except FetchmlError as error:
            log.warning("notes.delayed count=%d error=%s", len(self._waiting), error)
            return False
        self._lost_count -= lost_count
        for _ in batch:
            self._waiting.popleft()
        return True


def _gap(count: int) -> Fact:
    metadata = {"cause": "logins came faster than they could be recorded", "count": count}
    return Fact("audit_verified", "audit.gap", "auth", success=False, metadata=metadata, at_us=time.time_ns() // 1000)
