"""Runs `fetchmld` in this process against a stub daemon."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fetchmld.cli import main
from fetchmld.client import patience
from tests.client.stub import Stub


@dataclass(slots=True, frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a daemon, and no settings of the developer's own."""
    for name in ("FETCHML_ADDRESS", "FETCHML_API_KEY", "FETCHMLD_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(patience, "PAUSE_FIRST_S", 0.001)
    return tmp_path


@pytest.fixture
def run(home: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls `fetchmld` with words; its exit code and what it printed."""

    def call(*words: str) -> Ran:
        with pytest.raises(SystemExit) as left:
            main([*words])
        printed = capfd.readouterr()
        return Ran(int(left.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def client(run: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run`, with the stub as the daemon."""
    monkeypatch.setenv("FETCHML_ADDRESS", stub.address)
    monkeypatch.setenv("FETCHML_API_KEY", "fml_test")
    return run
