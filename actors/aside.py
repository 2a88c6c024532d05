"""Work in a thread that nobody waits for at the end: what asks Ray may never be answered once Ray's GCS is dead."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns or raises, like `asyncio.to_thread`.

    An event loop waits at its end for the threads of its own pool, which is why a thread that may not end is none of them.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # so that its late end is no error where nobody waits any more

    def run() -> None:
        try:
            found = work(*arguments)
        except BaseException as error:  # noqa: BLE001 (whoever waits gets it)
            done.set_exception(error)
        else:
            done.set_result(found)

    threading.Thread(target=run, name=f"aside {getattr(work, '__name__', '')}", daemon=True).start()
    return await asyncio.wrap_future(done)
