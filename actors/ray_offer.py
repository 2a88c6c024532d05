"""What a machine's raylet says it has: all cores and GPUs, of which FetchML then holds what is not lent (`ray_leases`).

Memory is only offered where it is lent: nobody has to hold the rest. Ray numbers GPUs by their place in
CUDA_VISIBLE_DEVICES, so its raylet is given our list of UUIDs, and a Ray worker's GPU is the same device as ours.
"""

import logging
import threading
from typing import Any, Final

from actors.data_dir import Refused
from actors.ray_commands import STORE_BYTES_MIN, Offer
from fetchmld.config import Config
from fetchmld.core.model import Capacity, Gpu
from fetchmld.ray_share import RayShare

log = logging.getLogger(__name__)

STORE_OF_MEMORY: Final = 0.3  # as Ray divides what it has
FIND_GPUS_S: Final = 10.0


def offer_of(machine: str, own: Capacity, share: RayShare) -> Offer:
    """What a machine offers Ray, of which `own` and all GPUs may be FetchML's.

    Raises `Refused` where too much is to be lent: a core and a GB of memory stay FetchML's.
    """
    for name, lent, has in (
        ("cpu", share.cpu, share.cpu + own.cpu - 1),
        ("gpu", share.gpu, len(own.gpus)),
        ("memory", share.memory_gb, share.memory_gb + own.memory_gb - 1),
    ):
        if lent > has:
            raise Refused(f"ray_share says {name}={lent}: of this machine's, at most {max(0, has)} can be lent")
    memory_bytes = share.memory_gb * 2**30
    store_bytes = max(STORE_BYTES_MIN, int(memory_bytes * STORE_OF_MEMORY))
    types = {gpu.type for gpu in own.gpus}
    return Offer(
        machine,
        own.cpu + share.cpu,
        tuple(gpu.uuid for gpu in own.gpus),
        types.pop() if len(types) == 1 else "",
        max(0, memory_bytes - store_bytes),
        store_bytes,
    )


def offer_here(settings: dict[str, Any], machine: str) -> Offer:
    """Of this machine, under `settings`. Raises `Refused`."""
    from actors import node

    config = Config.from_dump(settings)
    return offer_of(machine, node.capacity_of_node(config, found_gpus(config)), config.share)


def found_gpus(config: Config) -> tuple[Gpu, ...]:
    """The machine's GPUs. A driver that does not answer has none: the raylet starts without them."""
    from actors.gpus import NodeGpus

    found: list[Gpu] = []
    look: Any = threading.Thread(target=lambda: found.extend(NodeGpus(config).find()), name="gpus", daemon=True)
    look.start()
    look.join(FIND_GPUS_S)
    if look.is_alive():
        log.error("ray_offer.gpus_unknown", extra={"waited_s": FIND_GPUS_S})
        return ()
    return tuple(found)
