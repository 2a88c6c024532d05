"""Ray's own processes, and the way into them: every private corner of Ray 2.60 that FetchML touches.

`RayRuntime` starts a head node (GCS, raylet, and our zygote of workers) as children of this process, connects this
process as a driver, watches the pids, and ends them in the one order that neither hangs nor leaks. `ray_member` does it for
a machine that joins. `ray_commands` has the command lines, `ray_boot` and `ray_zygote` are what the raylet runs of ours,
`ray_processes` finds what was left behind.

Written against one release: another one is refused at start rather than found out at night. Knows nothing of actors.
"""

import asyncio
import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors import ray_commands
from actors.ray_closed import answers_strangers
from actors.ray_commands import Layout, Offer
from actors.ray_processes import free_ports, kill_marked, temp_dir
from fetchmld import __version__

log = logging.getLogger(__name__)

RAY_VERSION: Final = "2.60.0"
NAMESPACE: Final = "fetchmld"
START_TIMEOUT_S: Final = 60.0  # for a slow machine under load; 2 s are usual
POLL_S: Final = 0.01
RPC_TIMEOUT_S: Final = 5.0
GIVING_UP_S: Final = 2 * RPC_TIMEOUT_S  # a start asks the GCS once more at most
RAYLET_STOP_S: Final = 1.0
GCS_STOP_S: Final = 0.5
KILL_WAIT_S: Final = 2.0
SESSIONS_KEPT: Final = 1  # of earlier starts, so that the logs of a crash can be read
SIGACTION_BYTES_MAX: Final = 256  # of the C library's struct sigaction: 152 on x86-64 and arm64
WORKERS_MAX: Final = 8  # processes for actors that Ray keeps without counting them as too many
WORKERS_IDLE_MAX: Final = 2  # beyond those in use; Ray ends idle workers above it
OUR_KV: Final = b"fetchmld"  # our part of the GCS's key-value store, which is lost with the GCS
ABOUT_KEY: Final = b"about"
MEMBER_KEY: Final = b"member:"  # and the worker's id: the settings of a machine that joins


class RayFailed(RuntimeError):
    """Ray could not be started, reached or stopped; says what to look at."""


class RayHopeless(RayFailed):
    """Another try would end the same: somebody has to change something first."""


class RayLost(RayFailed):
    """Ray died while its library in this process was waiting for it, which it may do for ever."""


class RayWrongToken(RayHopeless):
    """The cluster refused our token."""


@dataclass(slots=True, frozen=True)
class RayOptions:
    """What a node offers to Ray, and where its parts are."""

    host: str = "127.0.0.1"  # loopback: nobody else reaches it; any other address: Ray listens on all of the machine's
    gcs_port: int = 0  # 0: any that is free
    offer: Offer = ray_commands.NOTHING
    workers_max: int = WORKERS_MAX  # and one for each core that is lent
    token_path: Path | None = None  # default: RUN/ray.token
    preload: tuple[str, ...] = ()  # modules that workers are born with


