"""What a machine that joined does when the head wants to speak to a program here: it calls the head, and passes bytes.

So nothing here listens for anybody, and whoever may be spoken to is looked up here: the head names a place, and only those
of servers that this agent started count.
"""

import asyncio
import contextlib
import logging
from typing import Any, Final
from urllib.parse import urlsplit

from fetchmld.core.errors import Unavailable
from fetchmld.endpoint import NotReached, connect
from fetchmld.inner_tls import NAME, context

PIECE_BYTES: Final = 2**17
CALL_S: Final = 10.0
LINES_MAX: Final = 1_000  # at a time
HEAD_BYTES_MAX: Final = 2**14

log = logging.getLogger(__name__)


class Tunnels:
    """`head_url` and `key`: of the head's API, as machines use it; `certificate`: how it is known (see `inner_tls`)."""

    def __init__(self, head_url: str, key: str, certificate: str = "") -> None:
        self._url = urlsplit(head_url)
        self._key = key
        self._certificate = certificate
        self._lines: set[asyncio.Task[None]] = set()

    async def call(self, ticket: str, endpoint: str, uid: int) -> None:
        """Connect the two; returns once both answer. Raises Unavailable."""
        if len(self._lines) >= LINES_MAX:
            raise Unavailable(f"{LINES_MAX} lines to the head are open, which is the limit")
        try:
            async with asyncio.timeout(CALL_S):
                near = await asyncio.open_connection(sock=await connect(endpoint, uid), limit=PIECE_BYTES)
                try:
                    far = await self._dial(ticket)
                except BaseException:
                    near[1].close()
                    raise
        except TimeoutError:
            raise Unavailable(f"the head did not answer within {CALL_S:g} s") from None
        except (NotReached, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Unavailable(f"no line could be made: {error}") from None
        line = asyncio.create_task(_pass(near, far))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)

    async def _dial(self, ticket: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self._url.hostname is not None
        is_tls = self._url.scheme == "https"
        port = self._url.port or (443 if is_tls else 80)
        tls: dict[str, Any] = {"ssl": context(self._certificate), "server_hostname": NAME} if is_tls else {}
        reader, writer = await asyncio.open_connection(self._url.hostname, port, limit=PIECE_BYTES, **tls)
        lines = (
            f"GET /v1/tunnels/{ticket} HTTP/1.1",
            f"Host: {self._url.netloc}",
            f"X-API-Key: {self._key}",
            "Connection: Upgrade",
            "Upgrade: fetchml-tunnel",
        )
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionRefusedError(f"the head said {head[:64].split(bytes(2))[0]!r}")
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def close(self) -> None:
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _pass(one: Stream, other: Stream) -> None:
    """Bytes both ways, until either side ends."""
    ways = [asyncio.create_task(_copy(one[0], other[1])), asyncio.create_task(_copy(other[0], one[1]))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for _, writer in (one, other):
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
        await writer.drain()
