"""The surface as one table: every command with its flags, what it asks of the daemon, what it prints, and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from fetchmld.cli import COMMANDS, root
from fetchmld.client import line
from tests.cli.conftest import Run
from tests.client.stub import Stub, answer, refused

AT = "2026-01-01T00:00:00.000000Z"
TASK = {"id": "t1", "job_name": "n", "status": "completed", "created_at": AT, "attempt": 1}
WORKER = {"id": "w1", "status": "active"}
RESERVATION = {"id": "r1", "status": "active", "user_id": "ada", "gpu_count": 1, "node_count": 1, "expires_at": AT}
EXPERIMENT = {"id": "e1", "name": "digits", "status": "active"}
KEY = {"id": "k1", "user_id": "ada", "role": "user", "status": "active", "created_at": AT}
SNAPSHOT = {"id": "5" * 64, "created_at": AT, "file_count": 1, "total_bytes": 1}
EVENT = {"sequence_num": 7, "timestamp": AT, "event_type": "job_queued", "action": "task.submit", "success": True}
ROWS = {"columns": [{"name": "id", "type": "VARCHAR"}], "rows": [["t1"]], "row_count": 1, "truncated": False}
METRICS = {"experiment_id": "e1", "params": [], "metrics": [], "tasks": [], "total": 0, "limit": 100, "offset": 0}
VALID = {"valid": True, "total_events": 8, "chain_root_hash": "ab", "verified_at": AT}

PLUGIN: dict[str, Any] = {
    "name": "mlflow",
    "enabled": True,
    "mode": "sidecar",
    "status": {"name": "mlflow", "status": "healthy", "url": "http://h/plugins/mlflow/"},
    "config": {"enabled": True, "mode": "sidecar", "settings": {}},
    "version": "3",
}
# What is asked first or on the way, for every command.
ROUTES: dict[str, Any] = {
    "GET /v1/tasks/t1": TASK,
    "GET /v1/scheduler/workers": [WORKER],
    "GET /v1/scheduler/reservations": [RESERVATION],
    "GET /v1/experiments": [EXPERIMENT],
    "GET /v1/keys": [KEY],
    "GET /v1/snapshots": [SNAPSHOT],
    "GET /v1/plugins/mlflow/config": PLUGIN["config"],
}

# words -> (the request that matters, its answer, what -q prints of it)
COMMAND_TABLE: list[tuple[str, str, Any, str]] = [
    ("submit -- true", "POST /v1/tasks", TASK, "t1"),
    ("submit --wait -- true", "POST /v1/tasks", TASK, "t1"),
    ("ls", "GET /v1/tasks", {"tasks": [TASK], "total": 1, "limit": 50, "offset": 0}, "t1"),
    ("show t1", "GET /v1/tasks/t1", TASK, "t1"),
    ("wait t1", "GET /v1/tasks/t1", TASK, "t1"),
    ("why t1", "GET /v1/tasks/t1/explain", {"task_id": "t1", "status": "queued", "reason": "no room"}, "no room"),
    ("priority t1 9", "PATCH /v1/scheduler/jobs/t1/priority", {**TASK, "priority": 9}, "t1"),
    ("queue", "GET /v1/queue", {"queued": 1, "running": 0, "completed": 2, "failed": 0, "workers": 1}, ""),
    ("workers", "GET /v1/scheduler/workers", [WORKER], "w1"),
    ("undrain w1", "POST /v1/scheduler/workers/w1/undrain", WORKER, "w1"),
    ("release-gpu w1 0", "POST /v1/scheduler/workers/w1/gpus/0/release", WORKER, "w1"),
    ("reserve create --gpu 1", "POST /v1/scheduler/reservations", RESERVATION, "r1"),
    ("reserve ls", "GET /v1/scheduler/reservations", [RESERVATION], "r1"),
    ("experiments create digits", "POST /v1/experiments", EXPERIMENT, "e1"),
    ("experiments ls", "GET /v1/experiments", [EXPERIMENT], "e1"),
    ("experiments show e1", "GET /v1/experiments/e1/metrics", METRICS, "e1"),
    ("experiments archive e1", "PATCH /v1/experiments/e1", {**EXPERIMENT, "status": "archived"}, "e1"),
    ("snapshots ls", "GET /v1/snapshots", [SNAPSHOT], "5" * 64),
    ("audit ls", "GET /v1/audit/events", {"events": [EVENT], "total": 1, "limit": 50, "offset": 0}, "7"),
    ("audit verify", "POST /v1/audit/verify", VALID, ""),
    ("audit root", "GET /v1/audit/chain-root", {"root_hash": "ab", "total_events": 8, "anchored": False}, ""),
    ("keys create --user ada", "POST /v1/keys", {**KEY, "key": "fml_x"}, "fml_x"),
    ("keys ls", "GET /v1/keys", [KEY], "k1"),
    ("plugins ls", "GET /v1/plugins", [PLUGIN], "mlflow"),
    ("plugins show mlflow", "GET /v1/plugins/mlflow", PLUGIN, ""),
    ("plugins enable mlflow --set experiment_prefix=a", "PUT /v1/plugins/mlflow/config", PLUGIN, "mlflow"),
    ("plugins config mlflow", "GET /v1/plugins/mlflow/config", PLUGIN["config"], ""),
    ("plugins health mlflow", "GET /v1/plugins/mlflow/health", {"status": "healthy", "version": "3"}, ""),
    ("history SELECT", "POST /v1/history/query", {**ROWS, "elapsed_ms": 1.0}, "t1"),
    ("artifacts t1", "GET /v1/tasks/t1/artifacts", [{"path": "a", "bytes": 1, "hash": "h"}], "a"),
    ("status", "GET /v1/scheduler/status", {"workers_total": 1, "tasks_running": 0}, ""),
]
# These have no body to print: words -> (the request that matters, what -q prints)
SILENT_TABLE: list[tuple[str, str, str]] = [
    ("cancel t1", "DELETE /v1/tasks/t1", "t1"),
    ("drain w1", "DELETE /v1/scheduler/workers/w1", "w1"),
    ("reserve release r1", "DELETE /v1/scheduler/reservations/r1", "r1"),
    ("keys revoke k1", "DELETE /v1/keys/k1", "k1"),
    ("plugins disable mlflow", "DELETE /v1/plugins/mlflow/config", "mlflow"),
]
EXITS = {400: 5, 401: 4, 403: 4, 404: 3, 409: 5, 413: 5, 422: 5, 429: 7, 500: 1, 501: 1, 503: 6}
# Every flag that surface documents promise; there may be more.
FLAGS: dict[str, str] = {
    "start": "--head --host --port --data-dir --config --block --num-cpus --num-gpus --gpu-type --address",
    "stop": "--data-dir --drain",
    "status": "--json",
    "submit": "--name --cpu --gpu --memory-gb --gpu-type --node-count --priority --time-limit --dataset --snapshot --env "
    "--max-retries --array --reservation --plugin --wait --follow --dry-run --experiment --param --after --image",
    "ls": "--status --user --limit --offset --at --array --experiment --json --quiet",
    "show": "--at",
    "logs": "-f --follow --attempt",
    "wait": "--timeout",
    "reserve create": "--gpu --gpu-type --node-count --for --at",
    "experiments create": "--description --commit",
    "experiments ls": "--status",
    "experiments show": "--limit --offset",
    "experiments archive": "--undo",
    "snapshots push": "--quiet",
    "snapshots ls": "--quiet",
    "snapshots pull": "--quiet",
    "audit ls": "--type --user --from --to --limit --offset",
    "audit verify": "--data-dir --checkpoint",
    "audit prove": "--seq --from --to --checkpoint --output",
    "audit check": "--checkpoint --key",
    "audit root": "--json",
    "keys create": "--user --role --expires",
    "keys ls": "--quiet",
    "keys revoke": "--quiet",
    "history": "--csv --limit",
    "simulate": "--nodes --tasks --json",
    "doctor": "--json",
    "cancel": "--quiet",
    "why": "--json",
    "priority": "--json",
    "queue": "--json",
    "workers": "--json",
    "drain": "--quiet",
    "undrain": "--quiet",
    "reserve ls": "--quiet",
    "reserve release": "--quiet",
    "completion": "--help",
    "ui": "--help",
    "plugins ls": "--quiet",
    "plugins show": "--json",
    "plugins enable": "--mode --set --wait",
    "plugins disable": "--quiet",
    "plugins config": "--set --unset --wait",
    "plugins health": "--json",
}


def command_of(words: str) -> click.Command:
    command: click.Command = root
    for word in words.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"there is no {words}"
        command = found
    return command


@pytest.mark.parametrize(("words", "flags"), FLAGS.items())
def test_every_command_has_its_flags(words: str, flags: str) -> None:
    command = command_of(words)
    there = {
        name for param in command.get_params(click.Context(command)) for name in (*param.opts, *param.secondary_opts)
    }
    assert set(flags.split()) <= there


def test_help_knows_every_command(run: Run) -> None:
    said = run("--help").out
    assert all(f"  {words.split()[0]} " in said for words in FLAGS)
    assert all(run(name, "--help").code == 0 for name in COMMANDS)


@pytest.mark.parametrize(("words", "asked", "body", "quiet"), COMMAND_TABLE)
def test_what_a_command_asks_and_prints(client: Run, stub: Stub, words: str, asked: str, body: Any, quiet: str) -> None:
    stub.handlers.update({key: answer(200, one) for key, one in {**ROUTES, asked: body}.items()})
    stub.handlers["GET /health"] = answer(200, {"status": "healthy", "version": "0"})
    as_json = client(*words.split(), "--json") if "--" not in words.split() else client("--json", *words.split())
    assert (as_json.code, as_json.err) == (0, "")
    assert json.loads(as_json.out) == body
    assert any(f"{one.method} {one.target.partition('?')[0]}" == asked for one in stub.asked)
    plain, brief = client(*words.split()), client("-q", *words.split())
    assert (plain.code, brief.code) == (0, 0)
    assert plain.out.strip() or "--wait" in words
    if quiet:
        assert quiet in (brief.out + brief.err).splitlines()


@pytest.mark.parametrize(("words", "asked", "quiet"), SILENT_TABLE)
def test_what_is_done_without_an_answer(client: Run, stub: Stub, words: str, asked: str, quiet: str) -> None:
    stub.handlers.update({**{key: answer(200, one) for key, one in ROUTES.items()}, asked: answer(204, None)})
    assert client(*words.split(), "--json").out == ""
    assert client("-q", *words.split()).out == f"{quiet}\n"
    assert client(*words.split()).out.startswith(quiet)
    assert f"{stub.asked[-1].method} {stub.asked[-1].target}" == asked


@pytest.mark.parametrize("status", EXITS)
def test_every_command_ends_with_the_code_of_its_refusal(
    client: Run, stub: Stub, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "LOST_MAX_S", 0.0)
    for words, asked, *_ in [*COMMAND_TABLE, *SILENT_TABLE]:
        stub.handlers = {key: answer(200, one) for key, one in ROUTES.items()}
        stub.handlers[asked] = refused(status, "CODE", "because")
        if asked == "GET /v1/tasks/t1" and status == 404:
            stub.handlers["GET /v1/tasks"] = answer(200, {"tasks": [], "total": 0})
        ran = client("--json", *words.split())
        if words == "wait t1" and status in (429, 503):
            continue  # it goes on waiting for as long as a restart may take
        assert ran.code == EXITS[status], words
        assert ran.out == "", words
        said = json.loads(ran.err)
        assert said.keys() == {"error", "code", "trace_id"}, words


def test_nobody_there_and_silence_have_their_codes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCHML_ADDRESS", "http://127.0.0.1:1")
    for words, *_ in COMMAND_TABLE:
        if not words.startswith("wait"):
            assert run(*words.split()).code == 6, words


def test_ids_are_prefixes_names_and_last(client: Run, stub: Stub) -> None:
    stub.handlers.update({key: answer(200, one) for key, one in ROUTES.items()})
    stub.handlers["DELETE /v1/scheduler/reservations/r1"] = answer(204, None)
    stub.handlers["DELETE /v1/keys/k1"] = answer(204, None)
    stub.handlers["DELETE /v1/scheduler/workers/w1"] = answer(204, None)
    for words in ("reserve release {}", "keys revoke {}", "drain {}"):
        kind = words.split()[0][0].replace("d", "w")
        for given in (f"{kind}1", kind, "last"):
            assert client(*words.format(given).split()).code == 0, (words, given)
        assert client(*words.format("nope").split()).code == 3
    stub.handlers["GET /v1/keys"] = answer(200, [KEY, {**KEY, "id": "k2"}])
    ambiguous = client("keys", "revoke", "k")
    assert (ambiguous.code, "k1, k2" in ambiguous.err) == (5, True)
    stub.handlers["GET /v1/tasks"] = answer(200, {"tasks": [TASK], "total": 1})
    stub.handlers["POST /v1/tasks"] = answer(201, TASK)
    client("submit", "--after", "last", "--reservation", "r", "--experiment", "digits", "--", "true")
    sent = stub.asked[-1].json
    assert sent["depends_on"] == [{"task_id": "t1", "condition": "ok"}]
    assert (sent["reservation_id"], sent["experiment_id"]) == ("r1", "e1")


# -- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(run: Run, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("completion", shell)
    assert (said.code, f"_FETCHMLD_COMPLETE={shell}_complete" in said.out) == (0, True)
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert run("completion").out == said.out
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert run("completion").code == 5


def completed(words: str, stub: Stub, home: Path) -> list[str]:
    """What bash is offered behind `words`, whose last may be empty."""
    environment = {
        "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_FETCHMLD_COMPLETE": "bash_complete",
        "FETCHML_ADDRESS": stub.address, "HOME": str(home), "PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"],
    }  # fmt: skip
    command = [sys.executable, "-c", "from fetchmld.cli import main; main()"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return [line.partition(",")[2] for line in ran.stdout.splitlines() if line]


def test_commands_options_and_ids_are_completed(stub: Stub, tmp_path: Path) -> None:
    stub.handlers.update({key: answer(200, one) for key, one in ROUTES.items()})
    stub.handlers["GET /v1/tasks"] = answer(200, {"tasks": [TASK, {**TASK, "id": "t2"}, {**TASK, "id": "u1"}]})
    assert completed("fetchmld exp", stub, tmp_path) == ["experiments"]
    assert completed("fetchmld ls --st", stub, tmp_path) == ["--status"]
    assert completed("fetchmld show t", stub, tmp_path) == ["t1", "t2"]
    assert completed("fetchmld cancel t1 u", stub, tmp_path) == ["u1"]
    assert completed("fetchmld drain ", stub, tmp_path) == ["w1"]
    assert completed("fetchmld experiments show ", stub, tmp_path) == ["e1"]
    stub.handlers.clear()
    assert completed("fetchmld show t", stub, tmp_path) == []
