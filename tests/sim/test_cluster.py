"""A handful of seeds that must hold, the same seed twice, and the mistakes that must be noticed."""

from dataclasses import replace

import pytest

from fetchmld.sim.cluster import Broken, Cluster, Setting, simulate
from fetchmld.sim.faults import NONE, Faults
from tests.sim.plants import PLANTS, SEEDS_MAX, Plant
from tests.sim.test_found import KNOWN


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_seeds_hold(first: int) -> None:
    for seed in range(first, first + 10):
        try:
            simulate(seed)
        except Broken as broken:
            if not any(known in broken.rule for known in KNOWN):
                raise


def test_a_seed_runs_again_exactly() -> None:
    assert simulate(11) == simulate(11)


def test_without_faults_nothing_is_done_twice() -> None:
    quiet = simulate(5, Setting(faults=NONE))
    assert quiet.starts <= 2 * quiet.tasks
    assert quiet.faults == NONE


def test_a_broken_rule_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchmld.sim.runner.Runner.forget", lambda *_: 1 / 0)
    with pytest.raises(Broken, match=r"^seed 3, second \d+\.\d+: ZeroDivisionError"):
        simulate(3)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
def test_a_planted_mistake_is_noticed(plant: Plant) -> None:
    others = []
    with plant.planted():
        for seed in range(SEEDS_MAX):
            try:
                simulate(seed, plant.setting)
            except Broken as broken:
                if plant.is_noticed_in(broken.rule):
                    return
                others.append(str(broken))
    pytest.fail(f"nobody noticed in {SEEDS_MAX} seeds; other rules that broke: {others[:3]}")


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
def test_a_plant_is_pulled_out_again(plant: Plant) -> None:
    before = plant.where.__dict__[plant.attribute]
    with plant.planted():
        assert plant.where.__dict__[plant.attribute] is plant.instead
    assert plant.where.__dict__[plant.attribute] is before


def test_a_crash_at_any_boundary_between_two_effects_breaks_nothing() -> None:
    """Of the head and of the agents, each boundary of one small story."""
    small = Setting(
        nodes=2, tasks_per_hour=400.0, faults_s=60.0, reservations_per_hour=0.0, wishes_per_hour=0.0, faults=NONE
    )
    whole = Cluster(4, small)
    outcome = whole.run()
    assert outcome.starts > 4
    for die_at in range(1, whole.boundaries.count + 1):
        simulate(4, replace(small, die_at=die_at))


def test_orders_that_arrive_twice_late_are_not_obeyed_twice() -> None:
    for seed in range(10):
        simulate(seed, Setting(faults=Faults(duplicate_down_p=0.3, reorder_down_p=0.05)))
