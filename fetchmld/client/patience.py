"""How long a client puts up with a daemon that is away, or that says to come back later."""

import time
from typing import Final

from fetchmld.client.errors import ApiError, ClientError

AWAY_MAX_S: Final = 120.0  # a restart from nothing takes a tenth of it
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0
PASSING: Final = frozenset({429, 503})  # and whatever says when to try again: 409 for a request that is under way


class Patience:
    """Pauses that grow while nothing answers; `reset` once something did."""

    def __init__(self, away_max_s: float = AWAY_MAX_S) -> None:
        self._away_max_s = away_max_s
        self.reset()

    def reset(self) -> None:
        self._since: float | None = None
        self._pause_s = PAUSE_FIRST_S

    def pause_s(self, error: ClientError) -> float:
        """How long to pause before another try; raises `error` where it will not pass, or not soon enough."""
        if isinstance(error, ApiError) and error.status not in PASSING and error.retry_after_s is None:
            raise error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        asked_s = error.retry_after_s if isinstance(error, ApiError) else None
        pause_s = asked_s or self._pause_s
        if now - self._since + (asked_s or 0) >= self._away_max_s:
            raise error
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return pause_s

    def again(self, error: ClientError) -> None:
        """As `pause_s`, and pause."""
        time.sleep(self.pause_s(error))
