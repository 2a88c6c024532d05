"""A running task outlives everything of ours but the runner."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Shell, until

pytestmark = pytest.mark.e2e


def test_a_task_outlives_a_clean_stop(shell: Shell, open_dir: Path) -> None:
    shell.start()
    task_id, pid = _sleeping(shell, open_dir)
    assert "1 running task goes on" in shell.fetchmld("stop")
    assert _alive(pid)
    shell.start()
    _finish(open_dir)
    shell.fetchmld("wait", task_id)
    assert _pid_in(open_dir) == pid


def test_a_task_outlives_the_death_of_everything_but_the_runner(shell: Shell, open_dir: Path) -> None:
    shell.start()
    task_id, pid = _sleeping(shell, open_dir)
    waiting = [shell.fetchmld("submit", "-q", "--name", "behind", "--cpu", "4", "--", "true").strip() for _ in range(3)]
    kill_all_but_the_runner_and(shell, pid)
    assert _alive(pid)

    shell.start()
    assert shell.show(task_id)["status"] in ("running", "preparing")
    _finish(open_dir)
    shell.fetchmld("wait", task_id, *waiting)
    assert _pid_in(open_dir) == pid
    assert shell.show(task_id)["retry_count"] == 0
    assert shell.fetchmld("audit", "verify").startswith("valid")


def test_an_array_goes_on_after_the_death_of_everything_but_the_runner(shell: Shell, open_dir: Path) -> None:
    shell.start()
    (open_dir / "ran").touch()
    (open_dir / "ran").chmod(0o666)  # each element has a user of its own
    says = f"echo $FETCHML_ARRAY_INDEX $FETCHML_PARAM_LR >> {open_dir}/ran"
    script = f"{says}; until test -e {open_dir}/go; do sleep 0.1; done"
    lrs = ",".join(str(100 + index) for index in range(20))
    array = shell.fetchmld("submit", "-q", "--param", f"lr={lrs}", "--array", "20%3", "--", "sh", "-c", script).strip()
    until("three elements run", lambda: len(_lines(open_dir / "ran")) == 3)
    kill_all_but_the_runner_and(shell)

    shell.start()
    assert shell.show(array)["array"]["running"] == 3
    _finish(open_dir)
    shell.fetchmld("wait", array)
    assert sorted(_lines(open_dir / "ran")) == sorted(
        f"{index} {100 + index}" for index in range(20)
    )  # each of them once
    assert [task["id"] for task in shell.json("ls")["tasks"]] == [array]
    elements = shell.json("ls", "--array", array)["tasks"]
    assert [(element["id"], element["retry_count"]) for element in elements] == [(f"{array}-{i}", 0) for i in range(20)]
    assert shell.fetchmld("audit", "verify").startswith("valid")


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def kill_all_but_the_runner_and(shell: Shell, *spared: int) -> None:
    """`spared` and what descends from it lives on, and so does what the runner runs."""
    found = shell.processes()
    kept = {*spared, *(pid for pid, line in found.items() if is_runner(line))}
    killed = {pid for pid in found if not any(descends(pid, one) for one in kept)} | {shell.daemon["pid"]}
    for process in killed:
        with contextlib.suppress(ProcessLookupError):  # some end with those before them
            os.kill(process, signal.SIGKILL)
    until("all that was killed is gone", lambda: not any(map(_alive, killed)))


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


def is_runner(line: str) -> bool:
    return "fetchmld.runner" in line or "fetchmld/runner.py" in line


def descends(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False
