"""Frames between our processes: batches of messages over a unix socket.

The owner of a socket serves it, 0600 in the run directory; whoever needs the owner connects and reconnects by itself.
Whoever is on another machine dials some other way (`Dial`): the bytes and the events are the same.
Both sides may post (one way) and request (answered). All that is sent in one turn of the loop travels in one write (of
requests a few, so that both sides work at a time), and all that has arrived is handed over as one batch, so a busy channel
costs little per message.

A frame is `u32 length of the rest, u32 length of the JSON part, JSON, blob`, little-endian. The JSON part is a list of
messages `[id, kind, body, blob length]`; the blobs follow it in the same order. `id` is 0 for a post, positive for a
request, and negative for the answer to that request, whose `kind` is "ok" or the name of an error class.
"""

import asyncio
import contextlib
import os
import struct
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import orjson

from fetchmld.core.errors import FetchmlError, Unavailable, from_name

FRAME_BYTES_MAX: Final = 64 * 2**20
BUFFER_BYTES_MAX: Final = 256 * 2**20  # what may wait for a peer that does not read, before it is cut off
REQUESTS_MAX: Final = 8  # that wait for the end of the loop's turn; with more the peer begins while we go on
RECONNECT_FIRST_S: Final = 0.02
RECONNECT_MAX_S: Final = 1.0
REQUEST_TIMEOUT_S: Final = 30.0

_LENGTHS = struct.Struct("<II")


@dataclass(slots=True)
class Message:
    """One message that arrived. A request (`id` > 0) is owed one `reply` or `fail`."""

    peer: "Peer"
    id: int
    kind: str
    body: Any
    blob: bytes

    def reply(self, body: Any = None, blob: bytes = b"") -> None:
        self.peer.send(-self.id, "ok", body, blob)

    def fail(self, error: FetchmlError) -> None:
        self.peer.send(-self.id, type(error).__name__, error.message, b"")


@dataclass(slots=True)  # not frozen: one is made for each request, and that would take three times as long
class Reply:
    body: Any
    blob: bytes


OnMessages = Callable[["Peer", list[Message]], None]
OnClose = Callable[["Peer"], None]
Dial = Callable[[Callable[[], "Peer"]], Awaitable["Peer"]]  # connects the peer that it is to make, or raises OSError


class Peer(asyncio.Protocol):
    """One live connection, either side's. Posts on a closed peer are dropped; requests raise `Unavailable`."""

    def __init__(self, on_messages: OnMessages, on_close: OnClose | None = None) -> None:
        self._on_messages = on_messages
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._outgoing: list[tuple[int, str, Any, bytes]] = []
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._patient: dict[int, float] = {}  # those of the usual timeout, by when they are given up: the oldest first
        self._watch: asyncio.TimerHandle | None = None  # for the first of them: one for each would cost more than it
        self._last_id = 0
        self.closed = asyncio.Event()
        self.name: str = ""  # set by whoever learns who this is

    # -- sending

    def send(self, message_id: int, kind: str, body: Any, blob: bytes) -> None:
        if self._transport is None:
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append((message_id, kind, body, blob))

    def post(self, kind: str, body: Any = None, blob: bytes = b"") -> None:
        self.send(0, kind, body, blob)

    async def request(
        self, kind: str, body: Any = None, blob: bytes = b"", timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Reply:
        """Ask and wait for the answer. Raises the peer's error, or `Unavailable` when it is gone or too slow."""
        if self._transport is None:
            raise Unavailable(f"lost the connection before asking for {kind!r}; try again")
        self._last_id += 1
        message_id = self._last_id
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[message_id] = answer
        self.send(message_id, kind, body, blob)
        if len(self._outgoing) >= REQUESTS_MAX:
            self._flush()
        try:
            if timeout_s == REQUEST_TIMEOUT_S:
                self._give_up_at(message_id, self._loop.time() + timeout_s)
                return await answer
            async with asyncio.timeout(timeout_s):  # wait_for of Python 3.11 can lose a cancellation
                return await answer
        except TimeoutError:
            raise Unavailable(f"no answer to {kind!r} within {timeout_s:g} s; try again") from None
        finally:
            self._waiting.pop(message_id, None)
            self._patient.pop(message_id, None)

    def _give_up_at(self, message_id: int, until: float) -> None:
        self._patient[message_id] = until
        if self._watch is None:
            self._watch = self._loop.call_at(until, self._give_up)

    def _give_up(self) -> None:
        """The oldest of those that wait may have waited for too long."""
        self._watch, now = None, self._loop.time()
        while (oldest := next(iter(self._patient.items()), None)) is not None:
            message_id, until = oldest
            if until > now:
                self._watch = self._loop.call_at(until, self._give_up)
                return
            del self._patient[message_id]
            if not self._waiting[message_id].done():
                self._waiting[message_id].set_exception(TimeoutError())

    def _flush(self) -> None:
        messages, self._outgoing = self._outgoing, []
        if self._transport is None or not messages:
            return
        head = orjson.dumps([(m[0], m[1], m[2], len(m[3])) for m in messages])
        blobs = b"".join(m[3] for m in messages)
        self._transport.write(_LENGTHS.pack(4 + len(head) + len(blobs), len(head)) + head + blobs)
        if self._transport.get_write_buffer_size() > BUFFER_BYTES_MAX:
            self._transport.abort()

    # -- receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        self._received += data
        messages: list[Message] = []
        while (frame := self._next_frame()) is not None:
            self._unpack(frame, messages)
        if messages:
            self._on_messages(self, messages)

    def _next_frame(self) -> bytes | None:
        if len(self._received) < _LENGTHS.size:
            return None
        length, _ = _LENGTHS.unpack_from(self._received)
        if length > FRAME_BYTES_MAX or length < 4:
            self.close()
            self._received.clear()
            return None
        if len(self._received) < 4 + length:
            return None
        frame = bytes(self._received[4 : 4 + length])
        del self._received[: 4 + length]
        return frame

    def _unpack(self, frame: bytes, messages: list[Message]) -> None:
        head_length = int.from_bytes(frame[:4], "little")
        at = 4 + head_length
        for message_id, kind, body, blob_length in orjson.loads(frame[4:at]):
            blob = frame[at : at + blob_length]
            at += blob_length
            if message_id < 0:
                self._answered(-message_id, kind, body, blob)
            else:
                messages.append(Message(self, message_id, kind, body, blob))

    def _answered(self, message_id: int, kind: str, body: Any, blob: bytes) -> None:
        answer = self._waiting.get(message_id)
        if answer is None or answer.done():
            return
        if kind == "ok":
            answer.set_result(Reply(body, blob))
        else:
            answer.set_exception(from_name(kind, body))

    # -- the end

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.closed.set()
        if self._watch is not None:
            self._watch.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable("lost the connection while waiting for an answer; try again"))
        if self._on_close is not None:
            self._on_close(self)

    def close(self) -> None:
        """Send what is queued, then close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()


class Server:
    """A served socket and the peers that are connected to it."""

    def __init__(self, path: Path, on_messages: OnMessages, on_close: OnClose | None) -> None:
        self.path = path
        self.peers: set[Peer] = set()
        self._on_messages = on_messages
        self._on_close = on_close
        self._server: asyncio.AbstractServer | None = None

    def new_peer(self) -> Peer:
        """Our end of a connection that is being made."""
        peer = Peer(self._on_messages, self._gone)
        self.peers.add(peer)
        return peer

    def _gone(self, peer: Peer) -> None:
        self.peers.discard(peer)
        if self._on_close is not None:
            self._on_close(peer)

    async def listen(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()  # the socket of an owner that is dead: its successor's name is the same
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(self.new_peer, str(self.path))
        finally:
            os.umask(mask)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for peer in list(self.peers):
            peer.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


async def serve(path: Path, on_messages: OnMessages, on_close: OnClose | None = None) -> Server:
    """Listen on `path`, replacing a dead owner's socket. `on_messages` gets each batch; it must not block or raise."""
    server = Server(path, on_messages, on_close)
    await server.listen()
    return server


