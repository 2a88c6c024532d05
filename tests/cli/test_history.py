"""`history`, and `ls` and `show` with `--at`, against a stub."""

import json

import pytest

from tests.cli.conftest import Run
from tests.client.stub import Stub, answer

ANSWER = {
    "columns": [{"name": "id", "type": "VARCHAR"}, {"name": "n", "type": "BIGINT"}],
    "rows": [["a,b", 1], [None, [1, 2]]],
    "row_count": 2,
    "truncated": False,
    "elapsed_ms": 0.5,
}


@pytest.fixture(autouse=True)
def _daemon(stub: Stub) -> None:
    stub.handlers["POST /v1/history/query"] = answer(200, ANSWER)


def test_a_table(client: Run, stub: Stub) -> None:
    assert [line.split() for line in client("history", "SELECT 1").out.splitlines()] == [
        ["id", "n"],
        ["a,b", "1"],
        ["[1,", "2]"],
    ]
    assert stub.asked[0].json == {"sql": "SELECT 1"}


def test_other_forms(client: Run, stub: Stub) -> None:
    assert client("history", "SELECT 1", "--csv", "--limit", "7").out == 'id,n\n"a,b",1\n,"[1, 2]"\n'
    assert stub.asked[0].json == {"sql": "SELECT 1", "limit": 7}
    assert json.loads(client("history", "SELECT 1", "--json").out) == ANSWER
    assert client("history", "SELECT 1", "-q").out == "a,b\n\n"


def test_it_says_when_there_is_more(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/history/query"] = answer(200, {**ANSWER, "truncated": True})
    assert "only the first 2 rows" in client("history", "SELECT 1").err


def test_tasks_as_they_were(client: Run, stub: Stub) -> None:
    task = {"id": "t", "status": "running", "job_name": "n"}
    stub.handlers["GET /v1/tasks"] = answer(200, {"tasks": [task], "total": 1})
    stub.handlers["GET /v1/tasks/t"] = answer(200, task)
    assert "running" in client("ls", "--at", "2026-01-31T12:00:00Z").out
    assert "running" in client("show", "t", "--at", "2026-01-31T12:00:00Z").out
    assert [call.target for call in stub.asked] == [
        "/v1/tasks?limit=50&offset=0&at=2026-01-31T12%3A00%3A00Z",
        "/v1/tasks/t?at=2026-01-31T12%3A00%3A00Z",
    ]
