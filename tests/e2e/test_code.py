"""A directory of code, sent and run, as a user does it."""

import json
import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Shell

pytestmark = pytest.mark.e2e


def test_a_directory_is_sent_run_and_fetched_back(shell: Shell, tmp_path: Path) -> None:
    code = tmp_path / "my project"
    (code / "pkg").mkdir(parents=True)
    (code / "pkg" / "__init__.py").write_text("WORD = 'snapshot'\n")
    (code / "train.py").write_text("import os, pkg\nprint(pkg.WORD, sorted(os.listdir()))\n")
    (code / "data.bin").write_bytes(os.urandom(3_000_000))
    (code / ".gitignore").write_text("*.log\n")
    (code / "old.log").write_text("not this")
    shell.start()

    ended = shell.json("submit", "--snapshot", str(code), "--wait")
    assert ended["job_name"] == "my-project"
    assert "snapshot ['.gitignore', 'data.bin', 'pkg', 'train.py']" in shell.fetchmld("logs", ended["id"])
    (listed,) = shell.json("snapshots", "ls")
    assert listed["id"] == ended["snapshot_id"]

    (code / "other.py").write_text("print('other')\n")
    blobs = set((shell.data_dir / "objects" / "code" / "blobs").glob("??/*"))
    second = shell.fetchmld("snapshots", "push", str(code), "-q").strip()
    assert len(set((shell.data_dir / "objects" / "code" / "blobs").glob("??/*")) - blobs) == 1
    assert shell.fetchmld("submit", "--dry-run", "--snapshot", str(code), "--", "x").count(second) == 1
    shell.fetchmld("submit", "--snapshot", second[:10], "--wait", "--", "other.py")
    assert "other" in shell.fetchmld("logs", "last")

    shell.fetchmld("snapshots", "pull", "last", str(tmp_path / "back"))
    assert (tmp_path / "back" / "data.bin").read_bytes() == (code / "data.bin").read_bytes()
    assert "is not empty" in shell.fetchmld("snapshots", "pull", "last", str(tmp_path / "back"), code=5)
    assert "no snapshot" in shell.fetchmld("submit", "--snapshot", "0" * 64, "--", "x", code=5)

    events = json.loads(shell.fetchmld("--json", "audit", "ls"))["events"]
    actions = [event["action"] for event in events if event["action"].startswith("snapshot.")]
    assert (actions.count("snapshot.write"), actions.count("snapshot.read")) == (2, 3)
    assert shell.fetchmld("audit", "verify").startswith("valid")
