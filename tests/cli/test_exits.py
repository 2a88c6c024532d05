import json

import pytest

from fetchmld.cli.exits import task_exit
from tests.cli.conftest import Run
from tests.client.stub import Stub, refused


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "BAD_REQUEST", 5),
        (401, "UNAUTHORIZED", 4),
        (403, "FORBIDDEN", 4),
        (404, "NOT_FOUND", 3),
        (409, "CONFLICT", 5),
        (413, "BAD_REQUEST", 5),
        (422, "VALIDATION_ERROR", 5),
        (429, "RATE_LIMITED", 7),
        (500, "INTERNAL_ERROR", 1),
        (501, "SERVICE_UNAVAILABLE", 1),
        (503, "SERVICE_UNAVAILABLE", 6),
    ],
)
def test_each_refusal_has_its_exit_code(client: Run, stub: Stub, status: int, code: str, exit_code: int) -> None:
    stub.handlers["GET /v1/queue"] = refused(status, code, "because")
    ran = client("queue")
    assert ran.code == exit_code
    assert "because" in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("words", [("--json", "queue"), ("queue", "--json")])
def test_json_prints_the_error_response_on_stderr(client: Run, stub: Stub, words: tuple[str, ...]) -> None:
    stub.handlers["GET /v1/queue"] = refused(403, "FORBIDDEN", "no")
    ran = client(*words)
    assert json.loads(ran.err) == {"error": "no", "code": "FORBIDDEN", "trace_id": "t-1"}


def test_nobody_there_is_6_and_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCHML_ADDRESS", "http://127.0.0.1:1")
    ran = run("ls")
    assert ran.code == 6
    assert "http://127.0.0.1:1" in ran.err
    assert "fetchmld start --head" in ran.err
    assert json.loads(run("ls", "--json").err)["code"] == "SERVICE_UNAVAILABLE"


def test_usage_is_2(run: Run) -> None:
    assert run("nonsense").code == 2
    assert run("ls", "--limit", "0").code == 2
    assert run("submit").code == 2
    assert run().code == 2


def test_a_missing_key_says_where_one_comes_from(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/queue"] = refused(401, "UNAUTHORIZED", "no key was given")
    assert "FETCHML_API_KEY" in client("queue").err


def test_an_error_of_the_server_shows_its_trace(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/queue"] = refused(500, "INTERNAL_ERROR", "something went wrong")
    assert "t-1" in client("queue").err


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ({"status": "completed"}, 0),
        ({"status": "failed"}, 100),
        ({"status": "failed", "reason": "cancelled"}, 103),
        ({"status": "running"}, 101),
        ({"status": "queued"}, 101),
    ],
)
def test_a_task_has_an_exit_code(task: dict[str, str], code: int) -> None:
    assert task_exit(task) == code


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.startswith("fetchmld 0.")
    assert "submit" in run("--help").out
    assert "--dry-run" in run("submit", "-h").out
