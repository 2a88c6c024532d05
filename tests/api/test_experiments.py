"""Experiments: read, changed, put away, with the tasks in them and what these left as metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from fetchmld.api.experiment_metrics import DEPTH_MAX, FILE_BYTES_MAX, flattened
from tests.api.served import KEYS, Api, with_api

OTHER, ADMIN, OPERATOR, AUDITOR, VIEWER = (KEYS[name] for name in ("other", "admin", "operator", "auditor", "viewer"))


async def made(api: Api, **body: Any) -> dict[str, Any]:
    status, experiment = await api.call("POST", "/v1/experiments", json={"name": "digits", **body})
    assert status == 201
    return dict(experiment)


async def change(api: Api, experiment: dict[str, Any], key: str = KEYS["user"], **body: Any) -> tuple[int, Any]:
    return await api.call("PATCH", f"/v1/experiments/{experiment['id']}", key=key, json=body)


def test_an_experiment_is_read_by_those_who_may_know_of_it(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        experiment = await made(api, commit_id="abcdef1234")
        where = f"/v1/experiments/{experiment['id']}"
        assert experiment["commit_id"] == "abcdef1234"
        for key in (KEYS["user"], ADMIN, OPERATOR, AUDITOR):
            assert await api.call("GET", where, key=key) == (200, experiment)
        missing = await api.call("GET", "/v1/experiments/none", key=OTHER)
        status, body = await api.call("GET", where, key=OTHER)
        assert status == missing[0] == 404
        assert body["error"].replace(experiment["id"], "none") == missing[1]["error"]

    with_api(tmp_path, test)


def test_an_experiment_is_changed_by_its_owner_and_who_runs_the_cluster(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        experiment = await made(api)
        assert (await change(api, experiment, name="letters"))[1]["name"] == "letters"
        status, changed = await change(api, experiment, key=OPERATOR, description="of the alphabet", status="archived")
        assert (status, changed["description"], changed["status"]) == (200, "of the alphabet", "archived")
        assert (await change(api, experiment, key=OTHER, name="mine"))[0] == 404
        assert (await change(api, experiment, key=VIEWER, name="mine"))[0] == 403
        assert (await change(api, experiment, key=AUDITOR, name="mine"))[0] == 403
        assert (await api.call("GET", f"/v1/experiments/{experiment['id']}"))[1] == changed

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"name": ""},
        {"name": None},
        {"status": "gone"},
        {"status": 1},
        {"commit_id": "HEAD"},
        {"user_id": "eve"},
    ],
)
def test_bad_changes_change_nothing(tmp_path: Path, body: Any) -> None:
    async def test(api: Api) -> None:
        experiment = await made(api)
        where = f"/v1/experiments/{experiment['id']}"
        assert (await api.call("PATCH", where, json=body))[0] == 422
        assert (await api.call("GET", where))[1] == experiment

    with_api(tmp_path, test)


def test_an_archived_experiment_is_listed_and_takes_no_more_tasks(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        old, new = await made(api), await made(api)
        await api.submit(experiment_id=old["id"])
        await change(api, old, status="archived")
        listed = {
            status: (await api.call("GET", f"/v1/experiments?status={status}"))[1] for status in ("active", "archived")
        }
        assert [one["id"] for one in listed["active"]] == [new["id"]]
        assert [one["id"] for one in listed["archived"]] == [old["id"]]
        assert "is archived" in await api.refused({"job_name": "x", "experiment_id": old["id"]}, 409)
        await change(api, old, status="active")
        await api.submit(experiment_id=old["id"])
        assert (await api.call("GET", "/v1/experiments?status=deleted"))[0] == 400

    with_api(tmp_path, test)


def test_a_deleted_experiment_is_gone_and_its_tasks_are_not(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        experiment = await made(api)
        task = await api.submit(experiment_id=experiment["id"])
        assert (await change(api, experiment, status="deleted"))[0] == 200
        assert (await api.call("GET", f"/v1/experiments/{experiment['id']}", key=ADMIN))[0] == 404
        assert (await change(api, experiment, status="active"))[0] == 404
        assert (await api.call("GET", "/v1/experiments"))[1] == []
        assert (await api.call("GET", f"/v1/tasks/{task['id']}"))[1]["experiment_id"] == experiment["id"]

    with_api(tmp_path, test)


def test_tasks_are_listed_by_experiment(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        experiment = await made(api)
        mine = [await api.submit(experiment_id=experiment["id"]) for _ in range(2)]
        await api.submit()
        _, page = await api.call("GET", f"/v1/tasks?experiment_id={experiment['id']}")
        assert [task["id"] for task in page["tasks"]] == [task["id"] for task in reversed(mine)]

    with_api(tmp_path, test)


def test_metrics_are_a_table_of_tasks_with_the_params_of_arrays(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        experiment = await made(api)
        where = f"/v1/experiments/{experiment['id']}/metrics"
        assert (await api.call("GET", where))[1]["tasks"] == []
        array = await api.submit(experiment_id=experiment["id"], array={"params": {"lr": [0.1, 0.01]}})
        for index in range(2):
            content = json.dumps({"loss": index / 2, "test": {"accuracy": 0.9}, "classes": [1]}).encode()
            await api.head.end(f"{array['id']}-{index}", 0, {"metrics.json": content, "model.bin": b"x"})
        lone = await api.submit(experiment_id=experiment["id"])
        _, found = await api.call("GET", where)
        assert (found["params"], found["metrics"], found["total"]) == (["lr"], ["loss", "test.accuracy"], 3)
        rows = {row["task_id"]: row for row in found["tasks"]}
        assert rows[f"{array['id']}-1"]["params"] == {"lr": 0.01}
        assert rows[f"{array['id']}-1"]["metrics"] == {"loss": 0.5, "test.accuracy": 0.9}
        assert "ended_at" not in rows[lone["id"]]
        assert rows[lone["id"]]["metrics"] == {}
        assert (await api.call("GET", where, key=OTHER))[0] == 404
        assert (await api.call("GET", where, key=AUDITOR))[0] == 403
        assert (await api.call("GET", f"{where}?limit=1&offset=1"))[1]["offset"] == 1

    with_api(tmp_path, test)


def test_metrics_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        experiment = await made(api)
        files = {"a": b"{", "b": b"[1]", "c": b"{}" + b" " * FILE_BYTES_MAX}
        for content in files.values():
            task = await api.submit(experiment_id=experiment["id"])
            await api.head.end(task["id"], 0, {"metrics.json": content})
        _, found = await api.call("GET", f"/v1/experiments/{experiment['id']}/metrics")
        problems = sorted(row["problem"].split(" ", 1)[1] for row in found["tasks"])
        assert [problem[:12] for problem in problems] == [
            "has 1048578 b"[:12],
            "holds no object"[:12],
            "is not valid"[:12],
        ]

    with_api(tmp_path, test)


def test_what_is_flattened() -> None:
    assert flattened(b'{"a": {"b": 1, "c": {"d": true}}, "t": "x", "n": null, "l": [1]}')[0] == {
        "a.b": 1, "a.c.d": True, "t": "x",
    }  # fmt: skip
    assert flattened(b'{"loss": NaN, "up": Infinity, "big": 1' + b"0" * 30 + b"}")[0] == {"loss": "nan", "up": "inf"}
    deep = b'{"a": ' * (DEPTH_MAX + 5) + b"1" + b"}" * (DEPTH_MAX + 5)
    assert flattened(deep) == ({}, "")
    assert flattened(b'{"a": ' * 100_000)[1]
    many, problem = flattened(json.dumps({str(n): n for n in range(1_500)}).encode())
    assert len(many) == 1_000
    assert "more than 1000" in problem
    assert flattened(rb'{"\ud800": "\udfff"}')[0] == {"?": "?"}
