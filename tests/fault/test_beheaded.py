"""A whole daemon whose record has lost its first events: it says so, by name, and makes nothing anew."""

import json
from pathlib import Path

import pytest

from fetchmld.client import Client
from tests.e2e.conftest import Shell, until

pytestmark = pytest.mark.e2e

TASKS = 1_200
FIRST = f"{0:020d}.log"


@pytest.mark.parametrize("from_snapshot", [False, True])
def test_a_record_without_its_beginning_is_named_and_not_begun_anew(shell: Shell, from_snapshot: bool) -> None:
    shell.environment |= {"FETCHMLD_SEGMENT_BYTES": str(2**16), "FETCHMLD_SNAPSHOT_EVENTS": "1000"}
    shell.environment["FETCHMLD_SEAL_AFTER_SEGMENTS"] = "0"  # none: what is cut and looked at has its name throughout
    shell.start()
    key = (shell.data_dir / "admin.key").read_text().strip()
    with Client(f"http://127.0.0.1:{shell.port}", key) as client:
        client.submit_many([{"job_name": "waits", "cpu": 4096}] * TASKS)
        client.submit({"job_name": "last", "cpu": 4096})
        assert client.tasks(limit=1)["total"] == TASKS + 1
    snapshots = shell.data_dir / "ledger" / "snapshots"
    until("there is a snapshot", lambda: list(snapshots.glob("*.state")))
    shell.fetchmld("stop")
    if not from_snapshot:
        for path in snapshots.iterdir():
            path.unlink()
    segments = shell.data_dir / "ledger" / "segments"
    assert len(list(segments.glob("*.log*"))) > 1
    segments.joinpath(FIRST).write_bytes(b"")

    said = shell.fetchmld("doctor", code=1)
    assert "event 0 is missing" in said
    said = shell.fetchmld("audit", "verify", "--data-dir", str(shell.data_dir), code=1)
    assert "first bad sequence number 0: events 0 to" in said
    said = shell.fetchmld("start", "--head", "--port", str(shell.port), "--num-cpus", "4", code=None)
    log = Path(shell.data_dir / "logs" / "daemon.log")
    until("the daemon ended", lambda: not _runs(shell), 60)
    told = said + log.read_text()
    assert "damaged from event 0 on: events 0 to" in told
    assert "another ledger" not in told + (shell.data_dir / "logs" / "history.log").read_text()
    assert list(shell.data_dir.glob("index.duckdb.bad-*")) == []
    assert segments.joinpath(FIRST).read_bytes() == b"", "nothing was written in its place"


def _runs(shell: Shell) -> bool:
    state = shell.data_dir / "daemon.json"
    if not state.exists():
        return False
    return Path(f"/proc/{json.loads(state.read_text())['pid']}").exists()
