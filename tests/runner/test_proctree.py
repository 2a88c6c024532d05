"""What is read from /proc, beside processes of our own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetchmld.runner import proctree
from fetchmld.runner.loop import boottime
from tests.runner.client import until


@pytest.fixture
def marks(tmp_path: Path) -> proctree.Marks:
    return proctree.Marks(str(tmp_path))


@pytest.fixture
def sleepers(marks: proctree.Marks) -> Iterator[list[int]]:
    """More children than one page of the kernel's list holds."""
    environments = [{proctree.MARK: marks.of(f"k-{number}-0")} for number in range(900)]
    pids = [os.posix_spawn("/bin/sleep", ["sleep", "60"], environment) for environment in environments]
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_many_children_are_all_found(sleepers: list[int]) -> None:
    assert set(sleepers) <= set(proctree.OwnChildren().now())
    assert set(sleepers) <= set(proctree.children_of(os.getpid()))
    assert set(sleepers) <= set(proctree.with_descendants([os.getpid()]))


def test_marks_are_found_and_only_those_asked_for(sleepers: list[int], marks: proctree.Marks) -> None:
    assert until(lambda: marks.find({"k-3-0"}), "the program to be loaded") == {sleepers[3]: "k-3-0"}
    assert marks.find({"k-3"}) == {}
    assert marks.key_of(sleepers[3]) == "k-3-0"


def test_another_directorys_attempt_of_the_same_id_is_not_ours(
    sleepers: list[int], marks: proctree.Marks, tmp_path: Path
) -> None:
    """As on a machine with two daemons, or beside a copy of a data directory."""
    until(lambda: marks.find({"k-3-0"}), "the program to be loaded")
    other = proctree.Marks(str(tmp_path / "copy"))
    assert other.find({"k-3-0"}) == {}
    assert other.key_of(sleepers[3]) == ""


def test_a_name_with_blanks_and_brackets_is_read_right(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        stat = proctree.stat_of(process.pid)
        process.kill()
    assert stat is not None
    assert stat.session == os.getsid(0)
    assert 0 < stat.started_t <= boottime()


def test_what_is_gone_is_nothing() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        pass
    assert proctree.stat_of(process.pid) is None
    assert proctree.children_of(process.pid) == []
    assert proctree.mark_of(process.pid) == ""
