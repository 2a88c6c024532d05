"""How long a waiting client puts up with a daemon that is away."""

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

    def again(self, error: ClientError) -> None:
        """Pause before another try, or raise `error`: it will not pass, or it has lasted too long."""
        if isinstance(error, ApiError) and error.status not in PASSING and error.retry_after_s is None:
            raise error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._away_max_s:
            raise error
        asked_s = error.retry_after_s if isinstance(error, ApiError) else None
        time.sleep(min(asked_s, 30) if asked_s else self._pause_s)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
