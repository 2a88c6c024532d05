"""Answers that last: how many there may be, and how they end when the server stops or their key is revoked.

Owns the set of requests that wait or stream; knows nothing of what they send.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from aiohttp import web

from fetchmld.api.context import KEY_HASH
from fetchmld.api.head import Head
from fetchmld.core.errors import FetchmlError, Unavailable

STREAMS_MAX: Final = 2000
KEEP_ALIVE_S: Final = 15.0
KEYS_LOOK_S: Final = 0.5  # a revoked key ends its streams within a second


class Streams:
    """The long answers under way."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._tasks: dict[asyncio.Task[object], str] = {}  # with the hash of the key that it came with

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    @contextmanager
    def one_more(self, request: web.Request) -> Iterator[None]:
        """Counts the current request as a long one; the server's stop ends it. Raises Unavailable beyond the bound."""
        if len(self._tasks) >= STREAMS_MAX:
            raise Unavailable(f"{STREAMS_MAX} long requests are under way, which is the limit; try again later")
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = request.get(KEY_HASH, "")  # a task's token has none
        try:
            yield
        finally:
            del self._tasks[task]

    async def watching_keys(self, _app: web.Application) -> AsyncIterator[None]:
        """Looks at the keys of long answers while the server runs (a `cleanup_ctx`)."""
        watching = asyncio.create_task(self._watch_keys())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.sleep(KEYS_LOOK_S)
            for digest in filter(None, set(self._tasks.values())):
                with suppress(FetchmlError):  # who cannot be asked now is asked again
                    key = await self._head.key(digest)
                    if key is None or not key.is_valid(time.time()):
                        self._end_those_of(digest)

    def _end_those_of(self, digest: str) -> None:
        for task, came_with in self._tasks.items():
            if came_with == digest:
                task.cancel()

    async def end_all(self, _app: web.Application) -> None:
        """Ends every long answer (an `on_shutdown` hook): the clients see a connection that closed before the end."""
        for task in tuple(self._tasks):
            task.cancel()


def is_gone(request: web.Request) -> bool:
    """Has the client hung up? A stream that has nothing to send finds out only by asking."""
    return request.transport is None or request.transport.is_closing()
