"""Clients use every operation while everything is killed by turns; a checker from outside reads what came of it.

Every change has half a minute of it, a release (`make chaos`) twenty minutes. What is broken and when follows from a seed,
which is printed; what the clients and the daemon make of it does not.
"""

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fetchmld.client import Client
from fetchmld.client.errors import ClientError
from tests.e2e.conftest import ROOT
from tests.fault.chaos.deeds import DEEDS
from tests.fault.chaos.nemesis import Nemesis
from tests.fault.chaos.scene import Scene, a_scene
from tests.fault.conftest import count

LASTS_S = count(15, 1200)
ACTS_MIN = count(6, 100)
SETTLED_MAX_S = 400


def operations_of_the_contract() -> set[str]:
    document = yaml.safe_load((ROOT / "tests" / "contract" / "facts.yaml").read_text())
    return {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}


def test_the_clients_use_every_operation_of_the_contract() -> None:
    assert set(DEEDS) == operations_of_the_contract()
    assert len(DEEDS) == 30


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with a_scene(tmp_path_factory.mktemp("chaos") / "data") as made:
        yield made


@pytest.mark.e2e
def test_whoever_dies_the_record_and_what_clients_saw_agree(scene: Scene) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    scene.start()
    working = scene.begin(scene.plan(seed))
    key = (scene.shell.data_dir / "admin.key").read_text().strip()
    with Client(f"http://127.0.0.1:{scene.address[1]}", key) as client:
        nemesis = Nemesis(scene.shell, scene.folder, random.Random(seed), scene.start, lambda: is_whole(client))
        nemesis.rage(time.monotonic() + LASTS_S, ACTS_MIN)
        nemesis.await_back("all of it")
    (scene.folder / "over").touch()
    assert working.wait(SETTLED_MAX_S) == 0
    scene.shell.fetchmld("stop")
    verdict = scene.judge()
    took, way = nemesis.slowest
    print(f"{sum(nemesis.done.values())} acts: {nemesis.done}; slowest return {took:.1f} s, after: {way}")
    print(verdict.stdout)
    assert verdict.returncode == 0, f"seed {seed}\n{verdict.stdout}\n{verdict.stderr}"


def is_whole(client: Client) -> bool:
    with contextlib.suppress(ClientError):
        client.ready()
        return all(one["status"] != "offline" and not one["suspect"] for one in client.workers())
    return False


@pytest.fixture
def histories(scene: Scene) -> Path:
    return scene.folder
