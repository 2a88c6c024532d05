"""The Ray processes of a machine that joins a head elsewhere: a raylet and our zygote, no GCS.

Never loads Ray into this process (see `ray_join`), and so outlives every loss of the head.
"""

import contextlib
import json
import logging
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from actors import ray_commands
from actors.ray_commands import Layout
from actors.ray_compat import RayFailed, RayHopeless, RayOptions, RayRuntime, port_answers
from actors.ray_processes import free_ports

log = logging.getLogger(__name__)

HELPER: Final = ("-P", "-m", "actors.ray_join")
HELPER_TIMEOUT_S: Final = 30.0
LOOK_S: Final = 0.1  # how often a wait for it asks whether it was given up
LINE_BYTES_MAX: Final = 65536


class RayMember(RayRuntime):
    """One machine's part of the cluster whose GCS is at `gcs`. `settings` is what the head shall know of it."""

    vital = ("raylet",)
    tries = 1

    def __init__(
        self, run_dir: Path, options: RayOptions, gcs: tuple[str, int], worker_id: str, settings: dict[str, Any]
    ) -> None:
        super().__init__(run_dir, options)
        self._gcs = gcs
        self._address = options.host  # ours; empty: whichever reaches the head, looked up at each start
        self._worker_id = worker_id
        self._settings = settings

    def _start_once(self) -> None:
        self._check_open()
        host, port = self._gcs
        try:
            self._start_with(host, port)
        except OSError as error:  # a name that nobody knows just now, an address that went with its link
            raise RayFailed(f"cannot reach {host} port {port} from here: {error}") from error

    def _start_with(self, host: str, port: int) -> None:
        if not port_answers(host, port):
            raise RayFailed(f"nothing answers at {host} port {port}")
        self.options = replace(self.options, host=self._address or own_address(host, port))
        with free_ports(3, self.options.host) as ports:
            plan = replace(
                self._plan(*ports), gcs_host=socket.gethostbyname(host), gcs_port=port, worker_id=self._worker_id
            )
        with self._helper(plan) as helper:
            found = self._next_line(helper)
            layout = replace(plan, session=found["session"])
            self._open_session(layout)
            self._spawn_late_raylet(layout)
            self._start_zygote(layout)
            self._become_raylet(ray_commands.raylet(layout, found["cluster_id"]))
            if not self._next_line(helper).get("joined"):
                raise RayFailed("the raylet did not join")
        self._check_alive(time.monotonic() + 1.0, "it ended at once")

    @contextlib.contextmanager
    def _helper(self, layout: Layout) -> "Iterator[subprocess.Popen[bytes]]":
        environment = ray_commands.environment(layout)
        wish = {
            "address": layout.address,
            "node_id": layout.node_id,
            "worker_id": self._worker_id,
            "settings": {**self._settings, "address": layout.host},
        }
        with subprocess.Popen(
            [sys.executable, *HELPER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # what it said is in the pipe or read, never between
            cwd="/",
        ) as helper:
            assert helper.stdin is not None
            with contextlib.suppress(BrokenPipeError), helper.stdin as pipe:
                pipe.write(json.dumps(wish).encode())
            try:
                yield helper
            finally:
                helper.kill()

    def _next_line(self, helper: "subprocess.Popen[bytes]") -> dict[str, Any]:
        """What the helper says next. Raises `RayFailed` where that is an error, or nothing."""
        assert helper.stdout is not None
        deadline = time.monotonic() + HELPER_TIMEOUT_S
        while not select.select([helper.stdout], [], [], LOOK_S)[0]:
            self._check_open()
            if time.monotonic() > deadline:
                raise RayFailed(f"the cluster has not answered within {HELPER_TIMEOUT_S:g} s")
        said: dict[str, Any] = json.loads(helper.stdout.readline(LINE_BYTES_MAX) or b"{}")
        if "error" in said or not said:
            error = said.get("error", "the cluster went away while we asked it")
            raise RayHopeless(error) if said.get("final") else RayFailed(error)
        return said


def own_address(host: str, port: int) -> str:
    """Our address on the way to `host`: what the others can reach us at. Raises OSError where there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # sends nothing
        return str(probe.getsockname()[0])
