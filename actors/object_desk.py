"""The head's content as machines that joined see it: `api.head.Objects` over all stores that are named by hash."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final

from fetchmld.core.errors import NotFound
from fetchmld.store.code import CodeStore
from fetchmld.store.content import ContentStore
from fetchmld.store.room import room

PIECE_BYTES: Final = 2**18


class ObjectDesk:
    """`store` takes what comes; `code` is read only."""

    def __init__(self, store: ContentStore, code: CodeStore) -> None:
        self._store = store
        self._places: tuple[Callable[[str], Path], ...] = (store.path, code.blob_path, code.manifest_path)

    async def size(self, digest: str) -> int:
        return (await asyncio.to_thread(self._find, digest)).stat().st_size

    async def pieces(self, digest: str) -> AsyncIterator[bytes]:
        file: BinaryIO = (await asyncio.to_thread(self._find, digest)).open("rb")
        with file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece

    async def has(self, digest: str) -> bool:
        return await asyncio.to_thread(self._store.renew, digest)

    async def put(self, digest: str, pieces: AsyncIterator[bytes]) -> None:
        self._store.path(digest)
        with room(), self._store.receive() as incoming:
            async for piece in pieces:
                await asyncio.to_thread(incoming.write, piece)
            await asyncio.to_thread(incoming.keep, digest)

    def _find(self, digest: str) -> Path:
        for place in self._places:
            if (path := place(digest)).exists():
                return path
        raise NotFound(f"no object {digest} is stored here")
