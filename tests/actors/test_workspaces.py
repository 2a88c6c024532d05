"""Directories are used again only as they were made."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.workspaces import SPARES_MAX, Workspaces


@pytest.fixture
def workspaces(tmp_path: Path) -> Workspaces:
    made = Workspaces(tmp_path)
    made.make_roots()
    return made


def test_an_untouched_directory_serves_the_next_attempt(workspaces: Workspaces) -> None:
    first = workspaces.create("a-1-0")
    number = Path(first.work).stat().st_ino
    assert not workspaces.give_back("a-1-0")
    second = workspaces.create("b-1-0")
    assert Path(second.work).stat().st_ino == number
    assert not Path(first.base).exists()


@pytest.mark.parametrize(
    "touch",
    [
        lambda base: (base / "work" / "file").write_text("x"),
        lambda base: (base / "output" / ".hidden").mkdir(),
        lambda base: (base / "tmp" / "dangling").symlink_to("/nowhere"),
        lambda base: (base / ".bashrc").write_text("x"),
        lambda base: (base / "tmp").rmdir(),
        lambda base: (base / "work").chmod(0o777),
        lambda base: base.chmod(0o755),
        lambda base: os.replace(base / "work", base / "elsewhere"),
    ],
)
def test_a_touched_one_never_does(workspaces: Workspaces, touch: Callable[[Path], object]) -> None:
    first = workspaces.create("a-1-0")
    number = Path(first.base).stat().st_ino
    kept = os.open(first.base, os.O_RDONLY)  # so that its number is not given to another
    touch(Path(first.base))
    workspaces.give_back("a-1-0")
    second = workspaces.create("b-1-0")
    assert Path(second.base).stat().st_ino != number
    assert sorted(os.listdir(second.base)) == ["output", "tmp", "work"]
    assert not any(os.listdir(Path(second.base) / part) for part in ("output", "tmp", "work"))
    os.close(kept)


@pytest.mark.parametrize("part", ["work", "output", "tmp"])
def test_what_a_later_attempt_leaves_is_seen(workspaces: Workspaces, part: str) -> None:
    """A directory that was looked into before is not looked into again unless something happened to it."""
    number = Path(workspaces.create("a-1-0").work).stat().st_ino
    for name in ("b-1-0", "c-1-0"):
        workspaces.give_back("a-1-0" if name == "b-1-0" else "b-1-0")
        given = workspaces.create(name)
        given.given_ns += 10**9  # as if it had been made long before
        assert Path(given.work).stat().st_ino == number
        assert not given.has_output()
    (Path(given.base) / part / "file").touch()
    assert given.has_output() == (part == "output")
    workspaces.give_back("c-1-0")
    assert Path(workspaces.create("d-1-0").work).stat().st_ino != number


def test_what_was_removed_again_is_looked_for(workspaces: Workspaces) -> None:
    number = Path(workspaces.create("a-1-0").work).stat().st_ino
    workspaces.give_back("a-1-0")
    given = workspaces.create("b-1-0")
    given.given_ns += 10**9
    (Path(given.work) / "file").touch()
    (Path(given.work) / "file").unlink()
    workspaces.give_back("b-1-0")
    assert Path(workspaces.create("c-1-0").work).stat().st_ino == number


def test_no_more_are_kept_than_said(workspaces: Workspaces, tmp_path: Path) -> None:
    for number in range(SPARES_MAX + 5):
        workspaces.create(f"a-{number}-0")
    for number in range(SPARES_MAX + 5):
        workspaces.give_back(f"a-{number}-0")
    assert len(os.listdir(tmp_path / "spares")) == SPARES_MAX
    assert os.listdir(tmp_path / "attempts") == []


def test_what_nobody_knows_goes(workspaces: Workspaces, tmp_path: Path) -> None:
    workspaces.create("known-1-0")
    workspaces.create("gone-1-0")
    workspaces.give_back("gone-1-0")
    workspaces.create("stranger-1-0")
    workspaces.discard_strangers({"known-1-0"})
    assert os.listdir(tmp_path / "attempts") == ["known-1-0"]
    assert os.listdir(tmp_path / "spares") == []
