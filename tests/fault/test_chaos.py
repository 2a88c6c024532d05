"""Clients use every operation while everything is killed by turns; a checker from outside reads what came of it.

Every change has half a minute of it, a release (`make chaos`) twenty minutes. What is broken and when follows from a seed,
which is printed; what the clients and the daemon make of it does not.
"""

import random
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import ROOT
from tests.e2e.lan import why_not
from tests.fault.chaos.deeds import DEEDS
from tests.fault.chaos.nemesis import Nemesis
from tests.fault.chaos.scene import Scene, one_machine, two_machines
from tests.fault.conftest import LONG, count

LASTS_S = count(15, 1200)
ACTS_MIN = count(6, 100)
TWO_LAST_S = 600
SETTLED_MAX_S = 900
REASON = why_not()


def operations_of_the_contract() -> set[str]:
    document = yaml.safe_load((ROOT / "tests" / "contract" / "facts.yaml").read_text())
    return {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}


def test_the_clients_use_every_operation_of_the_contract() -> None:
    assert set(DEEDS) == operations_of_the_contract()
    assert len(DEEDS) == 30


@pytest.mark.e2e
def test_whoever_dies_the_record_and_what_clients_saw_agree(tmp_path: Path) -> None:
    with one_machine(tmp_path / "data") as scene:
        break_and_judge(scene, LASTS_S, ACTS_MIN)


@pytest.mark.e2e
@pytest.mark.skipif(not LONG, reason="takes minutes: part of `make chaos`")
@pytest.mark.skipif(bool(REASON), reason=REASON or "there can be")
def test_so_it_is_with_two_machines_and_a_link_that_is_cut(tmp_path: Path) -> None:
    with two_machines(tmp_path / "data") as scene:
        break_and_judge(scene, TWO_LAST_S, ACTS_MIN)


def break_and_judge(scene: Scene, lasts_s: float, acts_min: int) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    scene.start()
    with scene.begin(scene.plan(seed)) as working:
        try:
            nemesis = Nemesis(scene.places, scene.folder, random.Random(seed), scene.is_whole)
            nemesis.rage(time.monotonic() + lasts_s, acts_min)
            nemesis.await_back("all of it")
        finally:
            (scene.folder / "over").touch()
        assert working.wait(SETTLED_MAX_S) == 0
    scene.shell.fetchmld("stop")
    verdict = scene.judge()
    took, way = nemesis.slowest
    print(f"{sum(nemesis.done.values())} acts: {nemesis.done}; slowest return {took:.1f} s, after: {way}")
    print(verdict.stdout)
    assert verdict.returncode == 0, f"seed {seed}\n{verdict.stdout}\n{verdict.stderr}"
