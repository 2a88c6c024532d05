"""The logical clock never goes back and goes on across restarts of ours."""

import json
import time
from pathlib import Path

import pytest

from fetchmld.runner.loop import boottime
from fetchmld.runner.proctree import boot_id
from fetchmld.store.clock import LogicalClock


def test_a_first_start_begins_at_the_records_time(tmp_path: Path) -> None:
    clock = LogicalClock(tmp_path / "clock", 5_000_000, "b1", lambda: 100.0)
    assert clock.now() == 5.0


def test_a_restart_on_the_same_boot_counts_the_time_between(tmp_path: Path) -> None:
    LogicalClock(tmp_path / "clock", 5_000_000, "b1", lambda: 100.0)
    assert LogicalClock(tmp_path / "clock", 6_000_000, "b1", lambda: 160.0).now() == 65.0


def test_a_restart_of_the_machine_goes_on_from_the_record(tmp_path: Path) -> None:
    LogicalClock(tmp_path / "clock", 5_000_000, "b1", lambda: 100.0)
    assert LogicalClock(tmp_path / "clock", 9_000_000, "b2", lambda: 3.0).now() == 9.0


def test_the_clock_is_never_behind_the_record(tmp_path: Path) -> None:
    LogicalClock(tmp_path / "clock", 0, "b1", lambda: 100.0)
    assert LogicalClock(tmp_path / "clock", 70_000_000, "b1", lambda: 101.0).now() == 70.0


def test_a_damaged_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("{not json")
    assert LogicalClock(tmp_path / "clock", 7_000_000, "b1", lambda: 1.0).now() == 7.0


def test_a_changed_digit_is_no_jump(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LogicalClock(tmp_path / "clock", 7_000_000, "b1", lambda: 1.0)
    (tmp_path / "clock").write_text((tmp_path / "clock").read_text().replace("6.0", "9.0"))
    assert LogicalClock(tmp_path / "clock", 7_000_000, "b1", lambda: 1.0).now() == 7.0
    assert "clock_file_passed_over" in caplog.text


def test_it_is_the_clock_that_nobody_sets(tmp_path: Path) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    LogicalClock(tmp_path / "clock", 5_000_000)
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= 5.0 - json.loads((tmp_path / "clock").read_text())["offset"] <= after


def test_it_runs_with_the_machine(tmp_path: Path) -> None:
    clock = LogicalClock(tmp_path / "clock", 0)
    before = clock.now()
    assert boot_id()
    assert clock.now() >= before
    assert boottime() > 0
