"""Jupyter services over the API: what may be asked for, who sees what, and the states' names."""

from pathlib import Path
from typing import Any

import pytest

from fetchmld.core.model import TaskId
from fetchmld.upstream import Serving, Upstream
from tests.api.served import KEYS, Api, with_api

SERVICES = "/v1/jupyter/services"


async def start(
    api: Api, key: str = KEYS["user"], headers: dict[str, str] | None = None, **body: Any
) -> dict[str, Any]:
    status, made = await api.call("POST", SERVICES, key=key, headers=headers, json={"name": "lab", **body})
    assert status == 201, made
    return dict(made)


def answers(api: Api, service_id: str) -> None:
    api.head.served[service_id] = Serving(Upstream("unix:x", "w1"), "t0ken", answers=True, last_activity_at=1e9)


async def shown(api: Api, service_id: str, key: str = KEYS["user"]) -> dict[str, Any]:
    status, found = await api.call("GET", f"{SERVICES}/{service_id}", key=key)
    assert status == 200
    return dict(found)


def test_from_start_to_stop(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        made = await start(api)
        assert made["status"] == "starting"
        assert made.keys().isdisjoint({"url", "token"})
        await api.head.run(made["id"])
        assert (await shown(api, made["id"]))["status"] == "starting"  # it does not answer yet
        answers(api, made["id"])
        found = await shown(api, made["id"])
        assert (found["status"], found["token"]) == ("running", "t0ken")
        assert found["url"] == f"http://127.0.0.1:{api.port()}/jupyter/{made['id']}/lab"
        assert (await api.call("DELETE", f"{SERVICES}/{made['id']}"))[0] == 204
        assert (await shown(api, made["id"]))["status"] == "stopping"
        await api.head.end(made["id"])
        found = await shown(api, made["id"])
        assert found["status"] == "stopped"
        assert found.keys().isdisjoint({"url", "token"})
        assert (await api.call("DELETE", f"{SERVICES}/{made['id']}"))[0] == 204
        assert (await api.call("GET", f"{SERVICES}/{made['id']}"))[0] == 404
        assert (await api.call("GET", SERVICES))[1] == []

    with_api(tmp_path, test)


def test_without_a_free_slot_it_waits_and_says_so(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        first = await start(api)
        second = await start(api)
        assert "slot" in second["reason"]
        assert (first["workspace"], second["workspace"]) == ("default", "default-2")
        assert [one["id"] for one in (await api.call("GET", SERVICES))[1]] == [second["id"], first["id"]]

    with_api(tmp_path, test)


def test_a_failed_one_is_an_error_and_a_culled_one_has_stopped(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        made = await start(api)
        await api.head.run(made["id"])
        await api.head.end(made["id"], exit_code=1)
        found = await shown(api, made["id"])
        assert found["status"] == "error"
        assert found["reason"].startswith("EXIT_NONZERO")

    with_api(tmp_path, test)


def test_anothers_is_not_there(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        made = await start(api)
        await api.head.run(made["id"])
        answers(api, made["id"])
        path = f"{SERVICES}/{made['id']}"
        for method in ("GET", "DELETE"):
            status, error = await api.call(method, path, key=KEYS["other"])
            missing = await api.call(method, f"{SERVICES}/nothing", key=KEYS["other"])
            assert (status, error["error"]) == (404, missing[1]["error"].replace("nothing", made["id"]))
        assert (await api.call("GET", SERVICES, key=KEYS["other"]))[1] == []
        seen = await shown(api, made["id"], KEYS["operator"])
        assert seen["status"] == "running"
        assert "token" not in seen
        task = await api.submit()
        assert (await api.call("GET", f"{SERVICES}/{task['id']}"))[0] == 404

    with_api(tmp_path, test)


def test_one_workspace_has_one_server(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        made = await start(api, workspace="thesis")
        status, error = await api.call("POST", SERVICES, json={"name": "again", "workspace": "thesis"})
        assert (status, made["id"] in error["error"]) == (409, True)
        assert (await start(api, KEYS["other"], workspace="thesis"))["workspace"] == "thesis"
        await api.call("DELETE", f"{SERVICES}/{made['id']}")
        await api.head.end(made["id"])
        await start(api, workspace="thesis")

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": " "},
        {"name": "a\nb"},
        {"name": 1},
        {"name": "x" * 20_000},
        {"name": "x", "workspace": "../x"},
        {"name": "x", "workspace": ".x"},
        {"name": "x", "workspace": "a/b"},
        {"name": "x", "workspace": ""},
        {"name": "x", "image": "--privileged"},
        {"name": "x", "image": "jupyter/scipy-notebook"},  # no worker here can run one
        {"name": "x", "gpu": -1},
        {"name": "x", "cpu": 0.5},
        {"name": "x", "entrypoint": "sh"},
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("POST", SERVICES, json=body))[0] == 422
        assert api.head.core.service_views() == []

    with_api(tmp_path, test)


def test_the_usual_image_is_the_workers_own(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        made = await start(api, image="jupyter/pytorch:latest", cpu=1, gpu=0, memory_gb=1, time_limit_s=60)
        request = api.head.core.state.tasks[TaskId(made["id"])].request
        assert "image" not in request
        assert (request["kind"], request["cpu"], request["time_limit_s"]) == ("service", 1, 60)

    with_api(tmp_path, test)


def test_the_same_request_again_makes_nothing_new(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        once = {"Idempotency-Key": "k1"}
        made = await start(api, headers=once)
        again = await start(api, headers=once)
        assert again["id"] == made["id"]
        status, _ = await api.call("POST", SERVICES, headers=once, json={"name": "other"})
        assert status == 422

    with_api(tmp_path, test)


def test_it_is_a_task_too(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        made = await start(api, name="My lab: ü!")
        status, task = await api.call("GET", f"/v1/tasks/{made['id']}?output=false")
        assert (status, task["kind"], task["job_name"]) == (200, "service", "My-lab")
        assert (await api.call("GET", f"/v1/tasks/{made['id']}/explain"))[0] == 200

    with_api(tmp_path, test)
