"""Our channel's bytes as Ray calls, for peers on different machines: the second transport behind `fetchmld.channel`.

A line is one connection. Who dials it names it, at random, and makes all its calls: `push` brings the next piece to the
other side, `pull` waits there for a piece to come back. One of each is under way at a time, and what is written
meanwhile goes along with the next: no timer, no call per message. Pieces stay below the size from which Ray would put
them into its object store.

A line breaks when a call fails or is not answered in time, when a piece is not the next one, and when the far side has
not heard from us for a while. Then both ends close, as they do for a socket, and whoever dialled dials anew.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from fetchmld.channel import Dial, Peer, Server

PIECE_BYTES_MAX: Final = 64 * 2**10
HOLD_S: Final = 5.0  # a pull with nothing to bring is answered after this
CALL_TIMEOUT_S: Final = 10.0  # a call that is not answered within this is lost, and the line with it
SILENT_MAX_S: Final = 20.0  # without a call of the other side
LINES_MAX: Final = 10_000
METHODS: Final = ("push", "pull")  # of an actor that can be dialled

Push = Callable[[str, int, bytes], Awaitable[bool]]
Pull = Callable[[str, int], Awaitable[bytes | None]]


class _Pipe:
    """What a `Peer` takes for its transport: gathers what is written until it is fetched."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._news = asyncio.Event()
        self.is_closing = False  # no more is written; what waits is still sent
        self.is_broken = False

    def write(self, data: bytes) -> None:
        self._waiting += data
        self._news.set()

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        self.is_closing = True
        self._news.set()

    def abort(self) -> None:
        self.is_broken = self.is_closing = True
        self._waiting.clear()
        self._news.set()

    async def next_piece(self) -> bytes | None:
        """What waits, at most one piece; None once it is closed and all is fetched."""
        while not self._waiting and not self.is_closing:
            self._news.clear()
            await self._news.wait()
        piece = bytes(self._waiting[:PIECE_BYTES_MAX])
        del self._waiting[:PIECE_BYTES_MAX]
        return piece or None


# -- the side that is dialled


@dataclass(slots=True)
class _Line:
    peer: Peer
    pipe: _Pipe
    pushed: int = 0  # pieces that came
    pulled: int = 0  # pieces that were fetched
    last_call_t: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    calls: int = 0  # under way


