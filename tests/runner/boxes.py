"""What tests of isolation need: a runner's user ids, and a directory for an attempt as the agent makes it."""

import os
import shutil
from pathlib import Path

from fetchmld.runner.frames import Message
from fetchmld.runner.logs import read_place
from tests.runner.client import RunnerClient

GB = 2**30


def uid(runner: RunnerClient, number: int = 0) -> int:
    """The `number`th user id of the runner."""
    return int(runner.state["isolation"]["uids"][0]) + number


def home(runner: RunnerClient, name: str, owner: int) -> Path:
    """A new directory of an attempt of that user."""
    path = runner.node_dir / "attempts" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    os.chown(path, owner, owner)
    return path


def output(runner: RunnerClient, ended: Message) -> str:
    owner = ended["key"].rpartition("-")[0] + "-"
    return read_place(f"{runner.node_dir}/logs", ended["log"], owner, 0, 1 << 22).decode()