class Client:
    """A connection that finds its peer again. `resolve` says where it is each time; `on_connect` greets it."""

    def __init__(
        self,
        resolve: Callable[[], Awaitable[Path | Dial]],
        on_messages: OnMessages | None = None,
        on_connect: Callable[["Client"], Awaitable[None]] | None = None,
    ) -> None:
        self._resolve = resolve
        self._on_messages: OnMessages = on_messages or (lambda _peer, _messages: None)
        self._on_connect = on_connect
        self._peer: Peer | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    async def start(self) -> None:
        """Begin to connect, in the background; requests wait for it."""
        self.start_soon()

    def start_soon(self) -> None:
        """The same, from where nothing can be awaited."""
        self._task = asyncio.create_task(self._stay_connected())

    async def _stay_connected(self) -> None:
        pause_s = RECONNECT_FIRST_S
        while True:
            try:
                self._peer = peer = await self._dial(await self._resolve())
                if self._on_connect is not None:
                    await self._on_connect(self)
                self._up.set()
                pause_s = RECONNECT_FIRST_S
                await peer.closed.wait()
            except (OSError, FetchmlError):
                if self._peer is not None:
                    self._peer.close()
            self._peer = None
            self._up.clear()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_MAX_S)

    async def _dial(self, where: Path | Dial) -> Peer:
        if not isinstance(where, Path):
            return await where(self._new_peer)
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(self._new_peer, str(where)))[1]

    def _new_peer(self) -> Peer:
        return Peer(self._on_messages, self._lost)

    def _lost(self, peer: Peer) -> None:
        if peer is self._peer:
            self._peer = None
            self._up.clear()

    def post(self, kind: str, body: Any = None, blob: bytes = b"") -> None:
        """Send one way; dropped while there is no connection (whoever greets the new one says what is still true)."""
        if self._peer is not None:
            self._peer.post(kind, body, blob)

    def greet_again(self) -> None:
        """Connect anew: what `on_connect` says has changed."""
        if self._peer is not None:
            self._peer.close()

    def request(
        self, kind: str, body: Any = None, blob: bytes = b"", timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Coroutine[Any, Any, Reply]:
        """Ask the peer, waiting for a connection first. `on_connect` itself may ask before the connection counts as up."""
        ask = self._request_later if self._peer is None else self._peer.request
        return ask(kind, body, blob, timeout_s)

    async def _request_later(self, kind: str, body: Any, blob: bytes, timeout_s: float) -> Reply:
        if self._peer is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._up.wait()
            except TimeoutError:
                raise Unavailable(f"cannot reach the part of us that answers {kind!r}; try again") from None
        peer = self._peer
        if peer is None:
            raise Unavailable(f"lost the connection before asking for {kind!r}; try again")
        return await peer.request(kind, body, blob, timeout_s)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._peer is not None:
            self._peer.close()
