"""Headers on their way through the proxy: which pass, which are ours alone, and where cookies and redirects may lead.

Knows no connection; everything here is a function of a request, an answer's headers and an upstream.
"""

from collections.abc import Iterator
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from fetchmld.api.browser import COOKIES
from fetchmld.api.context import TRACE
from fetchmld.upstream import Upstream

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OURS: Final = frozenset({"x-api-key", "cookie", "expect", "forwarded"})
_KEY_WORDS: Final = ("fml_", "fmt_")  # what our own secrets begin with
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1"})
_ROOT_LEADERS: Final = frozenset({"location", "content-location"})


def headers_up(request: web.Request, upstream: Upstream) -> CIMultiDict[str]:
    """What goes to the upstream: all but what concerns one hop, and what is ours."""
    left_out = _HOP_BY_HOP | _OURS | _named(request.headers.get("Connection", ""))
    left_out |= {name.lower() for name in upstream.headers}
    out: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        low = name.lower()
        if low not in left_out and not low.startswith("x-forwarded-") and (passed := _value_up(low, value)):
            out.add(name, passed)
    if cookies := "; ".join(_foreign_cookies(request)):
        out["Cookie"] = cookies
    out["X-Forwarded-For"], out["X-Forwarded-Proto"] = request.remote or "", request.scheme
    out["X-Forwarded-Host"] = request.host
    for name, value in upstream.headers.items():
        out[name] = value
    return out


def _named(connection: str) -> frozenset[str]:
    """Headers that a Connection header says concern this hop alone."""
    return frozenset(name.strip().lower() for name in connection.split(","))


def _value_up(name: str, value: str) -> str | None:
    """The value without what is for us; None where nothing is left of it."""
    if name == "authorization" and any(word in value for word in _KEY_WORDS):
        return None
    if name == "sec-websocket-protocol":
        return ", ".join(one.strip() for one in value.split(",") if not one.strip().startswith("fetchml.")) or None
    return value


def _foreign_cookies(request: web.Request) -> Iterator[str]:
    """The client's cookies without ours, as they were written."""
    for header in request.headers.getall("Cookie", ()):
        for one in header.split(";"):
            if (one := one.strip()) and one.partition("=")[0].strip() not in COOKIES.values():
                yield one


def headers_down(
    request: web.Request, found: CIMultiDictProxy[str] | CIMultiDict[str], upstream: Upstream, prefix: str
) -> CIMultiDict[str]:
    """What goes to the client: all but what concerns one hop; cookies and redirects stay below `prefix`."""
    left_out = _HOP_BY_HOP | _named(found.get("Connection", ""))
    out: CIMultiDict[str] = CIMultiDict()
    for name, value in found.items():
        low = name.lower()
        if low in left_out:
            continue
        if low == "set-cookie":
            if (cookie := _scoped(value, prefix)) is not None:
                out.add(name, cookie)
        else:
            out.add(name, _led(request, value, upstream, prefix) if low in _ROOT_LEADERS else value)
    out["X-Trace-Id"] = request[TRACE]  # and no headers of ours beyond it: what the page needs, it says itself
    return out


def _scoped(cookie: str, prefix: str) -> str | None:
    """A cookie that no other page of ours gets; None for one that passes for ours, or cannot be read."""
    first, *attributes = [part.strip() for part in cookie.split(";")]
    try:
        SimpleCookie(first)
    except CookieError:
        return None
    if first.partition("=")[0].strip() in COOKIES.values():
        return None
    kept = [one for one in attributes if one.partition("=")[0].strip().lower() not in ("path", "domain")]
    asked = next((one.partition("=")[2].strip() for one in attributes if one.lower().startswith("path=")), "")
    path = asked if asked == prefix or asked.startswith(f"{prefix}/") else f"{prefix}/"
    return "; ".join([first, *kept, f"Path={path}"])


def _led(request: web.Request, location: str, upstream: Upstream, prefix: str) -> str:
    """Where a redirect leads, as the client has to be told."""
    parts = urlsplit(location)
    if parts.netloc and (parts.netloc == request.host or parts.hostname in _LOOPBACK):
        location = parts._replace(scheme="", netloc="").geturl()
    elif parts.netloc or parts.scheme:
        return location
    if location.startswith("/") and not upstream.keeps_prefix:
        return prefix + location
    return location
