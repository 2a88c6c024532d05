"""What may go wrong in a simulation, and how often. Each seed turns on a part of it, so that faults meet in many ways.

Names in `_p` are chances per message, effect or batch; those in `_per_h` are events in an hour of the whole cluster.
"""

from dataclasses import dataclass, fields
from random import Random
from typing import Any, Final


@dataclass(slots=True, frozen=True)
class Faults:
    """The chances and rates of one simulation; all zero is a cluster where nothing fails."""

    lose_p: float = 0.0  # the message and the rest of its connection, which both ends notice a while later
    slow_p: float = 0.0
    duplicate_up_p: float = 0.0  # of what agents say
    reorder_up_p: float = 0.0
    duplicate_down_p: float = 0.0  # of what the head says
    reorder_down_p: float = 0.0
    head_effect_p: float = 0.0  # the head dies at the boundary before an effect
    agent_effect_p: float = 0.0
    ledger_p: float = 0.0  # a batch that cannot be written
    head_crash_per_h: float = 0.0
    head_pause_per_h: float = 0.0
    agent_crash_per_h: float = 0.0
    agent_pause_per_h: float = 0.0
    runner_crash_per_h: float = 0.0
    reboot_per_h: float = 0.0
    gpu_loss_per_h: float = 0.0
    gpu_fault_per_h: float = 0.0  # seen by the agent, which goes on
    partition_per_h: float = 0.0  # both ways
    one_way_per_h: float = 0.0
    wall_jump_per_h: float = 0.0
    drift: float = 0.0  # how much faster or slower than the head's the clock of a node may go that nobody sets


class Boundaries:
    """The moments before an effect, of the head and of all agents, counted: a process dies at the `die_at`th."""

    def __init__(self, rng: Random, die_at: int = 0) -> None:
        self._rng, self._die_at = rng, die_at
        self.count = 0

    def dies(self, chance: float) -> bool:
        """Whether the process at this boundary is killed."""
        self.count += 1
        return self.count == self._die_at or (chance > 0.0 and self._rng.random() < chance)


NONE: Final = Faults()
LIMITS: Final[dict[str, float]] = {
    "lose_p": 0.02,
    "slow_p": 0.05,
    "duplicate_up_p": 0.05,
    "reorder_up_p": 0.05,
    "duplicate_down_p": 0.05,
    "reorder_down_p": 0.05,
    "head_effect_p": 0.01,
    "agent_effect_p": 0.02,
    "ledger_p": 0.02,
    "head_crash_per_h": 20.0,
    "head_pause_per_h": 10.0,
    "agent_crash_per_h": 60.0,
    "agent_pause_per_h": 30.0,
    "runner_crash_per_h": 30.0,
    "reboot_per_h": 30.0,
    "gpu_loss_per_h": 20.0,
    "gpu_fault_per_h": 40.0,
    "partition_per_h": 30.0,
    "one_way_per_h": 30.0,
    "wall_jump_per_h": 60.0,
    "drift": 0.01,
}


def choose(rng: Random) -> Faults:
    """The faults of one seed: each kind is on in one seed of three, at a rate of its own."""
    chosen: dict[str, Any] = {name: rng.random() * top for name, top in LIMITS.items() if rng.random() < 0.35}
    return Faults(**chosen)


def rates(faults: Faults) -> dict[str, float]:
    """The kinds that happen by themselves, in events an hour, without the suffix of their names."""
    named = ((field.name, getattr(faults, field.name)) for field in fields(faults))
    return {name.removesuffix("_per_h"): rate for name, rate in named if name.endswith("_per_h") and rate > 0}
