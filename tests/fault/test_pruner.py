"""The pruner as a program of its own, whose calls fail: nothing is lost but what was to go, and the next one goes on."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fetchmld.store import boundary, pruning
from fetchmld.store.ledger import Ledger
from fetchmld.store.log_tree import LogTree
from fetchmld.store.segment import list_segments
from fetchmld.verify_checkpoints import verify_ledger
from tests.fault.conftest import LONG
from tests.fault.test_writer import BOUND_S, failing, go
from tests.store import task_facts
from tests.store.pruned_samples import SEGMENT_BYTES, Life, policy

EVERYTHING = str(2**62)
AT_US = task_facts.START_US + 60 * 86_400_000_000
CALLS = {
    "prepare": ("openat", "read", "pread64", "getdents64", "pwrite64", "fdatasync", "fsync"),
    "commit": ("openat", "read", "getdents64", "fsync", "rename", "unlink"),
}
WHEN = (1, 15) if not LONG else tuple(range(1, 100))  # a step makes some 60 calls of a kind at most
WAITS_BY = "read"  # the pruner reads the line it waits for by this call


@pytest.fixture(scope="module")
def due(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """For each step, a ledger in which it is due, and its argument."""
    directory = tmp_path_factory.mktemp("due")
    life = Life(directory / "prepare")
    life.days(10)
    life.close()
    shutil.copytree(directory / "prepare", directory / "commit")
    with Ledger.open(directory / "commit", segment_bytes=SEGMENT_BYTES) as ledger:
        digest = recorded(ledger, directory / "commit")
    assert (directory / "commit" / "pruned.next").exists()
    return {"prepare": (directory / "prepare", EVERYTHING), "commit": (directory / "commit", digest)}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(("step", "call"), [(step, call) for step, calls in CALLS.items() for call in calls])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_call_that_fails_takes_nothing_but_what_was_to_go(
    due: dict[str, tuple[Path, str]], tmp_path: Path, step: str, call: str, error: str
) -> None:
    refused = 0
    for when in WHEN:
        ledger_dir, argument = tmp_path / str(when), due[step][1]
        shutil.copytree(due[step][0], ledger_dir)
        said, failed = failing_step(ledger_dir, step, argument, call, error, when + (call == WAITS_BY))
        assert "first_bad" not in said, f"call {when}: a disk that fails is taken for a record that was changed: {said}"
        assert verify_ledger(ledger_dir).problem == "", f"call {when}: {said}"
        start_and_go_on(ledger_dir)
        shutil.rmtree(ledger_dir)
        if not failed:
            break  # it makes no more such calls
        refused += "error" in said
    assert refused, "no fault was felt"
    assert not (LONG and failed), "the step makes more such calls than were tried"


def failing_step(
    ledger_dir: Path, step: str, argument: str, call: str, error: str, when: int
) -> tuple[dict[str, Any], bool]:
    """What the step says whose call fails that time, and whether it made so many."""
    command = [sys.executable, "-m", "tests.fault.pruner", str(ledger_dir), step, argument]
    pruner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert pruner.stdout is not None
    assert pruner.stdout.readline() == "ready\n"
    trace = ledger_dir / "trace"
    with failing(pruner.pid, call, error, str(when), trace):
        go(pruner)
        out, _ = pruner.communicate(timeout=BOUND_S)
    return json.loads(out), "(INJECTED)" in trace.read_text()


def start_and_go_on(ledger_dir: Path) -> None:
    """As a daemon does that is started then, and prunes what is due."""
    with Ledger.open(ledger_dir, segment_bytes=SEGMENT_BYTES) as ledger:
        assert not (ledger_dir / "pruned.next").exists()
        assert list_segments(ledger_dir / "segments")[0][0] == boundary.first_seq(ledger_dir)
        ledger.append([task_facts.login("eve", True, AT_US)])
        with closing(LogTree(ledger_dir)) as tree:
            while not tree.advance(ledger.next_seq - 1, ledger.root_hash):
                pass
            tree.sign()
        if pruning.plan(ledger_dir, int(EVERYTHING)):
            pruning.commit(ledger_dir, recorded(ledger, ledger_dir))
    assert boundary.first_seq(ledger_dir) > 0
    assert verify_ledger(ledger_dir).problem == ""


def recorded(ledger: Ledger, ledger_dir: Path) -> str:
    """Prepare the removal of all that may go, and put it on record."""
    found = pruning.plan(ledger_dir, int(EVERYTHING))
    assert found is not None
    digest = pruning.prepare(ledger_dir, found.first_seq)
    ledger.append([policy(digest, found.first_seq, AT_US)])
    return digest
