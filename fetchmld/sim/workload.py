"""The simulated users: who asks for what, and what the programs then do, honest or not.

A kind of request is a row of REQUESTS: turn it on there once the core knows it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal, cast

from fetchmld.core.model import Capacity, Condition, DatasetSpec, Dependency, Gpu, TaskRequest

Ending = Literal["exit", "signal", "start_failed", "start_failed_ours"]

NODE_KINDS: Final[tuple[tuple[int, int, int, str], ...]] = (  # cores, GB, GPUs, type
    (4, 16, 0, ""),
    (8, 32, 0, ""),
    (8, 64, 2, "T4"),
    (16, 64, 4, "V100"),
    (16, 128, 4, "A100"),
    (32, 256, 8, "A100"),
)


@dataclass(slots=True, frozen=True)
class Program:
    """What a task's program does each time it runs; the scheduler learns of it only by its end."""

    run_s: float  # infinite: it never ends by itself
    ending: Ending = "exit"
    code: int = 0
    deaf: bool = False  # ignores SIGTERM
    prepare_s: float = 0.0  # to fetch its datasets, where it has any
    prepare_word: str = ""  # how that fails; "" = it does not
    collect_s: float = 0.0  # 0: it leaves nothing


@dataclass(slots=True, frozen=True)
class Work:
    """One task to come: when, what, and whether and when somebody cancels it."""

    at: float
    task_id: str
    user_id: str
    request: TaskRequest
    program: Program
    cancel_after_s: float = 0.0  # 0 = never


@dataclass(slots=True, frozen=True)
class Kept:
    """One reservation to come; given back early where `released_after_s` is not 0."""

    at: float
    reservation_id: str
    user_id: str
    gpu_count: int
    gpu_type: str
    node_count: int
    duration_s: float
    starts_in_s: float
    released_after_s: float


def capacities(rng: Random, count: int) -> list[Capacity]:
    """Nodes of mixed kinds, at least one with GPUs."""
    kinds = [rng.choice(NODE_KINDS) for _ in range(count - 1)] + [rng.choice(NODE_KINDS[2:])]
    return [_capacity(rng, *kind) for kind in kinds]


def _capacity(rng: Random, cpu: int, memory_gb: int, gpu_count: int, gpu_type: str) -> Capacity:
    gpus = [Gpu(index, gpu_type, f"GPU-{index}") for index in range(gpu_count)]
    if gpu_count > 2 and rng.random() < 0.2:  # a node of two types
        gpus[-2:] = [Gpu(gpu.index, "T4", gpu.uuid) for gpu in gpus[-2:]]
    return Capacity(cpu, memory_gb, cpu, 2, tuple(gpus))


# ---- requests: (share of the tasks, what it adds) -----------------------------------------------------------------

Change = Callable[[Random, dict[str, Any]], None]


def _cores(rng: Random, request: dict[str, Any]) -> None:
    request["cpu"] = rng.choice((0, 1, 2, 2, 4, 8))


def _memory(rng: Random, request: dict[str, Any]) -> None:
    request["memory_gb"] = rng.choice((1, 4, 16, 48))


def _gpus(rng: Random, request: dict[str, Any]) -> None:
    request["gpu"] = rng.choice((1, 1, 1, 2, 4))


def _gpu_type(rng: Random, request: dict[str, Any]) -> None:
    if request.get("gpu"):
        request["gpu_type"] = rng.choice(("T4", "V100", "A100", "A100|V100", "T4|A100"))


def _service(rng: Random, request: dict[str, Any]) -> None:
    request["kind"] = "service"


def _priority(rng: Random, request: dict[str, Any]) -> None:
    request["priority"] = rng.randint(1, 10)


def _retries(rng: Random, request: dict[str, Any]) -> None:
    request["max_retries"] = rng.randint(1, 2)


def _time_limit(rng: Random, request: dict[str, Any]) -> None:
    request["time_limit_s"] = rng.choice((5, 30, 120, 600))


def _datasets(rng: Random, request: dict[str, Any]) -> None:
    names = rng.sample("abcdef", rng.choice((1, 1, 2)))
    request["dataset_specs"] = [
        DatasetSpec(name=name, source=f"file:///{name}", mount_path=f"data/{name}") for name in names
    ]


def _gang(rng: Random, request: dict[str, Any]) -> None:
    request["node_count"] = rng.randint(2, 3)


def _array(rng: Random, request: dict[str, Any]) -> None:
    request["array"] = {"size": rng.randint(1, 8)}
    if rng.random() < 0.6:
        request["array"]["max_parallel"] = rng.randint(1, 3)


