"""What this machine is and offers: cores, memory, GPUs. Read once, when the agent starts."""

import logging
import os
import platform
import re
import socket
from pathlib import Path
from typing import Any, Final

from fetchmld import __version__
from fetchmld.config import Config
from fetchmld.core.model import Capacity, Gpu

log = logging.getLogger(__name__)

_CGROUP: Final = Path("/sys/fs/cgroup")
_UNLIMITED: Final = 2**60  # cgroup v1 says "no limit" with a number near 2**63


def capacity_of_node(config: Config) -> Capacity:
    """What the settings declare, and what is found where they are silent."""
    cpu = config.num_cpus or cores()
    return Capacity(
        cpu=cpu,
        memory_gb=config.memory_gb or max(1, memory_bytes() // 2**30),
        batch_slots=config.batch_slots or cpu,
        service_slots=config.service_slots,
        gpus=gpus(config.num_gpus, config.gpu_type),
    )


def cores() -> int:
    """Cores that we may use: our affinity, cut by a cgroup's quota."""
    found = len(os.sched_getaffinity(0))
    quota, period = _numbers("cpu.max") or (_number("cpu/cpu.cfs_quota_us"), _number("cpu/cpu.cfs_period_us"))
    return max(1, min(found, quota // period)) if quota > 0 and period > 0 else found


def memory_bytes() -> int:
    """Memory of the machine, cut by a cgroup's limit."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = (_number("memory.max"), _number("memory/memory.limit_in_bytes"))
    return min([found, *(limit for limit in limits if 0 < limit < _UNLIMITED)])


def _number(name: str) -> int:
    """The number in a cgroup file; 0 where there is none, -1 for "max"."""
    try:
        text = (_CGROUP / name).read_text().strip()
    except OSError:
        return 0
    return -1 if text == "max" else int(text or 0)


def _numbers(name: str) -> tuple[int, int] | None:
    try:
        quota, period = (_CGROUP / name).read_text().split()
    except (OSError, ValueError):
        return None
    return (-1 if quota == "max" else int(quota)), int(period)


def gpus(declared_count: int | None, declared_type: str) -> tuple[Gpu, ...]:
    """The GPUs on offer. Declared ones are the first of those found; where fewer are found they are names only.

    A GPU that is a name only has its index as uuid: enough for tests, and for accelerators that NVML does not know.
    """
    found = _found_gpus()
    if declared_count is None:
        return found
    if declared_count <= len(found):
        return tuple(Gpu(g.index, declared_type or g.type, g.uuid) for g in found[:declared_count])
    return tuple(Gpu(index, declared_type or "GPU", str(index)) for index in range(declared_count))


def _found_gpus() -> tuple[Gpu, ...]:
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.info("node.no_gpus reason=%s", error)  # no driver: a machine without GPUs
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(index, gpu_type(_text(pynvml.nvmlDeviceGetName(handle))), _text(pynvml.nvmlDeviceGetUUID(handle)))
            for index, handle in enumerate(handles)
        )
    except pynvml.NVMLError as error:
        log.error("node.gpus_unreadable error=%s", error)
        return ()
    finally:
        pynvml.nvmlShutdown()


def gpu_type(name: str) -> str:
    """The short type that users ask for, from the product's name: "NVIDIA A100-SXM4-80GB" is "A100"."""
    words = re.sub(r"^(NVIDIA|Tesla|GeForce|Quadro|\s)+", "", name)
    return re.split(r"[\s-]", words)[0] or "GPU" if not words.startswith(("RTX", "GTX")) else words.replace(" ", "-")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def detail_of_node() -> dict[str, Any]:
    """Facts that are shown with the worker and that nothing is decided on."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "isolation": "single-trust",  # all tasks run as the agent's own user
        "limits": "rlimits",
    }


def hostname() -> str:
    return socket.gethostname()
