"""`fetchmld.connect()` in a program on the daemon's Ray, while the scheduler and the head are killed under it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Shell, until


@pytest.mark.e2e
def test_a_program_on_ray_outlives_the_actors_that_it_talks_to(shell: Shell, tmp_path: Path) -> None:
    shell.start()
    begun = tmp_path / "begun"
    command = [sys.executable, "-m", "tests.e2e.native_program", str(shell.data_dir), str(begun)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        try:
            until("its first tasks are there", lambda: begun.exists() or program.poll() is not None)
            for victim in ("scheduler", "head"):
                kill(shell, victim)
                until("the daemon is ready again", lambda: shell.fetchmld("status", code=None).count("active"))
            out, err = program.communicate(timeout=180)
        finally:
            program.kill()
    assert program.returncode == 0, err.decode()
    said = json.loads(out.splitlines()[-1])
    assert (said["first"]["status"], said["first"]["output"]) == ("completed", "hello\n")
    assert said["first"]["user_id"].startswith("ray:")
    assert said["ends"] == ["completed"] * 30
    assert said["outputs"] == [f"{n}\n" for n in range(30)]
    assert said["cancelled"] == "cancelled"
    assert (said["straight"], said["straight_end"]) == ([201, 422], "completed")
    assert "job_name" in said["invalid"]
    assert "there is no task 'none'" in said["not_found"]
    assert shell.json("ls", "--limit", "1")["total"] == 33  # each was made once


def kill(shell: Shell, actor: str) -> None:
    """SIGKILL to the process of one actor."""
    (pid,) = [pid for pid, line in shell.processes().items() if line.startswith(f"ray::{actor}")]
    os.kill(pid, signal.SIGKILL)
