"""What the scheduler is told over the API: drains, priorities, reservations, dependencies, and the question why."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.api.served import KEYS, Api, with_api

ADMIN, OPERATOR, OTHER, VIEWER = KEYS["admin"], KEYS["operator"], KEYS["other"], KEYS["viewer"]
RESERVATIONS = "/v1/scheduler/reservations"


def test_an_operator_drains_a_worker_and_lets_it_work_again(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        worker = "/v1/scheduler/workers/w1"
        assert (await api.call("DELETE", worker))[0] == 403
        for _ in range(2):
            assert (await api.call("DELETE", worker, key=OPERATOR))[0] == 204
        assert (await api.call("GET", worker))[1]["status"] == "draining"
        assert (await api.call("GET", "/v1/scheduler/status"))[1]["workers_draining"] == 1
        task = await api.submit()
        assert task["wait_reason"] == "no worker is connected (w1 is draining)"
        status, shown = await api.call("POST", f"{worker}/undrain", key=OPERATOR)
        assert (status, shown["status"]) == (200, "active")
        assert (await api.call("GET", f"/v1/tasks/{task['id']}"))[1]["status"] == "preparing"
        assert (await api.call("DELETE", "/v1/scheduler/workers/none", key=OPERATOR))[0] == 404

    with_api(tmp_path, test)


def test_each_gpu_is_shown_and_an_operator_ends_a_quarantine(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.add_worker("w2", gpus=2)
        api.head.fail_gpu("w2", "1", "xid 79")
        task = await api.submit(gpu=1)
        gpus = (await api.call("GET", "/v1/scheduler/workers/w2"))[1]["gpus"]
        assert gpus[0] == {"index": 0, "uuid": "0", "type": "A100", "status": "held", "held_by": task["id"]}
        assert gpus[1] == {"index": 1, "uuid": "1", "type": "A100", "status": "quarantined", "cause": "xid 79"}
        others = (await api.call("GET", "/v1/scheduler/workers/w2", key=OTHER))[1]["gpus"]
        assert "held_by" not in others[0], "whose task it is, is not everybody's business"
        path = "/v1/scheduler/workers/w2/gpus/{}/release"
        assert (await api.call("POST", path.format(1)))[0] == 403
        status, worker = await api.call("POST", path.format(1), key=OPERATOR)
        assert (status, worker["gpus"][1]["status"]) == (200, "free")
        assert (await api.call("POST", path.format(1), key=OPERATOR))[0] == 409
        for index in (2, "one", "-1", "9" * 30):
            assert (await api.call("POST", path.format(index), key=OPERATOR))[0] == 404
        assert (await api.call("POST", "/v1/scheduler/workers/none/gpus/0/release", key=OPERATOR))[0] == 404

    with_api(tmp_path, test)


def test_a_user_changes_the_priority_of_their_own_tasks_up_to_the_cap(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(node_count=2)
        path = f"/v1/scheduler/jobs/{task['id']}/priority"
        status, changed = await api.call("PATCH", path, json={"priority": 7})
        assert (status, changed["priority"]) == (200, 7)
        assert changed["priority_aged"] >= 7
        assert (await api.call("PATCH", path, json={"priority": 9}))[0] == 403
        assert (await api.call("PATCH", path, json={"priority": 9}, key=OPERATOR))[0] == 200
        assert (await api.call("PATCH", path, json={"priority": 2}, key=OTHER))[0] == 404
        assert (await api.call("PATCH", path, json={"priority": 2}, key=VIEWER))[0] == 403
        for bad in ({}, {"priority": 11}, {"priority": 0}, {"priority": "5"}, {"priority": 5, "x": 1}):
            assert (await api.call("PATCH", path, json=bad))[0] == 422, bad
        await api.call("DELETE", f"/v1/tasks/{task['id']}")
        assert (await api.call("PATCH", path, json={"priority": 3}))[0] == 409
        assert (await api.call("PATCH", "/v1/scheduler/jobs/none/priority", json={"priority": 3}))[0] == 404

    with_api(tmp_path, test, user_priority_max=8)


def test_a_reservation_is_made_used_and_given_back(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.add_worker("g1", 4)
        body = {"gpu_count": 3, "gpu_type": "A100", "expires_minutes": 60}
        status, made = await api.call("POST", RESERVATIONS, json=body)
        assert (status, made["status"], made["held"]) == (201, "active", [{"worker_id": "g1", "gpu_count": 3}])
        assert (await api.submit(gpu=2, key=OTHER))["status"] == "queued"
        mine = await api.submit(gpu=2, reservation_id=made["id"])
        assert mine["status"] == "preparing"
        assert (await api.call("GET", RESERVATIONS))[1][0]["status"] == "claimed"
        assert (await api.call("GET", RESERVATIONS, key=OTHER))[1] == []
        assert "reservation_id" in await refusal(api, OTHER, reservation_id=made["id"])
        assert (await api.call("GET", "/v1/scheduler/status"))[1]["reservations_active"] == 1
        path = f"{RESERVATIONS}/{made['id']}"
        assert (await api.call("DELETE", path, key=OTHER))[0] == 404
        assert (await api.call("DELETE", path, key=OPERATOR))[0] == 204
        assert (await api.call("DELETE", path))[0] == 409
        assert (await api.call("DELETE", f"{RESERVATIONS}/none"))[0] == 404

    with_api(tmp_path, test)


async def refusal(api: Api, key: str, **body: Any) -> str:
    status, error = await api.call("POST", "/v1/tasks", key=key, json={"job_name": "job", **body})
    assert status == 422, error
    return str(error["error"])


@pytest.mark.parametrize(
    "more",
    [
        {"gpu_count": 0},
        {"gpu_count": 5},
        {"node_count": 2},
        {"gpu_type": "H100"},
        {"gpu_type": ""},
        {"expires_minutes": 0},
        {"expires_minutes": 10_081},
        {"starts_at": "2001-01-01T00:00:00Z"},
        {"starts_at": "2901-01-01T00:00:00Z"},
        {"starts_at": "tomorrow"},
        {"surprise": 1},
    ],
)
def test_a_reservation_that_cannot_be_kept_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    async def test(api: Api) -> None:
        api.head.add_worker("g1", 4)
        status, error = await api.call("POST", RESERVATIONS, json={"gpu_count": 1, **more})
        assert (status, error["code"]) == (422, "VALIDATION_ERROR"), error
        assert min(more) in error["error"] or "gpu_count" in error["error"]

    with_api(tmp_path, test)


def test_a_reservation_of_the_future(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.add_worker("g1", 4)
        starts_at = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
        status, made = await api.call("POST", RESERVATIONS, json={"gpu_count": 4, "starts_at": starts_at})
        assert (status, made["held"], made["starts_at"][:16]) == (201, [], starts_at[:16])

    with_api(tmp_path, test)


def test_a_task_waits_for_another(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        first = await api.submit()
        second = await api.submit(depends_on=[first["id"]])
        assert second["depends_on"] == [{"task_id": first["id"], "condition": "ok"}]
        assert second["wait_reason"] == f"waits for task {first['id']} (ok)"
        await api.head.end(first["id"])
        assert (await api.call("GET", f"/v1/tasks/{second['id']}"))[1]["status"] == "preparing"
        assert "depends_on" in await refusal(api, KEYS["user"], depends_on=["never-submitted"])
        assert "depends_on" in await refusal(api, OTHER, depends_on=[first["id"]])

    with_api(tmp_path, test)


def test_why_a_task_waits(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.add_worker("g1", 4)
        theirs = await api.submit(gpu=3, time_limit_s=600, key=OTHER)
        waits = await api.submit(gpu=4)
        path = f"/v1/tasks/{waits['id']}/explain"
        _, said = await api.call("GET", path)
        assert said["reason"] == "needs 4 GPUs, worker g1 has 1 free"
        assert (said["position"], said["smaller_request"]) == (0, {"gpu": 1})
        assert said["planned"]["at"].endswith("Z")
        assert set(said["held_by"][0]) == {"kind", "until"}, "whose it is, is not for everybody"
        assert (await api.call("GET", path, key=ADMIN))[1]["held_by"][0]["id"] == theirs["id"]
        assert (await api.call("GET", path, key=OTHER))[0] == 404
        await api.call("DELETE", f"/v1/tasks/{waits['id']}")
        _, over = await api.call("GET", path)
        assert over["reason"].startswith("it has ended: CANCELLED")

    with_api(tmp_path, test)
