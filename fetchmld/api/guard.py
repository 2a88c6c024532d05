"""What stands before every handler: trace id, key, role; and behind it: every error in the contract's one shape.

A route is closed unless its operation says that it is open, so a route that nobody thought about, and a path that does
not exist, need a key too. `except Exception` stands here and nowhere else in the API.
"""

import base64
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from fetchmld.api import access, browser
from fetchmld.api.answers import SECURITY_HEADERS, refusal, refusal_of, refusal_of_http, trace_id_of
from fetchmld.api.context import CALLER, KEY_HASH, TRACE
from fetchmld.api.failures import Failures
from fetchmld.api.head import Caller, Head
from fetchmld.core.errors import FetchmlError, Unauthorized
from fetchmld.core.messages import Fact
from fetchmld.core.model import Key

LOGINS_REMEMBERED_MAX: Final = 10_000
PATH_CHARACTERS_MAX: Final = 256
_KEY_PROTOCOL: Final = "fetchml.key."

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


def make_guard(head: Head, operations: Mapping[web.AbstractRoute, Operation]) -> "Guard":
    """The application's only middleware. `operations` may be filled until the first request."""
    return Guard(head, operations)


class Guard:
    """See the module. One instance per application."""

    __middleware_version__ = 1  # what `web.middleware` sets on a function

    def __init__(self, head: Head, operations: Mapping[web.AbstractRoute, Operation]) -> None:
        self._operations = operations
        self.logins = Logins(head)

    async def close(self, _app: web.Application) -> None:
        """Record what is still to be told of who came (an `on_shutdown` hook)."""
        self.logins.failures.end_minute()

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        trace_id = request[TRACE] = trace_id_of(request.headers.get("traceparent"))
        try:
            operation = self._operations.get(request.match_info.route)
            if operation is None or not operation.is_open:
                caller = request[CALLER] = await self.logins.caller(request)
                if operation is not None:
                    access.check_operation(caller, operation.id)
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the top of the loop: every error becomes an answer here
            return _answer(request, error, trace_id)


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
    return answer


def _own_fault(request: web.Request, error: Exception, trace_id: str) -> web.Response:
    if isinstance(error, FetchmlError) and error.status != 500:
        return refusal_of(error, trace_id)
    path = _recorded_path(request)
    log.error("request.failed method=%s path=%s trace_id=%s", request.method, path, trace_id, exc_info=error)
    return refusal(500, "INTERNAL_ERROR", "something went wrong on our side; quote the trace_id", trace_id)


def _recorded_path(request: web.Request) -> str:
    """The path as it may be written down: without a ticket that is a part of it."""
    path = request.rel_url.raw_path[:PATH_CHARACTERS_MAX]
    return "/sessions/..." if path.startswith("/sessions/") else path


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Puts the trace id and the security headers on every answer, streams included (an `on_response_prepare` hook)."""
    headers = response.headers
    if "X-Trace-Id" not in headers:
        headers["X-Trace-Id"] = request.get(TRACE, "")
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)


def _key_elsewhere(request: web.Request) -> str:
    """The key of a client that cannot set our header: Prometheus sends `Authorization: Bearer`, browsers see below."""
    if request.path == "/metrics":
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""
    return _key_among_protocols(request)


def _key_among_protocols(request: web.Request) -> str:
    """The key that a browser's WebSocket brings, which cannot set headers: `fetchml.key.<base64url of the key>`."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return ""
    for name in request.headers.get("Sec-WebSocket-Protocol", "")[:1024].split(","):
        if (name := name.strip()).startswith(_KEY_PROTOCOL):
            encoded = name.removeprefix(_KEY_PROTOCOL)
            with contextlib.suppress(ValueError):
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("ascii")
    return ""


class Logins:
    """Keys to callers, and the record of who came: failures, and each key's first success per address and hour."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self.failures = Failures(head.note)
        self._hour = 0
        self._noted: set[tuple[str, str]] = set()

    async def caller(self, request: web.Request) -> Caller:
        """Who is asking. Raises Unauthorized where neither a valid key nor a browser's session came with the request."""
        given = request.headers.get("X-API-Key") or _key_elsewhere(request)
        if given:
            return await self.known(request, hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest())
        digest = browser.session_digest(request)
        if digest is None:
            raise self.failed(request, "no API key; send it in the X-API-Key header")
        return await self.known(request, digest)

    async def known(self, request: web.Request, digest: str) -> Caller:
        """Whoever has the key of this SHA-256. Raises Unauthorized where it is not valid."""
        key = await self._head.key(digest)
        now = time.time()
        if key is None:
            raise self.failed(request, "the API key is not known")
        if not key.is_valid(now):
            gone = "been revoked" if key.revoked_at else "expired"
            raise self.failed(request, f"the API key has {gone}")
        request[KEY_HASH] = digest
        address, trace_id = request.remote or "", request[TRACE]
        self._succeeded(key, address, now, trace_id)
        return Caller(key.user_id, key.role, key.id, address, trace_id)

    def failed(self, request: web.Request, why: str, said: str = "") -> Unauthorized:
        """Note that somebody was not let in, and say so. `said`: to the client, where it is more than `why`."""
        address, trace_id = request.remote or "", request[TRACE]
        metadata = {
            "method": request.method[:32],
            "path": _recorded_path(request),
            "trace_id": trace_id,
        }
        self.failures.note(
            Fact(
                event_type="auth_attempt",
                action="auth.failure",
                resource="api",
                success=False,
                ip_address=address,
                error=why,
                metadata=metadata,
                at_us=time.time_ns() // 1000,
            )
        )
        return Unauthorized(said or why)

    def _succeeded(self, key: Key, address: str, now: float, trace_id: str) -> None:
        if (hour := int(now // 3600)) != self._hour or len(self._noted) >= LOGINS_REMEMBERED_MAX:
            self._hour = hour
            self._noted.clear()  # forgetting early only means noting some of them once more
        if (key.id, address) in self._noted:
            return
        self._noted.add((key.id, address))
        self._head.note(
            Fact(
                event_type="auth_attempt",
                action="auth.success",
                resource=f"key:{key.id}",
                user_id=key.user_id,
                ip_address=address,
                metadata={"role": key.role, "trace_id": trace_id},
                at_us=time.time_ns() // 1000,
            )
        )
