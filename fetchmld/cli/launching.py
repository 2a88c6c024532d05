"""Starting the daemon's process and waiting until it is ready.

The daemon is `python -m actors.daemon`; this is all that the command line knows of it. It prints one JSON line: either
`{"ready": {...}}`, or `{"error": sentence, "exit_code": n}` before it ends.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import fetchmld
from fetchmld.cli.exits import SERVER_ERROR, TIMED_OUT, Failure
from fetchmld.cli.watch import Spinner
from fetchmld.client.client import Client
from fetchmld.client.errors import ClientError

if TYPE_CHECKING:
    from fetchmld.config import Config

DAEMON: Final = ("-P", "-m", "actors.daemon")  # -P: whatever lies in the current directory is not imported
READY_MAX_S: Final = 90.0  # a slow machine's first start; 4 s are usual
STOP_MAX_S: Final = 30.0
POLL_S: Final = 0.02
LINE_BYTES_MAX: Final = 65536
TAIL_BYTES: Final = 2000


class Launch:
    """One start of the daemon under `config`. With `block` it stays a child of this process."""

    def __init__(self, config: "Config", block: bool, join: dict[str, Any] | None = None) -> None:
        self._config = config
        self._join = join
        self._block = block
        self._began = time.monotonic()
        self.took_s = 0.0

    def until_ready(self) -> dict[str, Any]:
        """Start it; what it said once GET /readyz is 200. Raises `Failure` with the daemon's own sentence."""
        settings = _settings_file(self._config, self._join)
        with tempfile.TemporaryFile() as errors, Spinner(f"starting in {self._config.data_dir}") as spinner:
            self._child = self._spawn(settings, errors.fileno())
            try:
                ready = self._read_ready(errors.fileno())
                if self._join is None:
                    spinner.text = "waiting for every part to answer"
                    url = str(ready.get("url") or f"http://{self._config.host}:{self._config.port}")
                    self._poll_readyz(url, str(ready.get("certificate") or ""))
            except BaseException:
                self._give_up()
                raise
            finally:
                Path(settings).unlink(missing_ok=True)
        self.took_s = time.monotonic() - self._began
        if not self._block:
            self._child.returncode = 0  # it outlives us on purpose; nobody is to warn that it was not waited for
        return ready

    def _spawn(self, settings: str, errors: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, *DAEMON, "--settings-file", settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )

    def _read_ready(self, errors: int) -> dict[str, Any]:
        said = self._first_line()
        if "ready" in said:
            return {"pid": self._child.pid, **said["ready"]}
        if "error" in said:
            raise Failure(str(said["error"]), int(said.get("exit_code") or SERVER_ERROR))
        code = self._child.wait()
        raise Failure(f"the daemon ended with status {code} while starting{_tail(errors)}", SERVER_ERROR)

    def _first_line(self) -> dict[str, Any]:
        """The daemon's line; empty where it ended without one."""
        assert self._child.stdout is not None
        line = b""
        with self._child.stdout as pipe:
            while b"\n" not in line and len(line) < LINE_BYTES_MAX:
                if not select.select([pipe], [], [], self._left_s())[0]:
                    raise self._too_slow()
                part = os.read(pipe.fileno(), LINE_BYTES_MAX)
                if not part:
                    break
                line += part
        try:
            said = json.loads(line.partition(b"\n")[0] or b"{}")
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def _poll_readyz(self, url: str, certificate: str) -> None:
        with Client(url, timeout_s=5, retry_s=0, certificate=certificate) as client:
            while True:
                try:
                    client.ready()
                    return
                except ClientError:
                    if self._child.poll() is not None:
                        raise Failure(
                            f"the daemon ended just after its start; see {self._config.paths.logs}", 1
                        ) from None
                    if self._left_s() <= 0:
                        raise self._too_slow() from None
                    time.sleep(POLL_S)

    def _left_s(self) -> float:
        return max(0.0, self._began + READY_MAX_S - time.monotonic())

    def _too_slow(self) -> Failure:
        logs = self._config.paths.logs
        return Failure(f"the daemon was not ready within {READY_MAX_S:.0f} s and was stopped; see {logs}", TIMED_OUT)

    def _give_up(self) -> None:
        """Leave nothing half started behind."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_MAX_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def until_stopped(self) -> int:
        """Stay with the daemon, hand SIGINT and SIGTERM on to it, and take its exit code."""

        def hand_on(_number: int, _frame: object) -> None:
            self._child.terminate()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, hand_on)
        click.echo("Ctrl-C stops it.", err=True)
        code = self._child.wait()
        return code if code >= 0 else 128 - code


def _settings_file(config: "Config", join: dict[str, Any] | None) -> str:
    """The settings for the daemon to read, 0600, outside the data directory: that may turn out not to be ours."""
    descriptor, name = tempfile.mkstemp(prefix="fetchml-settings-", suffix=".json")
    with open(descriptor, "w") as file:
        said = config.model_dump(mode="json")
        json.dump(said if join is None else {**said, "join": join}, file)
    return name


def _environment() -> dict[str, str]:
    """Ours, with this very package first where it runs from a source tree that is not installed."""
    here = str(Path(fetchmld.__file__).resolve().parent.parent)
    if Path(here).name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{others}" if others else here}


def _tail(errors: int) -> str:
    """What the daemon last said on stderr, as the end of a sentence."""
    size = os.fstat(errors).st_size
    text = os.pread(errors, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace").strip()
    return f": {text}" if text else ""
