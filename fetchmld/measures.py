"""What a process counts about itself, as plain data on its way to `/metrics`: distributions in fixed buckets, and counts.

Imports nothing of the house: the actors count, the API shows.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, TypedDict

MOMENTS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SPANS_S: Final = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0)
LAG_EVERY_S: Final = 0.5


class Distribution(TypedDict):
    """How many values were up to each bound, and beyond the last (one count more than bounds); their sum."""

    bounds: list[float]
    counts: list[int]
    total: float


class SchedulerMeasures(TypedDict):
    """Since the scheduler's process began. Spans in seconds. `ended` and `requeued` by the first word of their error."""

    started: int
    ended: dict[str, int]
    requeued: dict[str, int]
    wait_s: Distribution
    run_s: Distribution
    acknowledge_s: Distribution
    append_s: Distribution
    loop_lag_s: Distribution
    gpus: dict[str, int]


class Spread:
    """A distribution that is being taken."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = list(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def take(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def data(self) -> Distribution:
        return Distribution(bounds=self._bounds, counts=list(self._counts), total=self._total)


async def watch_loop(lag_s: Spread) -> None:
    """Take, twice a second until cancelled, how late the event loop comes back to what is due."""
    while True:
        due = time.monotonic() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        lag_s.take(max(0.0, time.monotonic() - due))
