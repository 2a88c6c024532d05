"""Workspaces of users: where they may be, and whose they are."""

import os
from pathlib import Path

import pytest

from actors.notebooks import Notebooks
from actors.workspace import CannotRun

BLOCK = range(1_900_000_000, 1_900_065_536)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc"])
def test_no_name_leads_elsewhere(tmp_path: Path, name: str) -> None:
    notebooks = Notebooks(tmp_path / "workspaces", BLOCK)
    for user, workspace in ((name, "w"), ("u", name)):
        with pytest.raises(CannotRun, match="LAUNCH_FAILED"):
            notebooks.make(user, workspace, -1)


def test_it_is_made_once_and_stays(tmp_path: Path) -> None:
    notebooks = Notebooks(tmp_path / "workspaces", BLOCK)
    path = notebooks.make("ada", "w", -1)
    Path(path, "a.ipynb").write_text("{}")
    assert notebooks.make("ada", "w", -1) == path == f"{tmp_path}/workspaces/ada/w"
    assert os.listdir(path) == ["a.ipynb"]
    assert os.stat(path).st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    notebooks = Notebooks(tmp_path / "workspaces", BLOCK)
    path = Path(notebooks.make("ada", "w", -1))
    path.rmdir()
    path.symlink_to(tmp_path)
    with pytest.raises(OSError, match="directory"):
        notebooks.make("ada", "w", -1)


@as_root
def test_all_in_it_is_handed_over_and_nothing_else(tmp_path: Path) -> None:
    notebooks = Notebooks(tmp_path / "workspaces", BLOCK)
    first, second = BLOCK[0], BLOCK[1]
    path = Path(notebooks.make("ada", "w", first))
    outside = tmp_path / "outside"
    outside.write_text("root's")
    (path / "sub").mkdir()
    (path / "sub" / "a").write_text("a")
    (path / "link").symlink_to(outside)
    os.link(outside, path / "hard")
    for name in ("sub", "sub/a"):
        os.chown(path / name, first, first)
    os.chown(path / "link", first, first, follow_symlinks=False)
    notebooks.make("ada", "w", second)
    owners = {name: os.lstat(path / name).st_uid for name in ("", "sub", "sub/a", "link", "hard")}
    assert owners == {"": second, "sub": second, "sub/a": second, "link": second, "hard": 0}
    assert outside.stat().st_uid == 0
