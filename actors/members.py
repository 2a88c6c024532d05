"""The machines that joined: who is there, asked of Ray again and again, and one keeper for each.

A machine is known by its worker id; each stay of it is a Ray node with an id of its own. While two nodes say that they are
one machine (its raylet was started again, and Ray has not yet noticed the end of the last one) the first of them counts.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from actors.aside import aside
from actors.ray_compat import member_settings, members

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
RETRY_S: Final = 1.0
MEMBERS_MAX: Final = 1000

Attend = Callable[[str, str, dict[str, Any]], Awaitable[None]]  # worker id, Ray's node id, settings; until cancelled


@dataclass(slots=True, frozen=True)
class _Stay:
    node_id: str
    keeper: "asyncio.Task[None]"


async def attend_members(attend: Attend) -> None:
    """Run `attend` for each machine as long as it is there. Until cancelled."""
    stays: dict[str, _Stay] = {}
    try:
        while True:
            try:
                await _follow(await aside(members), stays, attend)
            except Exception:  # Ray is busy, or going, and raises whatever it likes
                log.exception("members_unknown")
            await asyncio.sleep(POLL_S)
    finally:
        await _end(list(stays.values()))


async def _follow(here: dict[str, list[str]], stays: dict[str, _Stay], attend: Attend) -> None:
    """Make the stays those of the machines that are here."""
    for worker_id in [worker_id for worker_id, stay in stays.items() if _is_over(stay, here.get(worker_id, []))]:
        log.warning("member_left", extra={"worker_id": worker_id})
        await _end([stays.pop(worker_id)])
    for worker_id, node_ids in here.items():
        if worker_id not in stays and len(stays) < MEMBERS_MAX:
            log.info("member_joined", extra={"worker_id": worker_id, "node_id": node_ids[0]})
            stays[worker_id] = _Stay(node_ids[0], asyncio.create_task(_keep(attend, worker_id, node_ids[0])))


def _is_over(stay: _Stay, node_ids: list[str]) -> bool:
    return stay.node_id not in node_ids or stay.keeper.done()


async def _keep(attend: Attend, worker_id: str, node_id: str) -> None:
    try:
        await attend(worker_id, node_id, await aside(member_settings, worker_id))
    except Exception:
        log.exception("member_not_attended", extra={"worker_id": worker_id})
        await asyncio.sleep(RETRY_S)  # and then it is tried again


async def _end(stays: list[_Stay]) -> None:
    for stay in stays:
        stay.keeper.cancel()
    await asyncio.gather(*(stay.keeper for stay in stays), return_exceptions=True)
