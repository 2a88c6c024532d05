"""The agent's connection to the node's runner: finds it, starts it where there is none, and comes back to it.

Speaks `fetchmld.runner.frames`. What is sent while there is no connection is dropped: the runner's `state`, which opens
each connection, tells what became of it.
"""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import orjson

from fetchmld.runner.frames import Decoder, FrameError, Message, dumps, encode
from fetchmld.runner.isolation import THE_BEST, Wanted
from fetchmld.runner.process import IDLE_S, command

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.01
RETRY_S: Final = 1.0
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}  # the runner's own: nothing of ours, no token


def _compact(messages: list[Message]) -> bytes:
    """What `frames` writes, several times faster."""
    try:
        return orjson.dumps(messages)
    except orjson.JSONEncodeError:  # half of a surrogate pair in a text
        return dumps(messages)


class RunnerLink(asyncio.Protocol):
    """One runner, whichever process it is at the moment. `on_messages` gets each batch; `state` is the first of each."""

    def __init__(self, node_dir: Path, socket_path: Path, on_messages: Callable[[list[Message]], None]) -> None:
        self._node_dir = node_dir
        self._socket_path = socket_path
        self._on_messages = on_messages
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder(orjson.loads)
        self._outgoing: list[Message] = []
        self._lost = asyncio.Event()
        self._greeted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._wanted = THE_BEST
        self.pid = 0  # of the runner, once it has answered

    async def start(self, wanted: Wanted = THE_BEST) -> None:
        """Connect, and return once the runner has said what it has. Raises TimeoutError when there is no way to one."""
        self._wanted = wanted
        self._task = asyncio.create_task(self._stay_connected())
        async with asyncio.timeout(2 * START_TIMEOUT_S):
            await self._greeted.wait()

    @property
    def connected(self) -> bool:
        return self._greeted.is_set()

    def send(self, message: Message) -> None:
        """Send with all else of this turn of the loop."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(message)

    def _flush(self) -> None:
        messages, self._outgoing = self._outgoing, []
        if self._transport is not None and messages:
            self._transport.write(encode(messages, _compact))

    async def close(self) -> None:
        """Let go of the runner, which goes on."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._flush()
        if self._transport is not None:
            self._transport.close()
            await self._lost.wait()

    # -- staying connected

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._connect()
                await self._lost.wait()
                log.warning("runner.lost pid=%d", self.pid)
            except (OSError, TimeoutError, subprocess.SubprocessError) as error:
                log.error("runner.unreachable socket=%s error=%s", self._socket_path, error)
                await asyncio.sleep(RETRY_S)

    async def _connect(self) -> None:
        """Connect to the runner that is there, or to one that we start."""
        self._lost.clear()
        self._decoder = Decoder(orjson.loads)
        try:
            await self._try_connect()
        except (FileNotFoundError, ConnectionRefusedError):
            await self._launch()
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._connect_when_up()
        self._outgoing.insert(0, {"do": "hello"})
        self._flush()

    async def _try_connect(self) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self, str(self._socket_path))

    async def _connect_when_up(self) -> None:
        while True:
            try:
                return await self._try_connect()
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(POLL_S)

    async def _launch(self) -> None:
        """Start a runner, which leaves our process tree at once; harmless where there is one already."""
        words = command(str(self._node_dir), str(self._socket_path), IDLE_S, self._wanted)
        await asyncio.to_thread(
            subprocess.run,
            words,
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=START_TIMEOUT_S,
            check=True,
        )

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except FrameError as error:
            log.error("runner.bad_frame error=%s", error)
            if self._transport is not None:
                self._transport.abort()
            return
        if messages and messages[0].get("event") == "state":
            self.pid = messages[0]["pid"]
            self._greeted.set()
        if messages:
            self._on_messages(messages)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._greeted.clear()
        self._lost.set()
