"""Retried submits make each task once, also when the daemon is killed between them: 40 of them with every change, 10,000
with many kills in a release (`make chaos`)."""

import http.client
import os
import signal
import threading
from contextlib import suppress

import pytest

from fetchmld.client import Client
from tests.e2e.conftest import Shell, until
from tests.fault.conftest import count

pytestmark = pytest.mark.e2e

TASKS = count(40, 10_000)
KILLS = count(2, 40)


def test_retries_across_a_kill_make_each_task_once(shell: Shell) -> None:
    shell.start()
    key = (shell.data_dir / "admin.key").read_text().strip()
    address = f"http://127.0.0.1:{shell.port}"
    made: dict[int, str] = {}

    def submit_all() -> None:
        with Client(address, key) as client:
            for number in range(TASKS):
                if number % 4 == 0:
                    _drop_an_answer(shell.port, key, number)
                task = client.submit({"job_name": f"n{number}", "entrypoint": "true"}, idempotency_key=f"k{number}")
                made[number] = task["id"]

    submitting = threading.Thread(target=submit_all)
    submitting.start()
    for number in range(1, KILLS + 1):
        share = TASKS * number // (KILLS + 2)
        until("more are submitted", lambda share=share: len(made) > share or not submitting.is_alive(), 300)  # type: ignore[misc]
        _kill(shell, "scheduler" if number % 2 else "head")
    submitting.join(300)
    assert len(made) == TASKS, "the submitting thread gave up"
    with Client(address, key) as client:
        pages = [client.tasks(limit=1000, offset=offset)["tasks"] for offset in range(0, TASKS + 1, 1000)]
    listed = [task for page in pages for task in page]
    assert sorted(task["job_name"] for task in listed) == sorted(f"n{number}" for number in range(TASKS))
    assert {task["id"] for task in listed} == set(made.values())


def _drop_an_answer(port: int, key: str, number: int) -> None:
    """Ask for the task, and hang up before the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"X-API-Key": key, "Idempotency-Key": f"k{number}", "Content-Type": "application/json"}
    with suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/v1/tasks", f'{{"job_name": "n{number}", "entrypoint": "true"}}', headers)
    connection.close()


def _kill(shell: Shell, name: str) -> None:
    """The one that is there, or comes back."""
    for pid in until(f"there is a {name}", lambda: _pids(shell, name)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _pids(shell: Shell, name: str) -> list[int]:
    return [pid for pid, line in shell.processes().items() if line.lower().startswith(f"ray::{name}")]
