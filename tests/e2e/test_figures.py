"""The load scripts of `load/workers`, with few attempts: what they measure holds here, and they can be run.

`make chaos` runs them with a release's numbers.
"""

import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, Shell
from tests.fault.conftest import LONG

pytestmark = pytest.mark.e2e

SHORT = {
    "leftovers": ("--count", "40"),
    "hostile": ("--rounds", "1", "--quiet-s", "2"),
    "footprint": ("--tasks", "60", "--idle-s", "5"),
}
RELEASE = {
    "leftovers": ("--count", "10000"),
    "hostile": ("--rounds", "100", "--quiet-s", "60", "--p99"),
    "footprint": ("--tasks", "500", "--idle-s", "60"),
}
SETTINGS = {
    "FETCHMLD_BATCH_SLOTS": "516",
    "FETCHMLD_TASK_PIDS_MAX": "256",
    "FETCHMLD_LOG_BYTES_MAX": str(2**20),
    "FETCHMLD_GRACE_S": "1",
}


def test_leftovers_hostile_tasks_and_our_footprint(shell: Shell) -> None:
    shell.environment.update(SETTINGS)
    shell.start()
    for script, words in (RELEASE if LONG else SHORT).items():
        command = [sys.executable, str(ROOT / "load" / "workers" / f"{script}.py"), "--data-dir", str(shell.data_dir)]
        ran = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        print(ran.stdout)
        assert ran.returncode == 0, f"{script}:\n{ran.stdout}\n{ran.stderr}"
