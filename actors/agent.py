"""The agent actor: speaks for one node. Turns what the scheduler and the runner say into events of `core.agent`, and
performs its effects. Owns the node's directories and caches, and nothing that it could not find again: when it dies, the
runner and the tasks never notice, and its successor asks the runner what is there.
"""

import asyncio
import contextlib
import gc
import logging
import os
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from actors import boxing, containers, node
from actors.attaching import Attacher, tasks_url
from actors.cache_news import CacheNews
from actors.collecting import Collector
from actors.environments import Environments
from actors.following import Followers
from actors.gpus import NodeGpus
from actors.log_keeper import LogKeeper
from actors.log_reader import LogReader
from actors.notebooks import ROOT, Notebooks
from actors.preparing import Preparer
from actors.ray_channel import Gate, over_ray
from actors.ray_compat import NAMESPACE
from actors.ray_lender import Lender
from actors.runner_link import RunnerLink
from actors.runner_words import name_of, report_of, split_name, start_failure
from actors.services import Services
from actors.sidecars import Sidecars
from actors.staging import Stager
from actors.task_code import CodeSource
from actors.tunnels import Tunnels
from actors.workspace import empty
from actors.workspaces import Workspaces
from fetchmld.channel import Client, Dial, Message, Peer, Server, serve
from fetchmld.config import Config
from fetchmld.core.agent import (
    Abandon,
    Acknowledged,
    AgentCore,
    Collect,
    Collected,
    Effect,
    Event,
    Exited,
    Forget,
    Greeted,
    Ordered,
    Prepare,
    PrepareFailed,
    Report,
    RunKey,
    RunnerReturned,
    SayPhase,
    Spawn,
    Started,
    Stop,
    StopAsked,
)
from fetchmld.core.errors import BadRequest, Unavailable
from fetchmld.core.line import Hearing
from fetchmld.core.messages import Fact, LaunchOrder
from fetchmld.core.model import LogPlace
from fetchmld.runner import frames
from fetchmld.runner.isolation import Wanted
from fetchmld.runner.loop import boottime
from fetchmld.runner.proctree import boot_id
from fetchmld.store.code import CodeStore
from fetchmld.store.content import ContentStore
from fetchmld.store.dataset_cache import DatasetCache
from fetchmld.store.datasets import DatasetStore
from fetchmld.store.head_http import HeadHttp, worker_key
from fetchmld.store.remote_code import RemoteCode
from fetchmld.store.remote_content import RemoteContent
from fetchmld.store.remote_logs import RemoteLogs

log = logging.getLogger(__name__)

T = TypeVar("T")

LEASE_MARGIN_S: Final = 30.0  # an attempt's lease ends this long before its task may start elsewhere
UNSENT_MAX: Final = 10_000  # accesses of datasets and snapshots that wait for the scheduler to come back


