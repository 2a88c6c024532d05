"""The agent's side of lending to Ray: what it may offer the scheduler now, and what of that it shows.

Without a raylet of ours around it (as in most tests) nothing is held, and everything that is not lent may be used.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from actors.ray_commands import Offer
from actors.ray_leases import Held, RayLeases, usable
from fetchmld.core.model import Capacity
from fetchmld.ray_share import RayShare

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0


class Lender:
    """`open` once, then `watch`."""

    def __init__(self, offer: dict[str, Any] | None, share: RayShare) -> None:
        self._offer = Offer(**{**offer, "gpus": tuple(offer["gpus"])}) if offer is not None else Offer()
        self._share = share
        self._own = Capacity(0, 0, 0, 0)
        self._leases: RayLeases | None = None
        self._held = Held(0, frozenset())

    async def open(self, own: Capacity) -> None:
        """`own`: what would be FetchML's if it had all that it is not to lend, and every GPU."""
        self._own = own
        if self._offer.machine:
            self._leases = await asyncio.to_thread(RayLeases, self._offer, self._share)
            self._held = await asyncio.to_thread(self._leases.take)
            self._warn()

    @property
    def capacity(self) -> Capacity:
        """What the scheduler may place on now."""
        return self._own if self._leases is None else usable(self._own, self._offer, self._held)

    def detail(self) -> dict[str, Any]:
        """For the worker's record: what is lent, and what we wait for."""
        if self._leases is None:
            return {}
        wanted = self._leases.wanted
        lent = {"cpu": self._share.cpu, "memory_gb": self._share.memory_gb, "gpus": self._indices(wanted.gpus)}
        missing = {"cpu": wanted.cpu - self._held.cpu, "gpus": len(wanted.gpus - self._held.gpus)}
        found = {"ray_share": {name: value for name, value in lent.items() if value}}
        found["ray_has"] = {name: value for name, value in missing.items() if value}
        return {name: value for name, value in found.items() if value}

    def _indices(self, ours: frozenset[str]) -> list[int]:
        """Those that are lent, as the worker counts them."""
        return [gpu.index for gpu in self._own.gpus if gpu.uuid in self._offer.gpus and gpu.uuid not in ours]

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Look after what is held until cancelled; `on_change` when that is something else than before."""
        while self._leases is not None:
            await asyncio.sleep(LOOK_S)
            try:
                held = await asyncio.to_thread(self._leases.look)
            except Exception:  # Ray is going, or busy, and raises whatever it likes: what we held we still have
                log.exception("ray_leases.unknown")
                continue
            if held != self._held:
                self._held = held
                self._warn()
                on_change()

    def _warn(self) -> None:
        assert self._leases is not None
        if self._held != self._leases.wanted:
            log.warning("ray_leases.missing detail=%s", self.detail())
