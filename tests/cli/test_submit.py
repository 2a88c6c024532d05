import json
from pathlib import Path
from typing import Any

import pytest

from fetchmld.cli.submit import name_of
from tests.cli.conftest import Run
from tests.client.stub import Stub, answer, chunked, refused

TASK = {"id": "abc", "status": "queued", "job_name": "x"}


def dry(run: Run, *words: str) -> Any:
    ran = run("submit", "--dry-run", *words)
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_a_command_is_its_program_and_its_arguments(run: Run) -> None:
    request = dry(run, "--name", "n", "--", "my prog", "a b", "--flag", "$HOME", "it's")
    assert request == {"job_name": "n", "entrypoint": "'my prog'", "args": "'a b' --flag '$HOME' 'it'\"'\"'s'"}


def test_every_option_has_its_field(run: Run) -> None:
    words = (
        "--cpu 2 --memory-gb 3 --gpu 1 --gpu-type A100 --node-count 2 --priority 9 --time-limit 1h30m --max-retries 4"
    )
    more = "--experiment e --reservation r --env A=1 --env B=x=y --after abc --after d:any"
    assert dry(run, *words.split(), *more.split(), "--", "/bin/true") == {
        "job_name": "true",
        "entrypoint": "/bin/true",
        "cpu": 2,
        "memory_gb": 3,
        "gpu": 1,
        "gpu_type": "A100",
        "node_count": 2,
        "priority": 9,
        "time_limit_s": 5400,
        "max_retries": 4,
        "experiment_id": "e",
        "reservation_id": "r",
        "depends_on": [{"task_id": "abc", "condition": "ok"}, {"task_id": "d", "condition": "any"}],
        "env": {"A": "1", "B": "x=y"},
    }


