"""The connections of a server: how many there may be of one address or key, and which are held by a slow client.

aiohttp waits for ever for a header, for a body and for a reader. Here a watch looks at every connection once a second and
counts how many looks in a row it has made no progress. It counts looks and reads no clock, so that a server that itself
stood still blames nobody for it.
"""

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final, Protocol

from aiohttp import web

LOOK_S: Final = 1.0
PROGRESS_BYTES: Final = 1024  # less than that within `stalled_s` is none
FILES_SPARED: Final = 256  # descriptors left for everything that is no connection


@dataclass(slots=True, frozen=True)
class Limits:
    """How many connections, and how many seconds without progress."""

    unauthenticated_max: int
    per_key_max: int
    header_s: float
    stalled_s: float


class Watched(Protocol):
    """One connection, as the watch sees it."""

    owner: str  # an address, until a key has come with a request

    def look(self, limits: Limits) -> None:
        """One second is over: end the connection if it made no progress for too many of them."""


class Connections:
    """All connections of one server, by whom they belong to."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._all: set[Watched] = set()
        self._counts: Counter[str] = Counter()
        self._total_max = max(FILES_SPARED, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_SPARED)

    def __len__(self) -> int:
        return len(self._all)

    def of(self, owner: str) -> int:
        """How many belong to `owner`."""
        return self._counts[owner]

    def add(self, connection: Watched) -> bool:
        """Take in one that has just been made; False where there are too many already."""
        if len(self._all) >= self._total_max or self._counts[connection.owner] >= self.limits.unauthenticated_max:
            return False
        self._all.add(connection)
        self._counts[connection.owner] += 1
        return True

    def give(self, connection: Watched, key_id: str, is_limited: bool = True) -> bool:
        """It belongs to a key from now on; False where that has too many already."""
        owner = f"key:{key_id}"
        if connection.owner == owner or connection not in self._all:
            return True
        if is_limited and self._counts[owner] >= self.limits.per_key_max:
            return False
        self._leave(connection.owner)
        connection.owner = owner
        self._counts[owner] += 1
        return True

    def remove(self, connection: Watched) -> None:
        """It is no more."""
        if connection in self._all:
            self._all.remove(connection)
            self._leave(connection.owner)

    def _leave(self, owner: str) -> None:
        self._counts[owner] -= 1
        if self._counts[owner] <= 0:
            del self._counts[owner]

    async def watching(self, _app: web.Application) -> AsyncIterator[None]:
        """Looks at all of them once a second while the server runs (a `cleanup_ctx`)."""
        watch = asyncio.create_task(self._watch())
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for connection in tuple(self._all):
                connection.look(self.limits)


def owner_of(address: str) -> str:
    """Whom an address belongs to: an IPv6 network of 64 bits is one customer's."""
    with suppress(ValueError):
        found = ip_address(address.partition("%")[0])
        if isinstance(found, IPv6Address):
            if found.ipv4_mapped is not None:
                return str(found.ipv4_mapped)
            return f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return address
