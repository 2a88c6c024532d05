"""Fetches datasets for tasks that are not placed yet, and keeps them from being removed until their attempts come.

How a fetch ends is nobody's decision here: the task becomes ready either way, and its attempt finds out for itself.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from fetchmld.core.model import DatasetSpec
from fetchmld.store.dataset_cache import Dataset
from fetchmld.store.datasets import DatasetError, DatasetStore

log = logging.getLogger(__name__)

KEEP_S: Final = 600.0  # for the attempt to come


class Stager:
    """`tell(task_id, said, is_over)`: let the scheduler hear how far it is."""

    def __init__(self, datasets: DatasetStore, tell: Callable[[str, str, bool], None]) -> None:
        self._datasets = datasets
        self._tell = tell
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._kept: dict[str, list[Dataset]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def stage(self, task_id: str, specs: list[DatasetSpec]) -> None:
        """Begin; what is under way goes on, and what is there is said again."""
        if task_id in self._kept:
            self._tell(task_id, "", True)
        elif task_id not in self._fetching:
            fetching = self._fetching[task_id] = asyncio.create_task(self._fetch(task_id, specs))
            fetching.add_done_callback(lambda task: self._broke(task_id, task))

    def drop(self, task_id: str) -> None:
        """The task does not need them any more, or has them."""
        if (fetching := self._fetching.pop(task_id, None)) is not None:
            fetching.cancel()
        if (timer := self._timers.pop(task_id, None)) is not None:
            timer.cancel()
        for dataset in self._kept.pop(task_id, ()):
            self._datasets.let_go(dataset)

    async def close(self) -> None:
        """Give up what is being fetched."""
        fetching = list(self._fetching.values())
        for task_id in {*self._fetching, *self._kept}:
            self.drop(task_id)
        for task in fetching:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _broke(self, task_id: str, fetching: asyncio.Task[None]) -> None:
        """A mistake of ours keeps no task waiting."""
        if not fetching.cancelled() and (error := fetching.exception()) is not None:
            log.error("staging.broke task_id=%s", task_id, exc_info=error)
            self._fetching.pop(task_id, None)
            self._tell(task_id, "", True)

    async def _fetch(self, task_id: str, specs: list[DatasetSpec]) -> None:
        kept: list[Dataset] = []
        try:
            for spec in specs:
                kept.append(await self._datasets.get(spec, lambda line: self._tell(task_id, line, False)))
        except DatasetError as error:
            log.warning("staging.failed task_id=%s error=%s", task_id, error)
        except BaseException:
            for dataset in kept:
                self._datasets.let_go(dataset)
            raise
        self._kept[task_id] = kept
        self._timers[task_id] = asyncio.get_running_loop().call_later(KEEP_S, self.drop, task_id)
        self._fetching.pop(task_id, None)
        self._tell(task_id, "", True)
