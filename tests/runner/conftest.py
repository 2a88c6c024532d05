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
def runner(short_dir: Path) -> Iterator[RunnerClient]:
    client = RunnerClient(short_dir)
    try:
        yield client.connect()
    finally:
        client.close()
