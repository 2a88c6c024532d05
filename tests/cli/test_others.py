import json
import os
from pathlib import Path

import pytest
from blake3 import blake3

from fetchmld.cli import show
from fetchmld.cli.watch import waiting_line
from fetchmld.core.messages import Fact
from tests.cli.conftest import Run
from tests.client.stub import Asked, Stub, answer, refused
from tests.memory_log import MemoryLog


def test_workers(client: Run, stub: Stub) -> None:
    worker = {
        "id": "w1",
        "hostname": "node-a",
        "status": "active",
        "capabilities": {"cpu_cores": 8, "memory_gb": 32, "gpu_count": 2, "gpu_type": "A100"},
        "slots": {"batch_available": 7, "batch_total": 8, "service_available": 2, "service_total": 2},
        "active_tasks": ["t"],
    }
    stub.handlers["GET /v1/scheduler/workers"] = answer(200, [worker])
    assert client("workers").out.splitlines()[1].split() == [
        "w1",
        "node-a",
        "active",
        "7/8",
        "2/2",
        "8",
        "32",
        "GB",
        "2",
        "A100",
        "1",
    ]
    assert client("workers", "-q").out == "w1\n"
    assert "Ray" not in client("workers").out
    detail = {"ray_share": {"cpu": 4, "memory_gb": 16, "gpus": [2, 3]}, "ray_has": {"cpu": 1, "gpus": 1}}
    stub.handlers["GET /v1/scheduler/workers"] = answer(200, [{**worker, "detail": detail}])
    assert client("workers").out.splitlines()[-1] == (
        "w1: lent to Ray: 4 cores, GPU 2, 3, 16 GB of memory; "
        "Ray-native programs also have 1 core, 1 GPU, which are waited for"
    )


