"""What is left of an attempt that has ended: its output, its container, memory on its GPUs."""

import asyncio
import errno
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from actors import containers
from actors.gpus import NodeGpus
from actors.preparing import Preparer
from actors.runner_words import name_of
from actors.workspace import Workspace
from actors.workspaces import Workspaces
from fetchmld.core.agent import Collected, RunKey
from fetchmld.runner.loop import boottime
from fetchmld.store.artifacts import Kept, keep_tree
from fetchmld.store.content import ContentStore
from fetchmld.store.remote_content import Refused, RemoteContent
from fetchmld.store.room import FULL

log = logging.getLogger(__name__)

COLLECTS_MAX: Final = 2  # at once: they read and sync much
SHOWN_MAX: Final = 5  # paths that are named
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 30.0
GIVE_UP_S: Final = 1800.0  # a full disk, or a head that is away, is a pause


class Collector:
    """Collects one attempt after the other, a few at a time. `say_faults`: let the scheduler hear of GPUs at once."""

    def __init__(
        self,
        workspaces: Workspaces,
        objects: ContentStore | RemoteContent,
        gpus: NodeGpus,
        preparer: Preparer,
        say_faults: Callable[[], None],
        files_max: int,
        bytes_max: int,
    ) -> None:
        """`files_max`, `bytes_max`: what is kept of one attempt's output."""
        self._workspaces = workspaces
        self._objects = objects
        self._gpus = gpus
        self._preparer = preparer
        self._say_faults = say_faults
        self._files_max = files_max
        self._bytes_max = bytes_max
        self._files = ThreadPoolExecutor(COLLECTS_MAX, "files")

    def has_nothing(self, key: RunKey, rank: int) -> bool:
        """Whether there is nothing to look at, so that its end can be told at once."""
        return not (self._may_have_gpus(key) or self._workspaces.of(name_of(key, rank)).has_leavings())

    async def collect(self, key: RunKey, rank: int) -> Collected:
        name = name_of(key, rank)
        workspace = self._workspaces.of(name)
        loop = asyncio.get_running_loop()
        if workspace.is_container:
            await loop.run_in_executor(self._files, containers.remove, self._preparer.containers, name)
        left = await self._check_gpus(key)
        if not workspace.has_output():
            return Collected(key, None, left)
        try:
            kept = await self._put_patiently(key, workspace)
        except OSError as error:
            log.error("agent.collect_failed task_id=%s attempt=%d error=%s", *key, error)
            return Collected(key, None, f"its output could not be collected: {error}")
        return Collected(key, kept.artifacts, "; ".join(filter(None, (_left_out(kept), left))))

    def close(self) -> None:
        self._files.shutdown()

    async def _put_patiently(self, key: RunKey, workspace: Workspace) -> Kept:
        """Try again while the disk is full or the head is away. What was stored is not stored twice."""
        loop, pause_s, give_up_t = asyncio.get_running_loop(), RETRY_FIRST_S, boottime() + GIVE_UP_S
        while True:
            try:
                return await loop.run_in_executor(self._files, self._put_output, workspace)
            except OSError as error:
                if not _may_pass(error) or boottime() + pause_s > give_up_t:
                    raise
                log.warning("agent.collect_again task_id=%s attempt=%d error=%s", *key, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    def _put_output(self, workspace: Workspace) -> Kept:
        return keep_tree(self._objects, Path(workspace.output), self._files_max, self._bytes_max, workspace.uid)

    def _may_have_gpus(self, key: RunKey) -> bool:
        """Whether the attempt may have used GPUs that we can look at: an earlier agent's may."""
        return self._gpus.are_watched and self._preparer.gpus_of(key) != []

    async def _check_gpus(self, key: RunKey) -> str:
        """What is wrong with the attempt's GPUs is said before its end is; what is left in use there, with it."""
        if not self._may_have_gpus(key):
            return ""
        left = await self._gpus.after(self._preparer.gpus_of(key) or [])
        if self._gpus.faults():
            self._say_faults()
        return left


def _left_out(kept: Kept) -> str:
    if not kept.left_out_count:
        return ""
    paths = ", ".join(kept.left_out[:SHOWN_MAX]) + (", ..." if kept.left_out_count > SHOWN_MAX else "")
    return f"{kept.left_out_count} paths of the output were left out: {paths}"


def _may_pass(error: OSError) -> bool:
    """Is it the disk that is full, or the head that does not answer? Its other refusals, and a broken disk, stay."""
    return not isinstance(error, Refused) and error.errno in (None, *FULL, errno.ECONNREFUSED, errno.ECONNRESET)
