"""The daemon: `python -m actors.daemon [--anew] --settings-file FILE` (`-` is standard input), run by `fetchmld start`.

It takes the data directory for itself, prepares what must be there before any actor starts, starts the cluster, says on
standard output in one JSON line that it is ready or why it is not, and watches until SIGTERM or SIGINT. Tasks do not
notice its end: their parent is the node's runner.

Ray's library may wait for ever for a Ray that died, or end the process. A daemon that finds itself waiting so becomes a
new one (`--anew`) in time, under the same pid: the data directory has all that it needs.
"""

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import pwd
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NoReturn

from actors import json_logs
from actors.cluster import ActorFailed, Cluster, head_specs
from actors.data_dir import DataDir, Refused
from actors.listeners import Listeners
from actors.member import Member
from actors.ray_compat import WORKERS_MAX, RayFailed, RayLost, RayOptions, RayRuntime, reap_leftovers
from actors.ray_member import own_address
from actors.ray_offer import offer_here
from actors.starter import ended, say, silence, stop_signals
from fetchmld.config import Config

log = logging.getLogger(__name__)

FAILED: Final = 1
PRELOAD: Final = ("actors.head", "actors.scheduler", "actors.agent", "actors.audit")  # history's pyarrow starts threads


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m actors.daemon", description="The FetchML daemon.")
    parser.add_argument("--settings-file", required=True, help="Settings as JSON; - reads standard input.")
    parser.add_argument("--anew", action="store_true", help="It ran before: start for as long as it takes.")
    given = parser.parse_args()
    file = given.settings_file
    settings = json.loads(sys.stdin.read() if file == "-" else Path(file).read_bytes())
    code = run(settings, given.anew)
    logging.shutdown()
    os._exit(code)  # all is written and closed; Ray's library may hang for seconds in what it does at an orderly exit


def begin_anew(settings: dict[str, Any]) -> NoReturn:
    """Become another process of the same pid. What this one was waiting for it will never know."""
    memory = os.memfd_create("settings", 0)  # it stays open
    os.write(memory, json.dumps(settings).encode())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = (sys.executable, "-P", "-m", "actors.daemon", "--anew", "--settings-file", f"/proc/self/fd/{memory}")
    os.execve(sys.executable, command, environment)


