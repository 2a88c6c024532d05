"""When a task that does not fit now will fit, and what others may use until then: EASY backfill, per GPU and core.

Pure arithmetic over `Node`s (what a worker has free, and what comes back when), made by `capacity`. Knows no queue and no
state. Nothing here starts anything: a plan is the promise that the first blocked task starts by `at`, as long as workers,
reservations and priorities stay as they are. It is kept by letting others use a planned worker only within its `spare`,
or if they end before `at`. Where too little of what runs has a declared end there is no time (`at` is inf): the planned
workers then gather what comes free.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fetchmld.core.model import Kind, Resources, WorkerId

NO_TYPE: Final = ""  # the GPU type of a node that uses none


@dataclass(slots=True)
class Amount:
    """Cores, memory, slots and GPUs by type. Below zero where a worker came back smaller than what it runs."""

    cpu: int = 0
    memory_gb: int = 0
    batch: int = 0
    service: int = 0
    gpus: dict[str, int] = field(default_factory=dict)

    def plus(self, other: "Amount", sign: int = 1) -> "Amount":
        gpus = dict(self.gpus)
        for kind, count in other.gpus.items():
            gpus[kind] = gpus.get(kind, 0) + sign * count
        return Amount(
            self.cpu + sign * other.cpu,
            self.memory_gb + sign * other.memory_gb,
            self.batch + sign * other.batch,
            self.service + sign * other.service,
            gpus,
        )

    def slots(self, kind: Kind) -> int:
        return self.service if kind == "service" else self.batch


@dataclass(slots=True)
class Node:
    """A worker as a plan sees it: what is free, and what comes back at which logical time (inf: nobody knows)."""

    worker_id: WorkerId
    free: Amount
    returns: list[tuple[float, Amount]] = field(default_factory=list)

    def free_at(self, at: float) -> Amount:
        """What is free at `at` if nothing else starts."""
        total = self.free
        for when, amount in self.returns:
            if when <= at:
                total = total.plus(amount)
        return total


@dataclass(slots=True, frozen=True)
class Plan:
    """`types` says on which workers the task will start, and with which GPU type on each."""

    at: float
    types: dict[WorkerId, str]


def gpu_types(wanted: Resources) -> frozenset[str]:
    """The types that would do; empty: any."""
    return frozenset(filter(None, wanted.gpu_type.split("|")))


def claim(wanted: Resources, gpu_type: str) -> Amount:
    """What one node of the task takes."""
    service = wanted.kind == "service"
    gpus = {gpu_type: wanted.gpu} if wanted.gpu else {}
    return Amount(wanted.cpu, wanted.memory_gb, int(not service), int(service), gpus)


def fitting_type(wanted: Resources, free: Amount) -> str | None:
    """The GPU type with which one node of the task fits into `free`; NO_TYPE where it needs none, None where it does not
    fit."""
    if free.cpu < wanted.cpu or free.memory_gb < wanted.memory_gb or free.slots(wanted.kind) < 1:
        return None
    if wanted.gpu == 0:
        return NO_TYPE
    types = gpu_types(wanted)
    enough = [(n, kind) for kind, n in free.gpus.items() if n >= wanted.gpu and (not types or kind in types)]
    return min(enough)[1] if enough else None


def earliest(wanted: Resources, node: Node) -> tuple[float, str] | None:
    """When one node of the task fits there, 0.0 for now, and with which GPU type; None for never."""
    free = node.free
    if (kind := fitting_type(wanted, free)) is not None:
        return 0.0, kind
    for when, amount in sorted(node.returns, key=lambda item: item[0]):
        free = free.plus(amount)
        if (kind := fitting_type(wanted, free)) is not None:
            return when, kind
    return None


def make_plan(wanted: Resources, nodes: Iterable[Node]) -> Plan | None:
    """The earliest time at which the task fits on `node_count` of `nodes`, and on which; None for never.

    Among those without a time, the ones that lack least gather.
    """
    found = []
    for order, node in enumerate(nodes):
        when = earliest(wanted, node)
        if when is not None:
            found.append((when[0], _missing(wanted, node, when), order, node.worker_id, when[1]))
    if len(found) < wanted.node_count:
        return None
    chosen = sorted(found)[: wanted.node_count]
    return Plan(chosen[-1][0], {worker_id: kind for _, _, _, worker_id, kind in chosen})


def _missing(wanted: Resources, node: Node, when: tuple[float, str]) -> tuple[int, int]:
    """How many GPUs and cores a node lacks, to rank those whose time is not known."""
    free = node.free
    gpus = wanted.gpu - free.gpus.get(when[1], 0) if wanted.gpu else 0
    return max(0, gpus), max(0, wanted.cpu - free.cpu)


def spare(wanted: Resources, plan: Plan, node: Node) -> Amount:
    """How much of `node` somebody who will still run at the plan's time may use."""
    left = node.free_at(plan.at).plus(claim(wanted, plan.types[node.worker_id]), -1)
    gpus = {kind: max(0, count) for kind, count in left.gpus.items()}
    return Amount(max(0, left.cpu), max(0, left.memory_gb), max(0, left.batch), max(0, left.service), gpus)
