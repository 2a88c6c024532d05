"""What a task may use, as the runner is told: its claim where it made one, else a default. Knows settings, does nothing."""

import resource
from functools import cache
from typing import Any, Final

from fetchmld.config import Config
from fetchmld.core.model import Capacity, TaskRequest

GB: Final = 2**30
FILES_MAX: Final = 65_536  # open at a time: loaders of data need more than the usual 1,024
UNCLAIMED_GB_MIN: Final = 1


class IsolationImpossible(Exception):
    """isolation = "uid" was asked for and is not possible here; says why. Another start would find the same."""

    final = True


def check(config: Config, isolation: dict[str, Any]) -> None:
    """Raises `IsolationImpossible`. `isolation`: what the runner said of itself."""
    if config.isolation == "uid" and "uids" not in isolation:
        raise IsolationImpossible(f"isolation = uid is not possible here: {isolation.get('why', '')}")


def box_of(request: TaskRequest, config: Config, capacity: Capacity, isolation: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `start` message that limit it."""
    memory_bytes = (request.get("memory_gb", 0) or _unclaimed_gb(config, capacity)) * GB
    cpu = request.get("cpu", 1)
    return {
        "memory_bytes": memory_bytes,
        "pids": config.task_pids_max,
        "cores": cpu if "cpu" in request else 0,  # who names no number may use what is idle
        "weight_cores": cpu or int("jupyter" in request),  # somebody waits for its answers
        "log_bytes_max": config.log_bytes_max,
        "limits": _rlimits(request, config, isolation),
    }


def _unclaimed_gb(config: Config, capacity: Capacity) -> int:
    return config.task_memory_gb or max(UNCLAIMED_GB_MIN, capacity.memory_gb // capacity.batch_slots)


def _rlimits(request: TaskRequest, config: Config, isolation: dict[str, Any]) -> list[tuple[int, int, int]]:
    found = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: config.task_file_bytes_max,
        resource.RLIMIT_NOFILE: _files_max(),
    }
    if "uids" in isolation:  # else it would count every process of our own user
        found[resource.RLIMIT_NPROC] = config.task_pids_max
    if isolation.get("limits", {}).get("memory") == "rlimits" and "memory_gb" in request:
        found[resource.RLIMIT_DATA] = request["memory_gb"] * GB
    return [(which, value, value) for which, value in found.items()]


@cache
def _files_max() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
