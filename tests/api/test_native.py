"""The door for programs inside the cluster: the same checks, shapes and identities as over HTTP, without it."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fetchmld.api import native
from fetchmld.api.admission import Admission
from fetchmld.api.intake import Intake
from fetchmld.api.native import Native
from fetchmld.config import Config
from fetchmld.core.errors import BadRequest, Conflict, Forbidden, Invalid, NotFound, Unauthorized, Unavailable
from tests.api.local_head import LocalHead
from tests.api.served import KEYS

ADA = {"api_key": "", "user": "ada"}
TASK = {"job_name": "x", "entrypoint": "/bin/true"}


def with_door(tmp_path: Path, test: Callable[[Native, LocalHead], Awaitable[None]]) -> None:
    async def run() -> None:
        config = Config(data_dir=tmp_path)
        head = LocalHead(code_dir=config.paths.code)
        for name, key in KEYS.items():
            head.add_key(key, name, "user" if name == "other" else name)  # type: ignore[arg-type]
        await test(Native(head, Admission(head, config, Intake(config))), head)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_task_lives_its_life(tmp_path: Path) -> None:
    async def test(door: Native, head: LocalHead) -> None:
        task = await door.answer("submit", TASK, ADA)
        assert (task["job_name"], task["user_id"]) == ("x", "ray:ada")
        waiting = asyncio.create_task(door.answer("wait", task["id"], ADA))
        await asyncio.sleep(0)
        await head.end(task["id"])
        assert (await waiting)["status"] == "completed"
        assert (await door.answer("status", task["id"], ADA))["status"] == "completed"
        assert await door.answer("cancel", task["id"], ADA) is None
        with pytest.raises(NotFound):
            await door.answer("status", task["id"], ADA)

    with_door(tmp_path, test)


def test_a_list_is_answered_one_by_one(tmp_path: Path) -> None:
    async def test(door: Native, _head: LocalHead) -> None:
        found = await door.answer("submit", [TASK, {"job_name": "no way"}, 7, {**TASK, "gpu": 1}], ADA)
        assert [one["status"] for one in found] == [201, 422, 422, 201]
        assert found[1]["error"]["code"] == "VALIDATION_ERROR"
        assert await door.answer("submit", [], ADA) == []

    with_door(tmp_path, test)


def test_who_asks_is_the_keys_user_or_what_the_program_says(tmp_path: Path) -> None:
    async def test(door: Native, _head: LocalHead) -> None:
        mine = await door.answer("submit", TASK, {"api_key": KEYS["user"], "user": "ada"})
        assert mine["user_id"] == "user"
        with pytest.raises(NotFound):
            await door.answer("status", mine["id"], ADA)
        with pytest.raises(NotFound):
            await door.answer("cancel", mine["id"], ADA)
        assert (await door.answer("status", mine["id"], {"api_key": KEYS["operator"]}))["id"] == mine["id"]
        within = await door.answer("submit", {**TASK, "api_key": KEYS["user"]}, ADA)
        assert within["user_id"] == "user"
        with pytest.raises(Forbidden):
            await door.answer("submit", TASK, {"api_key": KEYS["viewer"]})
        with pytest.raises(BadRequest):
            await door.answer("submit", [{**TASK, "api_key": KEYS["user"]}, {**TASK, "api_key": KEYS["other"]}], ADA)
        for who in ({"api_key": "fml_wrong"}, {"user": ""}, {"user": "a b"}, {"user": "x" * 99}):
            with pytest.raises(Unauthorized):
                await door.answer("status", mine["id"], who)

    with_door(tmp_path, test)


@pytest.mark.parametrize(
    ("what", "about", "error"),
    [
        ("submit", {"job_name": ""}, Invalid),
        ("submit", {"job_name": {1, 2}}, BadRequest),
        ("submit", "x", Invalid),
        ("submit", [TASK] * 10_001, Invalid),
        ("status", "none", NotFound),
        ("status", ["none"], BadRequest),
        ("wait", "x" * 65, BadRequest),
        ("cancel", "none", NotFound),
        ("steal", "none", BadRequest),
    ],
)
def test_what_is_wrong_is_an_error_that_travels(tmp_path: Path, what: str, about: Any, error: type[Exception]) -> None:
    async def test(door: Native, head: LocalHead) -> None:
        before = len(head.facts)
        with pytest.raises(error) as caught:
            await door.answer(what, about, ADA)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert len(head.facts) == before

    with_door(tmp_path, test)


def test_a_submit_that_is_sent_again_makes_one_task(tmp_path: Path) -> None:
    async def test(door: Native, head: LocalHead) -> None:
        who = {**ADA, "key": "k"}
        first = await door.answer("submit", TASK, who)
        assert (await door.answer("submit", TASK, who))["id"] == first["id"]
        assert (await door.answer("submit", TASK, {**ADA, "key": "other"}))["id"] != first["id"]
        with pytest.raises(Invalid):
            await door.answer("submit", {**TASK, "gpu": 1}, who)
        await head.end(first["id"])
        await door.answer("cancel", first["id"], ADA)
        with pytest.raises(Conflict):
            await door.answer("submit", TASK, who)

    with_door(tmp_path, test)


def test_a_scheduler_that_is_away_for_a_moment_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PAUSE_S", 0.001)

    async def test(door: Native, head: LocalHead) -> None:
        head.broken = Unavailable("the scheduler is away")
        asking = asyncio.create_task(door.answer("submit", TASK, ADA))
        for _ in range(20):
            await asyncio.sleep(0.001)
        head.broken = None
        assert (await asking)["user_id"] == "ray:ada"
        monkeypatch.setattr(native, "AWAY_MAX_S", 0.01)
        head.broken = Unavailable("the scheduler is away")
        with pytest.raises(Unavailable):
            await door.answer("status", "t", ADA)

    with_door(tmp_path, test)


def test_so_many_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "WAITS_MAX", 1)
    monkeypatch.setattr(native, "AWAY_MAX_S", 0.0)

    async def test(door: Native, head: LocalHead) -> None:
        task = await door.answer("submit", TASK, ADA)
        waiting = asyncio.create_task(door.answer("wait", task["id"], ADA))
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="1 programs wait"):
            await door.answer("wait", task["id"], ADA)
        await head.end(task["id"])
        await waiting

    with_door(tmp_path, test)
