"""An agent offers what it holds of Ray, and says so anew when that changes."""

import dataclasses

import pytest

from actors import ray_lender
from actors.ray_commands import Offer
from actors.ray_leases import Held
from fetchmld.ray_share import RayShare
from tests.actors.fake_scheduler import Node, on_node


class Leases:
    """Instead of `RayLeases`: what it holds is what a test says."""

    held = Held(2, frozenset({"0", "1"}))
    wanted = Held(2, frozenset({"0", "1"}))

    def __init__(self, offer: Offer, share: RayShare) -> None:
        pass

    def take(self) -> Held:
        return self.held

    look = take


def test_what_is_lost_is_offered_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_lender, "RayLeases", Leases)
    monkeypatch.setattr(ray_lender, "LOOK_S", 0.01)

    async def story(node: Node) -> None:
        first = await node.scheduler.heard("hello")
        assert (first["capacity"]["cpu"], len(first["capacity"]["gpus"])) == (2, 2)
        assert first["detail"]["ray_share"] == {"cpu": 1, "gpus": [2]}
        monkeypatch.setattr(Leases, "held", Held(1, frozenset({"1"})))
        second = await node.scheduler.heard("hello", count=2)
        assert second["capacity"]["cpu"] == 1
        assert [gpu["index"] for gpu in second["capacity"]["gpus"]] == [1]
        assert second["detail"]["ray_has"] == {"cpu": 1, "gpus": 1}
        report = await node.run("a", "/bin/true", gpus=[0])  # it was placed before that was known
        assert report["exit_code"] == 0

    offer = dataclasses.asdict(Offer("w1", 3, ("0", "1", "2"), "FAKE"))
    on_node(story, num_cpus=3, num_gpus=3, ray_share="cpu=1,gpu=1", ray_offer=offer)
