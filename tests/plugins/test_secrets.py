"""Secrets among settings: never where the record or an answer would show them."""

import stat
from pathlib import Path

import pytest

from fetchmld.core.errors import Invalid
from fetchmld.plugins.secrets import MASK, Secrets, ids_in, masked

NAMES = {"password"}


def test_a_secret_is_kept_hidden_and_found_again(tmp_path: Path) -> None:
    keep = Secrets(tmp_path / "secrets")
    hidden = keep.hide({"user": "ada", "password": "hunter2"}, NAMES, {})
    assert "hunter2" not in str(hidden)
    assert masked(hidden) == {"user": "ada", "password": MASK}
    assert Secrets(tmp_path / "secrets").reveal(hidden) == {"user": "ada", "password": "hunter2"}
    (file,) = (tmp_path / "secrets").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_mask_sent_back_means_as_it_was(tmp_path: Path) -> None:
    keep = Secrets(tmp_path / "secrets")
    first = keep.hide({"password": "hunter2"}, NAMES, {})
    assert keep.hide({"password": MASK}, NAMES, first) == first
    assert keep.hide({"password": "hunter2"}, NAMES, first) == first  # the same value is the same configuration
    assert keep.hide({"password": "other"}, NAMES, first) != first
    with pytest.raises(Invalid, match=r"^settings\.password"):
        keep.hide({"password": MASK}, NAMES, {})


def test_nobody_names_a_secret_by_its_id(tmp_path: Path) -> None:
    keep = Secrets(tmp_path / "secrets")
    hidden = keep.hide({"password": "hunter2"}, NAMES, {})
    with pytest.raises(Invalid, match=r"^settings\.password: must be text"):
        keep.hide({"password": hidden["password"]}, NAMES, {})
    with pytest.raises(Invalid, match=r"^settings\.user: is no secret"):
        keep.hide({"user": hidden["password"]}, NAMES, {})


def test_what_nobody_names_any_more_goes(tmp_path: Path) -> None:
    keep = Secrets(tmp_path / "secrets")
    old = keep.hide({"password": "one"}, NAMES, {})
    new = keep.hide({"password": "two"}, NAMES, old)
    (tmp_path / "secrets" / "task-tokens.key").write_text("stays")
    keep.forget_all_but(ids_in(new))
    assert keep.reveal(new) == {"password": "two"}
    with pytest.raises(Invalid, match="its value is lost"):
        keep.reveal(old)
    assert (tmp_path / "secrets" / "task-tokens.key").exists()
