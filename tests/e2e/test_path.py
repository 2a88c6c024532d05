"""The main path, once, as a user walks it."""

import json
from pathlib import Path

import duckdb
import pytest

from tests.e2e.conftest import Shell

pytestmark = pytest.mark.e2e


def test_from_start_to_stop(shell: Shell, tmp_path: Path) -> None:
    said = shell.start()
    assert f"ready at http://127.0.0.1:{shell.port}" in said
    assert (shell.data_dir / "admin.key").stat().st_mode & 0o777 == 0o600
    assert "1 of 1 active" in shell.fetchmld("status")

    task_id = shell.fetchmld(
        "submit", "-q", "--name", "hello", "--", "sh", "-c", "echo to $FETCHML_JOB_NAME; echo up >&2"
    ).strip()
    shell.fetchmld("wait", task_id)
    assert sorted(shell.fetchmld("logs", task_id).splitlines()) == ["to hello", "up"]
    ended = shell.show("last")
    assert ended["id"] == task_id
    assert ended["status"] == "completed"
    assert shell.fetchmld("ls", "-q").split() == [task_id]

    failed = shell.fetchmld("submit", "--wait", "--", "sh", "-c", "exit 3", code=100)
    assert "EXIT_NONZERO" in failed
    assert "ENTRYPOINT_NOT_FOUND" in shell.fetchmld("submit", "--wait", "--", "/no/such/program", code=100)

    assert shell.fetchmld("audit", "verify").startswith("valid")
    kept, proof = tmp_path / "checkpoint", tmp_path / "proof"
    kept.write_text(shell.fetchmld("audit", "checkpoint"))
    shell.fetchmld("audit", "prove", "--seq", "0", "--checkpoint", str(kept), "-o", str(proof))
    shell.fetchmld("audit", "rotate-key")
    assert shell.fetchmld("stop").startswith("Stopped")
    assert "valid: event 0" in shell.fetchmld("audit", "check", str(proof), "--checkpoint", str(kept))
    vouched = shell.fetchmld("audit", "verify", "--data-dir", str(shell.data_dir), "--checkpoint", str(kept))
    assert "vouches for events 0 to" in vouched
    # 2: all of it holds, and no checkpoint of it was put anywhere else that could vouch for it
    assert "valid" in shell.fetchmld("audit", "verify", "--data-dir", str(shell.data_dir), code=2)
    assert shell.fetchmld("ls", code=6)


def test_an_edited_record_is_found_at_its_number(shell: Shell) -> None:
    shell.start()
    shell.fetchmld("submit", "--wait", "--name", "witness", "--", "true")
    listed = json.loads(shell.fetchmld("--json", "audit", "ls"))["events"]
    (number,) = [event["sequence_num"] for event in listed if event["action"] == "task.submit"]
    segment = next((shell.data_dir / "ledger" / "segments").glob("*.log"))
    at = segment.read_bytes().index(b"witness")

    _write_at(segment, at, b"Witness")
    assert f"first bad sequence number {number}" in shell.fetchmld("audit", "verify", code=10)
    shell.fetchmld("stop")
    directory = str(shell.data_dir)
    assert f"first bad sequence number {number}" in shell.fetchmld("audit", "verify", "--data-dir", directory, code=1)
    _write_at(segment, at, b"witness")
    shell.fetchmld("audit", "verify", "--data-dir", directory, code=2)

    with duckdb.connect(str(shell.data_dir / "index.duckdb")) as index:
        index.execute("UPDATE events SET user_id = 'mallory' WHERE seq = ?", [number])
    assert f"first bad sequence number {number}" in shell.fetchmld("audit", "verify", "--data-dir", directory, code=1)
    shell.start()
    assert f"first bad sequence number {number}" in shell.fetchmld("audit", "verify", code=10)


def _write_at(file: Path, offset: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(content)


def test_a_dataset_reaches_the_task_and_its_artifacts_come_back(shell: Shell, tmp_path: Path) -> None:
    root = tmp_path / "sets"
    root.mkdir()
    (root / "numbers.txt").write_text("1\n2\n3\n")
    shell.start("--dataset-root", str(root))
    sum_up = 'awk "{s += \\$1} END {print s}" "$FETCHML_DATASET_NUMBERS" > "$FETCHML_OUTPUT_DIR/sum.txt"'
    spec = f"{root / 'numbers.txt'},name=numbers"
    shell.fetchmld("submit", "--wait", "--dataset", spec, "--", "sh", "-c", sum_up)
    assert shell.fetchmld("artifacts", "-q", "last").split() == ["sum.txt"]
    assert shell.fetchmld("artifacts", "last", "sum.txt") == "6\n"
    wrong = shell.fetchmld("submit", "--wait", "--dataset", f"{spec},sha256={'0' * 64}", "--", "true", code=100)
    assert "DATASET_MISMATCH" in wrong


def test_following_and_cancelling(shell: Shell) -> None:
    shell.start()
    lines = shell.fetchmld("submit", "--follow", "--", "sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.1; done")
    assert lines.splitlines() == ["line 1", "line 2", "line 3"]
    task_id = shell.fetchmld("submit", "-q", "--", "sleep", "600").strip()
    shell.fetchmld("cancel", task_id)
    shell.fetchmld("wait", task_id, code=103)
    assert shell.show(task_id)["error"].startswith("CANCELLED")


def test_what_cannot_start_says_why(shell: Shell, tmp_path: Path) -> None:
    shell.start()
    holder = str(shell.daemon["pid"])
    assert holder in shell.fetchmld("start", "--head", "--port", str(shell.port), code=5)

    other = Shell(tmp_path / "other", shell.port)
    assert str(shell.port) in other.fetchmld("start", "--head", "--port", str(shell.port), code=5)

    foreign = Shell(tmp_path / "foreign", shell.port + 1)
    foreign.data_dir.mkdir()
    (foreign.data_dir / "thesis.tex").write_text("not ours")
    assert str(foreign.data_dir) in foreign.fetchmld("start", "--head", code=5)
    assert [entry.name for entry in foreign.data_dir.iterdir()] == ["thesis.tex"]
    assert json.loads(shell.fetchmld("--json", "queue"))["workers"] == 1