@pytest.mark.parametrize(("text", "span_s"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d2h3m4s", 93784)])
def test_spans_of_time(run: Run, text: str, span_s: int) -> None:
    assert dry(run, "--time-limit", text, "--", "true")["time_limit_s"] == span_s


@pytest.mark.parametrize("text", ["", "x", "1.5h", "5 m", "-3s"])
def test_other_spans_are_usage_errors(run: Run, text: str) -> None:
    ran = run("submit", "--dry-run", f"--time-limit={text}", "--", "true")
    assert ran.code == 2
    assert "1h30m" in ran.err


def test_a_local_dataset_is_made_absolute(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").write_text("1")
    monkeypatch.chdir(tmp_path)
    spec = "d.csv,name=digits,sha256=" + "0" * 64 + ",mount=data/x.csv"
    assert dry(run, "--dataset", spec, "--", "true")["dataset_specs"] == [
        {"source": str(tmp_path / "d.csv"), "name": "digits", "sha256": "0" * 64, "mount_path": "data/x.csv"}
    ]


def test_a_url_and_a_registered_name(run: Run) -> None:
    request = dry(run, "--dataset", "https://h/d.csv", "--dataset", "mnist", "--", "true")
    assert request["dataset_specs"] == [{"source": "https://h/d.csv"}]
    assert request["datasets"] == ["mnist"]


@pytest.mark.parametrize("spec", [",name=x", "a,b", "a,name=", "a,colour=red"])
def test_a_bad_dataset_is_a_usage_error(run: Run, spec: str) -> None:
    assert run("submit", "--dry-run", "--dataset", spec, "--", "true").code == 2


def test_a_variable_can_be_taken_from_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN", "from here")
    monkeypatch.delenv("ABSENT", raising=False)
    assert dry(run, "--env", "TAKEN", "--", "true")["env"] == {"TAKEN": "from here"}
    assert run("submit", "--env", "ABSENT", "--", "true").code == 2


@pytest.mark.parametrize(
    ("program", "name"), [("/a/train.py", "train"), ("a b.sh", "a-b"), ("…", "task"), ("x" * 99, "x" * 64)]
)
def test_a_name_is_made_of_the_program(program: str, name: str) -> None:
    assert name_of(program) == name


def test_plugins_are_named_with_their_settings(run: Run) -> None:
    ran = run(
        "submit", "--dry-run", "--plugin", "mlflow,experiment=a b,run_name=c", "--plugin", "tensorboard", "--", "true"
    )
    assert json.loads(ran.out)["plugin_configs"] == {
        "mlflow": {"enabled": True, "settings": {"experiment": "a b", "run_name": "c"}},
        "tensorboard": {"enabled": True},
    }
    for wrong in ("", ",a=b", "mlflow,a", "mlflow,=b"):
        assert run("submit", "--dry-run", "--plugin", wrong, "--", "true").code == 2


def test_a_submitted_task_is_shown_with_its_next_step(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/tasks"] = answer(201, TASK)
    ran = client("submit", "--", "/bin/true")
    assert ran.code == 0
    assert "fetchmld logs -f abc" in ran.out
    assert client("submit", "-q", "--", "/bin/true").out == "abc\n"
    assert json.loads(client("--json", "submit", "--", "/bin/true").out) == TASK


def test_waiting_takes_the_tasks_exit_code(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/tasks"] = answer(201, TASK)
    stub.handlers["GET /v1/tasks/abc"] = answer(200, {**TASK, "status": "failed", "error": "EXIT_NONZERO: 3"})
    ran = client("submit", "--wait", "--", "false")
    assert ran.code == 100
    assert "EXIT_NONZERO: 3" in ran.err
    assert ran.out == ""


def test_following_shows_the_output_alone_on_stdout(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/tasks"] = answer(201, TASK)
    running = {**TASK, "status": "running", "attempt": 1}
    stub.handlers["GET /v1/tasks/abc"] = [
        answer(200, TASK),
        answer(200, running),
        answer(200, {**running, "status": "completed"}),
    ]
    stub.handlers["GET /v1/tasks/abc/logs"] = [chunked(b"one\n", whole=False), chunked(b"two\n")]
    ran = client("submit", "--follow", "--", "x")
    assert (ran.code, ran.out) == (0, "one\ntwo\n")
    assert [a.target for a in stub.asked if "/logs" in a.target][1].startswith("/v1/tasks/abc/logs?offset=4&attempt=1")


def test_following_goes_on_with_the_next_attempt(client: Run, stub: Stub) -> None:
    first, second = ({**TASK, "status": "running", "attempt": n} for n in (1, 2))
    stub.handlers["GET /v1/tasks/abc"] = [
        answer(200, first),  # to find the id
        answer(200, first),
        answer(200, {**first, "status": "queued"}),
        answer(200, second),
        answer(200, {**second, "status": "completed"}),
    ]
    stub.handlers["GET /v1/tasks/abc/logs"] = [chunked(b"first\n"), chunked(b"second\n")]
    ran = client("logs", "-f", "abc")
    assert (ran.code, ran.out) == (0, "first\nsecond\n")
    assert "attempt 2" in ran.err


def test_a_refused_task_says_why(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/tasks"] = refused(422, "VALIDATION_ERROR", "job_name: must match")
    ran = client("submit", "--name", "a b", "--", "true")
    assert ran.code == 5
    assert "job_name" in ran.err


def test_a_relative_script_gets_a_hint(
    client: Run, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.handlers["POST /v1/tasks"] = answer(201, TASK)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    assert str(tmp_path / "train.py") in client("submit", "--", "train.py").err
    assert client("submit", "--", "/bin/true").err == ""


@pytest.mark.parametrize(
    ("words", "array"),
    [
        ("--array 10", {"size": 10}),
        ("--array 10%2", {"size": 10, "max_parallel": 2}),
        ("--array 0-9%2", {"size": 10, "max_parallel": 2}),
        ("--param lr=0.1,1e-3 --param opt=adam,sgd", {"params": {"lr": [0.1, 0.001], "opt": ["adam", "sgd"]}}),
        ("--array 3 --param a=1,true,007", {"size": 3, "params": {"a": [1, True, "007"]}}),
    ],
)
def test_arrays(run: Run, words: str, array: dict[str, Any]) -> None:
    assert dry(run, *words.split(), "--", "true")["array"] == array


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--array x", "is not N"),
        ("--array 1-10", "counted from 0"),
        ("--param a", "NAME=V1,V2"),
        ("--param a=1 --param a=2", "given twice"),
        ("--follow --array 3", "follow one of its elements"),
    ],
)
def test_bad_arrays_are_usage_errors(run: Run, words: str, said: str) -> None:
    ran = run("submit", *words.split(), "--", "true")
    assert ran.code == 2
    assert said in ran.err
