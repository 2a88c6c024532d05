"""What this machine is and offers: cores and memory. Read once, when the agent starts."""

import logging
import os
import platform
import socket
from pathlib import Path
from typing import Any, Final

from fetchmld import __version__
from fetchmld.config import Config
from fetchmld.core.model import Capacity, Gpu

log = logging.getLogger(__name__)

_CGROUP: Final = Path("/sys/fs/cgroup")
_UNLIMITED: Final = 2**60  # cgroup v1 says "no limit" with a number near 2**63


def capacity_of_node(config: Config, gpus: tuple[Gpu, ...]) -> Capacity:
    """What the settings declare, and what is found where they are silent, less what Ray-native programs may have.

    Not less their GPUs: which those are is another's affair (`ray_leases`).
    """
    cpu = (config.num_cpus or cores()) - config.share.cpu
    return Capacity(
        cpu=cpu,
        memory_gb=(config.memory_gb or max(1, memory_bytes() // 2**30)) - config.share.memory_gb,
        batch_slots=config.batch_slots or cpu,
        service_slots=config.service_slots,
        gpus=gpus,
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


def detail_of_node(isolation: dict[str, Any]) -> dict[str, Any]:
    """Facts that are shown with the worker and that nothing is decided on. `isolation`: what its runner said of itself."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "isolation": isolation["label"],
        "isolation_why": isolation["why"],  # it is no better
        "limits": isolation["limits"],
    }


def is_free(port: int) -> bool:
    """Whether somebody could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def hostname() -> str:
    return socket.gethostname()
