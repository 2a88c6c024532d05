"""A running task outlives everything of ours but the runner."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Shell, until

pytestmark = pytest.mark.e2e


def test_a_task_outlives_a_clean_stop(shell: Shell, tmp_path: Path) -> None:
    shell.start()
    task_id, pid = _sleeping(shell, tmp_path)
    assert "1 running task goes on" in shell.fetchmld("stop")
    assert _alive(pid)
    shell.start()
    _finish(tmp_path)
    shell.fetchmld("wait", task_id)
    assert _pid_in(tmp_path) == pid


def test_a_task_outlives_the_death_of_everything_but_the_runner(shell: Shell, tmp_path: Path) -> None:
    shell.start()
    task_id, pid = _sleeping(shell, tmp_path)
    waiting = [shell.fetchmld("submit", "-q", "--name", "behind", "--cpu", "4", "--", "true").strip() for _ in range(3)]
    killed = {p for p, line in shell.processes().items() if p != pid and not _is_runner(line) and not _descends(p, pid)}
    killed.add(shell.daemon["pid"])
    for process in killed:
        with contextlib.suppress(ProcessLookupError):  # some end with those before them
            os.kill(process, signal.SIGKILL)
    until("all that was killed is gone", lambda: not any(map(_alive, killed)))
    assert _alive(pid)

    shell.start()
    assert shell.show(task_id)["status"] in ("running", "preparing")
    _finish(tmp_path)
    shell.fetchmld("wait", task_id, *waiting)
    assert _pid_in(tmp_path) == pid
    assert shell.show(task_id)["retry_count"] == 0
    assert shell.fetchmld("audit", "verify").startswith("valid")


def _sleeping(shell: Shell, folder: Path) -> tuple[str, int]:
    """A task that writes its pid and then waits for a file: its id and that pid."""
    script = (
        f"echo $$ > {folder}/pid.new; mv {folder}/pid.new {folder}/pid; until test -e {folder}/go; do sleep 0.1; done"
    )
    task_id = shell.fetchmld("submit", "-q", "--name", "sleeper", "--cpu", "1", "--", "sh", "-c", script).strip()
    until("the task runs", (folder / "pid").exists)
    return task_id, _pid_in(folder)


def _finish(folder: Path) -> None:
    (folder / "go").touch()


def _pid_in(folder: Path) -> int:
    return int((folder / "pid").read_text())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_runner(line: str) -> bool:
    return "fetchmld.runner" in line or "fetchmld/runner.py" in line


def _descends(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False
