"""Answering requests that take a while, side by side, for actors that are asked and never told.

Owns the bound on how many are in work at a time, and turns what goes wrong into the answer to the one who asked.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fetchmld.channel import Message, Peer
from fetchmld.core.errors import BadRequest, FetchmlError, Internal, Unavailable

log = logging.getLogger(__name__)


class Answers:
    """`answer(kind, body)` gives the body of the reply, or raises. `on_messages` goes to `channel.serve`."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Awaitable[Any]], requests_max: int) -> None:
        self._answer = answer
        self._requests_max = requests_max
        self._tasks: set[asyncio.Task[None]] = set()

    def on_messages(self, _peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            if len(self._tasks) >= self._requests_max:
                message.fail(Unavailable(f"{self._requests_max} requests are waiting already; try again"))
                continue
            task = asyncio.create_task(self._reply(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reply(self, message: Message) -> None:
        body = message.body if message.body is not None else {}
        try:
            if not isinstance(body, dict):
                raise BadRequest(f"{message.kind!r} takes an object, not {body!r}")
            message.reply(await self._answer(message.kind, body))
        except FetchmlError as error:
            message.fail(error)
        except Exception as error:
            log.exception("answer_failed", extra={"kind": message.kind})
            message.fail(Internal(f"{message.kind!r} could not be answered: {error}"))

    async def close(self) -> None:
        """Drop what is in work; whoever asked sees the connection end."""
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
