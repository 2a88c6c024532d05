"""The agent actor: speaks for one node. Turns what the scheduler and the runner say into events of `core.agent`, and
performs its effects. Owns the node's directories and caches, and nothing that it could not find again: when it dies, the
runner and the tasks never notice, and its successor asks the runner what is there.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from actors import boxing, containers, node
from actors.cache_news import CacheNews
from actors.environments import Environment, Environments
from actors.gpus import NodeGpus
from actors.log_reader import LogReader
from actors.ray_channel import Gate, over_ray
from actors.ray_compat import NAMESPACE
from actors.requirements import wanted_by
from actors.runner_link import RunnerLink
from actors.task_code import CodeSource, TaskCode, code_of, read_fact
from actors.workspace import (
    CannotRun,
    Workspace,
    empty,
    environment_of,
    program_of,
    rendezvous_of,
    script_of,
    words_of,
)
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
    Prepared,
    PrepareFailed,
    Report,
    RunKey,
    RunnerReturned,
    SayPhase,
    Spawn,
    Started,
    StartFailed,
    Stop,
    StopAsked,
)
from fetchmld.core.errors import BadRequest
from fetchmld.core.line import Hearing
from fetchmld.core.messages import Fact, LaunchOrder
from fetchmld.core.model import Capacity, DatasetSpec, EndReport, LogPlace
from fetchmld.runner import frames
from fetchmld.runner.isolation import Wanted
from fetchmld.runner.loop import boottime
from fetchmld.runner.proctree import boot_id
from fetchmld.store.code import CodeStore
from fetchmld.store.content import ContentStore, Kept
from fetchmld.store.dataset_cache import Dataset, DatasetCache
from fetchmld.store.datasets import DatasetError, DatasetStore, mount, shown, variable_of
from fetchmld.store.remote_code import RemoteCode
from fetchmld.store.remote_content import RemoteContent, worker_key

log = logging.getLogger(__name__)

LEASE_MARGIN_S: Final = 30.0  # an attempt's lease ends this long before its task may start elsewhere
UNSENT_MAX: Final = 10_000  # accesses of datasets and snapshots that wait for the scheduler to come back
NOT_ITS_DOING: Final = ("LEASE_EXPIRED", "WORKER_LOST")  # ends that say nothing of the program: retried elsewhere
_FETCHED: Final = frozenset({"dataset_specs", "snapshot_id"})  # fields of a request that take time to prepare
COLLECTS_MAX: Final = 2  # at once: they read and sync much


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
        self._objects, self._code = self._content(settings.get("token_path", ""))
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
        )
        self._logs = LogReader(str(paths.node_dir / "logs"), self._config.log_bytes_max)
        self._runner = RunnerLink(paths.node_dir, run_dir / "runner.sock", self._on_runner)
        self._scheduler = Client(self._scheduler_path, self._on_scheduler, self._greet)
        self._files = ThreadPoolExecutor(COLLECTS_MAX, "files")
        self._starts: dict[RunKey, frames.Message] = {}  # prepared, not known to run yet
        self._preparing: dict[RunKey, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsent: list[tuple[str, dict[str, Any]]] = []
        self._capacity = Capacity(0, 0, 0, 0)
        self._containers: list[str] = []  # the container commands that work here, best first
        self._gpus = NodeGpus(self._config)
        self._address: str = settings.get("address", "127.0.0.1")  # where other nodes find this one
        self._native = True
        self._isolation: dict[str, Any] = {}
        self._spoilt: set[str] = set()  # names of attempts with a process that cannot be ended
        self._server: Server | None = None
        self._gate: Gate
        self._closing = False

    def _content(self, token_path: str) -> tuple[ContentStore | RemoteContent, CodeSource]:
        """Where artifacts go, and where code comes from."""
        paths = self._config.paths
        if not self._head_url:
            return ContentStore(paths.objects), CodeStore(paths.code)
        remote = RemoteContent(self._head_url, worker_key(Path(token_path).read_text().strip()))
        return remote, RemoteCode(remote, paths.node_dir / "code")

    # -- life

    async def start(self) -> None:
        """Find the runner, or start one, learn what it has, and join the scheduler."""
        self._workspaces.make_roots()
        await asyncio.to_thread(self._environments.open)
        gpus = await asyncio.to_thread(self._gpus.find)
        self._gpus.start()
        self._capacity = await asyncio.to_thread(node.capacity_of_node, self._config, gpus)
        config = self._config
        memory_bytes = self._capacity.memory_gb * boxing.GB
        await self._runner.start(Wanted(config.isolation, config.job_uid_first, config.job_uid_count, memory_bytes))
        boxing.check(config, self._isolation)
        self._containers = await asyncio.to_thread(containers.found, isolated="uids" in self._isolation)
        self._discard_strangers()
        self._server = await serve(self._socket, self._on_requests)
        self._gate = Gate(self._server)
        await self._scheduler.start()
        self._spawn_task(self._beat())
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do

    async def ping(self) -> dict[str, Any]:
        return {
            "started": self._server is not None,
            "worker_id": self._worker_id,
            "runner_pid": self._runner.pid if self._server is not None else 0,
            "attempts": len(self._core.runs),
            "isolation": {name: self._isolation.get(name, "") for name in ("label", "why")},
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
        await self._runner.close()
        await asyncio.to_thread(self._gpus.close)
        await asyncio.to_thread(self._datasets.close)
        await asyncio.to_thread(self._environments.close)
        self._files.shutdown()

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("agent.task_failed", exc_info=task.exception())

    def _discard_strangers(self) -> None:
        """Directories of attempts that nobody knows any more: an agent before us died while it prepared or removed."""
        known = {_name(run.key, run.rank) for run in self._core.runs.values()}
        self._workspaces.discard_strangers(known)
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
            "capacity": asdict(self._capacity),
            "attempts": [asdict(attempt) for attempt in self._core.live()],
            "detail": {
                **node.detail_of_node(self._isolation),
                "containers": self._containers,
                **self._gpus.detail(),
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

    # -- the runner

    def _on_runner(self, messages: list[frames.Message]) -> None:
        events: list[Event] = []
        for message in messages:
            match message["event"]:
                case "started":
                    key, rank = _split(message["key"])
                    self._logs.runs(key, message["slot"])
                    events.append(Started(key, rank))
                case "exited":
                    events.append(self._exited(message))
                case "start_failed":
                    events.append(self._start_failed(message))
                case "state":
                    events += self._on_state(message)
        self._apply(events)

    def _on_state(self, state: frames.Message) -> list[Event]:
        self._native, self._isolation = state["native"], state["isolation"]
        first, count = self._isolation.get("uids", (0, 0))
        self._workspaces.use(range(first, first + count))
        self._datasets.public_only = count > 0
        running = []
        for found in state["running"]:
            key, rank = _split(found["key"])
            running.append((key, rank))
            if found["slot"] >= 0:
                self._logs.runs(key, found["slot"])
        ended = [self._exited(found) for found in state["ended"]]
        log.info("runner.found pid=%d running=%d ended=%d", state["pid"], len(running), len(ended))
        return [RunnerReturned(running, [event.key for event in ended]), *ended]

    def _exited(self, message: frames.Message) -> Exited:
        key, rank = _split(message["key"])
        put = message["log"]
        if message.get("unkillable"):
            self._spoilt.add(message["key"])
        place = LogPlace(worker_id=self._worker_id, file=put["file"], offset=put["offset"], length=put["length"])
        self._logs.ended(key, place)
        report = EndReport(log=place, ended_at=message["at"])
        if message["word"]:
            report["word"], report["detail"] = message["word"], message["detail"]
        elif "signal" in message:
            report["signal"] = message["signal"]
        else:
            report["exit_code"] = message["code"]
        if message["word"] in NOT_ITS_DOING:
            report["infrastructure"] = True
        if "usage" in message:
            report["usage"] = message["usage"]
        return Exited(key, rank, report)

    def _start_failed(self, message: frames.Message) -> StartFailed:
        """What a failed step of a start means to the user who asked for it."""
        key, _ = _split(message["key"])
        step, number = message["step"], message["errno"]
        program, said = self._starts.get(key, {}).get("path", "the program"), os.strerror(number)
        if step == "execute" and number in (errno.ENOENT, errno.ENOTDIR):
            return StartFailed(key, "ENTRYPOINT_NOT_FOUND", f"{program}, or the interpreter that it names: {said}")
        if step == "execute" and number not in (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EIO):
            return StartFailed(key, "ENTRYPOINT_NOT_EXECUTABLE", f"{program} cannot be executed: {said}")
        return StartFailed(key, "LAUNCH_FAILED", f"{step}: {said}", infrastructure=True)

    # -- the core

    def _apply(self, events: list[Event]) -> None:
        """Let the core handle `events` and what follows from them at once; phases already over are not told."""
        effects: list[Effect] = []
        while events:
            for effect in self._core.handle(events.pop(0)):
                following = self._do_now(effect)
                if following is None:
                    effects.append(effect)
                else:
                    events.append(following)
        over = {effect.key for effect in effects if isinstance(effect, Report)}
        for effect in effects:
            if not (isinstance(effect, SayPhase) and effect.key in over):
                self._perform(effect)

    def _do_now(self, effect: Effect) -> Event | None:
        """The event of an effect that takes no time; None for all others, which `_perform` does."""
        match effect:
            case Prepare(order) if not order["request"].keys() & _FETCHED:
                return self._prepare(order, {})
            case Collect(key, rank) if not (
                self._had_gpus(key) or self._workspaces.of(_name(key, rank)).has_leavings()
            ):
                return Collected(key, None)
        return None

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Prepare(order):
                key = RunKey(order["task_id"], order["attempt"])
                self._preparing[key] = self._spawn_task(self._fetch_and_prepare(key, order))
            case Abandon(key):
                if key in self._preparing:
                    self._preparing[key].cancel()
            case Spawn(key):
                self._runner.send(self._starts[key])
            case Stop(key, rank, word, detail):
                grace_s = self._config.grace_s
                stop = {"do": "stop", "key": _name(key, rank), "word": word, "detail": detail, "grace_s": grace_s}
                self._runner.send(stop)
            case Collect(key, rank):
                self._spawn_task(self._collect(key, rank))
            case SayPhase(key, phase):
                self._tell("phase", key, phase=phase)
            case Report(key, rank, report):
                self._tell("ended", key, rank=rank, report=report)
            case Forget(key, rank):
                self._forget(key, rank)

    # -- preparing

    def _prepare(
        self,
        order: LaunchOrder,
        datasets: dict[str, tuple[DatasetSpec, Dataset]],
        code: TaskCode | None = None,
        python: Environment | None = None,
    ) -> Event:
        """Make the directory, find the program, and have the start ready."""
        key, rank = RunKey(order["task_id"], order["attempt"]), order["rank"]
        request = order["request"]
        try:
            workspace = self._workspaces.create(_name(key, rank))
            self._check_rendezvous(order)
            if code is not None:
                code.unpack(workspace.work)
            places = {
                variable_of(name): str(mount(dataset, Path(workspace.work), spec["mount_path"]))
                for name, (spec, dataset) in datasets.items()
            }
            if places or code is not None:
                workspace.hand_over()
            if "image" in request:
                env = environment_of(order, workspace, self._capacity.gpus, places)
                words = words_of(request, workspace.work)
                argv = containers.command(self._containers, request, words, _name(key, rank), workspace, env)
                path = argv[0]
                workspace.mark_container()
            elif python is None:
                env = environment_of(order, workspace, self._capacity.gpus, places)
                path, argv = program_of(request, workspace.work, env["PATH"])
            else:
                self._environments.hold(python, _name(key, rank))
                env = environment_of(order, workspace, self._capacity.gpus, places, python.variables)
                path, argv = program_of(request, workspace.work, env["PATH"], python.python)
        except CannotRun as error:
            return PrepareFailed(key, error.word, error.detail, error.infrastructure)
        except ValueError as error:  # of a mount path
            return PrepareFailed(key, "LAUNCH_FAILED", str(error))
        except OSError as error:
            return PrepareFailed(key, "LAUNCH_FAILED", f"cannot make the task's directory: {error}", True)
        self._starts[key] = {
            "do": "start",
            "key": _name(key, rank),
            "path": path,
            "argv": argv,
            "env": env,
            "cwd": workspace.work,
            "uid": workspace.uid,
            **boxing.box_of(request, self._config, self._capacity, self._isolation),
            "grace_s": self._config.grace_s,
            "time_limit_s": request.get("time_limit_s", 0),
            "prelude": self._logs.prelude(key),
        }
        return Prepared(key)

    def _check_rendezvous(self, order: LaunchOrder) -> None:
        """Raises CannotRun where this is a gang's first node, and a stranger has the port that its members are told."""
        place = rendezvous_of(order)
        if place is not None and order["rank"] == 0 and not node.is_free(place[1]):
            raise CannotRun("LAUNCH_FAILED", f"port {place[1]}, for the gang to meet, is in use here", True)

    async def _fetch_and_prepare(self, key: RunKey, order: LaunchOrder) -> None:
        event: Event = PrepareFailed(key, "CANCELLED", "it was stopped while what it needs was fetched")
        datasets: dict[str, tuple[DatasetSpec, Dataset]] = {}
        python: Environment | None = None
        try:
            code = await self._task_code(order)
            for spec in order["request"].get("dataset_specs", ()):
                datasets[spec["name"]] = (spec, await self._dataset(key, spec))
            python = await self._python(key, order, code)
            event = await _finished(asyncio.to_thread(self._prepare, order, datasets, code, python))
        except (DatasetError, CannotRun) as error:
            event = PrepareFailed(key, error.word, error.detail, error.infrastructure)
        finally:
            for _, dataset in datasets.values():
                self._datasets.let_go(dataset)
            if python is not None:
                self._environments.let_go(python)
            self._preparing.pop(key, None)
            if not self._closing:
                self._apply([event])

    async def _task_code(self, order: LaunchOrder) -> TaskCode | None:
        """The snapshot that the task runs in, if it has one; the record hears of it."""
        snapshot_id = order["request"].get("snapshot_id")
        if snapshot_id is None:
            return None
        try:
            code = await code_of(self._code, snapshot_id)
        except CannotRun as error:
            self._record(read_fact(order, self._worker_id, snapshot_id, error, None))
            raise
        self._record(read_fact(order, self._worker_id, snapshot_id, None, code))
        return code

    async def _python(self, key: RunKey, order: LaunchOrder, code: TaskCode | None) -> Environment | None:
        """The environment that the task's code asks for; None where it asks for none."""
        if code is None or "image" in order["request"]:  # an image brings its own
            return None
        indexes = self._config.environment_indexes
        wanted = await asyncio.to_thread(wanted_by, code, script_of(order["request"]), indexes)
        if wanted is None:
            return None
        return await self._environments.get(wanted, lambda line: self._logs.prepares(key, line))

    def _record(self, fact: Fact) -> None:
        """Have a fact put on record, once the scheduler is there."""
        if self._scheduler.connected:
            self._scheduler.post("fact", asdict(fact))
        elif len(self._unsent) < UNSENT_MAX:
            self._unsent.append(("fact", asdict(fact)))

    async def _dataset(self, key: RunKey, spec: DatasetSpec) -> Dataset:
        """Fetch one dataset, or find it in the cache; either way, and when it fails, the record hears of it."""
        access = {"name": spec["name"], "source": shown(spec["source"])}
        try:
            found = await self._datasets.get(spec)
        except DatasetError as error:
            self._tell("dataset", key, **access, success=False, error=str(error), sha256=spec.get("sha256", ""))
            raise
        fields = {"sha256": found.sha256, "total_bytes": found.total_bytes, "cached": found.cached}
        self._tell("dataset", key, **access, success=True, **fields)
        return found

    # -- the end

    async def _collect(self, key: RunKey, rank: int) -> None:
        workspace = self._workspaces.of(_name(key, rank))
        loop = asyncio.get_running_loop()
        if workspace.is_container:
            await loop.run_in_executor(self._files, containers.remove, self._containers, _name(key, rank))
        left = await self._check_gpus(key)
        if not workspace.has_output():
            self._apply([Collected(key, None, left)])
            return
        try:
            kept = await loop.run_in_executor(self._files, self._put_output, workspace)
        except OSError as error:
            log.error("agent.collect_failed task_id=%s attempt=%d error=%s", *key, error)
            self._apply([Collected(key, None, f"its output could not be collected: {error}")])
            return
        detail = ""
        if kept.left_out:
            shown_paths = ", ".join(kept.left_out[:5]) + (", ..." if len(kept.left_out) > 5 else "")
            detail = f"{len(kept.left_out)} paths of the output were left out: {shown_paths}"
        self._apply([Collected(key, kept.artifacts, "; ".join(filter(None, (detail, left))))])

    def _had_gpus(self, key: RunKey) -> bool:
        """Whether the attempt may have used GPUs that we can look at: an earlier agent's may."""
        start = self._starts.get(key)
        return self._gpus.are_watched and (start is None or bool(start["env"]["CUDA_VISIBLE_DEVICES"]))

    async def _check_gpus(self, key: RunKey) -> str:
        """What is wrong with the attempt's GPUs is said before its end is; what is left in use there, with it."""
        if not self._had_gpus(key):
            return ""
        env = self._starts[key]["env"] if key in self._starts else {}
        left = await self._gpus.after(env.get("CUDA_VISIBLE_DEVICES", "").split(","))
        if self._gpus.faults():
            self._say_beat()
        return left

    def _put_output(self, workspace: Workspace) -> Kept:
        return self._objects.put_tree(Path(workspace.output), owner=workspace.uid)

    def _forget(self, key: RunKey, rank: int) -> None:
        name = _name(key, rank)
        self._starts.pop(key, None)
        self._logs.forget(key)
        self._runner.send({"do": "forget", "keys": [name]})
        self._environments.forget(name)
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
            if message.kind == "log.read":
                self._spawn_task(self._logs.answer(message, self._is_here))
            elif message.kind == "ping":
                message.reply({"connected": self._scheduler.connected})
            elif message.id:
                message.fail(BadRequest(f"an agent knows no request {message.kind!r}"))

    def _is_here(self, key: RunKey) -> bool:
        return key in self._core.runs


async def _finished(work: Coroutine[Any, Any, Event]) -> Event:
    """The result of `work`, which is let finish also when we are cancelled: a thread cannot be called back."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task


def _name(key: RunKey, rank: int) -> str:
    """What the runner and the directories call an attempt."""
    return f"{key.task_id}-{key.attempt}-{rank}"


def _split(name: str) -> tuple[RunKey, int]:
    task_id, attempt, rank = name.rsplit("-", 2)
    return RunKey(task_id, int(attempt)), int(rank)


def _key(body: dict[str, Any]) -> RunKey:
    return RunKey(body["task_id"], body["attempt"])
