"""The asynchronous client: the same methods, awaited."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fetchmld.client.client import RETRY_S, TIMEOUT_S, Client, given_key, given_place
from fetchmld.client.concurrent import ConcurrentTransport
from fetchmld.client.line import Line
from fetchmld.client.methods import Concurrent
from fetchmld.client.table import Methods

if TYPE_CHECKING:
    from fetchmld.client.shapes import Snapshot

T = TypeVar("T")


class AsyncClient(Methods, Concurrent):
    """A daemon, as one event loop sees it: every method of `Client`, with the same arguments, is awaited here; what is
    iterated over there is iterated over with `async for`.

        async with AsyncClient() as client:
            task = await client.submit({"job_name": "hello", "entrypoint": "/bin/echo"})
            async for line in client.lines(task["id"], follow=True): ...
    """

    def __init__(
        self,
        address: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        *,
        retry_s: float = RETRY_S,
        ca_file: str | None = None,
        certificate: str = "",
    ) -> None:
        place = given_place(address, ca_file, certificate)
        self.address = place.address
        self._ca_file = ca_file
        self.line = Line(ConcurrentTransport(place), given_key(api_key), timeout_s, retry_s)

    async def push(
        self, directory: str | Path, on_progress: Callable[[int, int], object] = lambda _done, _all: None
    ) -> "Snapshot":
        """As `Client.push`, in a thread: reading and hashing files would block. `on_progress` is called there."""
        return await asyncio.to_thread(self._blocking, lambda client: client.push(directory, on_progress))

    async def pull(self, snapshot_id: str, directory: str | Path) -> "Snapshot":
        """As `Client.pull`, in a thread."""
        return await asyncio.to_thread(self._blocking, lambda client: client.pull(snapshot_id, directory))

    def _blocking(self, work: Callable[[Client], T]) -> T:
        line = self.line
        how = {"retry_s": line.retry_s, "timeout_s": line.timeout_s}
        known = line.transport.place.certificate
        with Client(self.address, line.key, **how, ca_file=self._ca_file, certificate=known) as client:
            return work(client)

    async def close(self) -> None:
        await self.line.transport.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<fetchmld.AsyncClient of {self.address}>"
