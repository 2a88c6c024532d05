"""Failed logins, bounded: so many of one address in a minute each on record, the rest of that minute as one fact.

Whoever guesses keys can fail thousands of times a second, and each fact costs a part of a sync. Owns the counts of the
minute that runs; what a failure says is the guard's.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from fetchmld.core.messages import Fact

ADDRESSES_MAX: Final = 10_000  # counted apart in a minute; others together
MINUTE_S: Final = 60.0
OTHERS: Final = ""


class Failures:
    """`record` puts a fact into the record without waiting; `each_max` of one address go there one by one in a minute.

    Use it from one event loop.
    """

    def __init__(self, record: Callable[[Fact], None], each_max: int) -> None:
        self._record = record
        self._each_max = each_max
        self._counts: dict[str, int] = {}
        self._end: asyncio.TimerHandle | None = None

    def note(self, failure: Fact) -> None:
        """Put `failure` on record, by itself or with the rest of its minute."""
        if self._end is None:
            self._end = asyncio.get_running_loop().call_later(MINUTE_S, self.end_minute)
        address = failure.ip_address
        if address not in self._counts and len(self._counts) >= ADDRESSES_MAX:
            address = OTHERS
        count = self._counts[address] = self._counts.get(address, 0) + 1
        if count <= self._each_max:
            self._record(failure)

    def end_minute(self) -> None:
        """Record what went beyond the limit, and begin anew."""
        counts, self._counts = self._counts, {}
        if self._end is not None:
            self._end.cancel()
            self._end = None
        for address, count in counts.items():
            if count > self._each_max:
                self._record(_rest(address, count - self._each_max))


def _rest(address: str, count: int) -> Fact:
    return Fact(
        event_type="auth_attempt",
        action="auth.failure",
        resource="api",
        success=False,
        ip_address=address,
        error=f"{count} more failures within a minute",
        metadata={"count": count},
        at_us=time.time_ns() // 1000,
    )
