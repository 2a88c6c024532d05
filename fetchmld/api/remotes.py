"""Pages of servers that somebody else runs (plugins in mode `remote`): with our credentials there, none of the caller's.

The address was an administrator's, and is looked at once more when the socket is made: see `plugins.calls`.
"""

from typing import Final

import aiohttp
from aiohttp import web
from yarl import URL

from fetchmld.api.context import STREAMS
from fetchmld.api.proxy import body_of, pass_down
from fetchmld.api.proxy_headers import headers_up
from fetchmld.core.errors import BadRequest, Unavailable
from fetchmld.plugins.calls import connector
from fetchmld.upstream import Upstream

REACH_S: Final = 15.0
ANSWER_S: Final = 300.0
OPEN_MAX: Final = 128


class Remotes:
    """One per application; `close` it."""

    def __init__(self, private: bool) -> None:
        """`private`: may they be on loopback and private addresses?"""
        self._private = private
        self._session: aiohttp.ClientSession | None = None

    async def close(self, _app: web.Application) -> None:
        """An `on_cleanup` hook."""
        if self._session is not None:
            await self._session.close()

    async def bring(self, request: web.Request, upstream: Upstream, prefix: str) -> web.StreamResponse:
        """Ask the server what was asked of us below `prefix`. Raises Unavailable."""
        if request.headers.get("Upgrade"):
            raise BadRequest("a remote plugin is spoken to in plain HTTP only")
        headers = headers_up(request, upstream)
        headers.pop("Host", None)
        path = request.raw_path.removeprefix(prefix) or "/"
        url = URL(upstream.endpoint.rstrip("/") + path, encoded=True)
        body = body_of(request) if request.can_read_body else None
        try:
            with request.app[STREAMS].one_more(request):
                async with self._open().request(
                    request.method, url, headers=headers, data=body, allow_redirects=False
                ) as found:
                    return await pass_down(request, found, upstream, prefix)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unavailable(f"the plugin's server does not answer ({type(error).__name__})").passing(2) from None
        except ValueError:  # what is wrong with the address may hold a password
            raise Unavailable(
                "the plugin's address is none that can be asked; an administrator can set another"
            ) from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, connect=REACH_S, sock_read=ANSWER_S)
            self._session = aiohttp.ClientSession(
                connector=connector("https:", self._private, OPEN_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=timeout,
                trust_env=False,
            )
        return self._session
