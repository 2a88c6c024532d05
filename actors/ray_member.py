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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from actors import ray_commands
from actors.data_dir import write_new
from actors.ray_closed import is_cluster, speaks_grpc
from actors.ray_commands import Layout
from actors.ray_compat import RayFailed, RayHopeless, RayOptions, RayRuntime, port_answers
from actors.ray_processes import free_ports

log = logging.getLogger(__name__)

HELPER: Final = ("-P", "-m", "actors.ray_join")
HELPER_TIMEOUT_S: Final = 30.0
LOOK_S: Final = 0.1  # how often a wait for it asks whether it was given up
LINE_BYTES_MAX: Final = 65536


@dataclass(slots=True, frozen=True)
class GivenToken:
    """A token that came with the start, and the file that its user took it from."""

    token: str
    file: str


class RayMember(RayRuntime):
    """One machine's part of the cluster whose GCS is at `gcs`. `settings` is what the head shall know of it."""

    vital = ("raylet",)
    tries = 1

    def __init__(
        self,
        run_dir: Path,
        options: RayOptions,
        gcs: tuple[str, int],
        worker_id: str,
        settings: dict[str, Any],
        given: GivenToken | None = None,
    ) -> None:
        super().__init__(run_dir, options)
        self._gcs = gcs
        self._given = given
        self._cluster_id = ""  # of the one that was joined last
        self._address = options.host  # ours; empty: whichever reaches the head, looked up at each start
        self._worker_id = worker_id
        self._settings = settings

    def _make_token(self) -> None:
        """It is the head's, and was given."""

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
        if not speaks_grpc(host, port):
            raise RayFailed(
                f"what answers at {host} port {port} is not Ray of a head; its `start --head` printed the address to join "
                "at, usually with the API's port plus one"
            )
        self.options = replace(self.options, host=self._address or own_address(host, port))
        with free_ports(3, self.options.host) as ports:
            plan = replace(
                self._plan(*ports), gcs_host=socket.gethostbyname(host), gcs_port=port, worker_id=self._worker_id
            )
        with self._helper(plan) as helper:
            found = self._next_line(helper)
            self._keep_token()
            layout = replace(plan, session=found["session"])
            self._open_session(layout)
            self._spawn_late_raylet(layout)
            self._start_zygote(layout)
            self._cluster_id = found["cluster_id"]
            self._become_raylet(ray_commands.raylet(layout, self._cluster_id))
            if not self._next_line(helper).get("joined"):
                raise RayFailed("the raylet did not join")
        self._check_alive(time.monotonic() + 1.0, "it ended at once")

    def is_left_behind(self) -> bool:
        """Is the head's Ray another by now? Our raylet is then of no use, and calls the new one without pause until the new
        one does little else."""
        try:
            return not is_cluster(*self._gcs, self._cluster_id, self.token_path.read_text().strip())
        except OSError:
            return False

    def _keep_token(self) -> None:
        """The head took the one that was given: only now does it replace that of the last time."""
        if self._given is not None:
            write_new(self.token_path, f"{self._given.token}\n")
            self._given = None

    @property
    def _offered(self) -> Path:
        return self.run_dir / "offered.token"

    @contextlib.contextmanager
    def _helper(self, layout: Layout) -> "Iterator[subprocess.Popen[bytes]]":
        environment = ray_commands.environment(layout)
        token_file = str(self.token_path)
        if self._given is not None:
            write_new(self._offered, f"{self._given.token}\n")
            environment |= {"RAY_AUTH_TOKEN_PATH": str(self._offered)}
            token_file = self._given.file
        wish = {
            "address": layout.address,
            "token_file": token_file,
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
                self._offered.unlink(missing_ok=True)

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
