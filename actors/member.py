"""The daemon of a machine that joins a head elsewhere: the same program with fewer parts.

It owns a raylet and looks after it. The head sees the raylet, starts this machine's agent in it, and the agent finds or
starts the runner. Whenever the raylet ends, or no agent that the head knows has answered for a while (the head was
restarted, or the network was cut), the raylet is started again, for as long as it takes. The runner and its tasks notice
none of it; their leases see to it that nothing runs twice.
"""

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from actors.cluster import Backoff
from actors.data_dir import NOT_ALLOWED, DataDir, Refused
from actors.ray_compat import WORKERS_MAX, RayFailed, RayHopeless, RayOptions, port_answers
from actors.ray_member import GivenToken, RayMember
from actors.ray_offer import offer_here
from actors.starter import ended, say, silence, stop_signals
from fetchmld.channel import Client
from fetchmld.config import NODE_SETTINGS, Config
from fetchmld.core.errors import Unavailable

log = logging.getLogger(__name__)

PRELOAD: Final = ("actors.agent",)
UNREACHABLE: Final = 6  # exit codes of the command line, which takes ours over
TIMED_OUT: Final = 8
AGENT_STARTS_S: Final = 60.0
ASK_EVERY_S: Final = 1.0
ASK_TIMEOUT_S: Final = 2.0
ASK_HEAD_EVERY_S: Final = 2.0  # 0.3 ms of the head's processor each
LOST_AFTER_S: Final = 20.0  # without an agent that the head knows; a head whose Ray lives is back in less
ANOTHER_RAY: Final = "the head has another Ray"
GONE_AFTER_S: Final = 3.0  # the same while nothing answers at the head's port: it ended, or the link is cut