def test_queue_and_status(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/queue"] = answer(200, {"queued": 3, "running": 1, "completed": 9, "failed": 0, "workers": 1})
    assert client("queue").out.split()[:4] == ["queued", "3", "running", "1"]
    stub.handlers["GET /v1/scheduler/status"] = answer(
        200, {"workers_total": 1, "workers_active": 1, "tasks_running": 4}
    )
    stub.handlers["GET /health"] = answer(200, {"status": "healthy", "version": "0.1.0"})
    out = client("status").out
    assert "healthy, version 0.1.0" in out
    assert "1 of 1 active" in out


def test_experiments(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/experiments"] = answer(201, {"id": "e1", "name": "n"})
    assert client("experiments", "create", "n", "--description", "d").out == "e1 n\n"
    assert stub.asked[0].json == {"name": "n", "description": "d"}
    made = {"id": "e1", "name": "n", "status": "active", "created_at": "2026-01-31T12:00:00Z"}
    stub.handlers["GET /v1/experiments"] = answer(200, [made])
    assert "e1" in client("experiments", "ls").out
    assert client("experiments", "ls", "-q").out == "e1\n"
    assert client("experiments", "ls", "--status", "archived").code == 0
    assert stub.asked[-1].target.endswith("?status=archived")


METRICS = {
    "experiment_id": "e1",
    "params": ["lr"],
    "metrics": ["loss"],
    "tasks": [
        {"task_id": "t2", "job_name": "n", "status": "running", "params": {"lr": 0.1}, "metrics": {}},
        {"task_id": "t1", "job_name": "n", "status": "completed", "params": {}, "metrics": {"loss": 0.25}},
    ],
    "total": 5,
    "limit": 2,
    "offset": 0,
}


def test_an_experiment_is_shown_with_its_metrics(client: Run, stub: Stub) -> None:
    every = [{"id": "e1", "name": "digits", "status": "active"}, {"id": "e2", "name": "other", "status": "active"}]
    stub.handlers["GET /v1/experiments"] = answer(200, every)
    stub.handlers["GET /v1/experiments/e1/metrics"] = answer(200, METRICS)
    shown = client("experiments", "show", "digits", "--limit", "2")
    assert [line.split() for line in shown.out.splitlines()[-3:]] == [
        ["TASK", "NAME", "STATUS", "lr", "loss"],
        ["t2", "n", "running", "0.1"],
        ["t1", "n", "completed", "0.25"],
    ]
    assert "and 3 more: fetchmld experiments show e1 --offset 2" in shown.err
    assert json.loads(client("experiments", "show", "e1", "--json").out) == METRICS
    assert client("experiments", "show", "-q", "last").out == "e1\n"
    assert client("experiments", "show", "e").code == 5
    assert client("experiments", "show", "none").code == 3


def test_experiments_are_archived_and_brought_back(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/experiments"] = answer(200, [{"id": "e1", "name": "digits", "status": "active"}])
    stub.handlers["PATCH /v1/experiments/e1"] = answer(200, {"id": "e1", "name": "digits", "status": "archived"})
    assert client("experiments", "archive", "digits").out == "e1 is archived\n"
    assert stub.asked[-1].json == {"status": "archived"}
    assert client("experiments", "archive", "e1", "--undo").code == 0
    assert stub.asked[-1].json == {"status": "active"}


def test_tasks_of_an_experiment_by_its_name(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/experiments"] = answer(200, [{"id": "e1", "name": "digits", "status": "active"}])
    stub.handlers["GET /v1/tasks"] = answer(200, {"tasks": [], "total": 60})
    listed = client("ls", "--experiment", "digits")
    assert "experiment_id=e1" in stub.asked[-1].target
    assert "fetchmld ls --experiment e1 --offset 50" in listed.err
    stub.handlers["POST /v1/tasks"] = answer(201, {"id": "t1", "status": "queued"})
    client("submit", "--experiment", "digits", "--", "true")
    assert stub.asked[-1].json["experiment_id"] == "e1"


def test_what_a_task_waits_for_is_one_line() -> None:
    task = {"id": "t", "status": "queued", "wait_reason": "no free GPU"}
    assert waiting_line(task) == "t queued: no free GPU"
    said = "[fetchmld] dataset d: fetching https://h/d: 1 %\n[fetchmld] dataset d: 50 % (1.0 GB of 2.0 GB)\n"
    assert (
        waiting_line({"id": "t", "status": "preparing", "output": said})
        == "t preparing: dataset d: 50 % (1.0 GB of 2.0 GB)"
    )
    assert waiting_line({"id": "t", "status": "preparing"}) == "t preparing"
    assert waiting_line({"id": "t", "status": "running", "output": "loss 0.1\n"}) == "t running"


def test_the_options_of_a_registered_dataset_are_not_shown(client: Run, stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('[datasets.d]\nsource = "s3://b/d"\noptions = { secret = "canary" }\n')
    for flags in ((), ("--json",)):
        out = client("config", "show", "--config", str(file), *flags).out
        assert "s3://b/d" in out
        assert "canary" not in out


def test_artifacts(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t"] = answer(200, {"id": "t", "status": "completed"})
    stub.handlers["GET /v1/tasks/t/artifacts"] = answer(200, [{"path": "metrics.json", "bytes": 12, "hash": "h"}])
    stub.handlers["GET /v1/tasks/t/artifacts/metrics.json"] = answer(200, b'{"a": 1}')
    assert client("artifacts", "t", "-q").out == "metrics.json\n"
    assert json.loads(client("artifacts", "t", "metrics.json").out) == {"a": 1}


def test_an_artifact_is_written_to_a_file_checked_and_gone_on_with(client: Run, stub: Stub, tmp_path: Path) -> None:
    data = b"0123456789" * 1000
    stub.handlers["GET /v1/tasks/t"] = answer(200, {"id": "t", "status": "completed"})
    entry = {"path": "m.bin", "bytes": len(data), "hash": blake3(data).hexdigest()}
    stub.handlers["GET /v1/tasks/t/artifacts"] = answer(200, [entry])

    def part(asked: Asked) -> bytes:
        begin = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        return answer(206 if begin else 200, data[begin:])

    stub.handlers["GET /v1/tasks/t/artifacts/m.bin"] = part
    target = tmp_path / "m.bin"
    (tmp_path / "m.bin.part").write_bytes(data[:4000])
    assert client("artifacts", "t", "m.bin", "-o", str(target)).code == 0
    assert target.read_bytes() == data
    assert stub.asked[-1].headers["range"] == "bytes=4000-"
    assert os.listdir(tmp_path) == ["m.bin"]

    (tmp_path / "m.bin.part").write_bytes(b"of another file")
    ran = client("artifacts", "t", "m.bin", "-o", str(target))
    assert ran.code != 0
    assert "try again" in ran.err
    assert not (tmp_path / "m.bin.part").exists()
    assert client("artifacts", "t", "-o", str(target)).code == 2
    stub.handlers["GET /v1/tasks/t/artifacts/other"] = refused(404, "NOT_FOUND", "task t left no file 'other'")
    ran = client("artifacts", "t", "other", "-o", str(tmp_path / "other"))
    assert (ran.code, "left no file 'other'" in ran.err, os.listdir(tmp_path)) == (3, True, ["m.bin"])


def test_a_valid_chain(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/audit/verify"] = answer(200, {"valid": True, "total_events": 7, "chain_root_hash": "ff"})
    ran = client("audit", "verify")
    assert (ran.code, ran.out) == (0, "valid: 7 events, root ff\n")


def test_an_invalid_chain_is_10_and_names_the_number(client: Run, stub: Stub) -> None:
    bad = {"valid": False, "total_events": 7, "first_tampered": 3, "index_valid": True, "problem": "hash differs"}
    stub.handlers["POST /v1/audit/verify"] = answer(200, bad)
    ran = client("audit", "verify")
    assert ran.code == 10
    assert "INVALID" in ran.out
    assert "sequence number 3" in ran.out
    assert "hash differs" in ran.out
    assert client("audit", "verify", "--json").code == 10


def test_a_changed_index_is_said_apart(client: Run, stub: Stub) -> None:
    bad = {"valid": False, "total_events": 7, "first_tampered": 5, "index_valid": False, "index_first_bad": 5}
    stub.handlers["POST /v1/audit/verify"] = answer(200, bad)
    assert "the index differs from the chain at 5" in client("audit", "verify").out


def test_events_and_root(client: Run, stub: Stub) -> None:
    event = {
        "sequence_num": 4,
        "timestamp": "2026-01-31T12:00:00Z",
        "event_type": "job_queued",
        "action": "task.submit",
        "user_id": "admin",
        "resource": "task/t",
        "success": True,
    }
    stub.handlers["GET /v1/audit/events"] = answer(200, {"events": [event], "total": 1, "limit": 50, "offset": 0})
    assert "task.submit" in client("audit", "ls", "--type", "job_queued", "--from", "2026-01-01T00:00:00Z").out
    assert "from=2026-01-01T00%3A00%3A00Z" in stub.asked[0].target
    stub.handlers["GET /v1/audit/chain-root"] = answer(200, {"root_hash": "ff", "total_events": 5})
    assert client("audit", "root").out.splitlines()[0] == "ff after 5 events"
    assert "not anchored" in client("audit", "root").out
    anchored = {"anchored": True, "anchored_at": "2026-01-31T12:00:00Z", "checkpoint_size": 5, "sinks": []}
    stub.handlers["GET /v1/audit/chain-root"] = answer(200, {"root_hash": "ff", "total_events": 5, **anchored})
    assert "anchored: 5 events are vouched for" in client("audit", "root").out


def test_a_proof_is_written_and_checked_without_a_daemon(client: Run, run: Run, stub: Stub, tmp_path: Path) -> None:
    log = MemoryLog([Fact("auth_attempt", "auth.success", "key:1") for _ in range(9)])
    (tmp_path / "note").write_text(log.note(7))
    stub.handlers["GET /v1/audit/checkpoint"] = answer(200, log.note(7).encode())
    assert client("audit", "checkpoint").out == log.note(7)
    proof = {
        "kind": "inclusion",
        "sequence_num": 3,
        "record": log.records[3].hex(),
        "event_hash": log.hashes[3].hex(),
        "tree_size": 7,
        "root": log.root(7).hex(),
        "proof": [node.hex() for node in log.inclusion(3, 7)],
        "checkpoint": log.note(7),
        "verifier_key": log.verifier_key,
    }
    stub.handlers["GET /v1/audit/proof"] = answer(200, proof)
    file, note = str(tmp_path / "proof"), str(tmp_path / "note")
    assert client("audit", "prove", "--seq", "3", "--checkpoint", note, "-o", file).code == 0
    assert "seq=3&size=7" in stub.asked[-1].target
    assert run("audit", "check", file).code == 2
    assert run("audit", "check", file, "--checkpoint", note).code == 0
    assert run("audit", "check", file, "--key", log.verifier_key).code == 0
    assert run("audit", "check", file, "--key", MemoryLog([], b"o" * 32).verifier_key).code == 1
    Path(note).write_text(log.note(8))
    assert run("audit", "check", file, "--checkpoint", note).code == 3
    Path(note).write_text(MemoryLog([Fact("auth_attempt", "x", "y") for _ in range(9)]).note(7))
    assert run("audit", "check", file, "--checkpoint", note).code == 1
    Path(file).write_text(json.dumps({**proof, "sequence_num": 4}))
    assert run("audit", "check", file).code == 1
    Path(file).write_text("{}")
    assert run("audit", "check", file).code == 3
    assert run("audit", "check", str(tmp_path / "none")).code == 3


def test_prove_needs_something_to_prove(client: Run, stub: Stub, tmp_path: Path) -> None:
    assert client("audit", "prove").code == 2
    assert client("audit", "prove", "--seq", "1", "--from", "2").code == 2
    (tmp_path / "x").write_text("no note")
    assert client("audit", "prove", "--seq", "1", "--checkpoint", str(tmp_path / "x")).code == 5
    stub.handlers["GET /v1/audit/consistency"] = answer(200, {"kind": "consistency"})
    assert client("audit", "prove", "--from", "4").code == 0
    assert stub.asked[-1].target.endswith("?from=4")
    stub.handlers["POST /v1/audit/rotate-key"] = answer(200, {"verifier_key": "k", "sequence_num": 8})
    assert client("audit", "rotate-key").out == "k since event 8\n"


def test_prune_asks_first_and_says_what_went(client: Run, stub: Stub) -> None:
    found = {
        "first_event": 50,
        "removed_events": 40,
        "removed_bytes": 2**20,
        "dry_run": True,
        "until": "2026-01-02T03:04:05Z",
    }
    stub.handlers["POST /v1/audit/prune"] = answer(200, found)
    assert "events 10 to 49, 1.0 MiB" in client("audit", "prune", "--before", "90d", "--dry-run").out
    asked = len(stub.asked)
    assert client("audit", "prune", "--before", "2026-01-01").code == 2  # nobody there to say yes
    assert len(stub.asked) == asked + 1
    stub.handlers["POST /v1/audit/prune"] = answer(200, {**found, "sequence_num": 77})
    said = client("audit", "prune", "--before", "2026-01-01T00:00:00+01:00", "--yes").out
    assert "recorded as event 77" in said
    assert json.loads(stub.asked[-1].body) == {"before": "2025-12-31T23:00:00Z", "dry_run": False}
    stub.handlers["POST /v1/audit/prune"] = answer(200, {**found, "removed_events": 0, "first_event": 10})
    assert "nothing goes" in client("audit", "prune", "--before", "1d", "--yes").out
    assert client("audit", "prune", "--before", "soon").code == 2


def test_settings_say_where_they_come_from(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f.toml"
    file.write_text("grace_s = 3\nport = 9200\n")
    monkeypatch.setenv("FETCHMLD_PORT", "9300")
    found = json.loads(run("--data-dir", str(tmp_path), "config", "show", "--json", "--config", str(file)).out)
    assert found["port"] == {"value": 9300, "source": "FETCHMLD_PORT"}
    assert found["grace_s"] == {"value": 3.0, "source": "file"}
    assert found["data_dir"] == {"value": str(tmp_path), "source": "flag"}
    assert found["host"]["source"] == "default"
    assert "FETCHMLD_PORT" in run("config", "show").out


def test_a_bad_setting_is_said(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("grace_s = -1\n")
    ran = run("config", "show", "--config", str(file))
    assert ran.code == 5
    assert "grace_s" in ran.err


@pytest.mark.parametrize(
    ("span_s", "text"),
    [(0.123, "0.12s"), (59.4, "59s"), (185, "3m05s"), (7800, "2h10m"), (356400, "4d03h"), (-1, "0.00s")],
)
def test_spans_are_short(span_s: float, text: str) -> None:
    assert show.seconds(span_s) == text
