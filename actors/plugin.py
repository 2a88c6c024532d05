"""The actor of one plugin, `plugin:<name>`: keeps its sidecar alive, says where it is, and gives attempts what they need.

Turns what the agent, the sidecar and the clock say into events of `core.supervise`, and performs its effects. How the
plugin is to run it reads from the record, and what becomes of it goes there. When it dies, the sidecar and the tasks do not
notice: its successor asks the agent what runs.
"""

import asyncio
import contextlib
import logging
import secrets as randomness
import socket
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from actors.environments import Environments
from actors.plugin_files import Files
from actors.plugin_memory import Memory, Started
from actors.plugin_tasks import PluginTasks
from actors.ray_channel import Gate
from actors.requirements import exported
from actors.workspace import CannotRun
from fetchmld.channel import Client, Message, Peer, Server, serve
from fetchmld.config import Config
from fetchmld.core.errors import BadRequest, FetchmlError, NotFound, Unavailable
from fetchmld.core.model import PluginConfig
from fetchmld.core.supervise import (
    Apply,
    Effect,
    Ended,
    EnvironmentFailed,
    EnvironmentReady,
    Event,
    Found,
    MakeEnvironment,
    Pace,
    Probe,
    Probed,
    Revert,
    Say,
    Serve,
    Start,
    Stop,
    Supervisor,
    Ticked,
    Unwanted,
    Wanted,
)
from fetchmld.plugins.calls import Calls, shown
from fetchmld.plugins.catalog import catalog, checked, is_hot
from fetchmld.plugins.protocol import CallFailed, Place, Plugin, RemoteCapable, Tracker
from fetchmld.plugins.secrets import Secrets
from fetchmld.plugins.tokens import Tokens

log = logging.getLogger(__name__)

TICK_S: Final = 0.25
LOOK_S: Final = 3.0  # between two looks at how it is to run; whoever changes that says so as well
CLOSE_S: Final = 1.0
PROGRESS_MAX: Final = 50
REMOTE_START_S: Final = 15.0


