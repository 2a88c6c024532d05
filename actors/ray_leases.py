"""Which cores and GPUs of its machine FetchML may use: those that it holds of Ray, in placement groups, and is not to lend.

A group says to Ray "taken". Each GPU has one of its own; half of the cores are held by one, half of the rest by the next,
and so on, so that most can be had while a Ray-native program has some. The groups are detached and pinned to the machine
by its label: they outlive agents, and a raylet that is started again is given them before Ray looks who else waits.

Ray does not say which GPU a group has, a process in it can see it. The first GPUs are ours, the last are lent: always the
same, as tasks outlive Ray. So as long as one of ours is missing, all are asked for; then those to lend are let go.
Blocking, to be called on a thread; every call asks Ray once or twice.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from actors.ray_commands import NODE_LABEL, Offer
from fetchmld.core.model import Capacity
from fetchmld.ray_share import RayShare

log = logging.getLogger(__name__)

PREFIX: Final = "fetchml:"
TAKE_S: Final = 5.0  # a start waits this long for what Ray-native programs may have
POLL_S: Final = 0.02
PROBE_S: Final = 20.0
GONE: Final = "REMOVED"
READY: Final = "CREATED"


@dataclass(slots=True, frozen=True)
class Held:
    """What is FetchML's to use now."""

    cpu: int
    gpus: frozenset[str]


@dataclass(slots=True, frozen=True)
class Group:
    """One that Ray has."""

    id: str
    name: str
    node_id: str  # where it is, "" while it waits


class Groups:
    """The placement groups of one machine, as this process, a Ray worker on it, sees them."""

    def __init__(self, machine: str) -> None:
        import ray

        self._prefix = f"{PREFIX}{machine}:"
        self._machine = machine
        self.node_id: str = ray.get_runtime_context().get_node_id()

    def all(self) -> list[Group]:
        from ray.util import placement_group_table

        return [
            Group(group_id, group["name"].removeprefix(self._prefix), _node_of(group))
            for group_id, group in placement_group_table().items()
            if group["name"].startswith(self._prefix) and group["state"] != GONE
        ]

    def create(self, name: str, bundle: dict[str, float]) -> None:
        """Ask for one; Ray makes it when it can."""
        from ray.util import placement_group

        where = [{NODE_LABEL: self._machine}]
        placement_group([bundle], name=self._prefix + name, lifetime="detached", bundle_label_selector=where)

    def remove(self, group: Group) -> None:
        from ray.util import remove_placement_group

        remove_placement_group(_handle(group))

    def gpu_of(self, group: Group) -> str:
        """The UUID of the GPU that it has, seen by a process in it, which ends again."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        where = PlacementGroupSchedulingStrategy(_handle(group))
        probe = ray.remote(Probe).options(num_cpus=0, num_gpus=1, scheduling_strategy=where).remote()
        try:
            return str(ray.get(probe.gpu.remote(), timeout=PROBE_S))
        finally:
            ray.kill(probe)


class Probe:
    def gpu(self) -> str:
        import ray

        return str(ray.get_gpu_ids()[0])


def _node_of(group: dict[str, Any]) -> str:
    return str(group["bundles_to_node_id"][0]) if group["state"] == READY else ""


def _handle(group: Group) -> Any:
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(PlacementGroupID(bytes.fromhex(group.id)))


class RayLeases:
    """`take` at the start, then `look` again and again: each does what is left to do, and says what is held."""

    def __init__(self, offer: Offer, share: RayShare, groups: Callable[[str], Groups] = Groups) -> None:
        self._offer = offer
        self._cores = _parts(offer.cpu - share.cpu)
        self._ours = frozenset(offer.gpus[: len(offer.gpus) - share.gpu])
        self._groups = groups(offer.machine)
        self._gpu_of: dict[tuple[str, str], str] = {}  # by group and node, as far as it was looked for

    @property
    def wanted(self) -> Held:
        return Held(sum(self._cores), self._ours)

    def take(self) -> Held:
        """Hold all of it, or what can be had in `TAKE_S`."""
        deadline = time.monotonic() + TAKE_S
        while (held := self.look()) != self.wanted and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return held

    def look(self) -> Held:
        """Ask for what is missing, let go of what is not wanted."""
        there = {group.name: group for group in self._groups.all()}
        held = Held(self._hold_cores(there), self._hold_gpus(there))
        for group in there.values():  # of an earlier start, which lent less or more
            self._remove(group)
        return held

    def _hold_cores(self, there: dict[str, Group]) -> int:
        held = 0
        for number, cores in enumerate(self._cores):
            name = f"cpu:{number}:{cores}"
            group = there.pop(name, None)
            if group is None:
                self._create(name, {"CPU": cores})
            elif self._is_here(group):
                held += cores
        return held

    def _hold_gpus(self, there: dict[str, Group]) -> frozenset[str]:
        names = [f"gpu:{number}" for number in range(len(self._offer.gpus))]
        groups = [group for name in names if (group := there.pop(name, None)) is not None]
        had = self._looked_at([group for group in groups if self._is_here(group)])
        if not self._ours <= set(had.values()):
            for name in set(names) - {group.name for group in groups}:
                self._create(name, {"GPU": 1})
        else:
            for group in groups:
                if had.get(group) not in self._ours:
                    self._remove(group)
        return self._ours & set(had.values())

    def _looked_at(self, ready: list[Group]) -> dict[Group, str]:
        """The GPU of each. Who has all of them need not look."""
        if len(self._ours) == len(self._offer.gpus) == len(ready):
            return dict(zip(ready, self._offer.gpus, strict=True))
        for group in ready:
            if (group.id, group.node_id) not in self._gpu_of:
                self._gpu_of[group.id, group.node_id] = self._groups.gpu_of(group)
        self._gpu_of = {(group.id, group.node_id): self._gpu_of[group.id, group.node_id] for group in ready}
        return {group: self._gpu_of[group.id, group.node_id] for group in ready}

    def _is_here(self, group: Group) -> bool:
        """Not at the machine's last raylet, whose end Ray has not noticed yet."""
        return group.node_id == self._groups.node_id

    def _create(self, name: str, bundle: dict[str, float]) -> None:
        log.info("ray_lease.asked name=%s", name)
        self._groups.create(name, bundle)

    def _remove(self, group: Group) -> None:
        log.info("ray_lease.let_go name=%s", group.name)
        self._groups.remove(group)


def usable(own: Capacity, offer: Offer, held: Held) -> Capacity:
    """What of its `own` FetchML may use now: cores as held, and of the GPUs that Ray knows those that are held."""
    gpus = tuple(gpu for gpu in own.gpus if gpu.uuid in held.gpus or gpu.uuid not in offer.gpus)
    return replace(own, cpu=held.cpu, gpus=gpus)


def _parts(cores: int) -> list[int]:
    """`cores` as a sum: half of them, half of the rest, and so on down to one."""
    return [-(-cores // 2), *_parts(cores // 2)] if cores > 0 else []
