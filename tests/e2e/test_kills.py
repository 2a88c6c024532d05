"""Parts of the daemon are killed while tasks run: each goes on, is taken up again, and its exit code is kept.

Every change kills a few; a release (`make chaos`) 200 agents, and 100 times the head's actor, Ray's GCS or its raylet, and
looks once more two minutes after each.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fetchmld.channel import Client as Line
from fetchmld.client import Client
from fetchmld.client.errors import ClientError
from fetchmld.core.errors import Unavailable
from fetchmld.runner.proctree import stat_of
from tests.e2e.conftest import Shell, free_port, until
from tests.fault.conftest import LONG, count

pytestmark = pytest.mark.e2e

ADOPTED_WITHIN_S = 5.0
LATER_S = 120.0 if LONG else 0.0
VICTIMS = {"head": "ray::head", "GCS": "gcs_server", "raylet": "raylet/raylet"}


@dataclass(slots=True)
class Held:
    """A task that runs until it is let go, and then ends with a code of its own."""

    id: str
    code: int
    fifo: Path
    pid: int
    started_t: float

    @property
    def lives(self) -> bool:
        stat = stat_of(self.pid)
        return stat is not None and stat.started_t == self.started_t and stat.state not in "ZX"

    def let_go(self) -> None:
        os.close(os.open(self.fifo, os.O_WRONLY))


@dataclass(slots=True)
class Daemon:
    shell: Shell
    client: Client
    folder: Path
    tasks: int = 0

    def hold(self) -> Held:
        self.tasks += 1
        code, fifo, mark = self.tasks % 250 + 1, self.folder / f"{self.tasks}.fifo", self.folder / f"{self.tasks}.pid"
        os.mkfifo(fifo)
        fifo.chmod(0o666)
        script = f"echo $$ > {mark}.new; mv {mark}.new {mark}; read -r x < {fifo}; exit {code}"
        body = {"job_name": f"held-{self.tasks}", "entrypoint": "/bin/sh -c", "args": f"'{script}'", "cpu": 0}
        task_id = self.client.submit(body)["id"]
        until("it runs", mark.exists)
        pid = int(mark.read_text())
        stat = stat_of(pid)
        assert stat is not None
        return Held(task_id, code, fifo, pid, stat.started_t)

    def finish(self, held: Held) -> None:
        """Let it end; it ran once, and ended as it wanted."""
        assert held.lives, f"process {held.pid} of task {held.id} is gone"
        held.let_go()
        task = self.client.wait(held.id, timeout_s=60)
        assert f"exit status {held.code}" in task["error"], task
        assert task.get("retry_count", 0) == 0

    def process(self, what: str) -> int:
        """Looked for until it is seen: the daemon may just be replacing it."""
        return int(until(f"there is a {what}", lambda: self._seen(what)))

    def _seen(self, what: str) -> int:
        return next((pid for pid, line in self.shell.processes().items() if what in line), 0)

    def has_another(self, what: str, pid: int) -> bool:
        return any(what in line for other, line in self.shell.processes().items() if other != pid)

    def is_whole(self) -> bool:
        with contextlib.suppress(ClientError):
            self.client.ready()
            return all(one["status"] == "active" and not one["suspect"] for one in self.client.workers())
        return False

    @property
    def agent_socket(self) -> Path:
        run_dir = Path((self.shell.data_dir / "run_dir").read_text().strip())
        return next(run_dir.glob("agent-*.sock"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="fml-open-"))
    folder.chmod(0o777)
    shell = Shell(tmp_path_factory.mktemp("kills") / "data", free_port(), {"FETCHMLD_BATCH_SLOTS": "256"})
    shell.start()
    key = (shell.data_dir / "admin.key").read_text().strip()
    with Client(f"http://127.0.0.1:{shell.port}", key) as client:
        yield Daemon(shell, client, folder)
    shell.fetchmld("stop", code=None)
    for pid in shell.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder)


def test_a_killed_agents_attempts_are_adopted_by_the_next(daemon: Daemon) -> None:
    took = []
    for _ in range(count(10, 200)):
        held = daemon.hold()
        os.kill(daemon.process("ray::agent"), signal.SIGKILL)
        took.append(asyncio.run(adopted_within(daemon.agent_socket)))
        daemon.finish(held)
    took.sort()
    median, slowest = took[len(took) // 2], took[-1]
    print(f"{len(took)} agents killed: adopted after {median:.2f} s (median), {slowest:.2f} s (slowest)")
    assert slowest < ADOPTED_WITHIN_S


async def adopted_within(socket: Path) -> float:
    """Seconds until an agent says that it has an attempt and the scheduler's ear."""

    async def place() -> Path:
        return socket

    began, line = time.monotonic(), Line(place)
    await line.start()
    try:
        while True:
            with contextlib.suppress(Unavailable):
                said = (await line.request("ping", timeout_s=0.5)).body
                if said["connected"] and said["attempts"]:
                    return time.monotonic() - began
            assert time.monotonic() - began < 60, "no agent has taken it up"
    finally:
        await line.close()


def test_tasks_outlive_the_head_the_gcs_and_the_raylet(daemon: Daemon) -> None:
    victims = list(VICTIMS) * count(1, 34)
    held, took = [], []
    for victim in victims[: count(3, 100)]:
        held.append(daemon.hold())
        began = time.monotonic()
        pid = daemon.process(VICTIMS[victim])
        os.kill(pid, signal.SIGKILL)
        until(f"there is another {victim}", lambda: daemon.has_another(VICTIMS[victim], pid))  # noqa: B023
        until(f"all is back after the death of the {victim}", daemon.is_whole)
        took.append((time.monotonic() - began, victim))
        assert all(one.lives for one in held)
    time.sleep(LATER_S)
    for one in held:
        daemon.finish(one)
    slowest, victim = max(took)
    print(f"{len(took)} killed, {LATER_S:g} s later all lived; slowest return {slowest:.1f} s, of the {victim}")
    assert daemon.shell.fetchmld("audit", "verify").startswith("valid")
