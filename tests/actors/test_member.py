"""A machine that joined notices that its head is gone, or is another. Without Ray."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors import member
from actors.data_dir import DataDir
from actors.member import Member
from actors.ray_compat import RayFailed
from fetchmld.config import Config

JOIN = {"host": "10.0.0.1", "port": 9102, "token": "0" * 64, "token_file": "join.token"}


class FakeRay:
    """Its raylet lives."""

    left_behind = False

    def start(self) -> None:
        """It joined."""

    def is_alive(self) -> bool:
        return True

    def renew_zygote(self) -> bool:
        return False

    def is_left_behind(self) -> bool:
        return self.left_behind

    async def wait_dead(self) -> str:
        await asyncio.Event().wait()
        return ""


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Member, FakeRay, list[bool]]:
    """The daemon of a machine, its Ray, and whether its agent is known: said once a question, the last for ever."""
    (tmp_path / "data").mkdir()
    settings = Config(data_dir=tmp_path / "data", num_cpus=1, num_gpus=0).model_dump(mode="json")
    made, ray, known = (
        Member(DataDir(tmp_path / "data"), {**settings, "join": JOIN}, 0.0),
        FakeRay(),
        [True, True, False],
    )
    monkeypatch.setattr(made, "_runtime", ray)

    async def is_known() -> bool:
        await asyncio.sleep(0)
        return known.pop(0) if len(known) > 1 else known[0]

    monkeypatch.setattr(made, "_is_known", is_known)
    return made, ray, known


def lost(made: Member) -> Any:
    return asyncio.run(asyncio.wait_for(made._until_lost(), 10))


def test_who_was_left_behind_says_so_at_once(joined: tuple[Member, FakeRay, list[bool]]) -> None:
    """Its raylet would call the new one without pause: waiting for it would hold the new one up."""
    made, ray, _ = joined
    ray.left_behind = True
    assert lost(made) == "the head has another Ray"


def test_who_is_left_behind_while_it_waits_for_its_agent_tries_anew(joined: tuple[Member, FakeRay, list[bool]]) -> None:
    made, ray, known = joined
    ray.left_behind = True
    known[:] = [False]
    with pytest.raises(RayFailed, match="another Ray"):
        asyncio.run(asyncio.wait_for(made._join(), 10))


@pytest.mark.parametrize(("answers", "why"), [(False, "does not answer"), (True, "has known no agent")])
def test_a_silent_head_is_given_its_time(
    joined: tuple[Member, FakeRay, list[bool]], monkeypatch: pytest.MonkeyPatch, answers: bool, why: str
) -> None:
    made, _, _ = joined
    monkeypatch.setattr(member, "port_answers", lambda _host, _port: answers)
    monkeypatch.setattr(member, "GONE_AFTER_S", 0.1)
    monkeypatch.setattr(member, "LOST_AFTER_S", 0.3)
    assert why in lost(made)


def test_an_agent_that_believes_itself_known_is_not_relied_on(
    joined: tuple[Member, FakeRay, list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the answer of a head that is dead, which nobody tells it."""
    monkeypatch.setattr(member, "ASK_HEAD_EVERY_S", 0.1)
    made, ray, known = joined
    known[:] = [True]
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(made._until_lost(), 0.3))
    ray.left_behind = True
    assert lost(made) == "the head has another Ray"
