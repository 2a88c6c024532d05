"""The pages of Jupyter servers and plugins, brought from wherever they run, as they are.

What goes up has none of our credentials; what comes down sets cookies below its own path only. Bodies stream both ways
through small buffers, and are cut where nothing moves for 30 s; an open WebSocket may be idle for ever.
"""

import asyncio
import re
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict
from yarl import URL

from fetchmld.api.bridge import bridge
from fetchmld.api.context import STREAMS
from fetchmld.api.proxy_headers import headers_down, headers_up
from fetchmld.core.errors import NotFound, Unavailable
from fetchmld.upstream import Upstream

STALL_S: Final = 30.0  # a body that does not move for so long is given up
ANSWER_S: Final = 300.0  # until an answer begins
REACH_S: Final = 15.0
BUFFER_BYTES: Final = 2**17
SMALL_BYTES_MAX: Final = 2**16
HEAD_BYTES_MAX: Final = 2**16
KEPT_S: Final = 4.0  # a connection that waits for the next request; uvicorn closes them after 5 s
CONNECTIONS_MAX: Final = 1_024
CONNECTIONS_EACH_MAX: Final = 128
UPSTREAMS_MAX: Final = 1_024

Reach = Callable[[Upstream], Awaitable[socket.socket]]

_EVENTS: Final = "text/event-stream"
_DOTS: Final = re.compile(r"(^|/)(\.|%2e){1,2}(/|$|\?)", re.IGNORECASE)


class Connector(aiohttp.BaseConnector):
    """Connections to upstreams, kept for the next request. A request's host is what `name_of` calls its upstream."""

    def __init__(self, reach: Reach) -> None:
        super().__init__(
            keepalive_timeout=KEPT_S, limit=CONNECTIONS_MAX, limit_per_host=CONNECTIONS_EACH_MAX, loop=None
        )
        self._reach = reach
        self._upstreams: OrderedDict[str, Upstream] = OrderedDict()
        self._names: dict[str, str] = {}
        self._count = 0

    def name_of(self, upstream: Upstream) -> str:
        """The host that stands for it in addresses."""
        identity = repr(upstream)
        name = self._names.get(identity)
        if name is None:
            self._count += 1
            name = self._names[identity] = f"upstream-{self._count}"
            self._upstreams[name] = upstream
            while len(self._upstreams) > UPSTREAMS_MAX:
                _, forgotten = self._upstreams.popitem(last=False)
                del self._names[repr(forgotten)]
        return name

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> ResponseHandler:
        upstream = self._upstreams[req.url.host or ""]
        sock = await self._reach(upstream)
        _, protocol = await asyncio.get_running_loop().create_connection(self._factory, sock=sock)
        return protocol


