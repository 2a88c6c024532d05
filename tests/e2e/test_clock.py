"""Somebody sets the machine's time by an hour or a day, forth and back: nothing but displayed times is changed by it.

Every process of the daemon, Ray's and the runner among them, gets its time of day from a preloaded library, which a test
moves.
"""

import mmap
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fetchmld.runner.process import command
from tests.e2e.conftest import Shell, until
from tests.e2e.test_outlives import is_runner
from tests.fault.conftest import LONG

HOUR, DAY = 3600, 86_400
JUMPS = (HOUR, -HOUR, DAY, -DAY, 30 * DAY, 0) if LONG else (DAY, -HOUR)
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not shutil.which(COMPILER), reason=f"there is no {COMPILER}")]


class WallClock:
    """The time of day of whatever was started with `library` preloaded."""

    def __init__(self, folder: Path) -> None:
        self.library, file = folder / "wall_clock.so", folder / "offset"
        file.write_bytes(struct.pack("l", 0))
        source = Path(__file__).with_name("wall_clock.c")
        subprocess.run(
            [COMPILER, "-shared", "-fPIC", "-O2", f'-DOFFSET_FILE="{file}"', "-o", self.library, source], check=True
        )
        with file.open("r+b") as opened:
            self._page = mmap.mmap(opened.fileno(), struct.calcsize("l"))

    def move(self, seconds: int) -> None:
        self._page[:] = struct.pack("l", seconds)

    def close(self) -> None:
        self._page.close()


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[WallClock]:
    made = WallClock(tmp_path)
    yield made
    made.close()


def test_a_clock_that_jumps_changes_only_what_is_shown(shell: Shell, clock: WallClock, open_dir: Path) -> None:
    preloaded = {"LD_PRELOAD": str(clock.library)}
    shell.environment.update(preloaded)
    shell.start()
    shell.fetchmld("stop")
    start_runner(shell, preloaded)
    shell.start()
    pid_file = open_dir / "pid"
    script = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; sleep 600"
    kept = shell.fetchmld("submit", "-q", "--cpu", "2", "--", "sh", "-c", script).strip()
    waiting = shell.fetchmld("submit", "-q", "--cpu", "4", "--priority", "3", "--", "true").strip()
    until("the task runs", pid_file.exists)
    pid = int(pid_file.read_text())

    for jump in JUMPS:
        began = time.monotonic()
        limited = shell.fetchmld("submit", "-q", "--cpu", "1", "--time-limit", "2", "--", "sleep", "60").strip()
        clock.move(jump)
        shell.fetchmld("wait", limited, code=100)
        assert time.monotonic() - began > 2, f"{jump} s: its time was over before it was"
        assert shell.show(limited)["error"].startswith("TIME_LIMIT")
        shown = shell.show(shell.fetchmld("submit", "-q", "--cpu", "1", "--", "true").strip())["created_at"]
        moved_s = datetime.fromisoformat(shown).timestamp() - datetime.now(UTC).timestamp()
        assert abs(moved_s - jump) < 60, "displayed times follow"
        (worker,) = shell.json("workers")
        assert (worker["status"], worker["suspect"]) == ("active", False)
        assert aged(shell.show(waiting)) < 3.5, f"{jump} s: the priority grows by waiting, not by the clock"
        os.kill(pid, 0)

    clock.move(-DAY)
    shell.fetchmld("stop")
    shell.start()
    assert shell.show(kept)["status"] == "running"
    os.kill(pid, 0)
    shell.fetchmld("cancel", kept)
    shell.fetchmld("wait", waiting)
    assert shell.show(waiting).get("retry_count", 0) == shell.show(kept).get("retry_count", 0) == 0
    assert shell.fetchmld("audit", "verify").startswith("valid")


def aged(task: dict[str, Any]) -> float:
    return float(task.get("priority_aged", task["priority"]))


def start_runner(shell: Shell, environment: dict[str, str]) -> None:
    """The agent gives the runner that it starts an environment of nothing: so there is one before it."""
    for pid, line in shell.processes().items():
        if is_runner(line):
            os.kill(pid, 15)
            until("the idle runner leaves", lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
    run_dir = (shell.data_dir / "run_dir").read_text().strip()
    words = command(str(shell.data_dir / "node"), f"{run_dir}/runner.sock")
    assert words[0] == sys.executable
    subprocess.run(words, env={"PATH": "/usr/bin:/bin", **environment}, check=True)
