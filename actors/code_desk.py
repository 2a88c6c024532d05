"""Snapshots of code as the API asks for them: `api.head.Code` over the store's files and the scheduler's record.

What takes a disk's time is done in threads. A snapshot is on record before it is there: what a crash leaves between the
two is a fact without a snapshot, of which nobody was told.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import BinaryIO, Final, Protocol

from fetchmld.core.errors import Internal, NotFound
from fetchmld.core.messages import Fact
from fetchmld.core.model import UserId
from fetchmld.manifest import CodeManifest, CodeSnapshot
from fetchmld.store.code import CodeStore

PIECE_BYTES: Final = 2**18


class Asking(Protocol):
    """Who asks, as far as it matters here."""

    @property
    def user_id(self) -> UserId: ...
    @property
    def ip_address(self) -> str: ...
    @property
    def trace_id(self) -> str: ...


class CodeDesk:
    """`record` puts a fact on record and returns once it is durable."""

    def __init__(self, store: CodeStore, record: Callable[[Fact], Awaitable[object]]) -> None:
        self._store = store
        self._record = record

    async def open(self) -> None:
        """Before anything else is asked."""
        await asyncio.to_thread(self._store.discard_unfinished)

    async def missing(self, caller: Asking, hashes: list[str]) -> list[str]:
        return await asyncio.to_thread(self._store.missing, caller.user_id, hashes)

    async def put_blob(self, caller: Asking, digest: str, chunks: AsyncIterator[bytes]) -> None:
        with self._store.receive() as incoming:
            async for chunk in chunks:
                await asyncio.to_thread(incoming.write, chunk)
            await asyncio.to_thread(self._store.accept, caller.user_id, digest, incoming)

    async def blob(self, caller: Asking, digest: str) -> tuple[int, AsyncIterator[bytes]]:
        file = await asyncio.to_thread(self._store.open_for, caller.user_id, digest)
        return os.fstat(file.fileno()).st_size, _pieces(file)

    async def keep(self, caller: Asking, manifest: CodeManifest) -> CodeSnapshot:
        snapshot_id = await asyncio.to_thread(self._store.check, caller.user_id, manifest)
        found = self._store.find(caller.user_id, snapshot_id)
        if found is not None:
            return found
        about: dict[str, object] = {name: manifest[name] for name in ("commit", "diff", "remote") if name in manifest}
        await self._record(_fact(caller, "snapshot.write", snapshot_id, {"files": len(manifest["files"]), **about}))
        return await asyncio.to_thread(self._store.keep, caller.user_id, manifest)

    async def read(self, caller: Asking, snapshot_id: str) -> tuple[CodeSnapshot, CodeManifest]:
        found = self._store.find(caller.user_id, snapshot_id)
        if found is None:
            raise NotFound(f"there is no snapshot {snapshot_id[:80]!r}")
        try:
            manifest = await asyncio.to_thread(self._store.manifest, snapshot_id)
        except NotFound:
            raise Internal(f"the manifest of snapshot {snapshot_id} is gone") from None
        await self._record(_fact(caller, "snapshot.read", snapshot_id, {"files": len(manifest["files"])}))
        return found, manifest

    async def owned(self, caller: Asking) -> list[CodeSnapshot]:
        return await asyncio.to_thread(self._store.owned, caller.user_id)

    async def has(self, caller: Asking, snapshot_id: str) -> bool:
        return self._store.find(caller.user_id, snapshot_id) is not None


def _fact(caller: Asking, action: str, snapshot_id: str, metadata: dict[str, object]) -> Fact:
    fact = Fact("file_access", action, snapshot_id, caller.user_id, ip_address=caller.ip_address)
    fact.metadata = {**metadata, "trace_id": caller.trace_id}
    return fact


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece
