"""What is held of Ray and what is lent: against a stand-in for Ray's books, then on Ray with a native neighbour."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actors.data_dir import Refused
from actors.ray_commands import Offer
from actors.ray_compat import RayOptions, RayRuntime
from actors.ray_leases import Group, Groups, Held, RayLeases, usable
from actors.ray_offer import offer_of
from fetchmld.core.model import Capacity, Gpu
from fetchmld.ray_share import RayShare
from tests.actors.conftest import until

GPUS = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")
OFFER = Offer("w1", 7, GPUS, "X")


@dataclass
class Books(Groups):
    """Ray's, of one machine: who asks first gets first, the lowest GPU that is free."""

    node_id: str = "n1"
    cores: int = 7
    natives: dict[str, set[str]] = field(default_factory=dict)  # GPUs of programs that are not ours
    native_cores: int = 0
    asked: dict[str, dict[str, float]] = field(default_factory=dict)  # in order
    has: dict[str, str] = field(default_factory=dict)  # the GPU of each group that is made, "" for cores
    probes: int = 0
    home: str = "n1"  # where Ray believes the groups to be

    def settle(self) -> None:
        for name, bundle in self.asked.items():
            if name in self.has:
                continue
            if "CPU" in bundle and bundle["CPU"] <= self.free_cores():
                self.has[name] = ""
            elif "GPU" in bundle and self.free_gpus():
                self.has[name] = self.free_gpus()[0]

    def free_cores(self) -> float:
        ours = sum(bundle["CPU"] for name, bundle in self.asked.items() if name in self.has and "CPU" in bundle)
        return self.cores - self.native_cores - ours

    def free_gpus(self) -> list[str]:
        taken = set(self.has.values()).union(*self.natives.values())
        return [gpu for gpu in GPUS if gpu not in taken]

    def all(self) -> list[Group]:
        self.settle()
        return [Group(f"id-{name}", name, self.home if name in self.has else "") for name in self.asked]

    def create(self, name: str, bundle: dict[str, float]) -> None:
        assert name not in self.asked
        self.asked[name] = bundle

    def remove(self, group: Group) -> None:
        del self.asked[group.name]
        self.has.pop(group.name, None)

    def gpu_of(self, group: Group) -> str:
        self.probes += 1
        return self.has[group.name]

    def raylet_restarts(self) -> None:
        """Its groups wait for it, and it comes back as another node."""
        self.has.clear()
        self.home = self.node_id = self.node_id + "'"


def leases(books: Books, share: str = "") -> RayLeases:
    return RayLeases(OFFER, RayShare.parse(share), lambda _machine: books)


def rounds(of: RayLeases, count: int = 3) -> Held:
    for _ in range(count):
        held = of.look()
    return held


def test_all_is_held_where_nothing_is_lent_and_nobody_looks_which_gpu_is_which() -> None:
    books = Books()
    assert leases(books).take() == Held(7, frozenset(GPUS))
    assert (books.free_cores(), books.free_gpus(), books.probes) == (0, [], 0)
    assert sorted(books.asked) == ["cpu:0:4", "cpu:1:2", "cpu:2:1", "gpu:0", "gpu:1", "gpu:2", "gpu:3"]


def test_the_last_gpus_are_lent() -> None:
    books = Books()
    of = leases(books, "cpu=2,gpu=1")
    assert of.take() == of.wanted == Held(5, frozenset(GPUS[:3]))
    assert rounds(of) == of.wanted
    assert (books.free_cores(), books.free_gpus()) == (2, ["GPU-d"])
    assert books.probes == 4, "each is looked for once"


def test_what_a_native_program_has_already_is_waited_for_and_never_used() -> None:
    books = Books(natives={"early": {"GPU-a"}}, native_cores=3)
    of = leases(books, "gpu=1")
    assert rounds(of) == Held(4, frozenset({"GPU-b", "GPU-c"}))
    assert books.free_gpus() == [], (
        "the one to lend is kept until ours is there: else who waits takes it, and we wait on"
    )
    books.natives, books.native_cores = {}, 0
    assert rounds(of) == Held(7, frozenset(GPUS[:3]))
    assert books.free_gpus() == ["GPU-d"]


def test_a_group_that_somebody_removed_is_made_again_and_its_gpu_not_used_meanwhile() -> None:
    books = Books()
    of = leases(books, "gpu=2")
    of.take()
    lost = next(group for group in books.all() if books.has[group.name] == "GPU-a")
    books.remove(lost)
    books.natives["thief"] = {"GPU-a"}
    assert of.look().gpus == {"GPU-b"}
    assert rounds(of).gpus == {"GPU-b"}
    books.natives = {}
    assert rounds(of).gpus == {"GPU-a", "GPU-b"}
    assert books.free_gpus() == ["GPU-c", "GPU-d"]


