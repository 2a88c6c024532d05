"""aiohttp's server with our errors and our patience.

What fails before a request reaches the application is an ErrorResponse too: bytes that are not HTTP, over-long lines and
headers, a header or a body that stops coming, a connection too many, and the few refusals that aiohttp answers by itself.
Everything that reaches the application is the guard's.
"""

import asyncio
import logging
import socket
import ssl
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage, StreamWriter

from fetchmld.api.answers import refusal, refusal_of_http, trace_id_of, whole_refusal
from fetchmld.api.connections import PROGRESS_BYTES, Connections, Limits, owner_of
from fetchmld.api.context import CONNECTIONS, SHORT_WAY
from fetchmld.core.errors import FetchmlError, RateLimited, Stalled

if TYPE_CHECKING:
    from fetchmld.api.short_way import ShortWay, Stop

SHUTDOWN_S: Final = 5.0  # for answers under way at a clean stop; streams are ended before
KEEP_ALIVE_S: Final = 75.0  # between two requests
HANDSHAKE_S: Final = 10.0  # of TLS
LINE_BYTES_MAX: Final = 2**15  # of a request line; a filter given as deepObject takes many words
_TCP_INFO_BYTES: Final = 128
_ACKED: Final = struct.Struct("=Q")  # tcpi_bytes_acked of Linux's struct tcp_info
_ACKED_AT: Final = 120
_NOTHING, _HEADER, _BODY, _READER = "", "header", "body", "reader"
_ONE_REQUEST: Final = 2**40  # another request is progress, whatever its size

log = logging.getLogger(__name__)


