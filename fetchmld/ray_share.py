"""What of a machine is lent to Ray-native programs, as the setting `ray_share` says it: `cpu=4,gpu=1,memory=16`."""

from dataclasses import dataclass
from typing import Self


@dataclass(slots=True, frozen=True)
class RayShare:
    """Cores, GPUs and memory that FetchML leaves alone. Nothing by default."""

    cpu: int = 0
    gpu: int = 0
    memory_gb: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `cpu=N,gpu=N,memory=GB`, each at most once, in any order. Raises ValueError naming what is wrong."""
        found: dict[str, int] = {}
        for part in filter(None, text.replace(" ", "").split(",")):
            name, _, amount = part.partition("=")
            if name not in ("cpu", "gpu", "memory"):
                raise ValueError(f"{part!r} is none of cpu=N, gpu=N, memory=GB")
            if not (amount.isascii() and amount.isdecimal()):
                raise ValueError(f"{part!r}: {name} is a whole number, like {name}=1")
            if name in found:
                raise ValueError(f"{name} is there twice")
            found[name] = int(amount)
        return cls(found.get("cpu", 0), found.get("gpu", 0), found.get("memory", 0))

    def __bool__(self) -> bool:
        return self != RayShare()