def test_a_raylet_that_was_started_again_is_looked_at_again() -> None:
    books = Books()
    of = leases(books, "gpu=1")
    of.take()
    books.home = "n0"  # Ray has not noticed that the raylet ended
    assert of.look() == Held(0, frozenset())
    books.raylet_restarts()
    books.natives["quick"] = {"GPU-b"}
    assert rounds(of).gpus == {"GPU-a", "GPU-c"}
    books.natives = {}
    assert rounds(of).gpus == set(GPUS[:3])


def test_the_next_agent_takes_over_what_there_is_and_a_new_share_changes_it() -> None:
    books = Books()
    leases(books, "cpu=1,gpu=2").take()
    before = dict(books.has)
    leases(books, "cpu=1,gpu=2").take()
    assert books.has == before
    assert rounds(leases(books)) == Held(7, frozenset(GPUS))
    assert rounds(leases(books, "cpu=6,gpu=4")) == Held(1, frozenset())
    assert (books.free_cores(), len(books.free_gpus())) == (6, 4)


def test_only_what_is_held_is_offered() -> None:
    own = Capacity(5, 8, 5, 2, tuple(Gpu(index, "X", uuid) for index, uuid in enumerate((*GPUS, "GPU-new"))))
    now = usable(own, OFFER, Held(4, frozenset({"GPU-a"})))
    assert (now.cpu, now.batch_slots) == (4, 5)
    assert [gpu.uuid for gpu in now.gpus] == ["GPU-a", "GPU-new"], "what Ray does not know, it cannot lend"


def test_the_offer_is_all_there_is_and_a_core_stays() -> None:
    gpus = (Gpu(0, "X", "GPU-a"),)
    offer = offer_of("w1", Capacity(2, 4, 2, 2, gpus), RayShare(6, 1, 10))
    assert (offer.cpu, offer.gpus, offer.gpu_type) == (8, ("GPU-a",), "X")
    assert offer.memory_bytes + offer.store_bytes == 10 * 2**30
    for share, own in (
        ("cpu=8", Capacity(0, 9, 0, 0)),
        ("gpu=1", Capacity(1, 9, 1, 0)),
        ("memory=9", Capacity(1, 0, 1, 0)),
    ):
        with pytest.raises(Refused, match="can be lent"):
            offer_of("w1", own, RayShare.parse(share))


# ---- Ray itself


class Native:
    def sees(self) -> tuple[list[str], str]:
        import os

        import ray

        return [str(gpu) for gpu in ray.get_gpu_ids()], os.environ.get("CUDA_VISIBLE_DEVICES", "unset")


@pytest.mark.ray
def test_a_ray_native_neighbour_gets_exactly_what_is_lent(run_dir: Path, ray_options: RayOptions) -> None:
    options = RayOptions(token_path=ray_options.token_path, offer=Offer("w1", 4, GPUS, "X"))
    runtime = RayRuntime(run_dir, options)
    runtime.start()
    try:
        runtime.connect()
        import ray  # reads the environment that the start has made

        of = RayLeases(options.offer, RayShare.parse("cpu=1,gpu=1"))
        assert of.take() == of.wanted == Held(3, frozenset(GPUS[:3]))
        until("the rest is let go", lambda: of.look() == of.wanted and len(of._groups.all()) == 5)
        neighbour = ray.remote(Native)
        first = neighbour.options(num_cpus=0, num_gpus=1, accelerator_type="X").remote()
        assert ray.get(first.sees.remote(), timeout=30) == (["GPU-d"], "GPU-d")
        second = neighbour.options(num_cpus=0, num_gpus=1).remote()
        waiting = second.sees.remote()
        assert ray.get(neighbour.options(num_cpus=1).remote().sees.remote(), timeout=30) == ([], "")
        assert ray.wait([waiting], timeout=1.0)[0] == [], "the others are FetchML's"
        assert of.look() == of.wanted

        more = RayLeases(options.offer, RayShare.parse("cpu=1,gpu=2"))  # as after a start with another share
        until("one more is lent", lambda: more.look() == more.wanted and bool(ray.wait([waiting], timeout=0)[0]))
        assert ray.get(waiting) == (["GPU-c"], "GPU-c")
        assert RayLeases(options.offer, RayShare()).look().gpus == set(GPUS[:2])
    finally:
        runtime.disconnect()
        runtime.stop()