class PluginActor:
    """One per plugin that is to run. `settings`: the daemon's configuration, and `plugin`, its name."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._config = Config.from_dump(settings)
        self._name: str = settings["plugin"]
        run_dir = Path(settings["run_dir"])
        paths = self._config.paths
        self._socket = run_dir / f"plugin-{self._name}.sock"
        self._scheduler_socket = run_dir / "scheduler.sock"
        self._scheduler = _client(self._scheduler_socket)
        self._history = _client(run_dir / "history.sock")
        self._agent = Client(
            _always(run_dir / f"agent-{settings['worker_id']}.sock"), self._on_agent, self._greet_agent
        )
        self._environments = Environments(
            paths.node_dir / "plugins" / ".environments" / self._name,
            self._config.environment_cache_bytes_max,
            self._config.environment_build_s,
            self._config.environment_from_source,
            lambda _holder: True,  # the sidecar's: it is there as long as the plugin is
            compiled=True,
        )
        self._secrets = Secrets(paths.secrets)
        self._tokens = Tokens(paths.task_tokens_key)
        self._memory = Memory.load(paths.plugins / f"{self._name}.json")
        self._it = Supervisor(randomness.randbits(32), Pace())
        self._revisions: dict[int, PluginConfig] = {}  # the current one, and those that run
        self._failed: set[int] = set()  # revisions that were taken back
        self._slot = 0
        self._directory, self._sockets, self._uid = Path(), Path(), -1
        self._pythons: dict[int, str] = {}  # by revision
        self._calls: dict[int, Calls] = {}  # by number of the sidecar
        self._done: list[Calls] = []  # of sidecars that have ended
        self._serving = 0
        self._progress: list[str] = []
        self._checked_at = 0.0
        self._look = asyncio.Event()
        self._works: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._server: Server | None = None
        self._gate: Gate
        self._plugin: Plugin
        self._tracking: PluginTasks | None = None
        self._files: Files | None = None
        self._files_top: Path | None = None

    # -- life

    async def start(self) -> None:
        entry = catalog().get(self._name)
        if entry is None or entry.plugin is None:
            raise NotFound(f"plugin {self._name}: {entry.problem if entry is not None else 'is not installed'}")
        self._plugin = entry.plugin
        await asyncio.to_thread(_make_way, self._config.paths.node_dir / "plugins", ".environments", self._name)
        await asyncio.to_thread(self._environments.open)
        for client in (self._scheduler, self._history):
            await client.start()
        await self._look_once()
        self._it.last_number = self._memory.last_number
        await self._agent.start()
        self._server = await serve(self._socket, self._on_requests)
        self._gate = Gate(self._server)
        loops = [self._tick(), self._keep_looking()]
        if isinstance(self._plugin, Tracker):
            loops.append(self._follow_tasks(self._plugin))
        self._loops = [asyncio.create_task(loop) for loop in loops]

    async def ping(self) -> dict[str, Any]:
        for loop in self._loops:
            if loop.done() and not loop.cancelled():
                return {"started": False, "error": f"a loop of the plugin's actor ended: {loop.exception()}"}
        return {"started": self._server is not None, "status": self._it.status}

    async def address(self) -> str:
        return str(self._socket)

    async def push(self, line: str, number: int, piece: bytes) -> bool:
        """What an agent on another machine asks (see `ray_channel`)."""
        return await self._gate.push(line, number, piece)

    async def pull(self, line: str, number: int) -> bytes | None:
        return await self._gate.pull(line, number)

    async def shutdown(self) -> None:
        """Leave; the sidecar goes on, in the runner's hands, unless the plugin is not wanted any more."""
        with contextlib.suppress(FetchmlError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._look_once()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._works:
            await asyncio.wait(self._works, timeout=CLOSE_S)
        await self._agent.close()
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        self._done += self._calls.values()
        await self._close_done()
        for client in (self._scheduler, self._history):
            await client.close()
        await asyncio.to_thread(self._environments.close)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._on_work_done)

    def _on_work_done(self, task: "asyncio.Task[None]") -> None:
        self._works.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("plugin.work_failed", exc_info=task.exception())

    async def _tick(self) -> None:
        while True:
            self._apply(Ticked())
            await asyncio.sleep(TICK_S)

    # -- how it is to run

    async def _keep_looking(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            with contextlib.suppress(FetchmlError):  # the scheduler is away: it goes on as it is
                await self._look_once()

    async def _look_once(self) -> None:
        """What the record says of it, against what is."""
        plugins = (await self._scheduler.request("plugins")).body
        record = next((one for one in plugins if one["id"] == self._name), None)
        if record is None or not record["config"]["enabled"] or record["config"]["mode"] == "disabled":
            if self._it.wanted:
                self._apply(Unwanted())
            return
        self._slot, revision = record["number"], record["revision"]
        if revision in self._failed:  # the record has not heard yet that it was taken back
            return
        if revision != self._it.wanted:
            self._want(revision, record["config"])
        elif (record["status"], record["problem"]) != (self._it.status, self._it.problem):
            self._say(self._it.status, self._it.problem)  # it was not heard

    def _want(self, revision: int, config: PluginConfig) -> None:
        serving = self._it.serving
        old = self._revisions.get(serving.revision) if serving is not None else None
        hot = old is not None and is_hot(self._plugin, old, config)
        self._revisions[revision] = config
        pace = Pace(start_s=REMOTE_START_S) if config["mode"] == "remote" else Pace()
        self._it.pace = pace
        self._apply(Wanted(revision, hot))

    def _settings(self, revision: int | None = None) -> Any:
        """Of a revision, or of what serves, with their secrets. Raises `Invalid`."""
        if revision is None:
            revision = self._it.serving.revision if self._it.serving is not None else self._it.wanted
        config = self._revisions[revision]
        return checked(self._plugin, self._secrets.reveal(config["settings"]))

    # -- the machine

    def _apply(self, event: Event) -> None:
        for effect in self._it.handle(event, time.monotonic()):
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case MakeEnvironment(revision):
                self._spawn(self._make_environment(revision))
            case Start(number, revision):
                self._spawn(self._start(number, revision))
            case Stop(number):
                self._spawn(self._stop(number))
            case Probe(number):
                self._spawn(self._probe(number))
            case Serve(number):
                self._serving = number
            case Apply(revision):
                self._note_applied(revision)
            case Revert(failed, to, why):
                self._failed.add(failed)
                config = self._revisions[to]
                body = {"name": self._name, "failed": failed, "to": to, "config": config, "problem": why}
                self._scheduler.post("plugin_reverted", body)
            case Say(status, problem):
                log.info("plugin.status", extra={"plugin": self._name, "status": status, "problem": problem})
                self._say(status, problem)

    def _say(self, status: str, problem: str) -> None:
        if self._it.wanted:
            body = {"name": self._name, "revision": self._it.wanted, "status": status, "problem": problem[:1000]}
            self._scheduler.post("plugin_seen", body)

    def _note_applied(self, revision: int) -> None:
        serving = self._it.serving
        if serving is not None and serving.number in self._memory.sidecars:
            known = self._memory.sidecars[serving.number]
            self._memory.sidecars[serving.number] = replace(known, revision=revision, config=self._revisions[revision])
            self._memory.save()

    # -- its environment

    async def _make_environment(self, revision: int) -> None:
        self._progress.clear()
        if self._revisions[revision]["mode"] == "remote" or not self._plugin.requirements:
            self._apply(EnvironmentReady(revision))
            return
        try:
            wanted = replace(exported(self._plugin.requirements), source=self._name)
            made = await self._environments.get(wanted, self._note_progress)
        except CannotRun as error:
            self._apply(EnvironmentFailed(revision, f"its environment cannot be made: {error.detail}"))
            return
        self._pythons[revision] = made.python
        self._environments.hold(made, "sidecar")
        self._apply(EnvironmentReady(revision))

    def _note_progress(self, line: str) -> None:
        self._progress = [*self._progress, line][-PROGRESS_MAX:]

    # -- its sidecar

    async def _greet_agent(self, client: Client) -> None:
        """The agent is there, again: what runs, and what ended while nobody heard."""
        if self._slot:
            place = (await client.request("sidecar.place", {"name": self._name, "slot": self._slot})).body
            self._take_place(place)
        found = (await client.request("sidecar.list", {"name": self._name})).body
        for one in found["ended"]:
            self._ended(one["number"], one["why"])
        ours = {sidecar.number for sidecar in (self._it.serving, self._it.coming) if sidecar is not None}
        known = ours | set(self._it.leaving)
        for number in ours - set(found["running"]):
            if number in self._calls and not self._is_remote(number):
                self._ended(number, "the agent knows nothing of it")
        strangers = [number for number in found["running"] if number not in known]
        self._take_over(strangers)

    def _take_place(self, place: dict[str, Any]) -> None:
        self._directory, self._sockets, self._uid = Path(place["directory"]), Path(place["sockets"]), place["uid"]
        self._files_top = Path(place["files"])
        if self._files is not None:
            self._files.use(self._files_top)

    def _take_over(self, numbers: list[int]) -> None:
        running = []
        for number in numbers:
            started = self._memory.sidecars.get(number)
            running.append((number, started.revision if started is not None else 0))
            if started is not None:
                self._revisions.setdefault(started.revision, started.config)
                self._calls[number] = Calls(started.endpoint, {}, private=True)
        self._apply(Found(running, self._memory.last_number))

    def _on_agent(self, _peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            if message.kind == "sidecar.ended":
                self._ended(message.body["number"], message.body["why"])

    def _is_remote(self, number: int) -> bool:
        started = self._memory.sidecars.get(number)
        return started is not None and started.config["mode"] == "remote"

    async def _start(self, number: int, revision: int) -> None:
        try:
            started, headers = await self._begin(number, revision)
        except (FetchmlError, OSError, ValueError) as error:
            self._ended(number, f"it could not be started: {error}")
            return
        if number in self._memory.sidecars:  # else it has ended already
            self._calls[number] = Calls(started.endpoint, headers, self._config.plugin_private_hosts)

    async def _begin(self, number: int, revision: int) -> tuple[Started, dict[str, str]]:
        config, settings = self._revisions[revision], self._settings(revision)
        if config["mode"] == "remote":
            assert isinstance(self._plugin, RemoteCapable)
            server = self._plugin.remote(settings)
            return self._remember(number, Started(revision, config, server.url)), dict(server.headers)
        place = (await self._agent.request("sidecar.place", {"name": self._name, "slot": self._slot})).body
        self._take_place(place)
        port = _free_port() if self._plugin.listens == "port" else 0
        name = f"{number}.sock"
        where = Place(
            directory=self._directory,
            files=Path(place["files"]),
            python=self._pythons.get(revision, sys.executable),
            socket=name,
            port=port,
            prefix=f"/plugins/{self._name}",
        )
        command = self._plugin.command(settings, where)
        endpoint = f"tcp:{port}" if port else f"unix:{self._sockets / name}"
        started = self._remember(number, Started(revision, config, endpoint))
        body = {"name": self._name, "slot": self._slot, "number": number}
        await self._agent.request("sidecar.start", {**body, "argv": command.argv, "env": dict(command.env)})
        return started, {}

    def _remember(self, number: int, started: Started) -> Started:
        self._memory.last_number = max(self._memory.last_number, number)
        self._memory.sidecars[number] = started
        self._memory.save()
        return started

    async def _stop(self, number: int) -> None:
        if self._is_remote(number):
            self._ended(number, "not asked any more")
            return
        with contextlib.suppress(FetchmlError):  # the agent says what runs once it is back, and it is stopped then
            await self._agent.request("sidecar.stop", {"name": self._name, "number": number})

    def _ended(self, number: int, why: str) -> None:
        self._apply(Ended(number, why))
        self._memory.sidecars.pop(number, None)
        self._memory.save()
        calls = self._calls.pop(number, None)
        if calls is not None:
            self._done.append(calls)
            self._spawn(self._close_done())

    async def _close_done(self) -> None:
        for calls in list(self._done):
            await calls.close()
            with contextlib.suppress(ValueError):  # somebody else was as quick
                self._done.remove(calls)

    async def _probe(self, number: int) -> None:
        calls = self._calls.get(number)
        why = "it is being started" if calls is None else await calls.probe(self._plugin.health_path)
        if self._it.serving is not None and self._it.serving.number == number:
            self._checked_at = time.time()
        self._apply(Probed(number, why))

    # -- tasks

    async def _call(self, method: str, path: str, body: Any) -> Any:
        """To the sidecar that serves. Raises `CallFailed`."""
        calls = self._calls.get(self._serving)
        if calls is None:
            raise CallFailed(self._it.problem or f"it is {self._it.status}")
        prefix = f"/plugins/{self._name}" if self._plugin.keeps_prefix else ""
        return await calls.call(method, prefix + path, body)

    async def _follow_tasks(self, tracker: Tracker) -> None:
        paths = self._config.paths
        if tracker.followed:
            self._files = Files(
                paths.objects, tracker.followed, lambda: int(getattr(self._settings(), "keep_bytes_max", 2**40))
            )
            if self._files_top is not None:
                self._files.use(self._files_top)
        self._tracking = PluginTasks(
            self._name,
            tracker,
            self._memory,
            self._tokens,
            self._scheduler,
            self._history,
            self._scheduler_socket,
            self._config.task_url,
            self._call,
            self._settings,
            self._files.complete if self._files is not None else _nothing,
        )
        await self._tracking.watch()

    # -- requests to us

    def _on_requests(self, _peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            if message.kind == "configured":
                self._look.set()
            elif message.id:
                self._spawn(self._answer(message))

    async def _answer(self, message: Message) -> None:
        try:
            message.reply(await self._answered(message))
        except FetchmlError as error:
            message.fail(error)
        except CallFailed as error:
            message.fail(Unavailable(str(error)))

    async def _answered(self, message: Message) -> Any:
        body = message.body
        match message.kind:
            case "status":
                return self._status()
            case "upstream":
                return self._upstream()
            case "attach":
                if self._tracking is None or not self._serving:
                    raise Unavailable(self._it.problem or f"plugin {self._name} is {self._it.status}")
                return {**asdict(await self._tracking.begin(body)), "followed": self._tracking.followed}
            case "files.sizes" if self._files is not None:
                return await asyncio.to_thread(self._files.sizes, body["run_id"])
            case "files.append" if self._files is not None:
                offset, run_id = body["offset"], body["run_id"]
                return await asyncio.to_thread(self._files.append, run_id, body["path"], offset, message.blob)
        raise BadRequest(f"plugin {self._name} knows no request {message.kind!r}")

    def _status(self) -> dict[str, Any]:
        serving = self._memory.sidecars.get(self._serving)
        return {
            "status": self._it.status,
            "revision": self._it.wanted,
            "problem": self._it.problem,
            "progress": self._progress[-1] if self._progress and self._it.status != "healthy" else "",
            "checked_at": self._checked_at,
            "endpoint": shown(serving.endpoint) if serving is not None else "",
        }

    def _upstream(self) -> dict[str, Any] | None:
        """Where callers go; None while it is down."""
        serving = self._memory.sidecars.get(self._serving)
        if serving is None:
            return None
        headers: dict[str, str] = {}
        if serving.config["mode"] == "remote" and isinstance(self._plugin, RemoteCapable):
            headers = dict(self._plugin.remote(self._settings()).headers)
        return {
            "endpoint": serving.endpoint,
            "uid": self._uid if serving.endpoint.startswith("unix:") else -1,
            "keeps_prefix": self._plugin.keeps_prefix,
            "headers": headers,
        }


def _always(path: Path) -> Any:
    async def resolve() -> Path:
        return path

    return resolve


def _client(path: Path) -> Client:
    return Client(_always(path))


def _make_way(top: Path, *names: str) -> None:
    """Directories that sidecars may pass, whatever our umask."""
    for at in range(len(names) + 1):
        directory = top.joinpath(*names[:at])
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory.chmod(0o711)


async def _nothing(*_: Any) -> None:
    """After an end there is nothing to do."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
