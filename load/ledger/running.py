"""A whole daemon on a record that was written beforehand."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Daemon(NamedTuple):
    port: int
    key: str


@contextmanager
def running(directory: Path) -> Iterator[Daemon]:
    """The daemon of `directory`, which has a ledger in it, until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (directory / "lock").touch()  # the mark of a directory of ours
    command = [sys.executable, "-m", "fetchmld", "--data-dir", str(directory)]
    subprocess.run([*command, "start", "--head", "--port", str(port)], check=True, stdout=subprocess.DEVNULL)
    try:
        yield Daemon(port, (directory / "admin.key").read_text().strip())
    finally:
        subprocess.run([*command, "stop"], check=True, stdout=subprocess.DEVNULL)
