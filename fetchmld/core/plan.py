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

    def least(self, other: "Amount") -> "Amount":
        """What both have."""
        return Amount(
            min(self.cpu, other.cpu),
            min(self.memory_gb, other.memory_gb),
            min(self.batch, other.batch),
            min(self.service, other.service),
            {kind: min(count, other.gpus.get(kind, 0)) for kind, count in self.gpus.items()},
        )

    def at_least_nothing(self) -> "Amount":
        """With 0 for whatever is below it."""
        gpus = {kind: max(0, count) for kind, count in self.gpus.items()}
        return Amount(max(0, self.cpu), max(0, self.memory_gb), max(0, self.batch), max(0, self.service), gpus)

    def slots(self, kind: Kind) -> int:
        return self.service if kind == "service" else self.batch


@dataclass(slots=True)
class Node:
    """A worker as a plan sees it: what is free, and what comes back at which logical time (inf: nobody knows), in order."""

    worker_id: WorkerId
    free: Amount
    returns: list[tuple[float, Amount]] = field(default_factory=list)

    def free_at(self, at: float) -> Amount:
        """What is free at `at` if nothing else starts."""
        total = self.free
        for when, amount in self.returns:
            if when > at:
                break
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
    for when, amount in node.returns:
        free = free.plus(amount)
        if (kind := fitting_type(wanted, free)) is not None:
            return when, kind
    return None


Option = tuple[float, int, int, int, WorkerId, str]  # when, GPUs and cores that lack now, the worker, its GPU type


def option(wanted: Resources, node: Node, number: int) -> Option | None:
    """One node of the task on this worker, which is the `number`th; options sort as they are preferred. None for never.

    Among those without a time, the ones that lack least gather.
    """
    found = earliest(wanted, node)
    if found is None:
        return None
    when, kind = found
    gpus = wanted.gpu - node.free.gpus.get(kind, 0) if wanted.gpu else 0
    return when, max(0, gpus), max(0, wanted.cpu - node.free.cpu), number, node.worker_id, kind


def make_plan(wanted: Resources, nodes: Iterable[Node]) -> Plan | None:
    """The earliest time at which the task fits on `node_count` of `nodes`, the oldest first, and where; None for never."""
    options = [option(wanted, node, number) for number, node in enumerate(nodes)]
    return plan_of(sorted(each for each in options if each is not None)[: wanted.node_count], wanted.node_count)


def plan_of(options: list[Option], count: int) -> Plan | None:
    """To start on all of these, `count` nodes; None where they are fewer."""
    if len(options) < count:
        return None
    return Plan(options[-1][0], {worker_id: kind for _, _, _, _, worker_id, kind in options})


def beside(node: Node, claims: Iterable[tuple[Amount, float]]) -> Node:
    """The node, less what plans ahead will take of it, from now on until those times."""
    node = Node(node.worker_id, node.free, list(node.returns))
    for amount, until in claims:
        node.free = node.free.plus(amount, -1)
        node.returns.append((until, amount))
    node.returns.sort(key=by_time)
    return node


def lowest(node: Node) -> Node:
    """The node, some of which is taken in between (it returns less than nothing), as what is free for good from each
    moment on."""
    levels = [node.free]
    for _, amount in node.returns:
        levels.append(levels[-1].plus(amount))
    for index in range(len(levels) - 2, -1, -1):
        levels[index] = levels[index].least(levels[index + 1])
    steps = (levels[i + 1].plus(levels[i], -1) for i in range(len(node.returns)))
    return Node(node.worker_id, levels[0], [(when, step) for (when, _), step in zip(node.returns, steps, strict=True)])


def by_time(item: tuple[float, Amount]) -> float:
    """The key by which what comes back is in order."""
    return item[0]


def spare(wanted: Resources, plan: Plan, node: Node) -> Amount:
    """How much of `node` somebody who will still run at the plan's time may use."""
    return node.free_at(plan.at).plus(claim(wanted, plan.types[node.worker_id]), -1).at_least_nothing()
