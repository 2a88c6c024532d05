"""A whole daemon whose disk fills and empties again: 503 with Retry-After meanwhile, reads go on, well within 5 s after."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Shell, until
from tests.fault.test_full_disk import fill_up

pytestmark = pytest.mark.e2e

DISK_BYTES = 64 * 2**20
RECOVERY_MAX_S = 5.0
REFUSALS_TRIED_MAX = 5_000


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small tmpfs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    somebody = Shell(
        disk / "data", port, {"FETCHMLD_SEGMENT_BYTES": str(2**18), "FETCHMLD_DATA_DIR": str(disk / "data")}
    )
    yield somebody
    (disk / "filler").unlink(missing_ok=True)
    somebody.fetchmld("stop", code=None)
    for pid in somebody.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["umount", "-l", str(disk)], check=True)


def ask(shell: Shell, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
    headers = {"X-API-Key": (shell.data_dir / "admin.key").read_text().strip(), "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{shell.port}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, dict(refusal.headers), json.load(refusal)


def submit(shell: Shell, padding: int = 0) -> tuple[int, dict[str, str], Any]:
    # More cores than there are: it is recorded, and waits.
    return ask(shell, "POST", "/v1/tasks", {"job_name": "x", "cpu": 4096, "args": "y" * padding})


def test_a_full_disk_is_a_pause_for_clients(shell: Shell) -> None:
    shell.start()
    status, _, first = submit(shell)
    assert status == 201
    accepted = 1
    fill_up(shell.data_dir.parent / "filler")
    for _ in range(REFUSALS_TRIED_MAX):
        status, headers, said = submit(shell, 15_000)
        if status != 201:
            break
        accepted += 1
    assert status == 503, said
    assert int(headers["Retry-After"]) > 0
    status, _, found = ask(shell, "GET", f"/v1/tasks/{first['id']}")
    assert (status, found["status"]) == (200, "queued")

    (shell.data_dir.parent / "filler").unlink()
    begun = time.monotonic()
    until("a task is accepted again", lambda: submit(shell)[0] == 201, RECOVERY_MAX_S)
    print(f"accepted again after {time.monotonic() - begun:.2f} s")
    status, _, verdict = ask(shell, "POST", "/v1/audit/verify")
    assert (status, verdict["valid"]) == (200, True), verdict
    status, _, listed = ask(shell, "GET", "/v1/tasks?limit=1")
    assert (status, listed["total"]) == (200, accepted + 1)


def test_of_a_batch_that_the_disk_takes_in_part_each_item_says_what_became_of_it(shell: Shell) -> None:
    shell.start()
    filler = shell.data_dir.parent / "filler"
    fill_up(filler)
    os.truncate(filler, filler.stat().st_size - 2**20)  # for some of the slices
    batch = [{"job_name": "x", "cpu": 4096, "args": "y" * 3000}] * 1000
    status, _, outcomes = ask(shell, "POST", "/v1/tasks/batch", batch)
    assert (status, len(outcomes)) == (200, len(batch))
    statuses = [one["status"] for one in outcomes]
    made = statuses.count(201)
    assert 0 < made < len(batch)
    assert statuses == [201] * made + [503] * (len(batch) - made)
    assert {one["error"]["code"] for one in outcomes[made:]} == {"SERVICE_UNAVAILABLE"}
    for one in outcomes[:made]:
        assert ask(shell, "GET", f"/v1/tasks/{one['task']['id']}")[0] == 200
    filler.unlink()
    until("a task is accepted again", lambda: submit(shell)[0] == 201, RECOVERY_MAX_S)
    _, _, listed = ask(shell, "GET", "/v1/tasks?limit=1")
    assert listed["total"] == made + 1
