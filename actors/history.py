"""The history actor: keeps the index over the ledger up to date, and answers lists, totals and single views from it.

All work on the index happens in one thread of its own, a batch or a query at a time; a comparison with the segments
(`check`) runs beside it. Whoever asks says up to which event the answer must reach (`min_seq`, which is durable) and
waits until the index does: what somebody has been told, every later list shows. It never writes to the ledger.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from actors.answers import Answers
from actors.background import in_background
from fetchmld.channel import Client, Server, serve
from fetchmld.config import Config
from fetchmld.core.errors import BadRequest, FetchmlError, Internal, Unavailable
from fetchmld.store.history import History
from fetchmld.store.history_file import IndexDoubt
from fetchmld.store.segment import LedgerDamaged

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_S: Final = 1.0  # between looks at the ledger when nobody asks for anything
WAIT_MAX_S: Final = 10.0  # for the index to reach what an answer must hold
CHECK_WAIT_MAX_S: Final = 120.0  # the same before a comparison, for which one waits longer anyway
OPEN_MAX_S: Final = 15.0  # for a predecessor that is dying to let go of the file
RETRY_S: Final = 0.2
REQUESTS_MAX: Final = 2_000
ASKING_MAX: Final = 8  # people's own queries, running and waiting
ANEW_MAX: Final = 5  # times in one life that the index is made anew; beyond, something else is wrong


class HistoryActor:
    """One per cluster. `settings`: the daemon's configuration as `Config.model_dump` wrote it, and `run_dir`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        run_dir = Path(settings["run_dir"])
        config = Config.from_dump(settings)
        self._paths = config.paths
        self._time_max_s, self._rows_max = config.history_query_s, config.history_rows_max
        self._socket = run_dir / "history.sock"
        self._scheduler_socket = run_dir / "scheduler.sock"
        self._scheduler = Client(self._scheduler_path)
        self._answers = Answers(self._answer, REQUESTS_MAX)
        self._worker = ThreadPoolExecutor(1, "history")
        self._wanted_seq = -1  # the newest event that is known to be durable
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._doubt = ""  # why the index must be made anew, until it is
        self._anew_count = 0
        self._problem = ""  # why it does not move on just now
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._history: History
        self._wake: asyncio.Event
        self._checking: asyncio.Lock
        self._asking: asyncio.Lock
        self._asking_count = 0

    async def _scheduler_path(self) -> Path:
        return self._scheduler_socket

    # -- life

    async def start(self) -> None:
        """Open the index, or begin it anew, and serve. It catches up in the background."""
        self._wake, self._checking, self._asking = asyncio.Event(), asyncio.Lock(), asyncio.Lock()
        self._history = await self._open()
        if self._history.rebuilt:
            log.warning("index_rebuilt", extra={"why": self._history.rebuilt})
        self._server = await serve(self._socket, self._answers.on_messages)
        await self._scheduler.start()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._look())]
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do
        gc.set_threshold(50_000, 20, 100)

    async def _open(self) -> History:
        deadline = time.monotonic() + OPEN_MAX_S
        while True:
            try:
                return await self._in_thread(History, self._paths.index, self._paths.ledger_dir)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(RETRY_S)

    async def ping(self) -> dict[str, Any]:
        """`next_seq`: all below it is indexed; `wanted_seq`: how far it should be; `rebuilt`: why it was begun anew."""
        started = self._server is not None
        return {
            "started": started,
            "next_seq": self._history.next_seq if started else 0,
            "wanted_seq": self._wanted_seq,
            "rebuilt": self._history.rebuilt if started else "",
            "problem": self._problem,
        }

    async def address(self) -> str:
        return str(self._socket)

    async def shutdown(self) -> None:
        """Answer no more, finish the batch at hand, close the file."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        await self._answers.close()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._scheduler.close()
        if (
            not self._checking.locked() and not self._asking.locked()
        ):  # else the process ends with the file open, which costs nothing but a replay
            await self._in_thread(self._history.close)
        self._worker.shutdown()
        gc.unfreeze()

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, partial(work, *arguments))

    # -- following the ledger

    async def _follow(self) -> None:
        """Index what is durable: at once when somebody waits for it, else once a second."""
        while True:
            try:
                await self._catch_up()
                self._problem = ""
            except IndexDoubt as doubt:
                self._doubt = doubt.message
            except (FetchmlError, LedgerDamaged, OSError) as error:
                self._stuck(str(error))
            except Exception as error:
                log.exception("history_follow_failed")
                self._stuck(f"{type(error).__name__}: {error}")
            await self._pause()

    def _stuck(self, problem: str) -> None:
        if problem != self._problem:
            log.error("history_stuck", extra={"why": problem})
        self._problem = problem

    async def _catch_up(self) -> None:
        if self._doubt:
            await self._start_anew()
        await self._in_thread(self._history.follow_boundary)
        while not self._doubt and self._history.next_seq <= self._wanted_seq:
            await self._in_thread(self._history.step, self._wanted_seq)
            self._release()

    async def _start_anew(self) -> None:
        if self._anew_count >= ANEW_MAX:
            raise Internal(f"the index was made anew {ANEW_MAX} times and is in doubt again: {self._doubt}")
        log.warning("index_rebuilt", extra={"why": self._doubt})
        async with self._checking, self._asking:
            await self._in_thread(self._history.start_anew, self._doubt)
        self._anew_count += 1
        self._doubt = ""

    async def _pause(self) -> None:
        """Until somebody wants more, at most a second."""
        self._release()
        if self._doubt and not self._problem:
            return
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await self._wake.wait()

    async def _look(self) -> None:
        """Ask now and then how far the ledger is, so that the index is near when somebody needs it."""
        while True:
            with contextlib.suppress(FetchmlError):
                durable = (await self._scheduler.request("durable", timeout_s=WAIT_MAX_S)).body
                self._want(durable["seq"])
            await asyncio.sleep(IDLE_S)

    def _want(self, seq: int) -> None:
        if seq > self._wanted_seq:
            self._wanted_seq = seq
            self._wake.set()

    def _release(self) -> None:
        """Let go on who waited for what is indexed now."""
        still: list[tuple[int, asyncio.Future[None]]] = []
        for seq, reached in self._waiting:
            if seq >= self._history.next_seq and not reached.done():
                still.append((seq, reached))
            elif not reached.done():
                reached.set_result(None)
        self._waiting = still

    async def _reach(self, seq: int, deadline: float) -> None:
        """Until the index holds event `seq`. Raises `Unavailable` when that takes too long."""
        if seq < self._history.next_seq:
            return
        self._want(seq)
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((seq, reached))
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                await reached
        except TimeoutError:
            why = self._problem or f"it is at event {self._history.next_seq} and has to reach {seq}"
            raise Unavailable(f"the history is not up to date yet: {why}; try again") from None

    # -- answering

    async def _answer(self, kind: str, body: dict[str, Any]) -> Any:
        min_seq = body.get("min_seq", -1)
        match kind:
            case "task":
                return await self._read(min_seq, "task", body["id"])
            case "tasks" | "events":
                return await self._read(min_seq, kind, body["query"])
            case "ended":
                return await self._read(min_seq, "ended", time.time_ns() // 1000)
            case "changes":
                return await self._read(min_seq, "changes", body["after"], body["limit"])
            case "tasks_at" | "task_at" | "ask":
                return await self._ask(min_seq, kind, body)
            case "experiments":
                return await self._read(min_seq, "experiments")
            case "experiment_tasks":
                return await self._read(min_seq, kind, body["experiment_id"], body["limit"], body["offset"])
            case "check":
                return await self._check(min_seq)
        raise BadRequest(f"the history knows no request {kind!r}")

    async def _read(self, min_seq: int, method: str, *arguments: Any) -> Any:
        """`History.<method>` on an index that holds event `min_seq`."""
        deadline = time.monotonic() + WAIT_MAX_S
        while True:
            await self._reach(min_seq, deadline)
            try:
                return await self._in_thread(self._query, min_seq, method, *arguments)
            except IndexDoubt as doubt:
                self._distrust(doubt.message)
                raise Unavailable("the index is damaged and is being made anew; try again") from doubt
            except _Behind:
                continue  # it was begun anew between the two lines above

    def _query(self, min_seq: int, method: str, *arguments: Any) -> Any:
        if min_seq >= self._history.next_seq:
            raise _Behind
        return getattr(self._history, method)(*arguments)

    async def _ask(self, min_seq: int, kind: str, body: dict[str, Any]) -> Any:
        """A question that may take seconds: beside the lists, in a thread of its own, one at a time."""
        if self._asking_count >= ASKING_MAX:
            raise Unavailable(f"{ASKING_MAX} queries of the history are waiting already; try again")
        self._asking_count += 1
        try:
            await self._reach(min_seq, time.monotonic() + WAIT_MAX_S)
            async with self._asking:
                return await in_background("history-ask", self._asked, kind, body)
        except IndexDoubt as doubt:
            self._distrust(doubt.message)
            raise Unavailable("the index is damaged and is being made anew; try again") from doubt
        finally:
            self._asking_count -= 1

    def _asked(self, kind: str, body: dict[str, Any]) -> Any:
        time_max_s = self._time_max_s
        match kind:
            case "tasks_at":
                return self._history.tasks_at(body["query"], time_max_s)
            case "task_at":
                return self._history.task_at(body["id"], body["at_us"], time_max_s)
        rows_max = min(body["rows_max"] or self._rows_max, self._rows_max)
        bounds = {"rows_max": rows_max, "time_max_s": time_max_s, "audit": body["audit"], "redacted": body["redacted"]}
        return self._history.ask(body["sql"], **bounds)

    async def _check(self, min_seq: int) -> dict[str, Any]:
        """Compare the index with the segments, as it is: before anything is made anew."""
        await self._reach(min_seq, time.monotonic() + CHECK_WAIT_MAX_S)
        async with self._checking:
            await self._in_thread(self._history.follow_boundary)
            found = await in_background("history-check", self._history.check)
        if found["damaged"]:
            self._distrust(found["problem"])
        return dict(found)

    def _distrust(self, why: str) -> None:
        self._doubt = self._doubt or why
        self._wake.set()


class _Behind(Exception):
    """The index no longer holds what it held a moment ago."""
