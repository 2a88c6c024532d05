"""Token buckets: how much passes, and that who waits as long as told is not refused again."""

import heapq
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.api import rates
from fetchmld.api.rates import Rates


def test_a_burst_passes_and_then_so_many_a_second() -> None:
    limit = Rates(10.0, 20)
    assert [limit.take("a", 0.0).retry_after_s for _ in range(21)] == [0] * 20 + [1]
    assert sum(limit.take("a", 1.0).retry_after_s == 0 for _ in range(30)) == 10
    assert limit.take("b", 1.0).remaining == 19
    assert limit.take("a", 1e6).remaining == 19


def test_what_is_left_and_when_it_is_whole_again_is_told() -> None:
    limit = Rates(2.0, 4)
    assert limit.policy == '"default";q=4;w=2'
    standings = [limit.take("a", 0.0) for _ in range(3)]
    assert [(one.remaining, one.reset_s) for one in standings] == [(3, 1), (2, 1), (1, 2)]


def test_looking_takes_nothing() -> None:
    limit = Rates(1.0, 2)
    assert [limit.look("a", 0.0).retry_after_s for _ in range(3)] == [0, 0, 0]
    limit.take("a", 0.0)
    limit.take("a", 0.0)
    assert limit.look("a", 0.0).retry_after_s == 1
    assert limit.look("a", 1.0).retry_after_s == 0


@settings(max_examples=50)
@given(st.floats(0.5, 1000), st.integers(1, 2000), st.integers(1, 3000), st.floats(0, 1e6))
def test_a_crowd_that_obeys_is_refused_once(per_s: float, burst: int, crowd: int, now_s: float) -> None:
    limit = Rates(per_s, burst)
    burst = max(burst, math.ceil(per_s) + 1)
    crowd = min(crowd, burst + int(per_s * (rates.RETRY_AFTER_S_MAX - 2)))
    waits = [limit.take("a", now_s).retry_after_s for _ in range(crowd)]
    assert waits[:burst] == [0] * min(burst, crowd)
    for wait_s in sorted(wait for wait in waits if wait):
        assert limit.take("a", now_s + wait_s).retry_after_s == 0, wait_s


@settings(max_examples=50)
@given(st.floats(1, 500), st.integers(1, 500), st.integers(0, 2**32))
def test_who_comes_meanwhile_takes_nothing_that_was_promised(per_s: float, burst: int, seed: int) -> None:
    """Newcomers without end, at twice the rate; each who is refused comes back when told, and is not refused again."""
    dice, limit = random.Random(seed), Rates(per_s, burst)
    now_s, coming, passed = 0.0, list[float](), 0
    for _ in range(1_000):
        now_s += dice.expovariate(2 * per_s)
        while coming and coming[0] <= now_s:
            assert limit.take("a", heapq.heappop(coming)).retry_after_s == 0
            passed += 1
        wait_s = limit.take("a", now_s).retry_after_s
        if wait_s >= rates.RETRY_AFTER_S_MAX:
            break  # as many wait as are told the truth
        if wait_s:
            heapq.heappush(coming, now_s + wait_s)
        else:
            passed += 1
    assert passed <= burst + per_s * now_s + math.ceil(per_s) + 1


def test_a_promise_that_nobody_comes_for_lapses() -> None:
    limit = Rates(1.0, 2)
    waits = [limit.take("a", 0.0).retry_after_s for _ in range(5)]
    assert waits == [0, 0, 1, 2, 3]
    late_s = 3.0 + rates.PROMISE_KEPT_S
    assert limit.take("a", late_s - 0.1).retry_after_s == 0
    assert limit.look("b", 0.0).remaining == 2
    assert limit.take("a", 2 * late_s).remaining == 1


def test_what_is_promised_is_bounded() -> None:
    limit = Rates(1.0, 2)
    for _ in range(10_000):
        limit.take("a", 0.0)
    assert len(limit._buckets["a"].promises) <= 2 + rates.RETRY_AFTER_S_MAX
    assert limit.take("a", 0.0).retry_after_s == rates.RETRY_AFTER_S_MAX


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "NAMES_MAX", 3)
    limit = Rates(1.0, 2)
    for name in "abc":
        limit.take(name, 0.0)
    limit.take("c", 1.9)
    limit.take("d", 2.5)  # a and b are full again and forgotten
    assert limit.take("c", 2.5).remaining == 0
    for name in "efgh":
        limit.take(name, 2.5)
    assert len(limit._buckets) <= 3
