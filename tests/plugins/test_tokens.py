"""Tokens of tasks: made by us alone, for one attempt and one plugin."""

import stat
from pathlib import Path

import pytest

from fetchmld.plugins.tokens import TaskToken, Tokens


def test_a_token_says_what_it_was_made_for_and_whoever_shares_the_key_believes_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    token = Tokens(path).make("abc-7", 2, "mlflow")
    assert Tokens(path).read(token) == TaskToken("abc-7", 2, "mlflow")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["key"]


def test_one_of_another_installation_is_not_believed(tmp_path: Path) -> None:
    assert Tokens(tmp_path / "a").read(Tokens(tmp_path / "b").make("abc", 1, "mlflow")) is None


@pytest.mark.parametrize(
    ("old", "new"), [("abc", "abd"), (".1.", ".2."), ("mlflow", "tensorboard"), ("fmt_", "fml_"), ("fmt_", "fmt_fmt_")]
)
def test_a_changed_one_is_not_believed(tmp_path: Path, old: str, new: str) -> None:
    tokens = Tokens(tmp_path / "key")
    assert tokens.read(tokens.make("abc", 1, "mlflow").replace(old, new)) is None


@pytest.mark.parametrize(
    "text", ["", "fmt_", "fmt_a.1.mlflow.", "fmt_a.b.c.d", "fmt_" + "a" * 100_000, "fmt_a.1.mlflow.\udcff"]
)
def test_nonsense_is_not_believed(tmp_path: Path, text: str) -> None:
    assert Tokens(tmp_path / "key").read(text) is None
