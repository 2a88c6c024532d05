"""Which names this server answers to (Host), and whose pages may ask it (Origin). Both lists are exact.

A browser can be led here by somebody else's page, under a name of theirs that resolves to us; what it then says about
itself gives it away. Programs that are no browser send no Origin and are not concerned.
"""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from fetchmld.core.errors import BadRequest, Forbidden, Misdirected

_QUOTED_MAX: Final = 80
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_WILDCARDS: Final = frozenset({"0.0.0.0", "::", ""})


class Doors:
    """The lists of one server. `names` come with or without a port; without one, any port will do (tunnels have others)."""

    def __init__(self, names: Iterable[str], origins: Iterable[str]) -> None:
        own = {*_LOOPBACK, socket.gethostname(), *names} - _WILDCARDS
        self._names = frozenset(name.lower() for name in own)
        self._origins = frozenset(origin.lower() for origin in origins)

    def check(self, request: web.BaseRequest) -> None:
        """Raises BadRequest, Misdirected or Forbidden where the request came under another name or from another's page."""
        hosts = request.headers.getall("Host", ())
        if len(hosts) != 1:
            if hosts or request.version >= (1, 1):
                raise BadRequest(f"a request has one Host header; this one has {len(hosts)}")
            host = ""  # HTTP/1.0, as some probes speak it
        else:
            host = hosts[0].lower()
            if host not in self._names and not self._is_ours(host, request):
                raise Misdirected(
                    f"Host {host[:_QUOTED_MAX]!r} is not a name of this server; the setting allowed_hosts adds names"
                )
        if "Origin" in request.headers:
            self._check_origin(request, host)

    def _is_ours(self, host: str, request: web.BaseRequest) -> bool:
        name = bare_name(host)
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address == own_address(request)  # nobody else can make a name of our address

    def _check_origin(self, request: web.BaseRequest, host: str) -> None:
        origins = request.headers.getall("Origin")
        origin = origins[0].lower()
        if len(origins) == 1 and (origin in self._origins or _is_same(origin, host, request.scheme)):
            return
        raise Forbidden(
            f"Origin {origins[0][:_QUOTED_MAX]!r}: this server is for its own pages only; the setting allowed_origins "
            "adds others"
        )


def bare_name(host: str) -> str:
    """The name in a Host header, without its port, or "" where it is none."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, "0"
    if not port.isdecimal():
        return ""
    if name.startswith("["):
        return name[1:-1] if name.endswith("]") else ""
    return "" if ":" in name else name


def own_address(request: web.BaseRequest) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of ours that the request came to."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    if not name:
        return None
    address = ipaddress.ip_address(name[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_same(origin: str, host: str, scheme: str) -> bool:
    """Is it a page of this very host and port? Where TLS ends before us, its pages are https though we are not."""
    return host != "" and origin in (f"{scheme}://{host}", f"https://{host}")
