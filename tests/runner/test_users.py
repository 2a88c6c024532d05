"""Blocks of user ids: held by one at a time, and never somebody's."""

import os
from pathlib import Path

import pytest

from fetchmld.runner import users
from fetchmld.runner.users import NoUsers

FIRST = 1_950_000_000


def claim(directory: Path, name: str, count: int = 3 * users.BLOCK_COUNT) -> users.Users:
    return users.claim(str(directory / name), FIRST, count, str(directory / "locks"))


def test_each_has_a_block_and_finds_it_again(tmp_path: Path) -> None:
    one, other = claim(tmp_path, "one"), claim(tmp_path, "other")
    assert (one.block, other.block) == (range(FIRST, FIRST + 4096), range(FIRST + 4096, FIRST + 8192))
    one.close()
    other.close()
    assert claim(tmp_path, "other").block == other.block


def test_when_all_are_held_it_says_so(tmp_path: Path) -> None:
    held = claim(tmp_path, "one", users.BLOCK_COUNT)
    with pytest.raises(NoUsers, match="all 1 blocks"):
        claim(tmp_path, "other", users.BLOCK_COUNT)
    held.close()


def test_a_block_with_processes_waits_for_its_own_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = claim(tmp_path, "mine")
    mine.close()
    monkeypatch.setattr(users, "uid_of", lambda pid: FIRST + 3 if pid == os.getpid() else 0)
    assert claim(tmp_path, "other").block.start == FIRST + users.BLOCK_COUNT
    assert claim(tmp_path, "mine").block == mine.block


@pytest.mark.parametrize(("first", "count"), [(500, 65536), (FIRST, 4095)])
def test_a_range_that_is_too_low_or_too_short_is_refused(tmp_path: Path, first: int, count: int) -> None:
    with pytest.raises(NoUsers, match="it must begin at 10000"):
        users.claim(str(tmp_path / "one"), first, count, str(tmp_path))


def test_a_range_with_an_account_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoUsers, match="nobody of /etc/passwd"):
        users.claim(str(tmp_path / "one"), 65_000, 65_536, str(tmp_path))
