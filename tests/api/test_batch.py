"""POST /v1/tasks/batch: many tasks in one request, each with its own answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fetchmld.api.handlers import tasks
from fetchmld.core.errors import Unavailable
from tests.api.served import KEYS, Api, assert_is_error, with_api

TASK: dict[str, Any] = {"job_name": "job"}


async def post(api: Api, items: Any, key: str = KEYS["user"]) -> tuple[int, Any]:
    return await api.call("POST", "/v1/tasks/batch", key=key, json=items)


def test_each_item_has_its_own_answer_in_order(tmp_path: Path) -> None:
    async def story(api: Api) -> None:
        bad: list[Any] = [
            {"job_name": "a b"},
            {},
            7,
            {**TASK, "depends_on": ["nobody"]},
            {**TASK, "experiment_id": "none"},
            {**TASK, "args": "\0"},
            {**TASK, "metadata": {str(n): "" for n in range(6000)}},
        ]
        items = [one for item in bad for one in (item, {**TASK, "priority": 3})]
        response = await api.raw("POST", "/v1/tasks/batch", json=items)
        answers = await response.json()
        assert response.status == 200
        assert [answer["status"] for answer in answers] == [422, 201] * len(bad)
        for answer in answers[::2]:
            assert set(answer) == {"status", "error"}
            assert_is_error(answer["error"], response.headers["X-Trace-Id"])
        ids = [answer["task"]["id"] for answer in answers[1::2]]
        assert len(set(ids)) == len(bad)
        assert answers[1]["task"] == (await api.call("GET", f"/v1/tasks/{ids[0]}", params={"output": "false"}))[1]

    with_api(tmp_path, story)


def test_what_the_caller_may_not_do_is_told_item_by_item(tmp_path: Path) -> None:
    async def story(api: Api) -> None:
        theirs = await api.submit(key=KEYS["other"])
        items = [{**TASK, "priority": 9}, {**TASK, "depends_on": [theirs["id"]]}, TASK]
        status, answers = await post(api, items)
        assert status == 200
        assert [answer["status"] for answer in answers] == [403, 422, 201]
        assert (await post(api, [TASK], key=KEYS["viewer"]))[0] == 403

    with_api(tmp_path, story, user_priority_max=8)


def test_a_dependency_is_looked_up_once(tmp_path: Path) -> None:
    async def story(api: Api) -> None:
        first = await api.submit()
        looked: list[str] = []
        task = api.head.task

        async def counting(task_id: Any) -> Any:
            looked.append(task_id)
            return await task(task_id)

        api.head.task = counting  # type: ignore[method-assign]
        status, answers = await post(api, [{**TASK, "depends_on": [first["id"]]}] * 5)
        assert (status, {answer["status"] for answer in answers}) == (200, {201})
        assert looked == [first["id"]]

    with_api(tmp_path, story)


def test_an_empty_batch_and_one_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BATCH_ITEMS_MAX", 60)

    async def story(api: Api) -> None:
        assert await post(api, []) == (200, [])
        status, answers = await post(api, [TASK] * 60)
        assert (status, len(answers)) == (200, 60)
        status, error = await post(api, [TASK] * 61)
        assert (status, error["error"]) == (422, "the body has 61 items; at most 60 are accepted")

    with_api(tmp_path, story)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{}", 422), (b"[", 400), (b'[{"a": 1, "a": 2}]', 400), (b"[" * 100_000, 400), (b"[NaN]", 400)],
)
def test_a_body_that_is_no_list_is_refused_whole(tmp_path: Path, body: bytes, status: int) -> None:
    async def story(api: Api) -> None:
        headers = {"Content-Type": "application/json"}
        assert (await api.call("POST", "/v1/tasks/batch", data=body, headers=headers))[0] == status

    with_api(tmp_path, story)


def test_it_may_be_larger_than_other_bodies_but_not_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "BATCH_BYTES_MAX", 200_000)

    async def story(api: Api) -> None:
        item = {**TASK, "metadata": {str(n): "x" * 10_000 for n in range(5)}}
        status, answers = await post(api, [item] * 3)
        assert (status, [answer["status"] for answer in answers]) == (200, [201] * 3)
        assert (await post(api, [item] * 5))[0] == 413

        async def endless() -> Any:
            for _ in range(10):
                yield b" " * 30_000
                await asyncio.sleep(0)

        headers = {"Content-Type": "application/json"}
        assert (await api.call("POST", "/v1/tasks/batch", data=endless(), headers=headers))[0] == 413

    with_api(tmp_path, story, body_bytes_max=100_000)


def test_what_cannot_be_made_durable_refuses_all(tmp_path: Path) -> None:
    async def story(api: Api) -> None:
        async def refuse(*_: Any) -> Any:
            raise Unavailable("the record cannot be written")

        api.head.submit = refuse  # type: ignore[method-assign,assignment]
        assert (await post(api, [TASK, {}]))[0] == 503

    with_api(tmp_path, story)
