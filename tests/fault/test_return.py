"""How long the daemon is away after the death of its actors, and after the death of everything, with many tasks that live.

Printed for each kill; a release (`make chaos`) holds the bounds.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable

import pytest

from fetchmld.client import Client
from fetchmld.client.errors import ClientError
from tests.e2e.conftest import Shell, until
from tests.e2e.test_outlives import kill_all_but_the_runner_and
from tests.fault.conftest import LONG, count

pytestmark = pytest.mark.e2e

BATCH = 1_000
KILLS = count(1, 5)
LIVE = (10_000, 100_000) if LONG else (1_000,)
BOUND_S = {
    "its actors": {1_000: 5.0, 10_000: 5.0, 100_000: 15.0},
    "everything": {1_000: 12.0, 10_000: 12.0, 100_000: 15.0},
}


@pytest.mark.parametrize("live", LIVE)
def test_the_way_back_with_many_live_tasks(shell: Shell, live: int) -> None:
    shell.environment["FETCHMLD_RATE_PER_S"] = "0"
    shell.start()
    key = (shell.data_dir / "admin.key").read_text().strip()
    with Client(f"http://127.0.0.1:{shell.port}", key) as client:
        for _ in range(live // BATCH):
            answers = client.submit_many([{"job_name": "waits", "cpu": 4096}] * BATCH)
            assert {answer["status"] for answer in answers} == {201}
        for _ in range(KILLS):
            took_s = back_after("the death of its actors", lambda: kill_actors(shell), client)
            assert not LONG or took_s < BOUND_S["its actors"][live]
            took_s = back_after("the death of everything", lambda: begin_anew(shell), client)
            assert not LONG or took_s < BOUND_S["everything"][live]
        assert client.queue()["queued"] >= live
    assert shell.fetchmld("audit", "verify").startswith("valid")


def back_after(what: str, kill: Callable[[], object], client: Client) -> float:
    """Seconds until a task is accepted again."""
    begun = time.monotonic()
    kill()
    until("a task is accepted", lambda: is_accepted(client))
    took_s = time.monotonic() - begun
    print(f"{took_s:.2f} s after {what}, load {os.getloadavg()[0]:.1f}")
    return took_s


def is_accepted(client: Client) -> bool:
    with contextlib.suppress(ClientError):
        return bool(client.submit({"job_name": "after", "cpu": 4096}))
    return False


def kill_actors(shell: Shell) -> None:
    for pid, line in shell.processes().items():
        if line.startswith("ray::"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def begin_anew(shell: Shell) -> None:
    kill_all_but_the_runner_and(shell)
    shell.start("-q")
