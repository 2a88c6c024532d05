"""The plugins that are to run: asked of the scheduler, which answers as soon as they are others; one keeper for each."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0

Wanted = Callable[[list[str]], Awaitable[list[str]]]  # those known -> those wanted, once they differ or after a while
Attend = Callable[[str], Awaitable[None]]  # until cancelled
Dismiss = Callable[[str], Awaitable[None]]


async def attend_plugins(wanted: Wanted, attend: Attend, dismiss: Dismiss) -> None:
    """Run `attend` for each plugin while it is wanted, then `dismiss`. Until cancelled, which dismisses none."""
    keepers: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            try:
                await _follow(await wanted(sorted(keepers)), keepers, attend, dismiss)
            except Exception as error:  # noqa: BLE001 - the scheduler, or Ray, is going, and raises whatever it likes
                log.warning("plugins_unknown", extra={"reason": str(error) or type(error).__name__})
                await asyncio.sleep(RETRY_S)
    finally:
        await _end(list(keepers.values()))


async def _follow(
    wanted: list[str], keepers: dict[str, "asyncio.Task[None]"], attend: Attend, dismiss: Dismiss
) -> None:
    for name in [name for name in keepers if name not in wanted]:
        log.info("plugin_dismissed", extra={"plugin": name})
        await _end([keepers.pop(name)])
        await dismiss(name)
    for name in [name for name in wanted if name not in keepers]:
        log.info("plugin_attended", extra={"plugin": name})
        keepers[name] = asyncio.create_task(_keep(name, attend))


async def _keep(name: str, attend: Attend) -> None:
    while True:
        try:
            await attend(name)
        except Exception:
            log.exception("plugin_not_attended", extra={"plugin": name})
        await asyncio.sleep(RETRY_S)  # and then it is tried again


async def _end(keepers: list["asyncio.Task[None]"]) -> None:
    for keeper in keepers:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)
