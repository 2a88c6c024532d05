"""Token buckets: how many requests each key may make, and how many wrong keys may come from one address.

A refusal is a promise: the token that will be there when the client was told to come back is kept for it. So a crowd that
obeys is not refused again, and those who come meanwhile do not take what was promised; they are told a later second. Who
comes when a promise is due is taken for the one it was made to. Owns the buckets; the caller brings the monotonic time.
"""

import heapq
import math
from dataclasses import dataclass, field
from typing import Final

NAMES_MAX: Final = 10_000
_ONE: Final = 0.999  # token: additions are not exact
_EXACT_S: Final = 1e-8
RETRY_AFTER_S_MAX: Final = 60  # where more than that are waiting already, some will be told twice
PROMISE_KEPT_S: Final = 10.0  # for who is late; then somebody else may have the token


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float  # when `tokens` was so many
    promises: list[float] = field(default_factory=list)  # when each of those refused was told to come back, a heap

    def is_due(self, now_s: float) -> bool:
        return bool(self.promises) and self.promises[0] <= now_s + _EXACT_S

    @property
    def free(self) -> float:
        """Tokens beyond what is promised; less than 0 where promises wait for tokens."""
        return self.tokens - len(self.promises)


@dataclass(slots=True, frozen=True)
class Standing:
    """How one name stands: whole tokens left, seconds until it has all again, seconds to wait (0: it may pass)."""

    remaining: int
    reset_s: int
    retry_after_s: int = 0


class Rates:
    """Buckets of `burst` tokens, at least a second's worth and one, that fill with `per_s` tokens a second; 0: no limit.

    Seconds are told whole, so all who wait for one second come back together and must find room.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = max(burst, math.ceil(per_s) + 1)
        self._buckets: dict[str, _Bucket] = {}

    @property
    def is_on(self) -> bool:
        return self._per_s > 0

    @property
    def policy(self) -> str:
        """As `RateLimit-Policy` says it: the quota, and in how many seconds it is filled."""
        return f'"default";q={self._burst};w={max(1, math.ceil(self._burst / self._per_s))}'

    def take(self, name: str, now_s: float) -> Standing:
        """One token of `name`'s, if there is one that nobody else was promised."""
        bucket = self._filled(name, now_s)
        if not self._may_pass(bucket, now_s):
            return Standing(0, self._reset_s(bucket), self._promise(bucket, now_s))
        if bucket.promises and bucket.is_due(now_s):
            heapq.heappop(bucket.promises)
        bucket.tokens -= 1.0
        return Standing(max(0, int(bucket.free)), self._reset_s(bucket))

    def look(self, name: str, now_s: float) -> Standing:
        """As `take`, of one that may turn out to cost nothing: it takes none."""
        if name not in self._buckets:
            return Standing(self._burst, 0)
        bucket = self._filled(name, now_s)
        wait_s = 0 if self._may_pass(bucket, now_s) else self._promise(bucket, now_s)
        return Standing(max(0, int(bucket.free)), self._reset_s(bucket), wait_s)

    def _may_pass(self, bucket: _Bucket, now_s: float) -> bool:
        if not bucket.promises:
            return bucket.tokens >= _ONE
        return (bucket.tokens if bucket.is_due(now_s) else bucket.free) >= _ONE

    def _filled(self, name: str, now_s: float) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= NAMES_MAX:
                self._forget(now_s)
            bucket = self._buckets[name] = _Bucket(float(self._burst), now_s)
            return bucket
        bucket.tokens = min(self._burst, bucket.tokens + (now_s - bucket.at_s) * self._per_s)
        bucket.at_s = now_s
        while bucket.promises and bucket.promises[0] < now_s - PROMISE_KEPT_S:
            heapq.heappop(bucket.promises)
        return bucket

    def _promise(self, bucket: _Bucket, now_s: float) -> int:
        """In how many whole seconds there is a token that is not promised yet, and promise it."""
        wait_s = min(RETRY_AFTER_S_MAX, math.ceil((1.0 - bucket.free) / self._per_s - _EXACT_S) or 1)
        if len(bucket.promises) < self._burst + RETRY_AFTER_S_MAX * self._per_s:
            heapq.heappush(bucket.promises, now_s + wait_s)
        return wait_s

    def _reset_s(self, bucket: _Bucket) -> int:
        return math.ceil((self._burst - bucket.tokens) / self._per_s)

    def _forget(self, now_s: float) -> None:
        """Make room: a full bucket tells nothing. Where none is full, all begin anew."""
        fill_s = self._burst / self._per_s
        self._buckets = {name: one for name, one in self._buckets.items() if now_s - one.at_s < fill_s}
        if len(self._buckets) >= NAMES_MAX:
            self._buckets.clear()
