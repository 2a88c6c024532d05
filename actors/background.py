"""Long work on the processor beside a loop that must stay quick."""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

NICENESS: Final = 10  # on Linux a thread has its own


async def in_background(name: str, work: Callable[..., T], *arguments: Any) -> T:
    """The result of `work(*arguments)` in a thread of its own that gives way to all others.

    A daemon thread: work that is no longer wanted does not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            result = work(*arguments)
        except BaseException as problem:  # noqa: BLE001 - raised again where somebody waits for it
            error = problem
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
