"""G15: the tests can see. Each mistake of `planted.py` is made in a copy of the source, and a test there must fail of it.

Two copies at a time, as a machine has at least two cores. At every change those that are quickly seen; all of them with
FETCHML_CHAOS=1 (`make chaos`).
"""

import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.fault.conftest import LONG
from tests.plants.planted import PLANTS, Plant
from tests.sim.plants import PLANTS as SIMULATED

ROOT: Final = Path(__file__).resolve().parents[2]
CHOSEN: Final = [plant for plant in PLANTS if LONG or not plant.is_long]
COPIES: Final = 2
COPIED: Final = ("fetchmld", "actors", "tests", "examples", "docs", ".ci")
LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "node_modules", "*.c", "*.cpp", ".cache")
BOUND_S: Final = 300
TESTS_FAILED: Final = 1  # of pytest's exit codes; others mean that no test had its say

Ran = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator["queue.Queue[Path]"]:
    """The source as it is now, built; in memory where that can be had."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else tmp_path_factory.getbasetemp()
    made: queue.Queue[Path] = queue.Queue()
    directories = [place / f"fetchml-plants-{os.getpid()}-{number}" for number in range(COPIES)]
    try:
        for directory in directories:
            for name in COPIED:
                shutil.copytree(ROOT / name, directory / name, ignore=LEFT_OUT, symlinks=True)
            for name in ("pyproject.toml", "setup.py", "Makefile", "README.md"):
                shutil.copy2(ROOT / name, directory / name)
            made.put(directory)
        yield made
    finally:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def ran(copies: "queue.Queue[Path]") -> Iterator[dict[str, Future[Ran]]]:
    """Every plant's run, under way or done; and one without a plant."""
    with ThreadPoolExecutor(COPIES) as threads:
        found = {plant.name: threads.submit(planted, copies, plant) for plant in CHOSEN}
        found[""] = threads.submit(unplanted, copies)
        yield found


def planted(copies: "queue.Queue[Path]", plant: Plant) -> Ran:
    copy = copies.get()
    file = copy / plant.file
    before = file.read_text()
    try:
        assert before.count(plant.old) == 1
        file.write_text(before.replace(plant.old, plant.new))
        return run(copy, *plant.tests)
    finally:
        file.write_text(before)
        copies.put(copy)


def unplanted(copies: "queue.Queue[Path]") -> Ran:
    """Of each file that a plant counts on, one test."""
    firsts = {test.partition("::")[0]: test for plant in CHOSEN for test in plant.tests if "::" in test}
    copy = copies.get()
    try:
        return run(copy, *firsts.values())
    finally:
        copies.put(copy)


def run(copy: Path, *words: str) -> Ran:
    """pytest in the copy, which comes before what is installed: its first line says so."""
    program = "import fetchmld, actors, sys, pytest; print(fetchmld.__file__, actors.__file__); sys.exit(pytest.main())"
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "FETCHML_CHAOS": ""}
    command = [sys.executable, "-c", program, "-x", "-p", "no:cacheprovider", *words]
    ran = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=BOUND_S, check=False
    )
    imported = ran.stdout.partition("\n")[0].split()
    assert [Path(path).parents[1] for path in imported] == [copy, copy], ran.stdout[:500] + ran.stderr[-1000:]
    return ran


def test_there_are_more_than_20_and_each_is_another() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) > 30
    assert len({(plant.file, plant.old, plant.new) for plant in PLANTS}) == len(PLANTS)
    assert len(CHOSEN) >= 20
    assert len(SIMULATED) > 20
    for plant in PLANTS:
        assert (ROOT / plant.file).read_text().count(plant.old) == 1, f"{plant.name}: no longer in {plant.file}"
        for test in plant.tests:
            file, _, name = test.partition("::")
            assert not name or f"def {name}(" in (ROOT / file).read_text(), test


def test_without_a_plant_they_hold(ran: dict[str, "Future[Ran]"]) -> None:
    """What they say of a plant is the plant's doing."""
    done = ran[""].result()
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("plant", CHOSEN, ids=lambda plant: plant.name.replace(" ", "-"))
def test_a_planted_mistake_is_noticed(ran: dict[str, "Future[Ran]"], plant: Plant) -> None:
    done = ran[plant.name].result()
    assert done.returncode == TESTS_FAILED, f"nobody noticed: {done.stdout[-3000:]}{done.stderr[-1000:]}"
    assert "1 failed" in done.stdout, done.stdout[-1000:]
