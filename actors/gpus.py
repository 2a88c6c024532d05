"""The agent's side of its node's GPUs: what is offered, what a heartbeat says of them, and what an attempt left on them.

`fetchmld.gpus` asks the driver. Nothing here waits for it on the agent's loop.
"""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any, Final

from fetchmld.config import Config
from fetchmld.core.model import Gpu, GpuUse
from fetchmld.gpus import nvml
from fetchmld.gpus.inventory import Device, devices, numbered
from fetchmld.gpus.watch import GpuWatch

log = logging.getLogger(__name__)

USE_EVERY_S: Final = 5.0
CHECK_S: Final = 5.0  # longest that the end of an attempt waits for a word about its GPUs


class NodeGpus:
    """`find` them once, `start` to watch them, `close`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._watch: GpuWatch | None = None
        self._said: dict[str, GpuUse] = {}
        self._said_at = float("-inf")
        self.source = ""  # where what we know comes from, for the worker's record

    def find(self) -> tuple[Gpu, ...]:
        """The GPUs on offer. Declared ones are the first of those found; where fewer are found they are names only.

        A GPU that is a name only has its index as uuid: enough for tests, and for accelerators that NVML does not know.
        """
        library, self.source = nvml.opened(self._config.nvml_library)
        found = [] if library is None else self._found(library)
        count, kind = self._config.num_gpus, self._config.gpu_type
        if count is not None and count > len(found):
            self.source = f"declared: names for {count} GPUs, of which nothing is known"
            return tuple(Gpu(index, kind or "GPU", str(index)) for index in range(count))
        offered = found if count is None else found[:count]
        if kind and count is not None:
            offered = [replace(device, gpu=replace(device.gpu, type=kind)) for device in offered]
        if offered:
            self._watch = GpuWatch(library, offered)
        return tuple(device.gpu for device in offered)

    def _found(self, library: Any) -> list[Device]:
        from pynvml import NVMLError

        try:
            return numbered(devices(library), self._config.paths.node_dir / "gpus.json")
        except NVMLError as error:
            log.error("node.gpus_unreadable error=%s", error)
            return []

    def start(self) -> None:
        if self._watch is not None:
            self._watch.start()

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    # -- what is said of them

    def detail(self) -> dict[str, str]:
        return {"gpus": self.source} if self.source else {}

    def faults(self) -> dict[str, str]:
        return {} if self._watch is None else self._watch.faults()

    def news(self) -> dict[str, Any]:
        """What a heartbeat adds: faults at once, use every few seconds where it changed; mostly nothing."""
        if self._watch is None:
            return {}
        out: dict[str, Any] = {}
        if faults := self._watch.faults():
            out["gpu_faults"] = faults
        if time.monotonic() - self._said_at >= USE_EVERY_S:
            self._said_at, use = time.monotonic(), self._watch.use()
            if use != self._said:
                self._said = out["gpu_use"] = use
        return out

    def greeted(self) -> None:
        """Whoever hears us now may know nothing yet."""
        self._said, self._said_at = {}, float("-inf")

    # -- the end of an attempt

    @property
    def are_watched(self) -> bool:
        return self._watch is not None

    async def after(self, uuids: list[str]) -> str:
        """Look at all of them now; what is left in use on those of the attempt that is over, in words."""
        assert self._watch is not None
        looking = asyncio.create_task(asyncio.to_thread(self._watch.left_on, uuids))
        done, _ = await asyncio.wait([looking], timeout=CHECK_S)  # a thread in the driver cannot be called back
        if not done:
            return "its GPUs could not be looked at: the driver does not answer"
        left = looking.result()
        for what in left:
            log.error("gpu.memory_left what=%s", what)
        return "".join(f"left behind: {what}" for what in left[:1])
