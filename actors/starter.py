"""Between a daemon and whoever started it: one line when it is ready or cannot be, and signals when it is to end."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any


def say(line: dict[str, Any]) -> None:
    """Tell whoever started us; they may have left."""
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def silence() -> None:
    """Let go of the starter's pipe and terminal; Ray prints to them, and they may close."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)


def stop_signals() -> asyncio.Event:
    """Set at the first SIGTERM or SIGINT."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def ended(task: "asyncio.Task[Any]") -> None:
    """Cancel, and wait for the end, whatever it is."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # looked at, so that nobody warns that it was not
