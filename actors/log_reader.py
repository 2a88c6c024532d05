"""Answers who asks for an attempt's output: from its live file while it runs, from where it was put afterwards."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from fetchmld.channel import Message
from fetchmld.core.agent import RunKey
from fetchmld.core.errors import BadRequest, NotFound
from fetchmld.core.model import LogPlace
from fetchmld.runner.logs import read_live, read_place
from fetchmld.runner.loop import boottime

POLL_S: Final = 0.2  # of a live file, and only while somebody waits for it
APPEAR_S: Final = 2.0  # how long an attempt may be unknown here and still be on its way to us
RECENT_MAX: Final = 1000
PRELUDE_BYTES_MAX: Final = 16 * 1024
LIMIT_MAX: Final = 2**20
READERS_MAX: Final = 2000


class LogReader:
    """Where each attempt's output is, and the requests that wait for more of it."""

    def __init__(self, directory: str, bytes_max: int) -> None:
        """`bytes_max`: what is kept of one attempt's output."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._slots: dict[RunKey, int] = {}
        self._places: dict[RunKey, LogPlace] = {}
        self._recent: OrderedDict[RunKey, LogPlace] = OrderedDict()  # of attempts that are forgotten
        self._preludes: dict[RunKey, bytes] = {}  # what is said of attempts that have not started
        self._changed: dict[RunKey, asyncio.Event] = {}
        self._reader_count = 0

    # -- told by the agent

    def prepares(self, key: RunKey, line: str) -> None:
        """A line about an attempt that is being prepared. Its output will begin with all of them."""
        known = self._preludes.get(key, b"")
        if len(known) < PRELUDE_BYTES_MAX:
            self._preludes[key] = known + f"[fetchmld] {line}\n".encode()
            self._wake(key)

    def prelude(self, key: RunKey) -> str:
        """All that was said of it."""
        return self._preludes.get(key, b"").decode()

    def runs(self, key: RunKey, slot: int) -> None:
        self._slots[key] = slot
        self._preludes.pop(key, None)

    def ended(self, key: RunKey, place: LogPlace) -> None:
        """Its output is complete, and no longer in its live file."""
        self._slots.pop(key, None)
        self._places[key] = place
        self._preludes.pop(key, None)
        self._wake(key)

    def _wake(self, key: RunKey) -> None:
        if key in self._changed:
            self._changed[key].set()

    def forget(self, key: RunKey) -> None:
        self._slots.pop(key, None)
        self._preludes.pop(key, None)
        place = self._places.pop(key, None)
        if place is None:
            return
        self._recent[key] = place
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    # -- asked by the head

    async def answer(self, message: Message, is_here: Callable[[RunKey], bool]) -> None:
        """Reply to a `log.read`: bytes from `offset`, at most `limit`; waits up to `wait_s` for the first of them."""
        body = message.body
        key = RunKey(body["task_id"], body["attempt"])
        offset, limit = max(0, body["offset"]), max(0, min(body["limit"], LIMIT_MAX))
        if self._reader_count >= READERS_MAX:
            message.fail(BadRequest(f"more than {READERS_MAX} readers of logs on this worker; try again later"))
            return
        self._reader_count += 1
        try:
            data, size, ended = await self._read(key, body["place"], offset, limit, body["wait_s"], is_here)
        except (ValueError, FileNotFoundError) as error:
            message.fail(NotFound(f"the output of task {key.task_id}, attempt {key.attempt}, is gone: {error}"))
            return
        finally:
            self._reader_count -= 1
        message.reply({"offset": offset, "size": size, "ended": ended and offset + len(data) >= size}, data)

    async def _read(
        self,
        key: RunKey,
        place: LogPlace | None,
        offset: int,
        limit: int,
        wait_s: float,
        is_here: Callable[[RunKey], bool],
    ) -> tuple[bytes, int, bool]:
        asked_t = boottime()
        while True:
            place = place or self._places.get(key) or self._recent.get(key)
            if place is not None:
                owner = f"{key.task_id}-{key.attempt}-"
                data = await asyncio.to_thread(read_place, self._directory, dict(place), owner, offset, limit)
                return data, place["length"], True
            waited_s = boottime() - asked_t
            if key in self._slots:
                data, size = read_live(self._directory, self._slots[key], offset, limit, self._bytes_max)
                if data or waited_s >= wait_s:
                    return data, size, False
            elif len(whole := self._preludes.get(key, b"")) > offset:
                return whole[offset : offset + limit], len(whole), False
            elif not is_here(key) and waited_s >= min(wait_s, APPEAR_S):
                return b"", 0, wait_s > 0
            elif waited_s >= wait_s:
                return b"", len(self._preludes.get(key, b"")), False
            await self._wait(key, min(POLL_S, wait_s - waited_s))

    async def _wait(self, key: RunKey, seconds: float) -> None:
        """Until the attempt's output has moved, or `seconds` are over."""
        event = self._changed.setdefault(key, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._changed.pop(key, None)
