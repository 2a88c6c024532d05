"""`Idempotency-Key` over HTTP: the same request again is answered with what it made, another one is refused."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.api.served import KEYS, Api, with_api

JOB = {"job_name": "job", "cpu": 1}


async def post(api: Api, path: str, body: Any, key: str, who: str = "user") -> tuple[int, Any, bool]:
    """Status, body, and whether the answer says that it was made before."""
    response = await api.raw("POST", path, key=KEYS[who], json=body, headers={"Idempotency-Key": key})
    async with response:
        return response.status, await response.json(), "Idempotency-Replayed" in response.headers


@pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        ("/v1/tasks", JOB, {"job_name": "job", "cpu": 2}),
        ("/v1/scheduler/reservations", {"gpu_count": 1}, {"gpu_count": 2}),
        ("/v1/experiments", {"name": "digits"}, {"name": "letters"}),
    ],
)
def test_the_same_is_made_once(tmp_path: Path, path: str, body: dict[str, Any], other: dict[str, Any]) -> None:
    async def test(api: Api) -> None:
        api.head.add_worker("w2", 4)
        first = await post(api, path, body, "a")
        assert (first[0], first[2]) == (201, False)
        again = await post(api, path, dict(reversed(body.items())), "a")
        assert (again[0], again[1]["id"], again[2]) == (201, first[1]["id"], True)
        assert again[1].keys() == first[1].keys()
        status, error, _ = await post(api, path, other, "a")
        assert (status, error["code"]) == (422, "VALIDATION_ERROR")
        assert first[1]["id"] in error["error"]
        for status, made, replayed in (await post(api, path, body, "b"), await post(api, path, body, "a", "other")):
            assert (status, replayed) == (201, False)
            assert made["id"] != first[1]["id"]

    with_api(tmp_path, test)


def test_each_route_has_keys_of_its_own(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert (await post(api, "/v1/experiments", {"name": "digits"}, "a"))[0] == 201
        assert (await post(api, "/v1/tasks", JOB, "a"))[0] == 201

    with_api(tmp_path, test)


def test_an_ended_task_is_told_as_it_is_now_and_a_deleted_one_not_made_again(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, made, _ = await post(api, "/v1/tasks", JOB, "a")
        await api.head.end(made["id"])
        status, ended, _ = await post(api, "/v1/tasks", JOB, "a")
        assert (status, ended["status"]) == (201, "completed")
        await api.call("DELETE", f"/v1/tasks/{made['id']}")
        assert (await post(api, "/v1/tasks", JOB, "a"))[0] == 409
        assert len(api.head.facts_of("task.submit")) == 1

    with_api(tmp_path, test)


def test_in_a_batch_each_item_is_made_once(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        items = [JOB, JOB, {"job_name": "!"}, {"job_name": "three"}]
        _, first, _ = await post(api, "/v1/tasks/batch", items, "a")
        assert [one["status"] for one in first] == [201, 201, 422, 201]
        _, again, _ = await post(api, "/v1/tasks/batch", items, "a")
        ids = [[one["task"]["id"] for one in answer if "task" in one] for answer in (first, again)]
        assert ids[0] == ids[1]
        assert len(set(ids[0])) == 3
        mended = [JOB, {"job_name": "other"}, {"job_name": "mended"}, {"job_name": "three"}]
        _, third, _ = await post(api, "/v1/tasks/batch", mended, "a")
        assert [one["status"] for one in third] == [201, 422, 201, 201]
        assert len(api.head.facts_of("task.submit")) == 4

    with_api(tmp_path, test)


def test_while_it_is_under_way_the_key_is_409(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.slow = asyncio.Event()
        first = asyncio.create_task(post(api, "/v1/tasks", JOB, "a"))
        while not api.head.callers:
            await asyncio.sleep(0)
        status, error, _ = await post(api, "/v1/tasks", JOB, "a")
        assert (status, error["code"]) == (409, "CONFLICT")
        api.head.slow.set()
        assert (await first)[0] == 201
        assert (await post(api, "/v1/tasks", JOB, "a"))[2]

    with_api(tmp_path, test)


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
def test_what_is_no_key_is_400(tmp_path: Path, key: str) -> None:
    async def test(api: Api) -> None:
        assert (await post(api, "/v1/tasks", JOB, key))[0] == 400
        assert not api.head.facts_of("task.submit")

    with_api(tmp_path, test)


def test_a_refused_request_leaves_its_key_free(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert (await post(api, "/v1/tasks", {"job_name": "!"}, "a"))[0] == 422
        assert (await post(api, "/v1/tasks", JOB, "a"))[0] == 201

    with_api(tmp_path, test)
