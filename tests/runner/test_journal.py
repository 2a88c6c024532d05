"""The runner's journal: what it remembers, and what is on the disk when."""

import errno
import os
import stat
from pathlib import Path

import pytest

from fetchmld.runner import journal as module
from fetchmld.runner.journal import Journal

INTENT = {"j": "intent", "key": "a", "slot": 3, "boot": "b", "uid": 7, "cell": 1, "ooms": 0}
EXIT = {"j": "exit", "key": "a", "code": 0}


def test_what_was_not_forgotten_is_there_again_and_a_torn_line_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = Journal.open(path)
    journal.append([INTENT, {**INTENT, "key": "gone"}])
    journal.append([EXIT])
    journal.append([{"j": "forget", "key": "gone"}])
    journal.close()
    with open(path, "ab") as file:
        file.write(b'{"j": "exit", "key": "torn"')
    again = Journal.open(path)
    again.close()
    assert list(again.entries) == ["a"]
    assert again.entries["a"].exit == EXIT
    assert again.entries["a"].slot == 3


def test_the_name_of_a_compacted_journal_is_on_the_disk_before_anything_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an exit that was synced and reported could be gone after a loss of power, with the file that has it."""
    synced = list[bool]()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        is_ours = stat.S_ISDIR(status.st_mode) and status.st_ino == tmp_path.stat().st_ino
        synced.append(is_ours and (tmp_path / "journal").exists())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal.open(str(tmp_path / "journal"))
    assert synced == [True]
    journal.compact()
    assert synced == [True, True]
    journal.close()


def test_a_full_disk_puts_off_making_it_smaller_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner is the parent of all attempts: if it ended over this, how they end would be lost."""
    monkeypatch.setattr(module, "COMPACT_BYTES", 1_000)
    journal = Journal.open(str(tmp_path / "journal"))
    for number in range(40):
        journal.append([{**INTENT, "key": str(number)}, {"j": "forget", "key": str(number)}])
    journal.append([INTENT])
    size, files = journal.size_bytes, os.listdir("/proc/self/fd")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", _refuse)
        assert "No space" in journal.compact_where_large(now=100.0)
        assert journal.compact_where_large(now=159.0) == "", "not yet again"
    assert len(os.listdir("/proc/self/fd")) == len(files)
    journal.append([EXIT])
    assert journal.size_bytes > size
    assert journal.compact_where_large(now=160.0) == ""
    assert journal.size_bytes < size
    journal.close()
    again = Journal.open(str(tmp_path / "journal"))
    again.close()
    assert again.entries["a"].exit == EXIT


def test_a_full_disk_keeps_no_runner_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    journal = Journal.open(str(path))
    journal.append([INTENT])
    journal.close()
    path.write_bytes(path.read_bytes() + b'{"j": "forget", "key"')
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", _refuse)
        journal = Journal.open(str(path))
    journal.append([EXIT])
    journal.close()
    again = Journal.open(str(path))
    again.close()
    assert (again.entries["a"].slot, again.entries["a"].exit) == (3, EXIT)


def _refuse(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