class Member:
    """One life of the daemon of a machine that joins; its data directory is held."""

    def __init__(self, directory: DataDir, settings: dict[str, Any], started_at: float) -> None:
        self._directory = directory
        self._started_at = started_at
        self._head: tuple[str, int] = (settings["join"]["host"], settings["join"]["port"])
        self._worker_id = directory.worker_id()
        self._run_dir = directory.run_dir()
        socket = self._run_dir / f"agent-{self._worker_id}.sock"
        self._agent = Client(lambda: _place(socket))
        self._runtime = self._ray(settings)
        self._has_joined = False
        self._reason = ""  # why the last try to join failed
        self._lost: dict[str, Any] = {}  # why and when, while the head is

    def _given_token(self, join: dict[str, Any]) -> GivenToken | None:
        """The token that came with the start, if any. Raises `Refused` where none ever did."""
        if join.get("token"):
            return GivenToken(join["token"], join["token_file"])
        if not self._directory.join_token.exists():
            raise Refused(
                "a machine joins with the head's token: copy join.token from the head's data directory, and name that "
                "file in FETCHML_JOIN_TOKEN_FILE or by --token-file",
                NOT_ALLOWED,
            )
        return None

    def _ray(self, settings: dict[str, Any]) -> RayMember:
        ours = {name: settings[name] for name in NODE_SETTINGS}
        ours |= {"run_dir": str(self._run_dir), "worker_id": self._worker_id}
        ours |= {"token_path": str(self._directory.join_token)}
        offer = offer_here(settings, self._worker_id)
        ours |= {"ray_offer": asdict(offer)}
        options = RayOptions(
            settings["node_address"],
            offer=offer,
            workers_max=WORKERS_MAX + Config.from_dump(settings).share.cpu,
            preload=PRELOAD,
            token_path=self._directory.join_token,
        )
        given = self._given_token(settings["join"])
        return RayMember(self._run_dir, options, self._head, self._worker_id, ours, given)

    async def run(self) -> int:
        """Join, stay, leave. 0 after a signal; another code when the head could not be joined."""
        stop = asyncio.create_task(stop_signals().wait())
        log.info("member_starting", extra={"pid": os.getpid(), "head": self._where, "worker_id": self._worker_id})
        await self._agent.start()
        living = asyncio.create_task(self._live())
        try:
            await asyncio.wait([living, stop], return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                living.result()  # raises: it does not end by itself
            return 0
        except Refused as error:
            say({"error": f"{error} (more in {self._directory.logs})", "exit_code": error.exit_code})
            return error.exit_code
        finally:
            await ended(living)
            await self._agent.close()
            await asyncio.to_thread(self._runtime.close)
            self._directory.daemon_file.unlink(missing_ok=True)
            log.info("member_stopped", extra={"lived_s": round(time.time() - self._started_at, 3)})

    @property
    def _where(self) -> str:
        return f"{self._head[0]}:{self._head[1]}"

    # -- staying

    async def _live(self) -> None:
        """Join again and again. Raises `Refused` where the first time fails."""
        backoff = Backoff(max_s=3.0)
        while True:
            try:
                await self._join()
                backoff.reset()
                why = await self._until_lost()
                log.warning("member_lost_head", extra={"why": why})
                self._lost = {"lost": why, "lost_at": time.time()}
                self._write_about()
            except RayFailed as error:
                if not self._has_joined:
                    raise Refused(f"cannot join: {error}", _code_of(error)) from None
                self._log_once(str(error))
            await asyncio.to_thread(self._runtime.stop)
            await backoff.wait()

    def _log_once(self, reason: str) -> None:
        """A head that is away for a day makes one line, not thousands."""
        if reason != self._reason:
            log.warning("member_not_joined", extra={"reason": reason})
            self._lost["lost"] = reason
            self._write_about()
        self._reason = reason

    async def _join(self) -> None:
        await asyncio.to_thread(self._runtime.start)
        deadline = time.monotonic() + AGENT_STARTS_S
        while not await self._is_known():
            if not self._runtime.is_alive():
                raise RayFailed("its raylet ended; the head may not be able to reach this machine")
            if await asyncio.to_thread(self._runtime.is_left_behind):
                raise RayFailed(ANOTHER_RAY)
            if time.monotonic() > deadline:
                raise RayFailed(f"the head has not started this machine's agent within {AGENT_STARTS_S:g} s")
        log.info("member_joined", extra={"head": self._where, "worker_id": self._worker_id, **self._runtime.pids()})
        self._reason = ""
        self._lost = {}
        self._write_about()
        if not self._has_joined:
            self._has_joined = True
            self._say_joined()

    def _write_about(self) -> None:
        """Say in `daemon.json` who we are, and how the head was lost, if it is."""
        about = {"joined": self._where, "worker_id": self._worker_id, "run_dir": str(self._run_dir)}
        self._directory.write_daemon_file({**about, "started_at": self._started_at, **self._lost})

    def _say_joined(self) -> None:
        say({"ready": {"joined": self._where, "worker_id": self._worker_id, "pid": os.getpid()}})
        silence()

    async def _until_lost(self) -> str:
        """Return why this stay is over."""
        known_t = asked_t = time.monotonic()
        while True:
            if not self._runtime.is_alive():
                return f"{self._runtime.dead()} ended"
            is_known = await self._is_known()
            if is_known:
                known_t = time.monotonic()
                await asyncio.to_thread(self._runtime.renew_zygote)
            # Also where one is known: an agent may wait for a dead head's answer.
            if not is_known or time.monotonic() - asked_t > ASK_HEAD_EVERY_S:
                asked_t = time.monotonic()
                if await asyncio.to_thread(self._runtime.is_left_behind):
                    return ANOTHER_RAY
            unknown_s = time.monotonic() - known_t
            if unknown_s > LOST_AFTER_S:
                return f"the head has known no agent here for {LOST_AFTER_S:g} s"
            if unknown_s > GONE_AFTER_S and not await asyncio.to_thread(port_answers, *self._head):
                return "the head does not answer"

    async def _is_known(self) -> bool:
        """Does our agent serve, and hear from the scheduler? Asked at most once in `ASK_EVERY_S`."""
        began, known = time.monotonic(), False
        with contextlib.suppress(Unavailable):
            known = bool((await self._agent.request("ping", timeout_s=ASK_TIMEOUT_S)).body["connected"])
        await self._raylet_ends(max(0.0, ASK_EVERY_S - (time.monotonic() - began)))
        return known

    async def _raylet_ends(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._runtime.wait_dead()


async def _place(socket: Path) -> Path:
    return socket


def _code_of(error: RayFailed) -> int:
    if isinstance(error, RayHopeless):
        return NOT_ALLOWED
    return TIMED_OUT if "within" in str(error) else UNREACHABLE
