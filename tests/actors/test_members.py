"""Who looks after which machine that joined; and when a machine is let in. Without Ray."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actors import members, ray_join
from actors.ray_commands import MEMBER_LABEL
from actors.ray_compat import RayFailed, about
from actors.ray_join import Twin, WrongVersion, open_cluster

Here = dict[str, list[str]]


class Watched:
    """What Ray says, and who is looked after meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here: Here = {}
        self.kept: dict[str, str] = {}
        self.fails = 0
        self.blind = 0
        monkeypatch.setattr(members, "members", self.look)
        monkeypatch.setattr(members, "member_settings", lambda worker_id: {"of": worker_id})
        monkeypatch.setattr(members, "POLL_S", 0.001)

    def look(self) -> Here:
        if self.blind:
            self.blind -= 1
            raise RuntimeError("Ray does not answer")
        return dict(self.here)

    async def attend(self, worker_id: str, node_id: str, settings: dict[str, Any]) -> None:
        assert settings == {"of": worker_id}
        if self.fails:
            self.fails -= 1
            raise ValueError("not today")
        self.kept[worker_id] = node_id
        try:
            await asyncio.Event().wait()
        finally:
            del self.kept[worker_id]

    async def become(self, here: Here, kept: dict[str, str]) -> None:
        self.here = here
        async with asyncio.timeout(10):
            while self.kept != kept:
                await asyncio.sleep(0.001)


def watching(monkeypatch: pytest.MonkeyPatch, story: Callable[[Watched], Awaitable[None]]) -> None:
    async def run() -> None:
        watched = Watched(monkeypatch)
        task = asyncio.create_task(members.attend_members(watched.attend))
        await story(watched)
        task.cancel()
        await asyncio.wait([task])
        assert watched.kept == {}, "nobody is looked after when the watch is over"

    asyncio.run(run())


def test_each_machine_has_one_keeper_as_long_as_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(watched: Watched) -> None:
        await watched.become({"w1": ["n1"], "w2": ["n2"]}, {"w1": "n1", "w2": "n2"})
        await watched.become({"w2": ["n2"]}, {"w2": "n2"})
        await watched.become({"w1": ["n3"], "w2": ["n2"]}, {"w1": "n3", "w2": "n2"})

    watching(monkeypatch, story)


def test_a_machine_that_came_back_is_kept_once_its_last_stay_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(watched: Watched) -> None:
        await watched.become({"w1": ["n1"]}, {"w1": "n1"})
        await watched.become({"w1": ["n2", "n1"]}, {"w1": "n1"})
        await watched.become({"w1": ["n2"]}, {"w1": "n2"})

    watching(monkeypatch, story)


def test_a_question_that_fails_is_asked_again_and_nobody_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(watched: Watched) -> None:
        await watched.become({"w1": ["n1"]}, {"w1": "n1"})
        watched.blind = 3
        await watched.become({"w1": ["n1"], "w2": ["n2"]}, {"w1": "n1", "w2": "n2"})
        assert not watched.blind

    watching(monkeypatch, story)


def test_a_machine_that_could_not_be_looked_after_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "RETRY_S", 0.001)

    async def story(watched: Watched) -> None:
        watched.fails = 3
        await watched.become({"w1": ["n1"]}, {"w1": "n1"})

    watching(monkeypatch, story)


# -- being let in


class FakeGcs:
    def __init__(self, said: bytes | None) -> None:
        self.said = said
        self.put: dict[bytes, bytes] = {}
        self.cluster_id = bytes(28)
        self.nodes: list[Any] = []
        self.asked = 0

    def internal_kv_get(self, _key: bytes, _namespace: bytes, timeout: float) -> bytes | None:
        return self.said

    def internal_kv_put(self, key: bytes, value: bytes, _again: bool, _namespace: bytes, timeout: float) -> None:
        self.put[key] = value

    def get_all_node_info(self, timeout: float) -> dict[bytes, Any]:
        self.asked += 1
        return {b"%d" % number: node for number, node in enumerate(self.nodes)}


def node(address: str, worker_id: str = "w1", state: int = 0) -> Any:
    """As Ray's GcsNodeInfo has it; a state of 1 is DEAD. The head's own has no label."""
    labels = {MEMBER_LABEL: worker_id} if worker_id else {}
    return SimpleNamespace(node_manager_address=address, state=state, labels=labels)


SETTINGS = {"num_cpus": 2, "address": "10.0.0.7"}
WISH = {"address": "h:1", "node_id": "n", "worker_id": "w1", "settings": SETTINGS}


def test_who_fits_leaves_its_settings_and_learns_the_session() -> None:
    gcs = FakeGcs(about("session_x"))
    assert open_cluster(gcs, WISH) == {"cluster_id": "00" * 28, "session": "session_x"}
    assert [json.loads(value) for value in gcs.put.values()] == [SETTINGS]


def test_a_copy_of_another_machines_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_join, "TWIN_ENDS_S", 0.1)
    gcs = FakeGcs(about("s"))
    gcs.nodes = [node("10.0.0.1", ""), node("10.0.0.8")]
    with pytest.raises(Twin, match=r"10\.0\.0\.8 has joined as worker w1"):
        open_cluster(gcs, WISH)
    assert gcs.put == {}, "what the head knows of the other stays"


@pytest.mark.parametrize("there", [node("10.0.0.7"), node("10.0.0.8", "w2"), node("10.0.0.8", state=1)])
def test_who_is_no_copy_is_let_in_at_once(there: Any) -> None:
    """Its own last stay, another worker, and the last stay at another address, which is over."""
    gcs = FakeGcs(about("s"))
    gcs.nodes = [there]
    open_cluster(gcs, WISH)
    assert gcs.asked == 1


def test_a_machine_whose_address_changed_waits_for_the_end_of_its_last_stay() -> None:
    class Leaving(FakeGcs):
        def get_all_node_info(self, timeout: float) -> dict[bytes, Any]:
            self.nodes = [node("10.0.0.8")] if self.asked < 3 else []
            return super().get_all_node_info(timeout)

    gcs = Leaving(about("s"))
    open_cluster(gcs, WISH)
    assert gcs.asked == 4
    assert gcs.put


@pytest.mark.parametrize("part", ["fetchmld", "ray", "python"])
def test_who_runs_another_version_is_told_which(part: str) -> None:
    gcs = FakeGcs(json.dumps({**json.loads(about("s")), part: "0.0"}).encode())
    with pytest.raises(WrongVersion, match=f"the head runs {part} 0.0, this machine"):
        open_cluster(gcs, WISH)
    assert gcs.put == {}


def test_a_ray_cluster_that_is_not_ours_is_not_joined() -> None:
    with pytest.raises(RayFailed, match="not FetchML's"):
        open_cluster(FakeGcs(None), WISH)
