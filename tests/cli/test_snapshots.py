"""`snapshots` and `submit --snapshot` at the command line, against a stub daemon."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.client.stub import Asked, Stub, answer, refused

ONE = {
    "id": "ab" * 32, "created_at": "2026-11-24T04:00:00.000000Z", "file_count": 3, "total_bytes": 4096,
    "commit": "c" * 40, "dirty": True, "remote": "https://h/r",
}  # fmt: skip
TWO = {"id": "ac" * 32, "created_at": "2026-11-24T03:00:00.000000Z", "file_count": 1, "total_bytes": 7}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    directory = tmp_path / "code"
    directory.mkdir()
    (directory / "train.py").write_text("print(1)\n")
    return directory


def missing(asked: Asked) -> bytes:
    return answer(200, {"missing": asked.json})


def serve(stub: Stub) -> None:
    stub.handlers.update(
        {
            "POST /v1/snapshots/diff": missing,
            "POST /v1/snapshots": answer(201, ONE),
            "GET /v1/snapshots": answer(200, [ONE, TWO]),
            "POST /v1/tasks": answer(201, {"id": "abc", "status": "queued", "job_name": "x"}),
        }
    )


def accept_blobs(stub: Stub, code: Path) -> str:
    from fetchmld.client.code import hash_file

    digest, _ = hash_file(str(code / "train.py"))
    stub.handlers[f"PUT /v1/blobs/{digest}"] = answer(204)
    return digest


def test_push_sends_content_and_then_the_list(client: Run, stub: Stub, code: Path) -> None:
    serve(stub)
    digest = accept_blobs(stub, code)
    ran = client("snapshots", "push", str(code))
    assert (ran.code, ran.out) == (0, f"{ONE['id']}  3 files, 4.0 KiB\n"), ran.err
    assert [one.method for one in stub.asked] == ["POST", "PUT", "POST"]
    assert (stub.asked[1].body, stub.asked[1].headers["content-type"]) == (b"print(1)\n", "application/octet-stream")
    entry = {"path": "train.py", "executable": False, "size": 9, "hash": digest}
    assert stub.asked[2].json == {"files": [entry]}
    assert client("snapshots", "push", str(code), "-q").out == f"{ONE['id']}\n"
    assert json.loads(client("snapshots", "push", str(code), "--json").out) == ONE


def test_ls_says_what_is_there(client: Run, stub: Stub) -> None:
    serve(stub)
    out = client("snapshots", "ls").out.splitlines()
    assert out[0].split() == ["ID", "AGE", "FILES", "SIZE", "COMMIT", "REMOTE"]
    assert "cccccccccccc+" in out[1]
    assert client("snapshots", "ls", "-q").out.split() == [ONE["id"], TWO["id"]]


def test_submit_names_the_snapshot_and_needs_no_command(client: Run, stub: Stub, code: Path) -> None:
    serve(stub)
    accept_blobs(stub, code)
    assert client("submit", "--snapshot", str(code)).code == 0
    assert stub.asked[-1].json == {"job_name": "code", "snapshot_id": ONE["id"]}
    assert client("submit", "--snapshot", "ac", "--name", "n", "--", "go.py", "1").code == 0
    assert stub.asked[-1].json == {"job_name": "n", "entrypoint": "go.py", "args": "1", "snapshot_id": TWO["id"]}
    assert client("submit", "--snapshot", "last", "--image", "python:3", "--", "x").code == 0
    assert (stub.asked[-1].json["snapshot_id"], stub.asked[-1].json["image"]) == (ONE["id"], "python:3")


def test_a_dry_run_sends_nothing(client: Run, stub: Stub, code: Path) -> None:
    ran = client("submit", "--dry-run", "--snapshot", str(code))
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)["snapshot_id"]) == 64
    assert stub.asked == []


def test_what_cannot_be_is_said_with_its_exit_code(client: Run, stub: Stub, code: Path, tmp_path: Path) -> None:
    serve(stub)
    (code / "out").symlink_to("/etc")
    ran = client("snapshots", "push", str(code))
    assert (ran.code, "'out' is a link to /etc" in ran.err) == (5, True)
    assert client("snapshots", "push", str(tmp_path / "absent")).code == 5
    ambiguous = client("submit", "--snapshot", "a", "--", "x")
    assert (ambiguous.code, "could be any of a" in ambiguous.err) == (5, True)
    assert client("submit", "--snapshot", "zz", "--", "x").code == 3
    assert client("submit").code == 2
    stub.handlers[f"GET /v1/snapshots/{'0' * 64}"] = refused(404, "NOT_FOUND")
    assert client("snapshots", "pull", "0" * 64, str(tmp_path / "new")).code == 3
