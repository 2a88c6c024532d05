"""The daemon: `python -m actors.daemon --settings-file FILE` (`-` is standard input), which `fetchmld start` runs.

It takes the data directory for itself, prepares what must be there before any actor starts, starts the cluster, says on
standard output in one JSON line that it is ready or why it is not, and watches until SIGTERM or SIGINT. Tasks do not
notice its end: their parent is the node's runner.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import pwd
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

from actors import json_logs
from actors.cluster import ActorFailed, Cluster, head_specs
from actors.data_dir import DataDir, Refused
from actors.ray_compat import RayFailed, RayOptions, RayRuntime, reap_leftovers

log = logging.getLogger(__name__)

FAILED: Final = 1
PRELOAD: Final = ("actors.head", "actors.scheduler", "actors.agent", "actors.audit")  # history's pyarrow starts threads


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m actors.daemon", description="The FetchML daemon.")
    parser.add_argument("--settings-file", required=True, help="Settings as JSON; - reads standard input.")
    file = parser.parse_args().settings_file
    settings = json.loads(sys.stdin.read() if file == "-" else Path(file).read_bytes())
    code = run(settings)
    logging.shutdown()
    os._exit(code)  # all is written and closed; Ray's library may hang for seconds in what it does at an orderly exit


def run(settings: dict[str, Any]) -> int:
    """Be the daemon of `settings["data_dir"]` until a signal; the exit code."""
    os.umask(0o077)
    started_at = time.time()
    try:
        directory = DataDir(Path(settings["data_dir"]))
        with directory.held():
            json_logs.configure(directory.logs / "daemon.log", settings.get("log_level", "INFO"))
            reap_leftovers(directory.run_dir())  # of a daemon that was killed; its head actor still holds the port
            directory.check_port(settings["host"], settings["port"])
            return asyncio.run(Daemon(directory, settings, started_at).run())
    except Refused as error:
        say({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code


class Daemon:
    """One life of the daemon on a data directory that is held."""

    def __init__(self, directory: DataDir, settings: dict[str, Any], started_at: float) -> None:
        self._directory = directory
        self._started_at = started_at
        run_dir = directory.run_dir()
        worker_id = directory.worker_id()
        directory.make_admin_key()
        self._run_dir = run_dir
        self._host: str = settings["host"]
        self._url = url(self._host, settings["port"])
        self._runtime = RayRuntime(run_dir, RayOptions(preload=PRELOAD))
        known = {**settings, "run_dir": str(run_dir), "worker_id": worker_id}
        self._cluster = Cluster(self._runtime, known, head_specs(worker_id), self._write_about)

    async def run(self) -> int:
        """Start, watch, stop. 0 after a signal, 1 when the start failed."""
        stopping = self._signals()
        log.info("daemon_starting", extra={"pid": os.getpid(), "data_dir": str(self._directory.path)})
        starting = asyncio.create_task(self._start())
        try:
            return await self._until(starting, stopping)
        finally:
            await _ended(starting)
            await self._cluster.stop()
            self._directory.daemon_file.unlink(missing_ok=True)
            log.info("daemon_stopped", extra={"lived_s": round(time.time() - self._started_at, 3)})

    def _warnings(self) -> list[str]:
        """What whoever starts this should know about whom they trust."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        found = [f"tasks run as {user}, with its rights (isolation: single-trust); a key is worth a shell of {user}."]
        if not ipaddress.ip_address(socket.getaddrinfo(self._host, None)[0][4][0]).is_loopback:
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
            log.error("daemon_start_failed", extra={"reason": str(error)})
            say({"error": f"{error} (more in {self._directory.logs})", "exit_code": FAILED})
            return FAILED
        key_file = str(self._directory.admin_key)
        say({"ready": {"url": self._url, "pid": os.getpid(), "key_file": key_file, "warnings": self._warnings()}})
        silence()
        watching = asyncio.create_task(self._cluster.watch())
        await asyncio.wait([watching, stop], return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():
            await _ended(watching)
            return 0
        try:
            watching.result()  # raises: it does not end by itself
        except ActorFailed as error:
            log.critical("daemon_gives_up", extra={"reason": str(error)})
        return FAILED

    async def _start(self) -> None:
        await self._cluster.start()
        self._write_about()
        log.info("daemon_ready", extra={"took_s": round(time.time() - self._started_at, 3), **self._runtime.pids()})

    def _write_about(self) -> None:
        """Say in `daemon.json` who we are and where Ray is; the latter changes when Ray had to be started again."""
        self._directory.write_daemon_file(
            {
                "url": self._url,
                "run_dir": str(self._run_dir),
                "ray_address": self._runtime.driver_address,
                "ray_token": str(self._runtime.token_path),
                "started_at": self._started_at,
            }
        )

    def _signals(self) -> asyncio.Event:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        return stopping


async def _ended(task: "asyncio.Task[Any]") -> None:
    """Cancel, and wait for the end, whatever it is."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # looked at, so that nobody warns that it was not


def url(host: str, port: int) -> str:
    """Where a client on this machine finds the API."""
    named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{named}:{port}"


def say(line: dict[str, Any]) -> None:
    """Tell whoever started us; they may have left."""
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def silence() -> None:
    """Let go of the starter's pipe and terminal; Ray prints to them, and they may close."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)


if __name__ == "__main__":
    main()
