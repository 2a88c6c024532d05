"""Not one byte of a log is lost, whoever of us is killed while it is written and followed, and however it ends."""

import contextlib
import hashlib
import os
import signal
import threading
from pathlib import Path

import pytest

from fetchmld.client import Client
from tests.e2e.conftest import Shell, until
from tests.e2e.test_outlives import kill_all_but_the_runner_and
from tests.fault.conftest import LONG

pytestmark = pytest.mark.e2e

KILLS = 40 if LONG else 3
CHATTER = """
import hashlib, os, signal, sys, time
digest, number = hashlib.sha256(), 0
def end(*_):
    raise SystemExit
signal.signal(signal.SIGTERM, end)
try:
    while not os.path.exists(sys.argv[1]):
        line = b"%d %s\\n" % (number, hashlib.sha256(b"%d" % number).hexdigest().encode() * (number % 7))
        os.write(1, line)
        digest.update(line)
        number += 1
        time.sleep(0.001)
finally:
    line = b"end\\n"
    os.write(2, line)
    digest.update(line)
    open(sys.argv[2], "w").write(digest.hexdigest())
"""


class Follower(threading.Thread):
    """Reads the log as it comes, as a program that uses the client does."""

    def __init__(self, shell: Shell, task_id: str) -> None:
        super().__init__(daemon=True)
        self.task_id = task_id
        self.digest = hashlib.sha256()
        self.size = 0
        self.client = Client(f"http://127.0.0.1:{shell.port}", (shell.data_dir / "admin.key").read_text().strip())

    def run(self) -> None:
        for piece in self.client.logs(self.task_id, follow=True):
            self.digest.update(piece)
            self.size += len(piece)


def kill_one(shell: Shell, what: str) -> None:
    for pid, line in shell.processes().items():
        if what in line:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("ending", ["by itself", "cancelled"])
def test_a_log_is_whole_after_kills_of_all_but_its_runner(shell: Shell, open_dir: Path, ending: str) -> None:
    shell.start()
    stop, said = open_dir / "stop", open_dir / "digest"
    (open_dir / "chatter.py").write_text(CHATTER)
    words = ("--", "python3", str(open_dir / "chatter.py"), str(stop), str(said))
    task_id = shell.fetchmld("submit", "-q", "--name", "chatter", *words).strip()
    follower = Follower(shell, task_id)
    follower.start()
    for turn in range(KILLS):
        seen = follower.size
        until("more is followed", lambda seen=seen: follower.size > seen + 20_000)  # type: ignore[misc]
        match turn % 3:
            case 0:
                kill_one(shell, "ray::agent")
            case 1:
                kill_one(shell, "ray::head")
            case 2:
                kill_all_but_the_runner_and(shell)
                shell.start()
    if ending == "cancelled":
        shell.fetchmld("cancel", task_id)
    stop.touch()
    shell.fetchmld("wait", task_id, code=103 if ending == "cancelled" else 0)
    follower.join(60)
    until("it has said what it wrote", said.exists)
    assert not follower.is_alive()
    assert follower.digest.hexdigest() == said.read_text()
    whole = b"".join(follower.client.logs(task_id))
    assert hashlib.sha256(whole).hexdigest() == said.read_text()
    assert shell.show(task_id)["retry_count"] == 0
