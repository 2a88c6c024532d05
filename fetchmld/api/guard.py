"""What stands before every handler: trace id, Host and Origin, key, rate, role; and behind it: every error in one shape.

A route is closed unless its operation says that it is open, so a route that nobody thought about, and a path that does
not exist, need a key too. `except Exception` stands here and nowhere else in the API.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from aiohttp import web

from fetchmld.api import access, browser
from fetchmld.api.answers import SECURITY_HEADERS, refusal, refusal_of, refusal_of_http, trace_id_of
from fetchmld.api.connections import owner_of
from fetchmld.api.context import CALLER, STANDING, TRACE
from fetchmld.api.doors import Doors
from fetchmld.api.head import Head
from fetchmld.api.logins import Logins, recorded_path
from fetchmld.api.protocol import ApiProtocol
from fetchmld.api.rates import Rates, Standing
from fetchmld.api.roles import WORKER
from fetchmld.config import Config
from fetchmld.core.errors import FetchmlError, RateLimited

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Operation:
    """One method of one path: its id in the document, and whether it is served without a key."""

    id: str
    method: str
    path: str
    handler: Handler
    is_open: bool = False
    is_described: bool = True  # in the document; pages that are not ours are not
    is_brisk: bool = False  # asked often: may go the short way (`short_way`)


def make_guard(head: Head, config: Config, operations: Mapping[web.AbstractRoute, Operation]) -> "Guard":
    """The application's middleware. `operations` may be filled until the first request."""
    return Guard(head, config, operations)


class Guard:
    """See the module. One instance per application."""

    __middleware_version__ = 1  # what `web.middleware` sets on a function

    def __init__(self, head: Head, config: Config, operations: Mapping[web.AbstractRoute, Operation]) -> None:
        self._operations = operations
        services = urlsplit(config.services_url).netloc
        self._doors = Doors((config.host, config.node_address, services, *config.allowed_hosts), config.allowed_origins)
        self._has_services = bool(config.services_url or config.services_port)
        self.logins = Logins(head, config.login_failures_per_minute)
        self._rates = Rates(config.rate_per_s, config.rate_burst)
        self._policy = self._rates.policy if self._rates.is_on else ""

    async def close(self, _app: web.Application) -> None:
        """Record what is still to be told of who came (an `on_shutdown` hook)."""
        self.logins.failures.end_minute()

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        trace_id = request[TRACE] = trace_id_of(request.headers.get("traceparent"))
        try:
            self._doors.check(request)
            await self._admit(request)
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the top of the loop: every error becomes an answer here
            return _answer(request, error, trace_id)

    async def _admit(self, request: web.Request) -> None:
        """Lets a request pass whose key may do this, and often enough; to what is open, whoever asks, as often."""
        operation = self._operations.get(request.match_info.route)
        if self._has_services:
            browser.check_place(request, operation.id if operation is not None else "")
        if operation is not None and operation.is_open:
            self._take(request, owner_of(request.remote or ""))
            return
        caller = request[CALLER] = await self.logins.caller(request)
        is_limited = (
            caller.role != WORKER
        )  # all machines that joined share one key, and are trusted with more than this
        cast(ApiProtocol, request.protocol).bring(caller.key_id, is_limited)
        if is_limited:
            self._take(request, f"key:{caller.key_id}")
        if operation is not None:
            access.check_operation(caller, operation.id)

    def _take(self, request: web.Request, name: str) -> None:
        """One request of `name`'s. Raises RateLimited where there are too many."""
        if not self._policy:
            return
        standing = request[STANDING] = self._rates.take(name, time.monotonic())
        if standing.retry_after_s:
            raise RateLimited(f"too many requests; the limit is {self._policy}").passing(standing.retry_after_s)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """What every answer has, streams included: trace id, security, rate (an `on_response_prepare` hook)."""
        headers = response.headers
        if "X-Trace-Id" not in headers:
            headers["X-Trace-Id"] = request.get(TRACE, "")
            headers["Server"] = SECURITY_HEADERS["Server"]  # aiohttp has put its own there
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        if (standing := request.get(STANDING)) is not None:
            headers["RateLimit-Policy"] = self._policy
            headers["RateLimit"] = _rate(standing)

    @property
    def is_limiting(self) -> bool:
        """Is there a limit to how often a key may ask?"""
        return bool(self._policy)

    def rate_headers(self, standing: Standing | None) -> str:
        """What an answer says about that limit: lines of its head."""
        return f"RateLimit-Policy: {self._policy}\r\nRateLimit: {_rate(standing)}\r\n" if standing is not None else ""


def _rate(standing: Standing) -> str:
    return f'"default";r={standing.remaining};t={standing.reset_s}'


def _answer(request: web.Request, error: Exception, trace_id: str) -> web.Response:
    """The answer to `error`. Where the answer has begun already, nothing can be said but that it broke off."""
    if isinstance(error, FetchmlError) and error.status < 500:
        answer = refusal_of(error, trace_id)
    elif isinstance(error, web.HTTPException):
        answer = refusal_of_http(error, trace_id)
    elif isinstance(error, ConnectionError):
        raise error
    elif isinstance(error, web.RequestPayloadError):
        answer = refusal(400, "BAD_REQUEST", "the request body broke off or is not encoded as it says", trace_id)
    else:
        answer = _own_fault(request, error, trace_id)
    if request.writer.output_size > 0:
        raise ConnectionResetError("the answer broke off")
    if cast(ApiProtocol, request.protocol).is_ending:
        answer.force_close()
    return answer


def _own_fault(request: web.Request, error: Exception, trace_id: str) -> web.Response:
    if isinstance(error, FetchmlError) and error.status != 500:
        return refusal_of(error, trace_id)
    path = recorded_path(request)
    log.error("request.failed method=%s path=%s trace_id=%s", request.method, path, trace_id, exc_info=error)
    return refusal(500, "INTERNAL_ERROR", "something went wrong on our side; quote the trace_id", trace_id)
