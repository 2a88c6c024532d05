"""What browsers bring instead of a key: a session's cookie, good only for requests that our own pages make.

The cookie goes with every request to our host, also those that other pages on it make (other ports are the same site to a
browser). So whatever changes something, and every WebSocket, has to say that it comes from our own page. Pages of services
(Jupyter, plugins) run the code of notebooks: where the settings give them an address of their own, they have sessions of
their own, which the API does not take.
"""

import time
from typing import Final
from urllib.parse import quote, urlsplit

from aiohttp import web

from fetchmld.api.context import CONFIG, HEAD, KEY_HASH
from fetchmld.api.head import Reach
from fetchmld.core.errors import Forbidden, NotFound

COOKIES: Final[dict[Reach, str]] = {"console": "fetchml_session", "services": "fetchml_services"}
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_AT_SERVICES: Final = frozenset({"enterByTicket", "seeJupyter", "seePlugin"})


def session_digest(request: web.Request) -> str | None:
    """The SHA-256 of the key that the request's session stands for; None without a session. Raises Forbidden."""
    value = session_value(request)
    found = request.app[HEAD].sessions.find(value, reach_of(request)) if value else None
    if found is None:
        return None
    if request.method not in _SAFE or "Upgrade" in request.headers:
        check_origin(request, is_needed=True)
    return found.key_sha256


def session_value(request: web.Request) -> str:
    """What the browser sent as its session, "" for nothing."""
    return request.cookies.get(COOKIES[reach_of(request)], "") if "Cookie" in request.headers else ""


def reach_of(request: web.Request) -> Reach:
    """Was this sent to the address that the pages of services have to themselves?"""
    config = request.app[CONFIG]
    if config.services_url and request.host.lower() == urlsplit(config.services_url).netloc.lower():
        return "services"
    if config.services_port and request.transport is not None:
        name = request.transport.get_extra_info("sockname")
        if isinstance(name, tuple) and name[1] == config.services_port:
            return "services"
    return "console"


def services_url(request: web.Request) -> str:
    """Where the pages of services are, without a slash at the end; "" where they have no address of their own."""
    config = request.app[CONFIG]
    if config.services_url:
        return config.services_url.rstrip("/")
    if config.services_port:
        host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
        return f"{request.scheme}://{host}:{config.services_port}"
    return ""


def to_services(request: web.Request) -> web.Response | None:
    """Where these pages have an address of their own, send a browser's session there, by a ticket. Raises Forbidden."""
    if not (base := services_url(request)) or reach_of(request) == "services" or "X-API-Key" in request.headers:
        return None
    if request.method not in _SAFE or "Upgrade" in request.headers:
        raise Forbidden(f"with a browser's session this is at {base} only")
    ticket, _ = request.app[HEAD].sessions.issue(request[KEY_HASH], "services")
    return web.Response(status=303, headers={"Location": f"{base}/sessions/{ticket}?to={quote(request.raw_path)}"})


def check_place(request: web.Request, operation_id: str) -> None:
    """At the address of services' pages there is nothing else. Raises NotFound."""
    if operation_id not in _AT_SERVICES and reach_of(request) == "services":
        raise NotFound("only the pages of services are here")


def check_origin(request: web.Request, *, is_needed: bool) -> None:
    """A browser says which page asks: only our own may. Raises Forbidden."""
    origin = request.headers.get("Origin")
    if origin is None and not is_needed:
        return
    if origin is None or urlsplit(origin).netloc.lower() != request.host.lower():
        said = "none" if origin is None else repr(origin[:128])
        raise Forbidden(f"Origin {said}: with a browser's session this is for pages of {request.host[:128]!r} only")


def set_session(request: web.Request, answer: web.StreamResponse, value: str, expires_at: float) -> None:
    """Have the browser keep its session: unseen by scripts, never sent from other sites' pages."""
    answer.set_cookie(
        COOKIES[reach_of(request)],
        value,
        max_age=max(0, int(expires_at - time.time())),
        path="/",
        secure=request.secure,
        httponly=True,
        samesite="Strict",
    )


def forget_session(request: web.Request, answer: web.StreamResponse) -> None:
    answer.del_cookie(COOKIES[reach_of(request)], path="/", secure=request.secure, httponly=True, samesite="Strict")
