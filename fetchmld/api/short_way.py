"""The short way through the server, for what is asked often: past aiohttp's router, its writer and one of two tasks.

A request that has come whole, as plain HTTP/1.1, for an operation that `is_brisk` goes straight to the same meter, guard
and handler, and its answer leaves as one piece. What is out of the ordinary, in the request or in the answer, goes
aiohttp's way. Knows what an answer looks like on the wire; decides nothing about who may ask what.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader

from fetchmld.api.answers import SECURITY_HEADERS
from fetchmld.api.context import STANDING, TRACE
from fetchmld.api.guard import Guard, Handler, Operation
from fetchmld.api.meter import Meter

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a path's last part; what is written otherwise goes the other way
_EMPTY: Final = frozenset({204, 304})  # answers that have no body
_ALWAYS: Final = "".join(f"{name}: {value}\r\n" for name, value in {"Server": "fetchmld", **SECURITY_HEADERS}.items())
_OURS: Final = frozenset(
    name.lower()
    for name in (
        *("Server", "Date", "Connection", "Content-Length", "Transfer-Encoding", "X-Trace-Id"),
        *("RateLimit", "RateLimit-Policy", *SECURITY_HEADERS),
    )
)


@dataclass(slots=True, frozen=True)
class Stop:
    """Where the short way leads: a route, and its handler behind the meter and the guard."""

    route: web.AbstractRoute
    handler: Handler
    name: str = ""  # of the path's last part, where it is the client's


class ShortWay:
    """One per application. `operations` is complete when the first request comes."""

    def __init__(self, app: web.Application, meter: Meter, guard: Guard) -> None:
        self._app = app
        self._meter = meter
        self._guard = guard
        self._exact: dict[str, dict[str, Stop]] = {}
        self._below: dict[str, dict[str, Stop]] = {}
        self._taken: frozenset[str] = frozenset()

    def open(self, mounted: Mapping[web.AbstractRoute, Operation], paths: Iterable[str]) -> None:
        """Serve the brisk ones of `mounted`. `paths` are all there are: a name that is a path of its own is nobody's id."""
        self._taken = frozenset(paths)
        for route, operation in mounted.items():
            if operation.is_brisk:
                handler = partial(self._meter, handler=partial(self._guard, handler=operation.handler))
                start, _, last = operation.path.rpartition("/")
                if last.startswith("{"):
                    self._below.setdefault(route.method, {})[start] = Stop(route, handler, last[1:-1])
                else:
                    self._exact.setdefault(route.method, {})[operation.path] = Stop(route, handler)

    def find(self, message: Any, payload: StreamReader) -> tuple[Stop, dict[str, str]] | None:
        """Where the request leads and what its path names; None where it has to go the other way."""
        if type(message) is not RawRequestMessage or message.version != HttpVersion11 or not payload.is_eof():
            return None
        if message.should_close or message.upgrade or message.compression or hdrs.EXPECT in message.headers:
            return None
        path = message.path.partition("?")[0]
        if (stop := self._exact.get(message.method, {}).get(path)) is not None:
            return stop, {}
        start, _, last = path.rpartition("/")
        stop = self._below.get(message.method, {}).get(start)
        if stop is None or path in self._taken or not _NAME.fullmatch(last):
            return None
        return stop, {stop.name: last}

    def lead(self, request: web.Request, stop: Stop, names: dict[str, str]) -> None:
        """Have the request found its way, as aiohttp's router does it."""
        match = web.UrlMappingMatchInfo(names, stop.route)
        match.add_app(self._app)
        match.freeze()
        request._match_info = match

    def whole(self, request: web.BaseRequest, answer: web.StreamResponse) -> bytes | None:
        """All bytes of the answer, its connection staying open; None where aiohttp has to write it."""
        if type(answer) is not web.Response or answer.prepared or answer.status in _EMPTY:
            return None
        body = answer.body
        if type(body) is not bytes or answer._keep_alive is not None or answer._cookies or answer.compression:
            return None
        own = ""
        for name, value in answer.headers.items():
            if name.lower() in _OURS or "\n" in value or "\r" in value:
                return None
            own += f"{name}: {value}\r\n"
        rate = self._guard.rate_headers(request.get(STANDING)) if self._guard.is_limiting else ""
        head = (
            f"HTTP/1.1 {answer.status} {answer.reason}\r\n{own}X-Trace-Id: {request[TRACE]}\r\n{_ALWAYS}{rate}"
            f"Date: {rfc822_formatted_time()}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body
