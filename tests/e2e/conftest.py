"""A whole daemon, started and used as a user would: only through the command line and what it prints."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

COMMAND_MAX_S = 120
ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Shell:
    """Somebody at a terminal, with a data directory of their own."""

    data_dir: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    within: tuple[str, ...] = ()  # the command that runs what follows it on another machine

    def fetchmld(self, *words: str, code: int | None = 0, wait_s: float = COMMAND_MAX_S) -> str:
        """Run one command; what it printed on stdout. Fails where its exit code is another than `code`."""
        command = [*self.within, sys.executable, "-m", "fetchmld", "--data-dir", str(self.data_dir), *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        ran = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=wait_s, check=False
        )
        said = f"fetchmld {' '.join(words)} ended with {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        assert code is None or ran.returncode == code, said
        return ran.stdout if ran.returncode == 0 else ran.stdout + ran.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.fetchmld(*words, "--json"))

    def start(self, *flags: str) -> str:
        return self.fetchmld("start", "--head", "--port", str(self.port), "--num-cpus", "4", *flags)

    def show(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.json("show", task_id)
        return found

    @property
    def daemon(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "daemon.json").read_text())
        return found

    def end(self) -> None:
        """Stop the daemon, and end whatever is left of it."""
        self.fetchmld("stop", code=None)
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def processes(self) -> dict[int, str]:
        """Every process that names our directories in its arguments or its environment: pid and command line."""
        marks = [os.fsencode(self.data_dir)]
        run_dir = self.data_dir / "run_dir"
        if run_dir.exists():
            marks.append(os.fsencode(run_dir.read_text().strip()))
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                line, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if line and any(mark in line or mark in environment for mark in marks):
                found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
        return found


def until(what: str, check: Callable[[], Any], within_s: float = 60) -> Any:
    """The first true value of `check`. Fails, naming `what`, after `within_s`."""
    deadline = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that tasks may write to, whoever they run as."""
    path = Path(tempfile.mkdtemp(prefix="fml-open-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose daemon, and whatever of it is left, ends with the test."""
    mine = Shell(tmp_path / "data", free_port())
    yield mine
    mine.end()
