"""Jupyter servers of this node, beyond what every attempt has: made ready, watched until they answer, ended when idle.

What is known of one lies in `DIR/node/services/<attempt>.json` (0600, ours), so that an agent that comes back knows its
token and where it listens. Whether it answers is asked of it again. Called from one event loop; files are made in threads.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from actors.jupyter import Server, write_settings
from actors.notebooks import Notebooks
from actors.runner_words import name_of
from actors.workspace import CannotRun
from fetchmld.core.agent import RunKey
from fetchmld.core.messages import Fact, LaunchOrder
from fetchmld.endpoint import NotReached, probe, user_of

PROBE_FIRST_S: Final = 0.25  # between two looks whether it answers yet
PROBE_S: Final = 15.0  # between two looks at what it does
LOOKS_PER_IDLE: Final = 10
RUN_ROOT: Final = "/tmp"  # short: the address of a socket has 107 bytes
RUN_PREFIX: Final = "fetchml-jupyter-"
NO_ACTIVITY: Final = "?no_track_activity=1"

log = logging.getLogger(__name__)


class Services:
    """`record` has a fact put down, `stop` ends an attempt for a reason (a word and its detail)."""

    def __init__(
        self,
        node_dir: Path,
        notebooks: Notebooks,
        idle_s: float,
        record: Callable[[Fact], None],
        stop: Callable[[RunKey, str, str], None],
    ) -> None:
        """`idle_s`: a server without activity for so long is ended; 0: never."""
        self._directory = node_dir / "services"
        self._notebooks = notebooks
        self._idle_s = idle_s
        self._record = record
        self._stop = stop
        self._servers: dict[RunKey, Server] = {}
        self._taking = threading.Lock()  # of workspaces
        self._watches: dict[RunKey, asyncio.Task[None]] = {}
        self._ready: dict[RunKey, float] = {}  # those that answer, and when they last did something (wall)

    # -- life

    def open(self, exists: Callable[[str], bool]) -> None:
        """Take over what an agent before us left. `exists`: is that attempt's directory still there?"""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in self._directory.iterdir():
            try:
                server = Server(**json.loads(file.read_text()))
            except (ValueError, TypeError):
                file.unlink()
                continue
            key = RunKey(server.task_id, server.attempt)
            self._servers[key] = server
            if not exists(name_of(key, 0)):
                self.forget(key)

    def keep_only(self, attempts: set[str]) -> None:
        """Forget those of attempts that nobody knows any more."""
        for key in [key for key in self._servers if name_of(key, 0) not in attempts]:
            self.forget(key)

    async def close(self) -> None:
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)

    # -- one server

    def make(self, order: LaunchOrder, uid: int) -> Server:
        """Its directories and its settings, for a thread. Raises `CannotRun`, OSError."""
        wanted = order["request"]["jupyter"]
        key, user_id = RunKey(order["task_id"], order["attempt"]), order["user_id"]
        home = self._notebooks.path_of(user_id, wanted["workspace"])
        run = tempfile.mkdtemp(prefix=RUN_PREFIX, dir=RUN_ROOT)
        server = Server(*key, user_id, user_of(uid), f"/jupyter/{key.task_id}", secrets.token_urlsafe(32), home, run)
        try:
            self._take(key, server)
            self._notebooks.make(user_id, wanted["workspace"], uid)
            self._keep(key, server)
            write_settings(server)
            if uid >= 0:
                os.chown(run, uid, uid)
        except BaseException:
            self._servers.pop(key, None)
            self._file(key).unlink(missing_ok=True)
            shutil.rmtree(run, ignore_errors=True)
            raise
        return server

    def _take(self, key: RunKey, server: Server) -> None:
        """The workspace is this server's alone. Raises `CannotRun`."""
        with self._taking:
            for holder, other in self._servers.items():
                if other.home == server.home and holder != key:
                    name = Path(server.home).name
                    raise CannotRun(
                        "WORKSPACE_IN_USE", f"service {other.task_id} has workspace {name!r} on this worker"
                    )
            before = self._servers.get(key)
            self._servers[key] = server
        if before is not None:  # an agent before us died while it made it ready
            shutil.rmtree(before.run, ignore_errors=True)

    def _keep(self, key: RunKey, server: Server) -> None:
        file = self._file(key)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(server.dump())

    def _file(self, key: RunKey) -> Path:
        return self._directory / f"{name_of(key, 0)}.json"

    def runs(self, key: RunKey) -> None:
        """The attempt runs: see whether it answers. Nothing for one that is no server."""
        if key in self._servers and key not in self._watches:
            self._watches[key] = asyncio.create_task(self._watch(key, self._servers[key]))

    def ended(self, key: RunKey) -> None:
        """The attempt is over."""
        self._ready.pop(key, None)
        if (watch := self._watches.pop(key, None)) is not None:
            watch.cancel()
            self._note(key, "job_completed", "service.stop", {})

    def forget(self, key: RunKey) -> None:
        """Nobody will ask for it again. What it kept in its workspace stays."""
        self.ended(key)
        with self._taking:
            server = self._servers.pop(key, None)
        if server is not None:
            shutil.rmtree(server.run, ignore_errors=True)
            self._file(key).unlink(missing_ok=True)

    def look(self, key: RunKey) -> dict[str, Any] | None:
        """What the head needs to lead somebody there; None where there is no such server."""
        server = self._servers.get(key)
        if server is None:
            return None
        return {
            "ready": key in self._ready,
            "endpoint": server.endpoint,
            "uid": server.uid,
            "token": server.token,
            "last_activity_at": self._ready.get(key, 0.0),
        }

    def uid_at(self, endpoint: str) -> int | None:
        """Whose server listens there; None where it is none of ours."""
        return next((server.uid for server in self._servers.values() if server.endpoint == endpoint), None)

    # -- watching it

    async def _watch(self, key: RunKey, server: Server) -> None:
        begun_t = time.monotonic()
        while not await self._answers(key, server):  # noqa: ASYNC110 - it cannot tell us when
            await asyncio.sleep(PROBE_FIRST_S)
        took_s = round(time.monotonic() - begun_t, 2)
        log.info("service.ready task_id=%s attempt=%d took_s=%s", *key, took_s)
        self._note(key, "job_started", "service.start", {"ready_after_s": took_s})
        pause_s = min(PROBE_S, self._idle_s / LOOKS_PER_IDLE) if self._idle_s else PROBE_S
        while True:
            await asyncio.sleep(pause_s)
            await self._answers(key, server)
            idle_s = time.time() - self._ready.get(key, time.time())
            if self._idle_s and idle_s > self._idle_s and not await self._is_busy(server):
                self._stop(key, "CULLED", f"no activity for {idle_s:.0f} s (jupyter_idle_s = {self._idle_s:g})")
                return

    async def _answers(self, key: RunKey, server: Server) -> bool:
        """Whether it answers now. Its own account of when it last did something counts for culling."""
        try:
            status, body = await probe(server.endpoint, f"{server.base}/api/status", server.headers, server.uid)
            if status == 200:
                said = json.loads(body)
                self._ready[key] = datetime.fromisoformat(said["last_activity"]).timestamp()
                return True
        except (NotReached, ValueError, KeyError, TypeError) as error:
            log.debug("service.unready task_id=%s why=%s", key.task_id, error)
        return False

    async def _is_busy(self, server: Server) -> bool:
        """A kernel that computes for hours says nothing meanwhile. Who cannot say counts as busy."""
        try:
            path = f"{server.base}/api/kernels{NO_ACTIVITY}"
            _, body = await probe(server.endpoint, path, server.headers, server.uid)
            return any(kernel["execution_state"] == "busy" for kernel in json.loads(body))
        except (NotReached, ValueError, KeyError, TypeError):
            return True

    def _note(self, key: RunKey, event_type: Any, action: str, more: dict[str, Any]) -> None:
        server = self._servers.get(key)
        fact = Fact(event_type, action, key.task_id, server.user_id if server else "")
        fact.metadata = {"attempt": key.attempt, **more}
        fact.at_us = time.time_ns() // 1000
        with contextlib.suppress(RuntimeError):
            self._record(fact)
