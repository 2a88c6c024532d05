"""A 201 of a whole daemon is sent after a sync of the ledger that began after its request: seen in the system calls."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fetchmld.client import Client
from tests.e2e.conftest import Shell, until
from tests.fault.conftest import count

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")]

TASKS = count(20, 500)
# "123 1700000000.123456 fdatasync(7</...>) = 0 <0.000123>"; cut in two where another thread came in between
CALL = re.compile(
    r"^(\d+) +(\d+\.\d+) (?:fdatasync\(\d+<([^>]*)>|<\.\.\. fdatasync resumed>).*= (-?\d+).*<(\d+\.\d+)>$"
)
BEGINS = re.compile(r"^(\d+) +(\d+\.\d+) fdatasync\(\d+<([^>]*)> <unfinished \.\.\.>$")


@contextmanager
def traced(pid: int, out: Path) -> Iterator[None]:
    command = ["strace", "-f", "-y", "-ttt", "-T", "-e", "trace=fdatasync", "-o", str(out), "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        if "attached" not in line:
            pytest.skip(f"strace cannot attach here: {line.strip()}")
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=60)


def syncs(out: Path) -> list[tuple[float, float]]:
    """When each sync of a segment began and ended well."""
    found, open_calls = [], dict[str, tuple[float, str]]()
    for line in out.read_text().splitlines():
        if begins := BEGINS.match(line):
            open_calls[begins[1]] = float(begins[2]), begins[3]
        elif call := CALL.match(line):
            begun, path = (float(call[2]), call[3]) if call[3] else open_calls.pop(call[1], (0.0, ""))
            if "/ledger/segments/" in path and call[4] == "0":
                found.append((begun, begun + float(call[5])))
    return found


def test_each_201_comes_behind_a_sync(shell: Shell, tmp_path: Path) -> None:
    shell.start()
    (pid,) = [pid for pid, line in shell.processes().items() if line.startswith("ray::scheduler")]
    key = (shell.data_dir / "admin.key").read_text().strip()
    asked = []
    with Client(f"http://127.0.0.1:{shell.port}", key) as client, traced(pid, tmp_path / "calls"):
        for _ in range(TASKS):
            begun = time.time()
            client.submit({"job_name": "x", "cpu": 4096})  # more cores than there are: it is recorded, and waits
            asked.append((begun, time.time()))
    done = syncs(tmp_path / "calls")
    until("the calls are written", lambda: done)
    for begun, answered in asked:
        assert any(begun < start and end < answered for start, end in done), (begun, answered, done[:3])
