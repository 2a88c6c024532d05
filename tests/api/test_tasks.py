"""Submit, list, read, wait, cancel over HTTP."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fetchmld.api import wire
from fetchmld.core.errors import Unavailable
from tests.api.local_head import WORKER
from tests.api.served import KEYS, Api, with_api

ADMIN, OTHER, OPERATOR, AUDITOR, VIEWER = (KEYS[n] for n in ("admin", "other", "operator", "auditor", "viewer"))


def test_submit_answers_the_whole_task(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        response = await api.raw(
            "POST", "/v1/tasks", json={"job_name": "train", "entrypoint": "train.py", "env": {"A": "1"}}
        )
        task = await response.json()
        assert response.status == 201
        assert response.headers["Location"] == f"/v1/tasks/{task['id']}"
        assert response.headers["Cache-Control"] == "no-store"
        created_at = datetime.fromisoformat(task.pop("created_at"))
        assert created_at.tzinfo is not None
        aged = task.pop("priority_aged")
        assert aged >= 5
        assert task == {
            "id": "t8",
            "job_name": "train",
            "user_id": "user",
            "status": "preparing",
            "priority": 5,
            "kind": "batch",
            "cpu": 1,
            "memory_gb": 0,
            "gpu": 0,
            "node_count": 1,
            "max_retries": 0,
            "retry_count": 0,
            "attempt": 1,
            "entrypoint": "train.py",
            "env": {"A": "1"},
            "started_at": task["started_at"],
            "worker_id": "w1",
            "node_assignments": [{"node_id": 0, "worker_id": "w1", "slot_assigned": True, "gpus": []}],
        }

    with_api(tmp_path, test)


def test_the_caller_travels_with_the_request(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        await api.call("POST", "/v1/tasks", json={"job_name": "x"}, headers=headers)
        (caller,) = api.head.callers
        assert (caller.user_id, caller.role, caller.ip_address, caller.trace_id) == ("user", "user", "127.0.0.1", trace)

    with_api(tmp_path, test)


def test_a_task_that_cannot_start_waits_and_says_why(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(node_count=2)
        assert task["status"] == "queued"
        assert task["wait_reason"]
        assert "worker_id" not in task
        assert "started_at" not in task

    with_api(tmp_path, test)


def test_bodies_that_are_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert "JSON" in await api.refused(b"{", 400)
        assert "object" in await api.refused([], 422)
        assert "job_name" in await api.refused({"job_name": "a\n"})
        assert not api.head.callers

    with_api(tmp_path, test, body_bytes_max=1024)


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(tmp_path: Path) -> None:
    async def chunked() -> object:
        for _ in range(20):
            yield b"x" * 100

    async def test(api: Api) -> None:
        for data in (b"x" * 1025, chunked()):
            status, error = await api.call("POST", "/v1/tasks", data=data, headers={"Content-Type": "application/json"})
            assert (status, error["code"]) == (413, "BAD_REQUEST")
        padded = b'{"job_name": "x"}'.ljust(1024)
        status, _ = await api.call("POST", "/v1/tasks", data=padded, headers={"Content-Type": "application/json"})
        assert status == 201

    with_api(tmp_path, test, body_bytes_max=1024)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ("APPLICATION/JSON", 201),
        ("text/plain", 400),
        ("application/x-www-form-urlencoded", 400),
        (";", 400),
    ],
)
def test_content_types(tmp_path: Path, content_type: str, status: int) -> None:
    async def test(api: Api) -> None:
        headers = {"Content-Type": content_type}
        assert (await api.call("POST", "/v1/tasks", data=b'{"job_name": "x"}', headers=headers))[0] == status

    with_api(tmp_path, test)


def test_a_priority_beyond_the_users_cap_is_forbidden(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert (await api.submit(priority=6))["priority"] == 6
        status, error = await api.call("POST", "/v1/tasks", json={"job_name": "x", "priority": 7})
        assert (status, error["code"]) == (403, "FORBIDDEN")
        assert (await api.submit(key=OPERATOR, priority=7))["priority"] == 7

    with_api(tmp_path, test, user_priority_max=6)


def test_an_experiment_must_be_there_and_visible(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, experiment = await api.call("POST", "/v1/experiments", key=OTHER, json={"name": "e"})
        assert "experiment" in await api.refused({"job_name": "x", "experiment_id": experiment["id"]})
        assert "experiment" in await api.refused({"job_name": "x", "experiment_id": "nope"})
        task = await api.submit(key=OTHER, experiment_id=experiment["id"])
        assert task["experiment_id"] == experiment["id"]

    with_api(tmp_path, test)


def test_a_head_that_cannot_write_is_a_503_with_retry_after(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.broken = Unavailable("the ledger cannot be written: disk full")
        response = await api.raw("POST", "/v1/tasks", json={"job_name": "x"})
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert (await response.json())["code"] == "SERVICE_UNAVAILABLE"

    with_api(tmp_path, test)


# -- lists


def test_lists_are_paged_newest_first(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        ids = [(await api.submit())["id"] for _ in range(5)][::-1]
        _, page = await api.call("GET", "/v1/tasks?limit=2&offset=1&unknown=ignored")
        assert [task["id"] for task in page["tasks"]] == ids[1:3]
        assert (page["total"], page["limit"], page["offset"]) == (5, 2, 1)
        assert all("output" not in task for task in page["tasks"])
        _, page = await api.call("GET", "/v1/tasks")
        assert (len(page["tasks"]), page["limit"], page["offset"]) == (5, 50, 0)

    with_api(tmp_path, test)


def test_filters(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        started, gang = await api.submit(), await api.submit(node_count=2)
        for filters, ids in (
            ("status=queued", [gang["id"]]),
            ("status=preparing", [started["id"]]),
            ("status=completed", []),
            ("node_count=2", [gang["id"]]),
            ("node_count=1", [started["id"]]),
            ("reservation_id=r", []),
            ("plugin_configs[mlflow][enabled]=true", []),
            ("user_id=user", [gang["id"], started["id"]]),
            ("user_id=&reservation_id=", [gang["id"], started["id"]]),
            ("user_id=%00", []),
            ("reservation_id=" + "r" * 300, []),
            ("node_count=" + "9" * 40, []),
        ):
            _, page = await api.call("GET", f"/v1/tasks?{filters}")
            assert [task["id"] for task in page["tasks"]] == ids, filters

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    "bad",
    ["limit=0", "limit=1001", "limit=x", "offset=-1", "status=done", "node_count=0", "plugin_configs=7",
     "limit=1&limit=2", "user_id=a&user_id=b"],
)  # fmt: skip
def test_bad_filters(tmp_path: Path, bad: str) -> None:
    async def test(api: Api) -> None:
        status, error = await api.call("GET", f"/v1/tasks?{bad}")
        assert (status, error["code"]) == (400, "BAD_REQUEST")

    with_api(tmp_path, test)


def test_everybody_lists_what_they_may_see(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        mine, theirs = await api.submit(), await api.submit(key=OTHER)
        for key, path, ids in (
            (KEYS["user"], "/v1/tasks", [mine["id"]]),
            (KEYS["user"], "/v1/tasks?user_id=other", []),
            (VIEWER, "/v1/tasks", []),
            (OPERATOR, "/v1/tasks", [theirs["id"], mine["id"]]),
            (AUDITOR, "/v1/tasks", [theirs["id"], mine["id"]]),
            (ADMIN, "/v1/tasks?user_id=other", [theirs["id"]]),
        ):
            _, page = await api.call("GET", path, key=key)
            assert [task["id"] for task in page["tasks"]] == ids, (key, path)
            assert page["total"] == len(ids)

    with_api(tmp_path, test)


# -- one task


def test_anothers_task_is_as_missing_as_a_missing_one(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        for method in ("GET", "DELETE"):
            status, theirs = await api.call(method, f"/v1/tasks/{task['id']}", key=OTHER)
            assert status == 404
            missing_status, missing = await api.call(method, "/v1/tasks/t999", key=OTHER)
            assert missing_status == 404
            assert theirs["error"].replace(task["id"], "t999") == missing["error"]
        for path in ("logs", "artifacts", "artifacts/x"):
            assert (await api.call("GET", f"/v1/tasks/{task['id']}/{path}", key=OTHER))[0] == 404
        assert (await api.call("GET", f"/v1/tasks/{task['id']}", key=OPERATOR))[0] == 200

    with_api(tmp_path, test)


@pytest.mark.parametrize("task_id", ["%00", "a%0Ab", "é", "..%2f..", "x" * 65, "%ff", "a b"])
def test_an_odd_id_is_a_missing_task(tmp_path: Path, task_id: str) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("GET", f"/v1/tasks/{task_id}"))[0] == 404

    with_api(tmp_path, test)


def test_an_auditor_sees_tasks_without_what_may_be_secret(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(entrypoint="run.sh", args="hunter2", env={"A": "hunter2"}, metadata={"m": "hunter2"})
        await api.head.write(task["id"], b"hunter2")
        for path in (f"/v1/tasks/{task['id']}", "/v1/tasks"):
            response = await api.raw("GET", path, key=AUDITOR)
            assert response.status == 200
            assert "hunter2" not in await response.text()
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/logs", key=AUDITOR))[0] == 403

    with_api(tmp_path, test)


def test_an_ended_task_has_its_end_and_its_output(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.run(task["id"])
        assert (await api.call("GET", f"/v1/tasks/{task['id']}"))[1]["status"] == "running"
        await api.head.write(task["id"], b"caf\xc3\xa9 \xff\n")
        await api.head.end(task["id"], 3, {"m.json": b"{}"})
        _, ended = await api.call("GET", f"/v1/tasks/{task['id']}")
        assert ended["status"] == "failed"
        assert ended["error"].startswith("EXIT_NONZERO: ")
        assert ended["exit_code"] == 3
        assert ended["output"] == "caf\u00e9 \ufffd\n"
        assert ended["ended_at"] >= ended["started_at"]
        assert ended["usage"] == {"user_s": 0.5, "system_s": 0.1, "rss_max_bytes": 1 << 20}
        assert ended["artifacts"] == {"file_count": 1, "total_bytes": 2}
        assert "wait_reason" not in ended
        assert "detail" not in ended
        _, short = await api.call("GET", f"/v1/tasks/{task['id']}?output=false")
        assert "output" not in short

    with_api(tmp_path, test)


def test_what_was_left_out_of_the_output_is_said_with_the_end() -> None:
    out: dict[str, Any] = {}
    wire._add_end(out, {"exit_code": 0, "detail": "1 paths of the output were left out: x (a link)"})
    assert out == {"exit_code": 0, "detail": "1 paths of the output were left out: x (a link)"}
    out = {}
    wire._add_end(out, {"word": "TIME_LIMIT", "detail": "it is in the error"})
    assert out == {}


def test_output_is_the_last_64_kib(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.write(task["id"], b"a" * 100_000 + b"b" * 65_536)
        assert (await api.call("GET", f"/v1/tasks/{task['id']}"))[1]["output"] == "b" * 65_536

    with_api(tmp_path, test)


def test_waiting_answers_as_soon_as_the_task_ends(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        waiting = asyncio.create_task(api.call("GET", f"/v1/tasks/{task['id']}?wait_s=60"))
        _, now = await api.call("GET", f"/v1/tasks/{task['id']}?wait_s=0.01")
        assert now["status"] == "preparing"
        await api.head.end(task["id"])
        assert (await waiting)[1]["status"] == "completed"
        assert (await api.call("GET", f"/v1/tasks/{task['id']}?wait_s=60"))[1]["status"] == "completed"

    with_api(tmp_path, test)


def test_a_bad_wait(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        assert (await api.call("GET", f"/v1/tasks/{task['id']}?wait_s=61"))[0] == 400

    with_api(tmp_path, test)


def test_cancelling_and_deleting(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(node_count=2)
        assert await api.call("DELETE", f"/v1/tasks/{task['id']}") == (204, b"")
        _, cancelled = await api.call("GET", f"/v1/tasks/{task['id']}")
        assert (cancelled["status"], cancelled["reason"]) == ("failed", "cancelled")
        assert cancelled["error"].startswith("CANCELLED")
        assert "output" not in cancelled
        assert (await api.call("DELETE", f"/v1/tasks/{task['id']}"))[0] == 204
        assert (await api.call("GET", f"/v1/tasks/{task['id']}"))[0] == 404
        assert (await api.call("DELETE", f"/v1/tasks/{task['id']}"))[0] == 404
        assert (await api.call("GET", "/v1/tasks"))[1]["total"] == 0

    with_api(tmp_path, test)


def test_who_may_cancel(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        for key, status in ((VIEWER, 403), (AUDITOR, 403), (OTHER, 404), (OPERATOR, 204)):
            assert (await api.call("DELETE", f"/v1/tasks/{task['id']}", key=key))[0] == status

    with_api(tmp_path, test)


def test_an_image_needs_a_worker_that_can_run_one(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert "podman, docker or apptainer" in await api.refused({"job_name": "x", "image": "python:3.12"})
        for bad in ("", "--privileged", "-v/:/host", "a b", "a;b", "x" * 300, "$(id)", "/etc"):
            assert "image" in await api.refused({"job_name": "x", "image": bad})
        api.head.core.state.workers[WORKER].detail["containers"] = ["podman"]
        task = await api.submit(image="ghcr.io/o/r@sha256:" + "0" * 64)
        assert task["image"].startswith("ghcr.io/o/r@")

    with_api(tmp_path, test)
