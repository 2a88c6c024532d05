"""The history's routes: SQL by role, and tasks as they were."""

import logging
from pathlib import Path

import pytest

from fetchmld.api.head import SqlQuery
from tests.api.served import KEYS, Api, with_api

ASK = "/v1/history/query"


def test_sql_is_asked_with_what_the_role_may_see(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for role, audit, redacted in (("operator", False, False), ("auditor", True, True), ("admin", True, False)):
            status, answer = await api.call("POST", ASK, key=KEYS[role], json={"sql": "SELECT 1", "limit": 5})
            assert (status, answer["rows"], answer["truncated"]) == (200, [[1]], False)
            assert api.head.asked[-1] == SqlQuery("SELECT 1", audit, redacted, 5)

    with_api(tmp_path, test)


def test_each_query_leaves_a_line_with_who_asked_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = "SELECT 1 -- " + "x" * 300

    async def test(api: Api) -> None:
        await api.call("POST", ASK, key=KEYS["admin"], json={"sql": asked})

    with caplog.at_level(logging.INFO, "fetchmld.api.handlers.history"):
        with_api(tmp_path, test)
    (line,) = [record for record in caplog.records if record.message == "history_queried"]
    said = vars(line)
    assert (said["user_id"], said["row_count"], said["truncated"], said["sql"]) == ("admin", 1, False, asked[:200])
    assert said["elapsed_ms"] >= 0


@pytest.mark.parametrize("role", ["user", "viewer", "other"])
def test_others_may_not_ask(tmp_path: Path, role: str) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("POST", ASK, key=KEYS[role], json={"sql": "SELECT 1"}))[0] == 403
        assert not api.head.asked

    with_api(tmp_path, test)


def test_a_wrong_body_is_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for body in (
            {},
            {"sql": ""},
            {"sql": 1},
            {"sql": "x" * 20_001},
            {"sql": "x", "limit": 0},
            {"sql": "x", "y": 1},
        ):
            assert (await api.call("POST", ASK, key=KEYS["admin"], json=body))[0] == 422
        assert not api.head.asked

    with_api(tmp_path, test)


def test_tasks_as_they_were(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        for at, there in (("2020-01-01T00:00:00Z", False), ("2999-01-01T00:00:00Z", True)):
            status, page = await api.call("GET", f"/v1/tasks?at={at}")
            assert (status, page["total"]) == (200, int(there))
            status, found = await api.call("GET", f"/v1/tasks/{task['id']}?at={at}")
            assert status == (200 if there else 404)
            assert "output" not in found
            assert (await api.call("GET", f"/v1/tasks/{task['id']}?at={at}", key=KEYS["other"]))[0] == 404
        assert (await api.call("GET", "/v1/tasks?at=yesterday"))[0] == 400
        assert (await api.call("GET", f"/v1/tasks/{task['id']}?at=now"))[0] == 400

    with_api(tmp_path, test)
