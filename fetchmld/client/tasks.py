"""Staying with a task: until it has ended, and along its output, across broken connections and restarts of the daemon."""

import codecs
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from fetchmld.client.calls import Answer, Call, api_error, path, read_bytes
from fetchmld.client.endpoints import WAIT_MAX_S, get_artifact, get_task
from fetchmld.client.errors import ApiError, TimedOut, Unreachable
from fetchmld.client.line import Line, send_once
from fetchmld.client.patience import Patience

if TYPE_CHECKING:
    from fetchmld.client.shapes import Task

SILENCE_S: Final = 60.0  # without a byte of a followed log, after which the connection is not trusted any more
RANGE_NOT_THERE: Final = 416
ENDED: Final = frozenset({"completed", "failed"})


async def wait(
    line: Line,
    task_id: str,
    timeout_s: float | None = None,
    on_answer: "Callable[[Task], Any] | None" = None,
    answer_every_s: float = WAIT_MAX_S,
) -> "Task":
    """The Task once it has ended, or as it is after `timeout_s`. Outlives restarts of the daemon.

    `on_answer` is called with the Task each time the daemon has answered, which is every `answer_every_s` at least.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    patience = Patience()
    while True:
        left_s = answer_every_s if deadline is None else min(answer_every_s, max(0.0, deadline - time.monotonic()))
        try:
            task = await send_once(line, get_task(task_id, wait_s=round(left_s, 3)))
        except (Unreachable, TimedOut, ApiError) as error:
            await line.transport.pause(patience.pause_s(error))
            continue
        patience.reset()
        if on_answer is not None:
            on_answer(task)
        if task["status"] in ENDED or (deadline is not None and time.monotonic() >= deadline):
            return task


async def logs(
    line: Line, task_id: str, follow: bool = False, offset: int = 0, attempt: int | None = None
) -> AsyncGenerator[bytes]:
    """The output of one attempt (None: the newest) from byte `offset` on, exactly as written, piece by piece.

    With `follow` until the attempt has ended, else what is there now. A connection that breaks is taken up again at the
    byte where it broke, also after a restart of the daemon.
    """
    where = path("/v1/tasks/{}/logs", task_id)
    patience = Patience()
    while True:
        call = Call("GET", where, read_bytes, query={"offset": offset, "attempt": attempt, "follow": follow})
        pieces = line.transport.stream(call.target, line.headers({"Accept": "*/*"}), SILENCE_S)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, Answer):
                        raise api_error(piece)
                    patience.reset()
                    offset += len(piece)
                    yield piece
            return
        except TimedOut:
            continue  # a quiet task and a dead connection look the same: ask again, from where we are
        except (Unreachable, ApiError) as error:
            pause_s = patience.pause_s(error)
        await line.transport.pause(pause_s)


async def artifact_pieces(line: Line, task_id: str, name: str, offset: int = 0) -> AsyncGenerator[bytes]:
    """One file that the task left, from byte `offset` on; a connection that breaks is taken up where it broke."""
    target, patience = get_artifact(task_id, name).target, Patience()
    while True:
        headers = line.headers({"Accept": "*/*", **({"Range": f"bytes={offset}-"} if offset else {})})
        pieces = line.transport.stream(target, headers, line.timeout_s)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, Answer):
                        raise api_error(piece)
                    patience.reset()
                    offset += len(piece)
                    yield piece
            return
        except (Unreachable, TimedOut, ApiError) as error:
            if isinstance(error, ApiError) and error.status == RANGE_NOT_THERE:
                return  # all of it has come
            pause_s = patience.pause_s(error)
        await line.transport.pause(pause_s)


async def lines(
    line: Line, task_id: str, follow: bool = False, offset: int = 0, attempt: int | None = None
) -> AsyncGenerator[str]:
    """As `logs`, but as lines of text, each with its newline."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest = ""
    pieces = logs(line, task_id, follow, offset, attempt)
    async with aclosing(pieces):
        async for piece in pieces:
            *whole, rest = (rest + decode(piece)).split("\n")
            for one in whole:
                yield one + "\n"
    if rest := rest + decode(b"", True):
        yield rest
