"""Ray for the tests of this room: one token for all, since Ray reads it once per process, and an environment put back."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.ray_compat import RayOptions
from actors.ray_processes import marked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def ray_options() -> Iterator[RayOptions]:
    """Options with the token that every runtime of this process shares, and an environment in which workers find us."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), before.get("PYTHONPATH"))))
    token = Path(tempfile.mkdtemp(prefix="fml-")) / "token"
    yield RayOptions(token_path=token)
    shutil.rmtree(token.parent)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short directory for sockets; nothing that was started on it may outlive the test."""
    path = Path(tempfile.mkdtemp(prefix="fml-"))
    yield path
    left = marked(path)
    shutil.rmtree(path)
    assert left == []


def until(what: str, check: Callable[[], bool], within_s: float = 30.0) -> float:
    """Wait for `check`; the seconds it took. Fails, naming `what`, when it never comes true."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began