REQUESTS: Final[dict[str, tuple[float, Change]]] = {
    "cores": (0.6, _cores),
    "memory": (0.3, _memory),
    "gpus": (0.4, _gpus),
    "gpu_type": (0.5, _gpu_type),
    "service": (0.05, _service),
    "priority": (0.5, _priority),
    "retries": (0.3, _retries),
    "time_limit": (0.3, _time_limit),
    "datasets": (0.2, _datasets),
    "gang": (0.08, _gang),
    "array": (0.04, _array),
}


RUN_MAX_S: Final = 500.0
DEPENDENT_SHARE: Final = 0.12  # tasks that wait for one or two before them
RESERVED_SHARE: Final = 0.4  # of their owner's tasks, while a reservation lasts


def tasks(rng: Random, per_hour: float, until: float, kept: list[Kept] | None = None) -> list[Work]:
    """The tasks of one simulation, in the order of their submission; some use the reservations `kept`."""
    found: list[Work] = []
    at = 0.0
    while (at := at + rng.expovariate(per_hour / 3600)) < until:
        work = _work(rng, at, f"t{len(found)}")
        if found and rng.random() < DEPENDENT_SHARE:
            _depend(rng, work, found[-8:])
        _use(rng, work, kept or [])
        found.append(work)
    return found


def _depend(rng: Random, work: Work, before: list[Work]) -> None:
    chosen = rng.sample(before, min(len(before), rng.randint(1, 2)))
    conditions: tuple[Condition, ...] = ("ok", "any", "failed")
    work.request["depends_on"] = [
        Dependency(task_id=other.task_id, condition=rng.choices(conditions, (2, 5, 1))[0]) for other in chosen
    ]


def _use(rng: Random, work: Work, kept: list[Kept]) -> None:
    """Name a reservation of the same user that lasts now, and ask for no more than it has."""
    mine = [k for k in kept if k.user_id == work.user_id and 0 < work.at - k.at < k.duration_s]
    if mine and rng.random() < RESERVED_SHARE:
        reservation, request = rng.choice(mine), work.request
        request["reservation_id"] = reservation.reservation_id
        request["gpu"] = min(request.get("gpu", 1), reservation.gpu_count)
        request["node_count"] = min(request.get("node_count", 1), reservation.node_count)
        for name in ("gpu_type", "kind"):
            request.pop(name, None)  # type: ignore[misc]


def reservations(rng: Random, per_hour: float, until: float) -> list[Kept]:
    """The reservations of one simulation."""
    found: list[Kept] = []
    at = 0.0
    while per_hour and (at := at + rng.expovariate(per_hour / 3600)) < until:
        found.append(
            Kept(
                at=at,
                reservation_id=f"r{len(found)}",
                user_id=rng.choice(("ada", "bob")),
                gpu_count=rng.randint(1, 2),
                gpu_type=rng.choice(("", "A100", "T4")),
                node_count=rng.randint(1, 2),
                duration_s=rng.uniform(20, 400),
                starts_in_s=rng.choice((0.0, rng.uniform(1, 100))),
                released_after_s=rng.choice((0.0, rng.uniform(1, 200))),
            )
        )
    return found


def _work(rng: Random, at: float, task_id: str) -> Work:
    request: dict[str, Any] = {"job_name": "job"}
    for share, change in REQUESTS.values():
        if rng.random() < share:
            change(rng, request)
    program = _program(rng, request)
    cancel_after_s = rng.expovariate(rng.choice((1.0, 1 / 60))) if rng.random() < 0.08 else 0.0
    if program.run_s == float("inf") and "time_limit_s" not in request:
        cancel_after_s = cancel_after_s or rng.uniform(1, 300)
    return Work(at, task_id, rng.choice(("ada", "bob")), cast(TaskRequest, request), program, cancel_after_s)


def _program(rng: Random, request: dict[str, Any]) -> Program:
    run_s = min(RUN_MAX_S, rng.lognormvariate(3.4, 1.2))
    odd = rng.random()
    if odd < 0.06:
        run_s = 0.0  # ends at once
    elif odd < 0.10:
        run_s = float("inf")
    ending: Ending = rng.choices(("exit", "signal", "start_failed", "start_failed_ours"), (92, 4, 2, 2))[0]
    return Program(
        run_s=run_s,
        ending=ending,
        code=0 if rng.random() < 0.85 else rng.choice((1, 2, 137, 255)),
        deaf=rng.random() < 0.1,
        prepare_s=rng.expovariate(1 / 5) if "dataset_specs" in request else 0.0,
        prepare_word=rng.choice(("DATASET_MISMATCH", "DATASET_UNAVAILABLE")) if rng.random() < 0.05 else "",
        collect_s=rng.expovariate(1 / 2) if rng.random() < 0.3 else 0.0,
    )