def run(settings: dict[str, Any], anew: bool = False) -> int:
    """Be the daemon of `settings["data_dir"]` until a signal; the exit code. `anew`: whoever started it has left."""
    os.umask(0o077)
    started_at = time.time()
    try:
        directory = DataDir(Path(settings["data_dir"]))
        with directory.held():
            json_logs.configure(directory.logs / "daemon.log", settings.get("log_level", "INFO"))
            reap_leftovers(directory.run_dir())  # of a daemon that was killed; its head actor still holds the port
            if "join" in settings:
                return asyncio.run(Member(directory, settings, started_at).run())
            check_exposure(settings)
            ports = filter(None, (settings["port"], settings["services_port"]))
            listeners = Listeners.listen(settings["host"], ports)
            return asyncio.run(Daemon(directory, settings, started_at, listeners, anew).run())
    except Refused as error:
        say({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code


class Daemon:
    """One life of the daemon on a data directory that is held."""

    def __init__(
        self, directory: DataDir, settings: dict[str, Any], started_at: float, listeners: Listeners, anew: bool = False
    ) -> None:
        self._directory = directory
        self._listeners = listeners
        self._started_at = started_at
        self._settings = settings
        self._anew = anew
        run_dir = directory.run_dir()
        worker_id = directory.worker_id()
        directory.make_admin_key()
        self._run_dir = run_dir
        self._host: str = settings["host"]
        self._certificate = directory.inner_certificate() if settings["tls_cert"] else ""
        self._url = self._url_of(self._host, settings["port"])
        self._address = cluster_address(settings)
        self._ray_port: int = settings["ray_port"] or (0 if is_loopback(self._address) else settings["port"] + 1)
        share = Config.from_dump(settings).share
        offer = offer_here(settings, worker_id)
        options = RayOptions(
            self._address,
            self._ray_port,
            offer,
            workers_max=WORKERS_MAX + share.cpu,
            preload=PRELOAD,
            token_path=directory.join_token,
        )
        self._runtime = RayRuntime(run_dir, options)
        known = {
            **settings,
            "run_dir": str(run_dir),
            "worker_id": worker_id,
            "address": self._address,
            "members_url": self._members_url(settings["port"]),
            "members_certificate": self._certificate,
            "token_path": str(directory.join_token),
            "ray_offer": asdict(offer),
        }
        self._cluster = Cluster(self._runtime, known, head_specs(worker_id), self._write_about)

    async def run(self) -> int:
        """Start, watch, stop. 0 after a signal, 1 when the start failed."""
        stopping = stop_signals()
        log.info("daemon_starting", extra={"pid": os.getpid(), "data_dir": str(self._directory.path)})
        lending = asyncio.create_task(self._listeners.lend(self._run_dir))
        starting = asyncio.create_task(self._start())
        try:
            return await self._until(starting, stopping)
        finally:
            await ended(starting)
            await ended(lending)
            self._listeners.close()  # before the head goes: from then on nobody is to wait for another
            await self._cluster.stop()
            self._directory.daemon_file.unlink(missing_ok=True)
            log.info("daemon_stopped", extra={"lived_s": round(time.time() - self._started_at, 3)})

    def _members_url(self, port: int) -> str:
        """Where machines that join find the API; empty where none can."""
        if not self._ray_port:
            return ""
        return self._url_of(self._address if is_wildcard(self._host) else self._host, port)

    def _url_of(self, host: str, port: int) -> str:
        return url(host, port, "https" if self._certificate else "http")

    async def _warnings(self) -> list[str]:
        """What whoever starts this should know about whom they trust."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        found = []
        isolations = [said["isolation"] for said in (await self._cluster.ping()).values() if "isolation" in said]
        for isolation in isolations:
            if isolation["label"] == "single-trust":
                found.append(
                    f"tasks run as {user}, with its rights (isolation: single-trust; {isolation['why']}); a key is worth "
                    f"a shell of {user}."
                )
        if not is_loopback(self._host) and not self._certificate:
            found.append(f"{self._host} can be reached from other machines, and keys travel unencrypted.")
        return found

    async def _until(self, starting: "asyncio.Task[None]", stopping: asyncio.Event) -> int:
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([starting, stop], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            say({"error": "stopped while starting", "exit_code": FAILED})
            return FAILED
        try:
            starting.result()
        except (RayFailed, ActorFailed) as error:
            if self._anew and isinstance(error, RayLost):
                self._begin_anew(error)
            log.error("daemon_start_failed", extra={"reason": str(error)})
            say({"error": f"{error} (more in {self._directory.logs})", "exit_code": FAILED})
            return FAILED
        say({"ready": await self._ready()})
        silence()
        watching = asyncio.create_task(self._cluster.watch())
        await asyncio.wait([watching, stop], return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():
            await ended(watching)
            return 0
        try:
            watching.result()  # raises: it does not end by itself
        except RayLost as error:
            self._begin_anew(error)
        except ActorFailed as error:
            log.critical("daemon_gives_up", extra={"reason": str(error)})
        return FAILED

    def _begin_anew(self, error: RayLost) -> NoReturn:
        log.error("daemon_begins_anew", extra={"reason": str(error)})
        self._runtime.stop()
        logging.shutdown()
        begin_anew(self._settings)

    async def _ready(self) -> dict[str, Any]:
        """What whoever starts us is told; `join` is what another machine joins with, where that is possible."""
        ready = {
            "url": self._url,
            "pid": os.getpid(),
            "certificate": self._certificate,
            "key_file": str(self._directory.admin_key),
            "warnings": await self._warnings(),
        }
        if self._ray_port:
            token = str(self._directory.join_token)
            ready["join"] = {"address": self._runtime.address, "token_file": token}
        return ready

    async def _start(self) -> None:
        await (self._cluster.revive() if self._anew else self._cluster.start())
        self._write_about()
        log.info("daemon_ready", extra={"took_s": round(time.time() - self._started_at, 3), **self._runtime.pids()})

    def _write_about(self) -> None:
        """Say in `daemon.json` who we are and where Ray is; the latter changes when Ray had to be started again."""
        self._directory.write_daemon_file(
            {
                "url": self._url,
                "certificate": self._certificate,
                "run_dir": str(self._run_dir),
                "ray_address": self._runtime.driver_address,
                "ray_token": str(self._runtime.token_path),
                "started_at": self._started_at,
            }
        )


def check_exposure(settings: dict[str, Any]) -> None:
    """Raises `Refused` where keys would travel in the clear though nobody said that they may, or TLS cannot be served."""
    host, certificate = settings["host"], settings["tls_cert"]
    if certificate:
        from fetchmld import tls  # takes a while, and few need it
        from fetchmld.core.errors import Invalid

        try:
            tls.check(Path(certificate), Path(settings["tls_key"]))
        except Invalid as error:
            raise Refused(error.message) from None
    elif not (settings["insecure"] or is_loopback(host)):
        raise Refused(
            f"{host} can be reached from other machines, and keys would travel unencrypted: give --tls-cert and --tls-key, "
            "or say --insecure where the network is yours alone"
        )


def cluster_address(settings: dict[str, Any]) -> str:
    """Where the other machines find this one: what is set, else the API's address, if that is one that they can reach.

    Raises `Refused` where what is set is no address of IPv4, the only one that Ray is used with here.
    """
    given, host = settings["node_address"], settings["host"]
    if given:
        return ipv4(given)
    if is_loopback(host) or (":" in host and not is_wildcard(host)):
        return "127.0.0.1"
    return primary_address() if is_wildcard(host) else ipv4(host)


def ipv4(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise Refused(f"{host!r} is no IPv4 address, nor the name of one: {error}; set node_address") from None


def primary_address() -> str:
    """The address of the default route, else of the host's name."""
    try:
        return own_address("192.0.2.1", 9)
    except OSError:
        return ipv4(socket.gethostname())


def is_loopback(host: str) -> bool:
    return ipaddress.ip_address(socket.getaddrinfo(host, None)[0][4][0]).is_loopback


def is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def url(host: str, port: int, scheme: str = "http") -> str:
    """Where a client on this machine finds the API."""
    named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{named}:{port}"


if __name__ == "__main__":
    main()
