"""Small requests to a plugin's server, wherever it listens: `unix:PATH`, `tcp:PORT` on loopback, or an http(s) address.

An address of somebody else's is looked at when the socket is made for it, after the name was resolved: what leads to a
loopback or private address is refused, unless that is allowed, and redirects are not followed.
"""

import asyncio
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from fetchmld.plugins.protocol import CallFailed
from fetchmld.store.datasets import is_public

CALL_TIMEOUT_S: Final = 5.0
PROBE_TIMEOUT_S: Final = 3.0
ANSWER_BYTES_MAX: Final = 2**20
SAID_CHARACTERS_MAX: Final = 500


def connector(endpoint: str, private: bool, open_max: int = 8) -> aiohttp.BaseConnector:
    """What connects to `endpoint`. `private`: may an http(s) one be on loopback or a private address?"""
    if endpoint.startswith("unix:"):
        return aiohttp.UnixConnector(endpoint.removeprefix("unix:"), limit=open_max)
    if endpoint.startswith("tcp:") or private:
        return aiohttp.TCPConnector(limit=open_max)
    return aiohttp.TCPConnector(socket_factory=_public_only, limit=open_max)


def _public_only(info: Any) -> socket.socket:
    family, kind, protocol, _, place = info
    if not is_public(place[0]):
        raise ConnectionRefusedError(f"{place[0]} is not a public address (plugin_private_hosts is off)")
    return socket.socket(family, kind, protocol)


def base_of(endpoint: str) -> str:
    """What a path is put behind."""
    if endpoint.startswith("unix:"):
        return "http://localhost"
    if endpoint.startswith("tcp:"):
        return f"http://127.0.0.1:{endpoint.removeprefix('tcp:')}"
    return endpoint.rstrip("/")


def shown(endpoint: str) -> str:
    """The endpoint without what may be secret in it."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https"):
        return endpoint
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Calls:
    """One server. Close it."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], private: bool) -> None:
        self._base = base_of(endpoint)
        self._session = aiohttp.ClientSession(
            connector=connector(endpoint, private), headers=dict(headers), trust_env=False, auto_decompress=True
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """JSON for JSON; of a GET, `body` are the query's parameters. Raises `CallFailed`."""
        given: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        status, data = await self._ask(method, path, CALL_TIMEOUT_S, given)
        if status >= 300:
            raise CallFailed(f"it answered {status} to {method} {path}: {_said(data)}")
        try:
            return orjson.loads(data) if data else {}
        except ValueError:
            raise CallFailed(f"it answered {method} {path} with what is no JSON: {_said(data)}") from None

    async def probe(self, path: str) -> str:
        """Why it is not well; "" where it is."""
        try:
            status, data = await self._ask("GET", path, PROBE_TIMEOUT_S, {})
        except CallFailed as error:
            return str(error)
        return "" if status == 200 else f"it answered {status} to GET {path}: {_said(data)}"

    async def _ask(self, method: str, path: str, timeout_s: float, given: dict[str, Any]) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                async with self._session.request(method, self._base + path, allow_redirects=False, **given) as answer:
                    data = await answer.content.read(ANSWER_BYTES_MAX)
                    while len(data) < ANSWER_BYTES_MAX and (more := await answer.content.read(ANSWER_BYTES_MAX)):
                        data += more
                    return answer.status, data
        except TimeoutError:
            raise CallFailed(f"no answer to {method} {path} within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(f"{method} {path}: {str(error) or type(error).__name__}") from None


def _said(data: bytes) -> str:
    text = data[: 4 * SAID_CHARACTERS_MAX].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in text)[:SAID_CHARACTERS_MAX]
