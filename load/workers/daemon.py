"""A daemon for the scripts of this directory: one of their own, in a temporary directory, or one that runs already."""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fetchmld.client import Client
from fetchmld.client.shapes import Task
from fetchmld.runner.proctree import all_pids, uid_of

BATCH_MAX: Final = 1000  # tasks in one request
SETTINGS: Final = {"FETCHMLD_TASK_PIDS_MAX": "256", "FETCHMLD_LOG_BYTES_MAX": str(2**20), "FETCHMLD_GRACE_S": "1"}


class Daemon:
    """What the scripts need of it."""

    def __init__(self, data_dir: Path, client: Client) -> None:
        self.data_dir = data_dir
        self.node_dir = data_dir / "node"
        self.client = client

    @property
    def uids(self) -> range:
        """The user ids of its tasks; empty where they run as the daemon's user."""
        with contextlib.suppress(FileNotFoundError):
            first = int((self.node_dir / "users").read_text())
            return range(first, first + 4096)
        return range(0)

    def their_processes(self) -> list[int]:
        uids = self.uids
        return [pid for pid in all_pids() if uid_of(pid) in uids]

    def process(self, what: str) -> int:
        """The pid of the one of its processes whose command line says `what`."""
        marks = [os.fsencode(self.data_dir), (self.data_dir / "run_dir").read_bytes().strip()]
        for pid in all_pids():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                if what.encode() in line and any(mark in line or mark in environment for mark in marks):
                    return pid
        raise SystemExit(f"the daemon has no process {what!r}")

    def submit(self, body: dict[str, Any], count: int) -> list[str]:
        """The ids of `count` tasks like that."""
        found: list[str] = []
        for begin in range(0, count, BATCH_MAX):
            items: list[Mapping[str, Any]] = [body] * min(BATCH_MAX, count - begin)
            answers = self.client.submit_many(items)
            if wrong := next((answer for answer in answers if answer["status"] != 201), None):
                raise SystemExit(f"not accepted: {wrong}")
            found += [answer["task"]["id"] for answer in answers]
        return found

    def wait(self, ids: list[str], progress: Callable[[int], object] = lambda _done: None) -> list[Task]:
        ended = []
        for number, task_id in enumerate(ids):
            ended.append(self.client.wait(task_id))
            if number % 1000 == 999:
                progress(number + 1)
        return ended


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-dir", type=Path, help="of a daemon that runs [one of its own]")
    return parser


@contextlib.contextmanager
def running(data_dir: Path | None, slots: int = 64) -> Iterator[Daemon]:
    """The daemon of `data_dir`, or a new one with `slots` batch slots that ends with the block."""
    if data_dir is not None:
        yield _known(data_dir)
        return
    directory = Path(tempfile.mkdtemp(prefix="fetchml-load-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fetchmld", "--data-dir", str(directory)]
    environment = {**os.environ, **SETTINGS, "FETCHMLD_BATCH_SLOTS": str(slots)}
    flags = ["--head", "--port", str(port), "--num-cpus", "4"]
    try:
        subprocess.run([*command, "start", *flags], env=environment, check=True, stdout=subprocess.DEVNULL)
        yield _known(directory)
    finally:
        subprocess.run([*command, "stop"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(directory, ignore_errors=True)


def _known(data_dir: Path) -> Daemon:
    about = json.loads((data_dir / "daemon.json").read_text())
    return Daemon(data_dir, Client(about["url"], (data_dir / "admin.key").read_text().strip()))


def until(what: str, check: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {within_s:g} s: {what}")
        time.sleep(0.1)


def said(met: bool, text: str) -> bool:
    print(f"{text}: {'met' if met else 'NOT MET'}", flush=True)
    return met


def load() -> str:
    return f"load average {os.getloadavg()[0]:.1f}"
