"""Removes the oldest part of the record: by the setting `audit_retention_days`, and when an administrator asks.

`store.pruning` does the work, in processes beside us; in between, the fact that names what stands for the removed part
goes on record. While something is removed nothing is verified, and the other way round.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from actors.helper_process import ask_helper
from fetchmld.core.errors import Conflict, FetchmlError, Unavailable
from fetchmld.core.messages import Fact
from fetchmld.store import boundary

log = logging.getLogger(__name__)

FIRST_LOOK_S: Final = 60.0  # after a start, which has better things to do
LOOK_S: Final = 3600.0
DAY_US: Final = 86_400_000_000
_HELPER: Final = "fetchmld.store.pruning"

PutFact = Callable[[Fact], Awaitable[int]]


class Pruner:
    """`put` records a fact and gives its number; `quiet` is held by whoever reads the whole record."""

    def __init__(self, ledger_dir: Path, put: PutFact, retention_days: int, quiet: asyncio.Lock) -> None:
        self._ledger_dir = ledger_dir
        self._put = put
        self._days = retention_days
        self._quiet = quiet

    async def run(self) -> None:
        """Until cancelled. Does nothing where the record is kept for ever."""
        await asyncio.sleep(FIRST_LOOK_S)
        while self._days:
            try:
                await self.by_policy()
            except FetchmlError as error:
                log.warning("record_not_pruned", extra={"why": error.message})
            await asyncio.sleep(LOOK_S)

    async def by_policy(self) -> dict[str, Any]:
        """Remove what is older than the setting says."""
        fact = Fact("plugin_configured", "audit.policy", "ledger", "fetchmld")
        fact.metadata = {"audit_retention_days": self._days}
        return await self.prune(time.time_ns() // 1000 - self._days * DAY_US, False, fact)

    async def prune(self, before_us: int, dry_run: bool, fact: Fact) -> dict[str, Any]:
        """Remove events before `before_us`, as far as whole segments go, and put `fact` on record with what was done.

        Gives the first event that is left, how many events and bytes went, the time of the newest of them, and the
        fact's number. Raises Conflict where what is to go is not what was written, Unavailable where it cannot be done.
        """
        async with self._quiet:
            found = await self._ask("plan" if dry_run else "prepare", str(before_us))
            if found["first_seq"] < 0:
                return {"first_seq": boundary.first_seq(self._ledger_dir), "events": 0, "bytes": 0, "dry_run": dry_run}
            said = {name: found[name] for name in ("first_seq", "events", "bytes", "until_us")}
            if dry_run:
                return {**said, "dry_run": True}
            fact.metadata = {**fact.metadata, **_on_record(found, before_us)}
            seq = await self._put(fact)
            await self._ask("commit", found["pruned"], "not all was removed, the next start goes on")
        log.info("record_pruned", extra=said)
        return {**said, "dry_run": False, "seq": seq}

    async def _ask(self, step: str, argument: str, outcome: str = "nothing was removed") -> dict[str, Any]:
        said = await ask_helper(_HELPER, str(self._ledger_dir), step, argument)
        if "first_bad" in said:
            raise Conflict(f"{outcome}: event {said['first_bad']} is not what was written: {said['why']}")
        if "error" in said:
            raise Unavailable(f"{outcome}: {said['error']}")
        return said


def _on_record(found: dict[str, Any], before_us: int) -> dict[str, Any]:
    times = {"before": _instant(before_us), "until": _instant(found["until_us"])}
    return {**times, **{name: found[name] for name in ("first_seq", "events", "bytes", "pruned")}}


def _instant(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
