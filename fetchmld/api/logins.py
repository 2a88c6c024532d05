"""Who is asking: keys to callers, and the record of who came and who could not.

Whoever sends wrong keys is limited by address: within the limit each failure is 401 and on record by itself, beyond it
429 and counted (see `failures`), and the scheduler is not even asked. A key that was right a moment ago passes all the
same.
"""

import base64
import contextlib
import hashlib
import time
from dataclasses import replace
from typing import Final

from aiohttp import web

from fetchmld.api import browser
from fetchmld.api.connections import owner_of
from fetchmld.api.context import KEY_HASH, TRACE
from fetchmld.api.failures import Failures
from fetchmld.api.head import Caller, Head
from fetchmld.api.rates import Rates
from fetchmld.core.errors import FetchmlError, RateLimited, Unauthorized
from fetchmld.core.messages import Fact
from fetchmld.core.model import Key
from fetchmld.plugins.tokens import PREFIX as TASK_TOKEN

LOGINS_REMEMBERED_MAX: Final = 10_000
PATH_CHARACTERS_MAX: Final = 256
_KEY_PROTOCOL: Final = "fetchml.key."
_PLUGINS: Final = "/plugins/"


def recorded_path(request: web.Request) -> str:
    """The path as it may be written down: without a ticket that is a part of it."""
    path = request.rel_url.raw_path[:PATH_CHARACTERS_MAX]
    return "/sessions/..." if path.startswith("/sessions/") else path


def _key_elsewhere(request: web.Request) -> str:
    """The key of a client that cannot set our header: Prometheus sends `Authorization: Bearer`, browsers see below."""
    if request.path == "/metrics":
        return _bearer(request)
    return (_bearer(request) if request.path.startswith(_PLUGINS) else "") or _key_among_protocols(request)


def _bearer(request: web.Request) -> str:
    """What clients of other programs send, such as Prometheus and MLflow."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


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

    def __init__(self, head: Head, failures_per_minute: int) -> None:
        self._head = head
        self._rates = Rates(failures_per_minute / 60.0, failures_per_minute)
        self.failures = Failures(head.note, failures_per_minute)
        self._hour = 0
        self._noted: set[tuple[str, str]] = set()
        self._known: set[str] = set()  # hashes of keys that were right lately; they are looked up all the same

    async def caller(self, request: web.Request) -> Caller:
        """Who is asking. Raises Unauthorized where neither a valid key nor a browser's session came with the request."""
        given = request.headers.get("X-API-Key") or _key_elsewhere(request)
        if given.startswith(TASK_TOKEN):
            return await self._task(request, given)
        if given:
            return await self.known(request, hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest())
        digest = browser.session_digest(request)
        if digest is None:
            raise self.failed(request, "no API key; send it in the X-API-Key header")
        return await self.known(request, digest)

    async def _task(self, request: web.Request, token: str) -> Caller:
        """Whose task it is, if its token is for the plugin that is asked for, and its attempt lives."""
        self._check_patience(request)
        found = await self._head.task_token(token) if request.path.startswith(_PLUGINS) else None
        if found is None or found[1] != request.path.split("/")[2]:
            raise self.failed(request, "the task's token is not good here, or not any more")
        return replace(found[0], ip_address=request.remote or "", trace_id=request[TRACE])

    async def known(self, request: web.Request, digest: str) -> Caller:
        """Whoever has the key of this SHA-256. Raises Unauthorized where it is not valid, RateLimited after many such."""
        if digest not in self._known:
            self._check_patience(request)
        key = await self._head.key(digest)
        now = time.time()
        if key is None or not key.is_valid(now):
            self._known.discard(digest)
            gone = "is not known" if key is None else "has been revoked" if key.revoked_at else "has expired"
            raise self.failed(request, f"the API key {gone}")
        request[KEY_HASH] = digest
        address, trace_id = request.remote or "", request[TRACE]
        self._succeeded(key, digest, address, now, trace_id)
        return Caller(key.user_id, key.role, key.id, address, trace_id)

    def _check_patience(self, request: web.Request) -> None:
        """Raises RateLimited while too many failures came from this address, before anybody is asked about the key."""
        standing = self._rates.look(owner_of(request.remote or ""), time.monotonic())
        if standing.retry_after_s:
            self._note(request, "too many failures")
            raise _too_many(standing.retry_after_s)

    def failed(self, request: web.Request, why: str, said: str = "") -> FetchmlError:
        """Note that somebody was not let in, and say so. `said`: to the client, where it is more than `why`."""
        standing = self._rates.take(owner_of(request.remote or ""), time.monotonic())
        self._note(request, why)
        return _too_many(standing.retry_after_s) if standing.retry_after_s else Unauthorized(said or why)

    def _note(self, request: web.Request, why: str) -> None:
        metadata = {
            "method": request.method[:32],
            "path": recorded_path(request),
            "trace_id": request[TRACE],
        }
        self.failures.note(
            Fact(
                event_type="auth_attempt",
                action="auth.failure",
                resource="api",
                success=False,
                ip_address=request.remote or "",
                error=why,
                metadata=metadata,
                at_us=time.time_ns() // 1000,
            )
        )

    def _succeeded(self, key: Key, digest: str, address: str, now: float, trace_id: str) -> None:
        if (hour := int(now // 3600)) != self._hour or len(self._noted) >= LOGINS_REMEMBERED_MAX:
            self._hour = hour
            self._noted.clear()  # forgetting early only means noting some of them once more
            self._known.clear()
        self._known.add(digest)
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


def _too_many(retry_after_s: int) -> RateLimited:
    return RateLimited("too many requests without a valid API key came from this address").passing(retry_after_s)