class ApiProtocol(web.RequestHandler):
    """One connection."""

    __slots__ = (
        *("_connections", "_early", "_idle", "_idle_bytes", "_lag", "_moved", "_received_bytes"),
        *("_short", "_task", "_wait", "_wire", "owner"),
    )

    def __init__(self, server: "ApiServer", **settings: Any) -> None:
        super().__init__(server, **settings)
        self._connections = server.kept
        self._short = server.short
        self._idle: asyncio.Future[None] | None = None  # what aiohttp's loop waits for, while one goes the short way
        self._task: asyncio.Task[None] | None = None  # that one's
        self._early: Any = None  # a request that came a moment before aiohttp's loop was back, and may go the short way
        self._wire: asyncio.Transport | None = None  # the base class lets go of it before all is sent
        self.owner = ""
        self._received_bytes = 0
        self._idle_bytes = -1  # what had been received when the last answer was sent
        self._wait = _NOTHING  # what it waited for when it was last looked at,
        self._moved = 0  # what had gone through when that last moved,
        self._lag = 0  # and how many looks ago that was

    # -- aiohttp's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the connection in, or refuses it where its address has too many."""
        self._wire = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.owner = owner_of(peer[0]) if peer else ""
        if self._connections.add(self):
            super().connection_made(transport)
            return
        self._say_last(RateLimited("too many connections of this address have not brought a key yet").passing(1))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Lets go of the connection."""
        self._connections.remove(self)
        self._wire = None
        self._give_back()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes, and lets aiohttp's loop sleep on where it may go the short way."""
        self._received_bytes += len(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            was_empty = not self._messages and waiter is None and self._idle is None
            super().data_received(data)
            if was_empty and self._messages:
                self._keep_back()
            return
        self._waiter, self._idle = None, waiter
        super().data_received(data)
        self._take_up()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Goes on reading, if it was paused: aiohttp asks for that at the end of each body, and looks for more then."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be read (400) or that failed outside the guard (500)."""
        trace_id = trace_id_of(None)
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the client is gone, or the answer has begun: nothing can be said")
        if status < 500:
            log.debug("request.unreadable trace_id=%s", trace_id, exc_info=exc)
            answer = refusal(status, "BAD_REQUEST", "this is not a valid HTTP request", trace_id)
        else:
            log.error("request.failed trace_id=%s", trace_id, exc_info=exc)
            answer = refusal(500, "INTERNAL_ERROR", "something went wrong on our side; quote the trace_id", trace_id)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends `resp`; an HTTP error that was raised before the guard (a bad Expect header) gets our shape first."""
        if self._idle is not None and (whole := self._short.whole(request, resp)) is not None:
            return resp, not await self._send(whole)
        if isinstance(resp, web.HTTPException):
            resp = refusal_of_http(resp, trace_id_of(request.headers.get("traceparent")))
        sent = await super().finish_response(request, resp, start_time)
        self._idle_bytes = self._received_bytes
        if self._early is not None:
            self._loop.call_soon(self._loop.call_soon, self._let_in)
        return sent

    # -- the short way

    def _take_up(self) -> None:
        """Look at the next request of those that have come; where there is none that is short, aiohttp's loop goes on."""
        self._put_back()
        found = self._short.find(*self._messages[0]) if self._messages else None
        if found is not None:
            self._task = self._loop.create_task(self._go(*found))
            return
        waiter = self._give_back()
        if waiter is not None and self._messages and not waiter.done():
            waiter.set_result(None)

    def _keep_back(self) -> None:
        """aiohttp's loop is at work, or on its way back from it: it is not to find a request that may go the short way.

        Else a client that asks again at once would have all of its requests go the long way after one that had to.
        """
        if self._early is not None:
            self._put_back()  # more than one: they go as they came
        elif len(self._messages) == 1 and self._short.find(*self._messages[0]) is not None:
            self._early = self._messages.popleft()
            if self._current_request is None:
                self._loop.call_soon(self._loop.call_soon, self._let_in)  # the loop is back by then

    def _put_back(self) -> None:
        if self._early is not None:
            self._messages.appendleft(self._early)
            self._early = None
            if not self._buffer_paused and len(self._messages) >= self._max_msg_queue_size:
                self._pause_reading_for_buffer()  # the parser has counted all of them

    def _let_in(self) -> None:
        waiter = self._waiter
        if self._early is None or self._idle is not None or self._manager is None:
            return
        if waiter is None or waiter.done():
            self._put_back()  # it is still at work, and takes it from here
            return
        self._waiter, self._idle = None, waiter
        self._take_up()

    def _give_back(self) -> "asyncio.Future[None] | None":
        if self._idle is not None:
            self._waiter, self._idle = self._idle, None
        return self._waiter

    async def _go(self, stop: "Stop", names: dict[str, str]) -> None:
        """One request from its head to its answer, and on to the next."""
        stays = False
        try:
            request = self._next_request()
            self._short.lead(request, stop, names)
            answer, is_lost = await self._handle_request(request, None, cast(Any, stop.handler))
            stays = not (is_lost or self._close or self._force_close) and answer.keep_alive is not False
        except ConnectionError:
            pass  # the client is gone
        finally:
            if not stays:
                self._give_back()
                self.close()
                if self._wire is not None:
                    self._wire.close()
        if stays:
            self._stay()
            self._take_up()

    def _next_request(self) -> web.Request:
        message, payload = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        if self._manager is None or self._request_factory is None:
            raise ConnectionResetError("the client is gone")
        self._manager.requests_count += 1
        writer = StreamWriter(self, self._loop)
        task = cast("asyncio.Task[None]", self._task)
        return cast(web.Request, self._request_factory(cast(RawRequestMessage, message), payload, self, writer, task))

    async def _send(self, whole: bytes) -> bool:
        """Send an answer; False where nobody is there to take it."""
        if self.transport is None:
            return False
        self.transport.write(whole)
        self._idle_bytes = self._received_bytes
        if self._paused:
            await self._drain_helper()
        return True

    def _stay(self) -> None:
        """Wait for the next request so long."""
        self._next_keepalive_close_time = at = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(at, self._process_keepalive)

    # -- ours

    @property
    def is_ending(self) -> bool:
        """Is this the connection's last answer?"""
        return self._close

    def bring(self, key_id: str, is_limited: bool) -> None:
        """A request has come with a key, whose connection this is from now on. Raises RateLimited beyond its limit."""
        if not self._connections.give(self, key_id, is_limited):
            self._close = True
            raise RateLimited("too many connections are open with this key").passing(1)

    def look(self, limits: Limits) -> None:
        """A second is over (see `connections`): end the connection if what it waits for has not moved for too many."""
        wire = self._wire
        if wire is None:
            return
        wait, moved = self._waits_for(wire)
        if wait != self._wait or moved - self._moved >= PROGRESS_BYTES:
            self._wait, self._moved, self._lag = wait, moved, 0
            return
        self._lag += 1
        if wait == _HEADER and self._lag >= limits.header_s:
            self._say_last(Stalled(f"the request's header was not complete within {limits.header_s:g} s"))
        elif wait == _BODY and self._lag >= limits.stalled_s:
            self._end_body(Stalled(f"the request's body made no progress for {limits.stalled_s:g} s"))
        elif wait == _READER and self._lag >= limits.stalled_s:
            wire.abort()

    def _waits_for(self, wire: asyncio.Transport) -> tuple[str, int]:
        """What has to come from the client, and a number that grows as it comes."""
        if wire.get_write_buffer_size() > 0:
            return _READER, _acked_bytes(wire)
        request = self._current_request
        if request is not None:
            body = request.content  # an upgrade's is of a class that never waits
            waiting = getattr(body, "_waiter", None) is not None and not body.is_eof()
            return (_BODY, self._received_bytes + self._request_count * _ONE_REQUEST) if waiting else (_NOTHING, 0)
        waiting = self._waiter is not None and self._received_bytes != self._idle_bytes
        return (_HEADER if waiting else _NOTHING), 0

    def _end_body(self, error: Stalled) -> None:
        if self._current_request is not None:
            self._lingering_time = 0.0
            self._close = True
            self._current_request.content.set_exception(error)

    def _say_last(self, error: FetchmlError) -> None:
        """Answers what is no request of the application's, and closes."""
        if self._wire is not None:
            self._wire.write(whole_refusal(error, trace_id_of(None)))
            self._wire.close()
        self.force_close()


def _acked_bytes(wire: asyncio.Transport) -> int:
    """How much of what was sent the client has taken."""
    with suppress(OSError, struct.error):
        info = wire.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(_ACKED.unpack_from(info, _ACKED_AT)[0])
    return 0


class ApiServer(web.Server):
    """Makes an `ApiProtocol` for each connection; aiohttp offers no setting for it."""

    kept: Connections
    short: "ShortWay"

    def __call__(self) -> web.RequestHandler:
        return ApiProtocol(self, loop=self._loop, **self._kwargs)


class ApiRunner(web.AppRunner):
    """Runs the application on `ApiServer`."""

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        server = ApiServer(
            plain.request_handler, request_factory=plain.request_factory, loop=plain._loop, **plain._kwargs
        )
        server.kept, server.short = self.app[CONNECTIONS], self.app[SHORT_WAY]
        return server


def make_runner(app: web.Application, **settings: Any) -> ApiRunner:
    """The runner for `app`; `settings` go to aiohttp's AppRunner. No access log: the guard logs what failed."""
    ours: dict[str, Any] = {
        "access_log": None,
        "shutdown_timeout": SHUTDOWN_S,
        "keepalive_timeout": KEEP_ALIVE_S,
        "max_line_size": LINE_BYTES_MAX,
    }
    return ApiRunner(app, **{**ours, **settings})


class ApiSite(web.BaseSite):
    """Where a runner accepts: a socket that listens. As aiohttp's SockSite, with a bound on TLS handshakes."""

    __slots__ = ("_socket",)

    def __init__(
        self, runner: web.BaseRunner, listening: socket.socket, tls: ssl.SSLContext | None = None, *, backlog: int = 128
    ) -> None:
        super().__init__(runner, ssl_context=tls, backlog=backlog)
        self._socket = listening

    @property
    def name(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"{'https' if self._ssl_context else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Begin to accept."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(
            cast(Any, self._runner.server),
            sock=self._socket,
            backlog=self._backlog,
            ssl=self._ssl_context,
            ssl_handshake_timeout=HANDSHAKE_S if self._ssl_context else None,
        )
