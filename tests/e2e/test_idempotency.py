"""Retried submits make each task once, also when the daemon is killed between them."""

import http.client
import os
import signal
import threading
from contextlib import suppress

import pytest

from fetchmld.client import Client
from tests.e2e.conftest import Shell, until

pytestmark = pytest.mark.e2e

TASKS = 40


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
    until("some are submitted", lambda: len(made) > TASKS // 4)
    _kill(shell, "scheduler")
    until("more are submitted", lambda: len(made) > TASKS // 2 or not submitting.is_alive())
    _kill(shell, "head")
    submitting.join(120)
    assert len(made) == TASKS, "the submitting thread gave up"
    listed = shell.json("ls", "--limit", "1000")["tasks"]
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
    found = [pid for pid, line in shell.processes().items() if line.lower().startswith(f"ray::{name}")]
    assert found, shell.processes()
    for pid in found:
        os.kill(pid, signal.SIGKILL)