class RayRuntime:
    """The Ray processes of one run directory. Its methods block, but for `wait_dead`.

    One thread starts and stops them; others may meanwhile ask which are alive, and `close`.
    """

    vital: tuple[str, ...] = ("gcs_server", "raylet")  # Ray is dead when one of these is
    tries = 3  # a chosen port may be taken before Ray binds it

    def __init__(self, run_dir: Path, options: RayOptions | None = None) -> None:
        self.run_dir = run_dir
        self.options = options or RayOptions()
        self.token_path = self.options.token_path or run_dir / "ray.token"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._layout: Layout | None = None
        self._output = -1  # the descriptor of the log for what they print
        self._starting = threading.Lock()
        self._closed = threading.Event()

    # -- start

    def start(self) -> None:
        """Start everything and return when the raylet has joined. Raises `RayFailed`; then nothing is left running."""
        with self._starting:
            self._start()

    def _start(self) -> None:
        check_version()
        self.run_dir.chmod(0o700)  # the only door: Ray opens all that is its own to everybody
        self._make_token()
        os.environ.update(self._driver_environment())  # before Ray is imported: its library reads them then
        remove_old_sessions(temp_dir(self.run_dir), SESSIONS_KEPT)
        for attempt in range(1, self.tries + 1):
            try:
                self._start_once()
                return
            except RayFailed as error:
                self.stop()
                if attempt == self.tries or isinstance(error, RayHopeless) or self._closed.is_set():
                    raise
                log.warning("ray_start_failed", extra={"attempt": attempt, "reason": str(error)})

    def _make_token(self) -> None:
        write_token(self.token_path)

    def _driver_environment(self) -> dict[str, str]:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        # The pid whose end ends a driver that leaves a dead raylet's cluster; without it, that of its parent: and whoever
        # started a daemon has long ended.
        ours = {"RAY_RAYLET_PID": str(os.getpid()), **ray_commands.DRIVER_ENVIRONMENT}
        return {**ray_commands.environment(self._plan()), **ours}

    def _plan(self, raylet_port: int = 0, object_port: int = 0, runtime_env_port: int = 0, gcs_port: int = 0) -> Layout:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S") + f"_{time.time_ns() // 1000 % 10**6:06}"
        return Layout(
            ray_dir=ray_dir(),
            run_dir=self.run_dir,
            temp_dir=temp_dir(self.run_dir),
            session=f"session_{stamp}",
            node_id=secrets.token_hex(28),
            host=self.options.host,
            gcs_host=self.options.host,
            gcs_port=self.options.gcs_port or gcs_port,
            raylet_port=raylet_port,
            object_port=object_port,
            runtime_env_port=runtime_env_port,
            token_path=self.token_path,
            offer=self.options.offer,
        )

    def _start_once(self) -> None:
        self._check_open()
        with free_ports(4, self.options.host) as ports:
            layout = self._plan(*ports)
        self._open_session(layout)
        deadline = time.monotonic() + START_TIMEOUT_S
        self._spawn("gcs_server", ray_commands.gcs(layout), ray_commands.environment(layout))
        self._spawn_late_raylet(layout)
        self._start_zygote(layout)
        cluster_id = self._open_cluster(layout, deadline)
        self._become_raylet(ray_commands.raylet(layout, cluster_id))
        self._wait_for_node(layout, deadline)
        check_closed(layout.gcs_host, layout.gcs_port)

    def _open_session(self, layout: Layout) -> None:
        """Make the session's directory, and the file that takes what its processes print."""
        self._layout = layout
        _make_session(layout)
        self._output = os.open(layout.logs / "zygote.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _spawn_late_raylet(self, layout: Layout) -> None:
        """Its pid is known, and the zygote can start, before the raylet has its arguments."""
        environment = ray_commands.environment(layout) | self._of_workers()
        self._spawn("raylet", [*ray_commands.LEAN_PYTHON, "late"], environment, subprocess.PIPE)

    def _of_workers(self) -> dict[str, str]:
        """What only the raylet and the workers that it starts have in their environment."""
        limit = {"RAY_num_workers_soft_limit": str(self.options.workers_max + WORKERS_IDLE_MAX)}
        return limit | self.options.offer.environment

    def _spawn(
        self, name: str, command: list[str], environment: dict[str, str], stdin: int = subprocess.DEVNULL
    ) -> None:
        self._processes[name] = subprocess.Popen(
            command,
            env=environment,
            stdin=stdin,
            stdout=self._output,
            stderr=self._output,
            cwd="/",
            start_new_session=True,  # a Ctrl-C at our terminal is for us alone
        )

    def _start_zygote(self, layout: Layout) -> None:
        raylet_pid = self._processes["raylet"].pid
        command = ray_commands.zygote(layout, raylet_pid, self.options.preload)
        self._spawn("zygote", command, ray_commands.zygote_environment(layout, raylet_pid) | self._of_workers())

    def _become_raylet(self, command: list[str]) -> None:
        pipe = self._processes["raylet"].stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError), pipe:  # a dead one is found out when the node does not join
            pipe.write(b"".join(word.encode() + b"\0" for word in command))

    def _open_cluster(self, layout: Layout, deadline: float) -> str:
        """Wait for the GCS, tell it what drivers ask it for, and return the cluster's id."""
        client = self._gcs_client(layout, deadline)
        from ray._common.usage.usage_lib import put_cluster_metadata

        client.internal_kv_put(b"session_name", layout.session.encode(), False, b"session", timeout=RPC_TIMEOUT_S)
        client.internal_kv_put(ABOUT_KEY, about(layout.session), True, OUR_KV, timeout=RPC_TIMEOUT_S)
        put_cluster_metadata(client, ray_init_cluster=False)  # versions; checked by each driver and worker that joins
        return str(client.cluster_id.hex())

    def _gcs_client(self, layout: Layout, deadline: float) -> Any:
        while True:
            if port_answers(layout.host, layout.gcs_port):
                return gcs_client(layout.address)
            self._check_alive(deadline, "its GCS does not answer")
            time.sleep(POLL_S)

    def _wait_for_node(self, layout: Layout, deadline: float) -> None:
        client = gcs_client(layout.address)
        while not client.get_all_node_info(timeout=RPC_TIMEOUT_S):
            self._check_alive(deadline, "its raylet does not join")
            time.sleep(POLL_S)

    def _check_alive(self, deadline: float, what: str) -> None:
        layout = self._layout
        assert layout is not None
        self._check_open()
        dead = self.dead()
        if dead and dead != "zygote":
            raise RayFailed(f"Ray's {dead} ended while starting; see {layout.logs}")
        if time.monotonic() > deadline:
            raise RayFailed(f"Ray has not started in {START_TIMEOUT_S:g} s: {what}; see {layout.logs}")

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise RayFailed("Ray's start was given up: we stop")

    # -- what is

    @property
    def address(self) -> str:
        """HOST:PORT of the GCS."""
        assert self._layout is not None, "not started"
        return self._layout.address

    @property
    def driver_address(self) -> str:
        """What `ray.init` takes. Written so that Ray does not replace loopback by the host's primary address."""
        assert self._layout is not None, "not started"
        return driver_address(self._layout.host, self._layout.gcs_port)

    @property
    def session_dir(self) -> Path:
        assert self._layout is not None, "not started"
        return self._layout.session_dir

    def pids(self) -> dict[str, int]:
        """The processes that we started and that are alive, by name: gcs_server, raylet, zygote."""
        return {name: process.pid for name, process in self._known() if process.poll() is None}

    def _known(self) -> list[tuple[str, "subprocess.Popen[bytes]"]]:
        """All that were started. A copy: another thread may be starting or ending some."""
        return list(self._processes.items())

    def dead(self) -> str:
        """The name of one of our processes that has ended, or nothing. The zygote's end is named last: it is no loss."""
        ended = [name for name, process in self._known() if process.poll() is not None]
        return ended[0] if ended else ""

    def is_alive(self) -> bool:
        return set(self.vital) <= self.pids().keys()

    def is_dead(self) -> bool:
        """One of the vital processes was started and has ended."""
        return any(process.poll() is not None for name, process in self._known() if name in self.vital)

    async def wait_dead(self) -> str:
        """Wait until a vital process ends, and say which."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        pidfds = [os.pidfd_open(self._processes[name].pid) for name in self.vital if self.is_alive()]
        for pidfd in pidfds:
            loop.add_reader(pidfd, ended.set)
        try:
            while self.is_alive():
                await ended.wait()
        finally:
            for pidfd in pidfds:
                loop.remove_reader(pidfd)  # before it is closed, or epoll keeps it
                os.close(pidfd)
        return self.dead()

    def renew_zygote(self) -> bool:
        """Start the zygote again if it has ended; True where it had. Meanwhile workers started the slow way."""
        if self._layout is None or not self.is_alive() or "zygote" in self.pids():
            return False
        self._start_zygote(self._layout)
        return True

    # -- connect

    def connect(self) -> None:
        """Make this process a driver of the cluster, in our namespace. Raises `RayFailed`."""
        connect(self.driver_address)

    def disconnect(self) -> None:
        disconnect()

    # -- stop

    def close(self) -> None:
        """Stop for good: a start that is under way in another thread gives up, and leaves nothing running."""
        self._closed.set()
        has_ended = self._starting.acquire(timeout=GIVING_UP_S)
        self.stop()
        if has_ended:
            self._starting.release()

    def stop(self) -> None:
        """End raylet, zygote, GCS, then whatever else the run directory has alive. Never raises, never hangs."""
        gently = "gcs_server" in self.pids()  # without it a raylet waits on and on
        self._end("raylet", signal.SIGTERM if gently else signal.SIGKILL, RAYLET_STOP_S)  # it ends its workers
        self._end("zygote", signal.SIGKILL, KILL_WAIT_S)
        self._end("gcs_server", signal.SIGTERM, GCS_STOP_S)
        reap_leftovers(self.run_dir)
        if self._output >= 0:
            os.close(self._output)
            self._output = -1

    def _end(self, name: str, number: signal.Signals, wait_s: float) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        process.send_signal(number)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            log.warning("ray_process_killed", extra={"of": name, "pid": process.pid, "waited_s": wait_s})
            process.kill()
            process.wait(KILL_WAIT_S)


# -- the parts of a start


def about(session: str) -> bytes:
    """What whoever joins must know before it starts anything: the session's name, and which versions fit ours."""
    return json.dumps({"session": session, **versions()}).encode()


def versions() -> dict[str, str]:
    """Of what must be the same on all machines, since actors travel between them as code."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"fetchmld": __version__, "ray": RAY_VERSION, "python": python}


def check_version() -> None:
    """Refuse a Ray that this module was not written for."""
    found = importlib.metadata.version("ray")
    if found != RAY_VERSION:
        raise RayFailed(
            f"Ray {found} is installed, but FetchML works with {RAY_VERSION} only: pip install ray=={RAY_VERSION}"
        )
    binaries = ("core/src/ray/gcs/gcs_server", "core/src/ray/raylet/raylet", "_private/workers/default_worker.py")
    missing = [name for name in binaries if not (ray_dir() / name).exists()]
    if missing:
        raise RayFailed(f"Ray's installation in {ray_dir()} lacks {missing[0]}: reinstall it")


def ray_dir() -> Path:
    """Where Ray is installed, found without importing it."""
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        raise RayFailed(f"Ray is not installed: pip install ray=={RAY_VERSION}")
    return Path(spec.origin).parent


def write_token(path: Path) -> None:
    """Make the cluster's token, 0600, if there is none yet. Ray's own generator would leave it readable to all."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    os.chmod(path, 0o600)


def _make_session(layout: Layout) -> None:
    for name in ("logs", "sockets", "runtime_resources"):
        (layout.session_dir / name).mkdir(
            mode=0o700, parents=True, exist_ok=True
        )  # a member uses its head's name again
    for path, text in ray_commands.port_files(layout).items():
        path.write_text(text)


def remove_old_sessions(directory: Path, keep: int) -> None:
    """Remove all session directories but the `keep` newest; nobody else does."""
    sessions = sorted(path for path in directory.glob("session_*") if path.is_dir() and not path.is_symlink())
    for path in sessions[: len(sessions) - keep]:
        shutil.rmtree(path, ignore_errors=True)


def reap_leftovers(run_dir: Path) -> int:
    """Kill whatever Ray process of `run_dir` is alive; how many there were. The runner and the tasks are none."""
    try:
        killed = kill_marked(run_dir)
    except TimeoutError as error:
        log.exception("ray_leftovers_live", extra={"reason": str(error)})
        return -1
    if killed:
        log.warning("ray_leftovers_killed", extra={"count": killed, "run_dir": str(run_dir)})
    return killed


# -- drivers


def driver_address(host: str, port: int) -> str:
    return f"[::ffff:{host}]:{port}" if host == "127.0.0.1" else f"{host}:{port}"


def check_closed(host: str, port: int) -> None:
    """Raises `RayHopeless` where the GCS does what a stranger asks: whoever reaches it could run code as us."""
    try:
        is_open = answers_strangers(host, port)
    except OSError as error:
        raise RayFailed(f"Ray's GCS at {host}:{port} does not answer: {error}") from None
    if is_open:
        raise RayHopeless(
            f"Ray's GCS at {host}:{port} answers who has no token, so anybody who reaches it could run programs as this "
            f"user; RAY_AUTH_MODE=token was asked for: is this ray=={RAY_VERSION} as released?"
        )


def port_answers(host: str, port: int) -> bool:

    with contextlib.suppress(OSError), socket.create_connection((host, port), RPC_TIMEOUT_S):
        return True
    return False


def gcs_client(address: str) -> Any:
    """A client of the GCS. Raises `RayWrongToken` at once where `ray.init` would try for 20 s."""
    from ray import _raylet
    from ray.exceptions import AuthenticationError, RayError

    try:
        return _raylet.GcsClient(address=address)  # type: ignore[attr-defined]  # compiled, without stubs
    except AuthenticationError:
        raise RayWrongToken(
            f"the cluster at {address} refused the token in {os.environ.get('RAY_AUTH_TOKEN_PATH', '(none)')}; "
            "take the one that `fetchmld start --head` printed there"
        ) from None
    except RayError as error:
        raise RayFailed(f"no Ray cluster answers at {address}: {error}") from None


def connect(address: str, namespace: str = NAMESPACE) -> None:
    """Make this process a driver. The token is the one in the environment, read by Ray when it was first imported."""
    import ray

    gcs_client(address)
    try:
        with signals_kept():
            ray.init(
                address=address,
                namespace=namespace,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayFailed(f"cannot connect to Ray at {address}: {error}") from error


def disconnect() -> None:
    """Leave the cluster; does nothing where this process is in none."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        with signals_kept():
            ray.shutdown()


def members() -> dict[str, list[str]]:
    """The machines that joined and are alive, by worker id: their Ray node ids. Only for a driver; asks the GCS."""
    import ray

    found: dict[str, list[str]] = {}
    for node in ray.nodes():
        worker_id = node["Labels"].get(ray_commands.MEMBER_LABEL) if node["Alive"] else None
        if worker_id is not None:
            found.setdefault(worker_id, []).append(node["NodeID"])
    return found


def member_settings(worker_id: str) -> dict[str, Any]:
    """What a machine that joined said of itself. Raises KeyError where it said nothing."""
    from ray.experimental.internal_kv import _internal_kv_get

    said = _internal_kv_get(MEMBER_KEY + worker_id.encode(), namespace=OUR_KV)
    if said is None:
        raise KeyError(worker_id)
    settings: dict[str, Any] = json.loads(said)
    return settings


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Put our handlers back after a call into Ray: its library takes signals over when it connects and resets them when it
    leaves, below Python and from any thread, and a SIGTERM would then end us without a clean stop."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = {number: ctypes.create_string_buffer(SIGACTION_BYTES_MAX) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, action in before.items():
        libc.sigaction(int(number), None, action)
    try:
        yield
    finally:
        for number, action in before.items():
            libc.sigaction(int(number), action, None)