class Agent:
    """One per node. `settings`: the daemon's configuration as `Config.model_dump` wrote it, `run_dir`, `worker_id`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._config = Config.from_dump(settings)
        self._worker_id: str = settings["worker_id"]
        run_dir = Path(settings["run_dir"])
        paths = self._config.paths
        self._socket = run_dir / f"agent-{self._worker_id}.sock"
        self._scheduler_socket = run_dir / "scheduler.sock"
        self._workspaces = Workspaces(paths.node_dir)
        self._core = AgentCore()
        self._hearing = Hearing()
        self._head_url: str = settings.get("head_url", "")  # of an agent on another machine than the head's
        self._head_certificate: str = settings.get("head_certificate", "")
        self._machines_key = worker_key(Path(settings["token_path"]).read_text().strip()) if self._head_url else ""
        self._head = HeadHttp(self._head_url, self._machines_key, self._head_certificate) if self._head_url else None
        self._objects, self._code = self._content()
        self._cache = DatasetCache(paths.node_dir / "cache", self._config.dataset_cache_bytes_max)
        self._told = CacheNews(self._cache)
        self._environments = Environments(
            paths.node_dir / "environments",
            self._config.environment_cache_bytes_max,
            self._config.environment_build_s,
            self._config.environment_from_source,
            lambda attempt: os.path.exists(self._workspaces.of(attempt).base),
        )
        self._datasets = DatasetStore(
            self._cache,
            self._config.source_roots,
            self._config.dataset_bytes_max,
            self._config.private_hosts,
            {dataset.source: dataset.options for dataset in self._config.datasets.values()},
        )
        self._stager = Stager(self._datasets, self._tell_staging)
        logs_dir = str(paths.node_dir / "logs")
        remote_logs = None if self._head is None else RemoteLogs(self._head, self._worker_id)
        self._logs = LogReader(logs_dir, self._config.log_bytes_max)
        self._log_keeper = LogKeeper(logs_dir, self._config.log_bytes_max, self._config.log_retention_days, remote_logs)
        self._runner = RunnerLink(paths.node_dir, run_dir / "runner.sock", self._on_runner)
        self._followers = Followers(run_dir, bool(self._head_url))
        self._sidecars = Sidecars(paths.node_dir, run_dir, self._runner)
        self._scheduler = Client(self._scheduler_path, self._on_scheduler, self._greet)
        self._services = Services(
            paths.node_dir,
            Notebooks(paths.data_dir / ROOT, self._config.job_uids),
            self._config.jupyter_idle_s,
            self._record,
            lambda key, word, detail: self._apply([StopAsked(key, word, detail)]),
        )
        self._tunnels = Tunnels(self._head_url, self._machines_key, self._head_certificate)
        self._preparing: dict[RunKey, asyncio.Task[Event]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unsent: list[tuple[str, dict[str, Any]]] = []
        self._gpus = NodeGpus(self._config)
        self._lender = Lender(settings.get("ray_offer"), self._config.share)
        self._preparer = Preparer(
            self._config,
            self._worker_id,
            self._workspaces,
            self._logs,
            self._code,
            self._datasets,
            self._environments,
            Attacher(run_dir, tasks_url(self._config, self._head_url), bool(self._head_url), self._plugin_used),
            self._services,
            self._tell,
            self._record,
        )
        self._collector = Collector(
            self._workspaces,
            self._objects,
            self._gpus,
            self._preparer,
            self._say_beat,
            self._config.artifact_files_max,
            self._config.artifact_bytes_max,
        )
        self._address: str = settings.get("address", "127.0.0.1")  # where other nodes find this one
        self._native = True
        self._spoilt: set[str] = set()  # names of attempts with a process that cannot be ended
        self._server: Server | None = None
        self._gate: Gate
        self._closing = False

    def _content(self) -> tuple[ContentStore | RemoteContent, CodeSource]:
        """Where artifacts go, and where code comes from."""
        paths = self._config.paths
        if self._head is None:
            return ContentStore(paths.objects), CodeStore(paths.code)
        remote = RemoteContent(self._head)
        return remote, RemoteCode(remote, paths.node_dir / "code")

    # -- life

    async def start(self) -> None:
        """Find the runner, or start one, learn what it has, and join the scheduler."""
        self._workspaces.make_roots()
        self._sidecars.open()
        self._services.open(lambda attempt: os.path.exists(self._workspaces.of(attempt).base))
        await asyncio.to_thread(self._environments.open)
        gpus = await asyncio.to_thread(self._gpus.find)
        self._gpus.start()
        self._preparer.capacity = await asyncio.to_thread(node.capacity_of_node, self._config, gpus)
        await self._lender.open(self._preparer.capacity)
        config = self._config
        memory_bytes = self._preparer.capacity.memory_gb * boxing.GB
        await self._runner.start(Wanted(config.isolation, config.job_uid_first, config.job_uid_count, memory_bytes))
        boxing.check(config, self._preparer.isolation)
        self._preparer.containers = await asyncio.to_thread(
            containers.found, isolated="uids" in self._preparer.isolation
        )
        self._discard_strangers()
        self._server = await serve(self._socket, self._on_requests)
        self._gate = Gate(self._server)
        await self._scheduler.start()
        self._spawn_task(self._beat())
        self._spawn_task(self._lender.watch(self._scheduler.greet_again))
        for work in self._log_keeper.work():
            self._spawn_task(work)
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do
        gc.set_threshold(50_000, 20, 100)

    async def ping(self) -> dict[str, Any]:
        return {
            "started": self._server is not None,
            "worker_id": self._worker_id,
            "runner_pid": self._runner.pid if self._server is not None else 0,
            "attempts": len(self._core.runs),
            "isolation": {name: self._preparer.isolation.get(name, "") for name in ("label", "why")},
            "connected": self._server is not None and self._scheduler.connected,
        }

    async def address(self) -> str:
        return str(self._socket)

    async def push(self, line: str, number: int, piece: bytes) -> bool:
        """What the head on another machine asks (see `ray_channel`)."""
        return await self._gate.push(line, number, piece)

    async def pull(self, line: str, number: int) -> bytes | None:
        return await self._gate.pull(line, number)

    async def shutdown(self) -> None:
        """Leave; what runs goes on, in the runner's hands."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._server is not None:
            self._server.close()
            await self._scheduler.close()
        await self._followers.close()
        await self._tunnels.close()
        await self._services.close()
        await self._runner.close()
        await asyncio.to_thread(self._gpus.close)
        await self._stager.close()
        await asyncio.to_thread(self._datasets.close)
        await asyncio.to_thread(self._environments.close)
        self._collector.close()
        if self._head is not None:
            self._head.close()

    def _spawn_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("agent.task_failed", exc_info=task.exception())

    def _discard_strangers(self) -> None:
        """Directories of attempts that nobody knows any more: an agent before us died while it prepared or removed."""
        known = {name_of(run.key, run.rank) for run in self._core.runs.values()}
        self._workspaces.discard_strangers(known)
        self._services.keep_only(known)
        self._spawn_task(asyncio.to_thread(self._empty_trash))

    # -- the scheduler

    async def _scheduler_path(self) -> Path | Dial:
        return over_ray("scheduler", NAMESPACE) if self._head_url else self._scheduler_socket

    async def _greet(self, client: Client) -> None:
        sent_t = boottime()
        self._hearing.begin(sent_t)
        hello = {
            "worker_id": self._worker_id,
            "line": sent_t,
            "boot_id": boot_id(),
            "hostname": node.hostname(),
            "capacity": asdict(self._lender.capacity),
            "attempts": [asdict(attempt) for attempt in self._core.live()],
            "detail": {
                **node.detail_of_node(self._preparer.isolation),
                "containers": self._preparer.containers,
                **self._gpus.detail(),
                **self._lender.detail(),
                "address": self._address,
                "native_spawn": self._native,
                "runner_pid": self._runner.pid,
            },
            "datasets": self._told.all(),
            "gpu_faults": self._gpus.faults(),
        }
        self._gpus.greeted()
        await client.request("hello", hello)
        self._renew(sent_t)
        unsent, self._unsent = self._unsent, []
        for kind, body in unsent:
            client.post(kind, body)
        self._apply([Greeted()])

    def _on_scheduler(self, peer: Peer, messages: list[Message]) -> None:
        events: list[Event] = []
        for message in self._heard(peer, messages):
            body = message.body
            match message.kind:
                case "launch":
                    events.append(Ordered(cast(LaunchOrder, body["order"])))
                case "stop":
                    events.append(StopAsked(_key(body), body["word"], body["detail"]))
                case "ack":
                    events.append(Acknowledged(_key(body)))
                case "beat":
                    self._renew(body["sent_t"])
                case "stage":
                    self._stager.stage(body["task_id"], body["specs"])
                case "unstage":
                    self._stager.drop(body["task_id"])
                case _:
                    message.fail(BadRequest(f"an agent knows no message {message.kind!r}"))
        self._apply(events)

    def _heard(self, peer: Peer, messages: list[Message]) -> Iterator[Message]:
        """Those that follow one another. Where one is missing the line is given up: the next hello mends it."""
        for message in messages:
            verdict = self._hearing.hear(*message.body["mark"])
            if verdict == "take":
                yield message
            elif verdict == "broken":
                log.error("agent.line_broken kind=%s mark=%s", message.kind, message.body["mark"])
                peer.close()
                return

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            self._say_beat()
            self._sidecars.stop_unattended(boottime())

    def _say_beat(self) -> None:
        if self._scheduler.connected:
            beat = {"worker_id": self._worker_id, "sent_t": boottime(), **self._told.changes(), **self._gpus.news()}
            self._scheduler.post("beat", beat)

    def _renew(self, sent_t: float) -> None:
        """The scheduler has answered what we sent at `sent_t`: until so long after it, it starts nothing elsewhere."""
        self._runner.send({"do": "lease", "until": sent_t + self._config.requeue_after_s - LEASE_MARGIN_S})

    def _tell(self, kind: str, key: RunKey, **fields: Any) -> None:
        body = {"worker_id": self._worker_id, "task_id": key.task_id, "attempt": key.attempt, **fields}
        if not self._scheduler.connected and kind == "dataset":
            if len(self._unsent) < UNSENT_MAX:
                self._unsent.append((kind, body))
            return
        self._scheduler.post(kind, body)  # what is lost is said again in the next greeting

    def _plugin_used(self, kind: str, body: dict[str, Any]) -> None:
        """Lost where the scheduler is away: the task is shown without it."""
        self._scheduler.post(kind, body)

    def _tell_staging(self, task_id: str, said: str, is_over: bool) -> None:
        if is_over:
            self._say_beat()  # which has what the cache holds now
        body = {"worker_id": self._worker_id, "task_id": task_id, "said": said, "is_over": is_over}
        self._scheduler.post("staging", body)  # what is lost is asked for again after the next greeting

    def _record(self, fact: Fact) -> None:
        """Have a fact put on record, once the scheduler is there."""
        if self._scheduler.connected:
            self._scheduler.post("fact", asdict(fact))
        elif len(self._unsent) < UNSENT_MAX:
            self._unsent.append(("fact", asdict(fact)))

    # -- the runner

    def _on_runner(self, messages: list[frames.Message]) -> None:
        events: list[Event] = []
        for message in messages:
            if self._sidecars.take(message):
                continue
            match message["event"]:
                case "started":
                    key, rank = split_name(message["key"])
                    self._log_runs(key, rank, message["slot"])
                    events.append(Started(key, rank))
                case "exited":
                    events.append(self._exited(message))
                case "start_failed":
                    program = self._preparer.program_of(split_name(message["key"])[0])
                    events.append(start_failure(message, program))
                case "state":
                    events += self._on_state(self._sidecars.take_state(message))
        self._apply(events)

    def _on_state(self, state: frames.Message) -> list[Event]:
        self._native, self._preparer.isolation = state["native"], state["isolation"]
        first, count = self._preparer.isolation.get("uids", (0, 0))
        self._workspaces.use(range(first, first + count))
        self._datasets.public_only = count > 0
        running = []
        for found in state["running"]:
            key, rank = split_name(found["key"])
            running.append((key, rank))
            self._services.runs(key)
            if found["slot"] >= 0:
                self._log_runs(key, rank, found["slot"])
        ended = [self._exited(found) for found in state["ended"]]
        log.info("runner.found pid=%d running=%d ended=%d", state["pid"], len(running), len(ended))
        return [RunnerReturned(running, [event.key for event in ended]), *ended]

    def _log_runs(self, key: RunKey, rank: int, slot: int) -> None:
        self._logs.runs(key, slot)
        self._log_keeper.runs(key, rank, slot)

    def _exited(self, message: frames.Message) -> Exited:
        key, rank = split_name(message["key"])
        put = message["log"]
        if message.get("unkillable"):
            self._spoilt.add(message["key"])
        place = LogPlace(worker_id=self._worker_id, file=put["file"], offset=put["offset"], length=put["length"])
        self._logs.ended(key, place)
        self._log_keeper.ended(key, rank, place)
        return Exited(key, rank, report_of(message, place))

    # -- the core

    def _apply(self, events: list[Event]) -> None:
        """Let the core handle `events` and what follows from them at once; phases already over are not told."""
        effects: list[Effect] = []
        ahead = deque(events)
        while ahead:
            for effect in self._core.handle(ahead.popleft()):
                following = self._do_now(effect)
                if following is None:
                    effects.append(effect)
                else:
                    ahead.append(following)
        over = {effect.key for effect in effects if isinstance(effect, Report)}
        for effect in effects:
            if not (isinstance(effect, SayPhase) and effect.key in over):
                self._perform(effect)
        forgotten = [name_of(effect.key, effect.rank) for effect in effects if isinstance(effect, Forget)]
        if forgotten:
            self._runner.send({"do": "forget", "keys": forgotten})

    def _do_now(self, effect: Effect) -> Event | None:
        """The event of an effect that takes no time; None for all others, which `_perform` does."""
        match effect:
            case Prepare(order) if self._preparer.is_quick(order):
                return self._preparer.prepare(order)
            case Collect(key, rank) if self._collector.has_nothing(key, rank):
                return Collected(key, None)
        return None

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Prepare(order):
                key = RunKey(order["task_id"], order["attempt"])
                preparing = self._preparing[key] = self._spawn_task(self._preparer.fetch_and_prepare(order))
                preparing.add_done_callback(lambda done: self._on_prepared(key, done))
            case Abandon(key):
                if key in self._preparing:
                    self._preparing[key].cancel()
            case Spawn(key):
                self._runner.send(self._preparer.start_of(key))
                self._followers.begin(key, self._core.runs[key].rank, *self._preparer.followed_of(key))
            case Stop(key, rank, word, detail):
                grace_s = self._config.grace_s
                stop = {"do": "stop", "key": name_of(key, rank), "word": word, "detail": detail, "grace_s": grace_s}
                self._runner.send(stop)
            case Collect(key, rank):
                self._followers.end(key)
                self._spawn_task(self._collect(key, rank))
            case SayPhase(key, phase):
                self._tell("phase", key, phase=phase)
                if phase == "running":
                    self._services.runs(key)
                else:
                    self._services.ended(key)
            case Report(key, rank, report):
                self._tell("ended", key, rank=rank, report=report)
            case Forget(key, rank):
                self._forget(key, rank)

    def _on_prepared(self, key: RunKey, preparing: asyncio.Task[Event]) -> None:
        """Also where a stop came with the order, so that it was cancelled before it began."""
        self._stager.drop(key.task_id)  # the attempt has them itself now
        self._preparing.pop(key, None)
        if self._closing:
            return
        if preparing.cancelled():
            event: Event = PrepareFailed(key, "CANCELLED", "it was stopped while what it needs was fetched")
        elif problem := preparing.exception():
            event = PrepareFailed(key, "LAUNCH_FAILED", f"cannot prepare it: {problem!r}", True)
        else:
            event = preparing.result()
        self._apply([event])

    async def _collect(self, key: RunKey, rank: int) -> None:
        self._apply([await self._collector.collect(key, rank)])

    def _forget(self, key: RunKey, rank: int) -> None:
        name = name_of(key, rank)
        self._followers.end(key)
        self._preparer.forget(key)
        self._logs.forget(key)
        self._log_keeper.forget(key, rank)
        self._environments.forget(name)
        self._services.forget(key)
        spoilt = name in self._spoilt
        self._spoilt.discard(name)
        if self._workspaces.give_back(name, spoilt):
            self._spawn_task(asyncio.to_thread(self._empty_trash))

    def _empty_trash(self) -> None:
        empty(self._workspaces.trash)
        self._cache.trim()  # datasets that were linked there may go now

    # -- requests to us

    def _on_requests(self, _peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            if self._sidecars.answers(message):
                continue
            if message.kind == "log.read":
                self._spawn_task(self._logs.answer(message, self._is_here))
            elif message.kind == "dial":
                self._spawn_task(self._call_head(message))
            elif message.kind == "served":
                message.reply([self._services.look(RunKey(*one)) for one in message.body["attempts"]])
            elif message.kind == "ping":
                message.reply({"connected": self._scheduler.connected, "attempts": len(self._core.runs)})
            elif message.id:
                message.fail(BadRequest(f"an agent knows no request {message.kind!r}"))

    async def _call_head(self, message: Message) -> None:
        """The head wants a line to one of our servers."""
        uid = self._services.uid_at(message.body["endpoint"])
        try:
            if uid is None:
                raise Unavailable("no server of this worker listens there")
            await self._tunnels.call(message.body["ticket"], message.body["endpoint"], uid)
        except Unavailable as error:
            message.fail(error)
        else:
            message.reply()

    def _is_here(self, key: RunKey) -> bool:
        return key in self._core.runs


def _key(body: dict[str, Any]) -> RunKey:
    return RunKey(body["task_id"], body["attempt"])