class Gate:
    """Lines that others dial to the owner of `server`; each becomes a peer of it, beside those of its socket."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lines: dict[str, _Line] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def push(self, name: str, number: int, piece: bytes) -> bool:
        """Take piece `number` (from 1; 0 opens the line, -1 ends it). False: there is no such line, or not any more."""
        line = self._open(name) if number == 0 else self._lines.get(name)
        if line is None:
            return False
        line.last_call_t = asyncio.get_running_loop().time()
        if number != line.pushed:
            self._break(name)
            return False
        line.pushed += 1
        if piece:
            line.peer.data_received(piece)
        return not line.pipe.is_broken

    async def pull(self, name: str, number: int) -> bytes | None:
        """The next piece, or nothing after a while; None: there is no such line, or not any more."""
        line = self._lines.get(name)
        if line is None:
            return None
        if number != line.pulled or line.calls:
            self._break(name)
            return None
        line.last_call_t, line.calls = asyncio.get_running_loop().time(), 1
        try:
            async with asyncio.timeout(HOLD_S):
                piece = await line.pipe.next_piece()
        except TimeoutError:
            piece = b""
        finally:
            line.calls = 0
        if piece is None:
            self._break(name)
            return None
        line.pulled += 1
        return piece

    def _open(self, name: str) -> _Line | None:
        if name in self._lines or len(self._lines) >= LINES_MAX:
            return None
        pipe, peer = _Pipe(), self._server.new_peer()
        line = self._lines[name] = _Line(peer, pipe)
        peer.connection_made(cast(asyncio.Transport, pipe))
        if self._sweep is None:
            self._drop_silent()
        return line

    def _break(self, name: str) -> None:
        line = self._lines.pop(name, None)
        if line is not None:
            line.pipe.abort()
            line.peer.connection_lost(None)

    def _drop_silent(self) -> None:
        """Break the lines whose other side is gone, now and again while there are any."""
        loop = asyncio.get_running_loop()
        for name, line in list(self._lines.items()):
            if not line.calls and loop.time() - line.last_call_t > SILENT_MAX_S:
                self._break(name)
        self._sweep = loop.call_later(SILENT_MAX_S, self._drop_silent) if self._lines else None

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for name in list(self._lines):
            self._break(name)


# -- the side that dials


class _Caller:
    """Our end of one line: a loop that pushes, a loop that pulls, until either fails."""

    def __init__(self, push: Push, pull: Pull, peer: Peer) -> None:
        self._push = push
        self._pull = pull
        self._peer = peer
        self._pipe = _Pipe()
        self._name = secrets.token_hex(8)
        self._loops: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Raises OSError where the other side does not take the line."""
        if not await _answered(self._push(self._name, 0, b"")):
            raise ConnectionRefusedError("the other side takes no more lines")
        self._peer.connection_made(cast(asyncio.Transport, self._pipe))
        self._loops = [asyncio.create_task(loop) for loop in (self._push_all(), self._pull_all())]
        for loop in self._loops:
            loop.add_done_callback(self._end)

    async def _push_all(self) -> None:
        number = 0
        while (piece := await self._pipe.next_piece()) is not None:
            number += 1
            if not await _answered(self._push(self._name, number, piece)):
                return

    async def _pull_all(self) -> None:
        number = 0
        while (piece := await _answered(self._pull(self._name, number))) is not None:
            number += 1
            if piece:
                self._peer.data_received(piece)

    def _end(self, ended: "asyncio.Task[None]") -> None:
        """The first loop that ends takes the line with it."""
        if not ended.cancelled():
            ended.exception()  # an OSError, and no news: the line is broken either way
        if self._pipe.is_broken:
            return
        self._pipe.abort()
        for loop in self._loops:
            loop.cancel()
        self._peer.connection_lost(None)
        self._loops.append(asyncio.create_task(self._say_goodbye()))

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(OSError):
            await _answered(self._push(self._name, -1, b""))


async def _answered(call: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await call
    except TimeoutError:
        raise ConnectionAbortedError(f"a call was not answered within {CALL_TIMEOUT_S:g} s") from None


def over_calls(push: Push, pull: Pull) -> Dial:
    """Dial whoever answers these two."""

    async def dial(make_peer: Callable[[], Peer]) -> Peer:
        peer = make_peer()
        await _Caller(push, pull, peer).open()
        return peer

    return dial


def over_ray(name: str, namespace: str) -> Dial:
    """Dial the actor of this name, on whatever machine it is."""

    async def dial(make_peer: Callable[[], Peer]) -> Peer:
        handle = await asyncio.to_thread(_find, name, namespace)

        async def push(line: str, number: int, piece: bytes) -> bool:
            return bool(await _call(handle.push, line, number, piece))

        async def pull(line: str, number: int) -> bytes | None:
            return cast("bytes | None", await _call(handle.pull, line, number))

        return await over_calls(push, pull)(make_peer)

    return dial


def _find(name: str, namespace: str) -> Any:
    import ray

    try:
        return ray.get_actor(name, namespace)
    except ValueError:
        raise ConnectionRefusedError(f"there is no actor {name!r}") from None
    except ray.exceptions.RayError as error:
        raise ConnectionRefusedError(f"Ray does not say where actor {name!r} is: {error}") from None


async def _call(method: Any, *arguments: Any) -> Any:
    from ray.exceptions import RayError

    try:
        return await method.remote(*arguments)
    except RayError as error:
        raise ConnectionAbortedError(str(error).strip().splitlines()[-1]) from None