class Proxy:
    """One per application; `close` it."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._connector: Connector | None = None
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def bring(self, request: web.Request, upstream: Upstream, prefix: str) -> web.StreamResponse:
        """Ask `upstream` what was asked of us below `prefix`. Raises NotFound, Unavailable."""
        if _DOTS.search(request.rel_url.raw_path.removeprefix(prefix)):
            raise NotFound("the path has parts that are . or ..")
        path = request.raw_path if upstream.keeps_prefix else request.raw_path.removeprefix(prefix) or "/"
        with request.app[STREAMS].one_more(request):  # so that it ends with its key
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._upgrade(request, upstream, path, prefix)
            return await self._exchange(request, upstream, path, prefix)

    # -- a request and its answer

    async def _exchange(self, request: web.Request, upstream: Upstream, path: str, prefix: str) -> web.StreamResponse:
        session, connector = self._client()
        url = URL(f"http://{connector.name_of(upstream)}{path}", encoded=True)
        body = body_of(request) if request.can_read_body else None
        try:
            async with asyncio.timeout(ANSWER_S) as patience:
                async with session.request(
                    request.method, url, headers=headers_up(request, upstream), data=body, allow_redirects=False
                ) as found:
                    patience.reschedule(None)
                    return await pass_down(request, found, upstream, prefix)
        except TimeoutError:
            raise Unavailable(f"no answer came within {ANSWER_S:g} s").passing(2) from None
        except aiohttp.ClientError as error:
            raise Unavailable(f"it does not answer now ({type(error).__name__}); try again").passing(2) from None

    def _client(self) -> tuple[aiohttp.ClientSession, Connector]:
        if self._session is None or self._connector is None:
            self._connector = Connector(self._reach)
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=REACH_S),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                read_bufsize=BUFFER_BYTES,
                max_line_size=HEAD_BYTES_MAX,
                max_field_size=HEAD_BYTES_MAX,
            )
        return self._session, self._connector

    # -- a WebSocket

    async def _upgrade(self, request: web.Request, upstream: Upstream, path: str, prefix: str) -> web.StreamResponse:
        headers = headers_up(request, upstream)
        headers["Connection"], headers["Upgrade"] = "Upgrade", "websocket"
        if "Host" not in headers:
            headers["Host"] = request.host
        lines = [f"{request.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        async with _moving(REACH_S):
            sock = await self._reach(upstream)
        try:
            loop = asyncio.get_running_loop()
            async with _moving(STALL_S):
                await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
                head, rest = await _read_head(sock)
            status, answer = _parsed(head)
            down = headers_down(request, answer, upstream, prefix)
            if status != 101:
                return web.Response(status=status if 400 <= status < 600 else 502, body=rest, headers=down)
            down["Connection"], down["Upgrade"] = "Upgrade", "websocket"
            return await bridge(request, down, sock, rest)
        finally:
            sock.close()


async def pass_down(
    request: web.Request, found: aiohttp.ClientResponse, upstream: Upstream, prefix: str
) -> web.StreamResponse:
    """Answer with what `found` says and brings."""
    headers = headers_down(request, found.headers, upstream, prefix)
    if _is_small(request, found):  # goes out in one piece
        async with _moving(STALL_S):
            body = await found.read()
        return web.Response(status=found.status, reason=found.reason, body=body, headers=headers)
    answer = web.StreamResponse(status=found.status, reason=found.reason, headers=headers)
    patience_s = None if found.content_type == _EVENTS else STALL_S
    await answer.prepare(request)
    try:
        while piece := await _next_piece(found, patience_s):
            async with _moving(STALL_S):
                await answer.write(piece)
        await answer.write_eof()
    except (aiohttp.ClientError, Unavailable):
        raise ConnectionResetError("the answer broke off") from None
    return answer


def _is_small(request: web.Request, found: aiohttp.ClientResponse) -> bool:
    length = found.content_length
    return length is not None and 0 < length <= SMALL_BYTES_MAX and request.method != "HEAD" and found.status != 304


async def _next_piece(found: aiohttp.ClientResponse, patience_s: float | None) -> bytes:
    async with asyncio.timeout(patience_s):
        return await found.content.readany()


async def body_of(request: web.Request) -> AsyncIterator[bytes]:
    """What the client sends, piece by piece. Raises Unavailable where it stops moving."""
    while True:
        async with _moving(STALL_S):
            piece = await request.content.readany()
        if not piece:
            return
        yield piece


@asynccontextmanager
async def _moving(limit_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise Unavailable(f"nothing moved for {limit_s:g} s").passing(2) from None


async def _read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """An answer's head, and what came after it in the same piece. Raises Unavailable."""
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            piece = await asyncio.get_running_loop().sock_recv(sock, HEAD_BYTES_MAX)
        except OSError:
            piece = b""
        data += piece
        if not piece or len(data) > HEAD_BYTES_MAX:
            raise Unavailable("it does not answer as HTTP does; try again").passing(2)
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _parsed(head: bytes) -> tuple[int, CIMultiDict[str]]:
    first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    try:
        status = int(first.split(" ", 2)[1])
    except (IndexError, ValueError):
        raise Unavailable("it does not answer as HTTP does; try again").passing(2) from None
    fields = (line.partition(":") for line in lines)
    return status, CIMultiDict((name, value.strip()) for name, _, value in fields)
