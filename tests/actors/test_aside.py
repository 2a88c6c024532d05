"""Work beside the event loop, in threads that need not end."""

import asyncio
import threading

import pytest

from actors.aside import aside


def test_it_gives_what_the_work_returns_and_raises() -> None:
    async def run() -> None:
        assert await aside(int, "7") == 7
        with pytest.raises(ValueError, match="invalid literal"):
            await aside(int, "seven")

    asyncio.run(run())


def test_a_loop_ends_while_the_work_goes_on_and_its_late_end_harms_nobody() -> None:
    go, gone = threading.Event(), threading.Event()

    def wait() -> None:
        go.wait()
        gone.set()

    async def run() -> None:
        waiting = asyncio.create_task(aside(wait))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(run())  # with asyncio.to_thread it would wait here for ever
    go.set()
    assert gone.wait(10)
