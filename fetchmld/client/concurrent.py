"""The asynchronous transport, on aiohttp; imported only where an `AsyncClient` is made."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final

import aiohttp
from yarl import URL

from fetchmld.client.calls import Answer
from fetchmld.client.errors import Lost, TimedOut, Unreachable
from fetchmld.client.transport import CONNECT_TIMEOUT_S, Body, Place, said_of
from fetchmld.inner_tls import NAME

CONNECTIONS_MAX: Final = 100  # at once; further requests wait for one of them


class ConcurrentTransport:
    """A `Transport` for one event loop; its connections are made in the loop that first asks."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, method: str, target: str, headers: Mapping[str, str], body: Body, timeout_s: float) -> Answer:
        limit = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s))
        with self._errors(timeout_s):
            asked = self._opened().request(method, self._url(target), data=body, **self._how(headers, limit))
            async with asked as response:
                return Answer(response.status, _lowered(response), await response.read())

    async def stream(self, target: str, headers: Mapping[str, str], timeout_s: float) -> AsyncGenerator[bytes | Answer]:
        limit = aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s), sock_read=timeout_s)
        with self._errors(timeout_s):
            asked = self._opened().get(self._url(target), **self._how(headers, limit))
            async with asked as response:
                if response.status >= 400:
                    yield Answer(response.status, _lowered(response), await response.read())
                    return
                async for piece in response.content.iter_any():
                    yield piece

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ssl=self.place.tls or True)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    def _how(self, headers: Mapping[str, str], limit: aiohttp.ClientTimeout) -> dict[str, Any]:
        name = {"server_hostname": NAME} if self.place.certificate else {}
        return {"headers": headers, "timeout": limit, "allow_redirects": False, **name}

    def _url(self, target: str) -> URL:
        return URL(self.place.address + target, encoded=True)

    @contextlib.contextmanager
    def _errors(self, timeout_s: float) -> Iterator[None]:
        address = self.place.address
        try:
            yield
        except TimeoutError:
            raise TimedOut(address, timeout_s) from None
        except aiohttp.ClientConnectorCertificateError as error:
            cause = error.certificate_error
            raise Unreachable(address, said_of(cause) if isinstance(cause, OSError) else str(cause)) from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(address, said_of(error.os_error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Lost(address, f"the connection broke ({type(error).__name__})") from None


def _lowered(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
