"""Answers that last: how many there may be, and how they end when the server stops.

Owns the set of requests that wait or stream; knows nothing of what they send.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from fetchmld.core.errors import Unavailable

STREAMS_MAX: Final = 2000
KEEP_ALIVE_S: Final = 15.0


class Streams:
    """The long answers under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Counts the current request as a long one; the server's stop ends it. Raises Unavailable beyond the bound."""
        if len(self._tasks) >= STREAMS_MAX:
            raise Unavailable(f"{STREAMS_MAX} long requests are under way, which is the limit; try again later")
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def end_all(self, _app: web.Application) -> None:
        """Ends every long answer (an `on_shutdown` hook): the clients see a connection that closed before the end."""
        for task in tuple(self._tasks):
            task.cancel()


def is_gone(request: web.Request) -> bool:
    """Has the client hung up? A stream that has nothing to send finds out only by asking."""
    return request.transport is None or request.transport.is_closing()
