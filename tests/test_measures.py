import asyncio

import pytest

from fetchmld import measures
from fetchmld.measures import Spread, watch_loop


def test_a_value_is_counted_where_it_belongs() -> None:
    spread = Spread((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        spread.take(value)
    assert spread.data() == {"bounds": [1.0, 2.0], "counts": [2, 2, 1], "total": 14.0}


def test_a_loops_lag_is_taken_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "LAG_EVERY_S", 0.001)

    async def watch() -> list[int]:
        lag = Spread((1e9,))
        watching = asyncio.create_task(watch_loop(lag))
        while sum(lag.data()["counts"]) < 3:
            await asyncio.sleep(0.001)
        watching.cancel()
        return lag.data()["counts"]

    assert asyncio.run(watch())[0] >= 3
