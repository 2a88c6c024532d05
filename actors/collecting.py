"""What is left of an attempt that has ended: its output, its container, memory on its GPUs."""

import asyncio
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
from fetchmld.store.content import ContentStore, Kept
from fetchmld.store.remote_content import RemoteContent

log = logging.getLogger(__name__)

COLLECTS_MAX: Final = 2  # at once: they read and sync much
SHOWN_MAX: Final = 5  # paths that are named


class Collector:
    """Collects one attempt after the other, a few at a time. `say_faults`: let the scheduler hear of GPUs at once."""

    def __init__(
        self,
        workspaces: Workspaces,
        objects: ContentStore | RemoteContent,
        gpus: NodeGpus,
        preparer: Preparer,
        say_faults: Callable[[], None],
    ) -> None:
        self._workspaces = workspaces
        self._objects = objects
        self._gpus = gpus
        self._preparer = preparer
        self._say_faults = say_faults
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
            kept = await loop.run_in_executor(self._files, self._put_output, workspace)
        except OSError as error:
            log.error("agent.collect_failed task_id=%s attempt=%d error=%s", *key, error)
            return Collected(key, None, f"its output could not be collected: {error}")
        return Collected(key, kept.artifacts, "; ".join(filter(None, (_left_out(kept), left))))

    def close(self) -> None:
        self._files.shutdown()

    def _put_output(self, workspace: Workspace) -> Kept:
        return self._objects.put_tree(Path(workspace.output), owner=workspace.uid)

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
    if not kept.left_out:
        return ""
    paths = ", ".join(kept.left_out[:SHOWN_MAX]) + (", ..." if len(kept.left_out) > SHOWN_MAX else "")
    return f"{len(kept.left_out)} paths of the output were left out: {paths}"
