"""What the benchmarks of the API share: the daemon and the bare echo side by side, and the C drivers that ask them.

Each figure is a ratio taken within one run: the echo is measured just before and just after the daemon, with the same
driver on the same machine, and what counts is the share of the mean of both.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import processes  # noqa: E402
from bench import Daemon, free_port  # noqa: E402
from wire import Wire, prepare  # noqa: E402

__all__ = [
    "BODY",
    "Daemon",
    "Echo",
    "Wire",
    "built",
    "daemon",
    "drive",
    "echo",
    "judged",
    "prepare",
    "request_file",
    "setting",
]

os.environ["FETCHMLD_RATE_PER_S"] = "0"  # the limit of a key is not what is measured here
# It asks for a GPU that is not there, so that what is measured is what a submit costs, and not what running costs.
BODY: Final = {"job_name": "resnet50-sweep-001", "priority": 7, "entrypoint": "train.py", "gpu": 1,
               "args": "--lr 0.001 --epochs 10 --batch-size 256", "cpu": 4, "memory_gb": 16,
               "metadata": {"owner": "alice", "project": "vision"}}  # fmt: skip


def built(name: str) -> Path:
    """The C program, built where it is older than its source."""
    source, program = HERE / f"{name}.c", HERE.parent / "bin" / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(exist_ok=True)
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", str(program), str(source)], check=True)
    return program


@contextlib.contextmanager
def daemon() -> Iterator[Daemon]:
    with Daemon() as started:
        started.start()
        yield started


@dataclass(slots=True, frozen=True)
class Echo:
    """A bare echo that runs."""

    port: int
    process: processes.Process

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        return sum(self.process.cpu_s())


@contextlib.contextmanager
def echo() -> Iterator[Echo]:
    port = free_port()
    with subprocess.Popen([sys.executable, str(HERE / "echo.py"), str(port)]) as server:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    Wire(port).close()
                    break
                time.sleep(0.05)
            yield Echo(port, processes.Process(server.pid, "echo", is_rays=False))
        finally:
            server.kill()  # it would wait for its followers


@contextlib.contextmanager
def request_file(request: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        yield file.name


def drive(port: int, request: bytes, connections: int, for_s: float) -> dict[str, Any]:
    """Answers per second and latencies of one request over `connections`. Raises SystemExit where one was refused."""
    with request_file(request) as name:
        words = [str(built("drive")), str(port), str(connections), str(for_s), name]
        said: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    if said["errors"]:
        raise SystemExit(f"{said['errors']} answers were not 2xx")
    return said


def setting() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"


def judged(what: str, value: float, bound: float, *, is_most: bool = False, unit: str = "") -> bool:
    """Print a figure beside its bound; whether it is met."""
    met = value <= bound if is_most else value >= bound
    print(
        f"{what:52}{value:10.2f} {unit:8} {'at most' if is_most else 'at least'} {bound:g}: {'met' if met else 'NOT met'}"
    )
    return met
