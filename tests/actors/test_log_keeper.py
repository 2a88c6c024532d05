"""A machine's own logs go when they are old, a file at a time, and the one that the runner writes to never."""

import os
import time
from pathlib import Path
from typing import cast

from actors.log_keeper import DAY_S, LogKeeper
from fetchmld.core.agent import RunKey
from fetchmld.core.model import LogPlace
from fetchmld.runner import logs as runner_logs
from fetchmld.runner.logs import LogPool, read_place
from fetchmld.store.remote_logs import RemoteLogs


def keep(pool: LogPool, name: str, size: int) -> LogPlace:
    slot, fd = pool.acquire()
    os.write(fd, b"x" * size)
    place = cast(LogPlace, {"worker_id": "w", **pool.keep(slot, f"{name}-1-0")})
    pool.release(slot)
    return place


def age(directory: Path, place: LogPlace, days: float) -> None:
    at = time.time() - days * DAY_S
    os.utime(directory / place["file"], (at, at))


def test_old_files_go_and_the_newest_segment_stays(tmp_path: Path) -> None:
    pool = LogPool(str(tmp_path), set())
    first, large = keep(pool, "a", 10), keep(pool, "b", 2 * 2**20)
    pool = LogPool(str(tmp_path), set())  # begins another segment
    second = keep(pool, "c", 10)
    keeper = LogKeeper(str(tmp_path), 0, 30, None)
    for place in (first, large, second):
        age(tmp_path, place, 29)
    keeper.remove_old()
    assert read_place(str(tmp_path), dict(first), "a-1-", 0, 100) == b"x" * 10
    for place in (first, large, second):
        age(tmp_path, place, 31)
    keeper.remove_old()
    assert sorted(os.listdir(tmp_path / "segments")) == ["1.seg"]
    assert os.listdir(tmp_path / "whole") == []
    assert LogPool(str(tmp_path), set())._segment == 2  # its number was not given away
    third = keep(pool, "d", 5)
    assert read_place(str(tmp_path), dict(third), "d-1-", 0, 100) == b"x" * 5


def test_a_segment_is_left_after_a_day(tmp_path: Path) -> None:
    pool = LogPool(str(tmp_path), set())
    first = keep(pool, "a", 10)
    pool._segment_begun_t -= runner_logs.SEGMENT_S + 1
    second = keep(pool, "b", 10)
    assert (first["file"], second["file"]) == ("segments/0.seg", "segments/1.seg")


def test_for_ever_is_for_ever(tmp_path: Path) -> None:
    place = keep(LogPool(str(tmp_path), set()), "a", 2 * 2**20)
    age(tmp_path, place, 36_500)
    LogKeeper(str(tmp_path), 0, 0, None).remove_old()
    assert (tmp_path / place["file"]).exists()


def test_what_the_head_has_goes_after_a_day_and_what_it_lacks_does_not(tmp_path: Path) -> None:
    pool = LogPool(str(tmp_path), set())
    here, there = keep(pool, "a", 2 * 2**20), keep(pool, "b", 2 * 2**20)
    keeper = LogKeeper(str(tmp_path), 0, 30, cast(RemoteLogs, object()))
    assert keeper._shipper is not None
    keeper.ended(RunKey("a", 1), 0, here)
    keeper._shipper._there = {here["file"]: here["length"] - 1, there["file"]: there["length"]}
    for place in (here, there):
        age(tmp_path, place, 0.9)
    keeper.remove_old()
    assert len(os.listdir(tmp_path / "whole")) == 2
    for place in (here, there):
        age(tmp_path, place, 1.1)
    keeper.remove_old()
    assert os.listdir(tmp_path / "whole") == ["a-1-0.log"]
