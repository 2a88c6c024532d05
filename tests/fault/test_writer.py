"""The writer as a program of its own, whose system calls fail and which is killed: what it acknowledged is there."""

import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fetchmld.store.ledger import Ledger
from fetchmld.verify_walk import verify_segments
from tests.fault.conftest import LONG, count
from tests.store.ledger_samples import SEGMENT_BYTES, facts, fill, frames_of, open_ledger

BOUND_S = 60.0
BATCHES = 60
KILLS = count(25, 1_000)
CALLS = ("pwrite64", "fdatasync", "fsync", "rename", "openat")
WHEN = ("1+23", "2+17", "5+29") if not LONG else (*(f"{n}" for n in range(1, 80)), *(f"{n}+19" for n in range(1, 20)))
CALLS_OF_A_START = (*CALLS, "pread64", "read", "getdents64", "unlink", "flock", "mkdir", "newfstatat")
WHEN_AT_A_START = (1, 5) if not LONG else tuple(range(1, 41))  # a start makes some 30 calls of a kind at most
WAITS_BY = "read"  # the writer reads the line it waits for by this call

FELT = ("refused", "ledger_head_not_written")  # `head` is a hint, so the writer goes on without it


def start(directory: Path, batches: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.fault.writer", str(directory), str(batches)]
    writer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def go(writer: "subprocess.Popen[str]") -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


def finish(writer: "subprocess.Popen[str]") -> list[str]:
    out, _ = writer.communicate(timeout=BOUND_S)
    return out.splitlines()


def acknowledged(lines: list[str]) -> int:
    numbers = [int(line.split()[1]) for line in lines if re.fullmatch(r"(acknowledged|opened) \d+", line)]
    return max(numbers, default=0)


def check(directory: Path, at_least: int) -> int:
    """Everything that was acknowledged is there, as it was, in a chain that holds."""
    with open_ledger(directory) as ledger:
        total = ledger.next_seq
        assert total >= at_least
        assert [event.fact for event in ledger.read()] == facts(0, total)
    assert verify_segments(directory).valid
    return total


@contextmanager
def failing(pid: int, call: str, error: str, when: str, trace: Path = Path("/dev/null")) -> Iterator[None]:
    """From now on this call of the process fails, the times that `when` says (as strace's inject). `trace` shows which."""
    inject = f"inject={call}:error={error}:when={when}"
    command = ["strace", "-f", "-p", str(pid), "-e", f"trace={call}", "-e", inject, "-o", str(trace)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        if "attached" not in line:
            pytest.skip(f"strace cannot attach here: {line.strip()}")
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=BOUND_S)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("when", WHEN)
def test_a_call_that_fails_takes_nothing_that_was_acknowledged(
    tmp_path: Path, call: str, error: str, when: str
) -> None:
    writer = start(tmp_path / "ledger", BATCHES)
    with failing(writer.pid, call, error, when):
        go(writer)
        lines = finish(writer)
    assert lines[-1] == "end"
    assert acknowledged(lines) == sum(1 + number * 7 % 5 for number in range(BATCHES))
    if "+" in when and (not LONG or call in ("pwrite64", "fdatasync")):  # one lost rename of `head` is felt by nobody
        assert any(line.startswith(FELT) for line in lines), "the fault was not felt"
    check(tmp_path / "ledger", acknowledged(lines))


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a writer left that was killed in the midst of a batch, and had no word in `head` of the others."""
    directory = tmp_path_factory.mktemp("torn") / "ledger"
    ledger = open_ledger(directory)
    fill(ledger, [3] * 20)
    ledger.abandon()
    newest = frames_of(directory)[-1]
    with newest.path.open("r+b") as file:
        file.seek((newest.start + newest.end) // 2)
        file.write(bytes(newest.end - file.tell()))
    (directory / "head").unlink()
    (directory / "pruned.next").write_text("half of one")
    return directory


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", CALLS_OF_A_START)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("when", WHEN_AT_A_START)
def test_a_call_that_fails_at_a_start_takes_nothing_that_was_acknowledged(
    torn: Path, tmp_path: Path, call: str, error: str, when: int
) -> None:
    directory = tmp_path / "ledger"
    shutil.copytree(torn, directory)
    writer = start(directory, 3)
    with failing(writer.pid, call, error, str(when + (call == WAITS_BY))):
        go(writer)
        lines = finish(writer)
    assert lines[-1] == "end", lines
    assert acknowledged(lines) == 3 * 19 + 1 + 3 + 5  # what was torn is cut, what was whole counts
    check(directory, acknowledged(lines))


def test_a_kill_at_any_moment_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    directory = tmp_path / "ledger"
    reached = 0
    for number in range(KILLS):
        writer = start(directory, 1_000_000)
        timer = threading.Timer(dice.uniform(0.0, 0.08), writer.kill)
        go(writer)
        timer.start()
        lines = finish(writer)
        timer.join()
        reached = max(reached, acknowledged(lines))
        with Ledger.open(directory, segment_bytes=SEGMENT_BYTES) as ledger:
            assert ledger.next_seq >= reached, f"seed {seed}, kill {number}"
    assert check(directory, reached) > KILLS, f"seed {seed}"
