"""Work in a thread that nobody waits for at the end: what asks Ray may never be answered once Ray's GCS is dead."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns or raises, like `asyncio.to_thread`.

    An event loop waits at its end for the threads of its own pool, which is why a thread that may not end is none of them.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: Callable[[], None]) -> None:
        if not done.done():
            result()

    def run() -> None:
        try:
            found = work(*arguments)
        except BaseException as error:  # noqa: BLE001 (whoever waits gets it)
            result = _raising(done, error)
        else:
            result = lambda: done.set_result(found)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result)

    threading.Thread(target=run, name=f"aside {getattr(work, '__name__', '')}", daemon=True).start()
    return await done


def _raising(done: "asyncio.Future[Any]", error: BaseException) -> Callable[[], None]:
    return lambda: done.set_exception(error)
