"""Fixtures of the runner's tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.client import RunnerClient


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a name short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="fml-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def fresh(short_dir: Path) -> Iterator[RunnerClient]:
    """A runner for a test that ends it, or changes it for good."""
    client = RunnerClient(short_dir)
    try:
        yield client.connect()
    finally:
        client.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[RunnerClient]:
    directory = Path(tempfile.mkdtemp(prefix="fml-"))
    client = RunnerClient(directory)
    try:
        yield client.connect()
    finally:
        client.close()
        shutil.rmtree(directory)


@pytest.fixture
def runner(shared: RunnerClient) -> Iterator[RunnerClient]:
    """A runner that is as new: what the test started is gone afterwards."""
    yield shared
    shared.tidy()
