"""Browser sessions as the API asks for them: `api.head.Sessions` over the store's file. What writes is done in a thread."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fetchmld.core.errors import Unavailable
from fetchmld.store.sessions import Reach, Session, SessionStore

Result = TypeVar("Result")


class SessionDesk:
    """One per head. `open` it first."""

    def __init__(self, file: Path) -> None:
        self._store = SessionStore(file)
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        await asyncio.to_thread(self._store.load)

    def issue(self, key_sha256: str, reach: Reach) -> tuple[str, float]:
        return self._store.issue(key_sha256, reach, time.time())

    def redeem(self, ticket: str) -> Session | None:
        return self._store.redeem(ticket, time.time())

    def find(self, value: str, reach: Reach) -> Session | None:
        return self._store.find(value, reach, time.time())

    async def begin(self, key_sha256: str, reach: Reach, expires_at: float) -> str:
        return await self._write(lambda: self._store.begin(key_sha256, reach, expires_at, time.time()))

    async def end(self, value: str) -> None:
        await self._write(lambda: self._store.end(value))

    async def end_all(self, key_sha256: str) -> None:
        await self._write(lambda: self._store.end_all(key_sha256))

    async def _write(self, work: Callable[[], Result]) -> Result:
        async with self._writing:
            try:
                return await asyncio.to_thread(work)
            except OSError as error:
                raise Unavailable(f"the session cannot be written: {error.strerror}; try again later") from None
