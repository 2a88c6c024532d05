"""Brings what attempts append to followed files to the plugin that shows them, while they run.

What grows is read through descriptors that follow no link, as the attempt's own user owns it. Best effort: what is missed
here (our own death, a plugin that was away) the plugin takes from the task's artifacts at the end.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, Final

from actors.attaching import Followed, client_of
from fetchmld.channel import Client
from fetchmld.core.agent import RunKey
from fetchmld.core.errors import FetchmlError
from fetchmld.store.artifacts import Kept, regular_files

log = logging.getLogger(__name__)

EVERY_S: Final = 2.0
PIECE_BYTES_MAX: Final = 2**20
PIECES_MAX: Final = 16  # of all files of one attempt in one turn: 8 MiB/s
ASK_S: Final = 10.0
ATTEMPTS_MAX: Final = 500  # followed at a time on one node


class Followers:
    """One per agent."""

    def __init__(self, run_dir: Path, is_remote: bool) -> None:
        self._run_dir = run_dir
        self._is_remote = is_remote
        self._tasks: dict[RunKey, asyncio.Task[None]] = {}

    def begin(self, key: RunKey, rank: int, followed: tuple[Followed, ...], uid: int) -> None:
        if followed and key not in self._tasks and len(self._tasks) < ATTEMPTS_MAX:
            self._tasks[key] = asyncio.create_task(self._follow_all(rank, followed, uid))

    def end(self, key: RunKey) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for key in list(self._tasks):
            self.end(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_all(self, rank: int, followed: tuple[Followed, ...], uid: int) -> None:
        async with asyncio.TaskGroup() as group:
            for one in followed:
                group.create_task(self._follow(rank, one, uid))

    async def _follow(self, rank: int, followed: Followed, uid: int) -> None:
        client = client_of(self._run_dir, followed.plugin, self._is_remote)
        await client.start()
        try:
            while True:
                try:
                    await self._bring(client, rank, followed, uid)
                except (FetchmlError, OSError) as error:
                    log.debug("plugin.not_followed", extra={"plugin": followed.plugin, "reason": str(error)})
                await asyncio.sleep(EVERY_S)
        finally:
            await client.close()

    async def _bring(self, client: Client, rank: int, followed: Followed, uid: int) -> None:
        grown = await asyncio.to_thread(_sizes, Path(followed.directory), uid)
        if not grown:
            return
        there = (await client.request("files.sizes", {"run_id": followed.run_id}, timeout_s=ASK_S)).body
        for _ in range(PIECES_MAX):
            behind = next((path for path, size in grown.items() if size > there.get(_shown(rank, path), 0)), None)
            if behind is None:
                return
            shown = _shown(rank, behind)
            offset = there.get(shown, 0)
            piece = await asyncio.to_thread(_piece, Path(followed.directory), behind, offset, uid)
            if not piece:
                return
            body: dict[str, Any] = {"run_id": followed.run_id, "path": shown, "offset": offset}
            there[shown] = (await client.request("files.append", body, piece, timeout_s=ASK_S)).body


def _shown(rank: int, path: str) -> str:
    """Ranks other than the first write beside it."""
    return path if rank == 0 else f"rank{rank}/{path}"


def _sizes(directory: Path, uid: int) -> dict[str, int]:
    """The attempt's own files there, in the order of their names."""
    found = {}
    for path, fd in regular_files(directory, Kept()):
        status = os.fstat(fd)
        os.close(fd)
        if uid < 0 or status.st_uid == uid:
            found[path] = status.st_size
    return found


def _piece(directory: Path, wanted: str, offset: int, uid: int) -> bytes:
    for path, fd in regular_files(directory, Kept()):
        try:
            if path == wanted and (uid < 0 or os.fstat(fd).st_uid == uid):
                return os.pread(fd, PIECE_BYTES_MAX, offset)
        finally:
            os.close(fd)
    return b""
