"""The head actor: serves the REST API and brings its wishes to whoever can meet them. Owns nothing durable."""

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, cast

from aiohttp import web

from actors import feed
from actors.code_desk import CodeDesk
from actors.content_keeper import ContentKeeper
from actors.listeners import BACKLOG, borrow
from actors.log_desk import LogDesk
from actors.notes import Notes
from actors.object_desk import ObjectDesk
from actors.plugin_desk import Actors, PluginDesk
from actors.ray_channel import over_ray
from actors.ray_compat import NAMESPACE
from actors.session_desk import SessionDesk
from actors.ways import Ways
from fetchmld.api.app import build_app
from fetchmld.api.context import ADMISSION
from fetchmld.api.head import (
    Anchoring,
    ArtifactEntry,
    Caller,
    ConsistencyProof,
    Ended,
    EventPage,
    EventQuery,
    ExperimentRequest,
    InclusionProof,
    LogChunk,
    Pruning,
    ReservationRequest,
    Root,
    RotatedKey,
    SqlAnswer,
    SqlQuery,
    TaskPage,
    TaskQuery,
    Verification,
)
from fetchmld.api.native import Native
from fetchmld.api.protocol import ApiSite, make_runner
from fetchmld.chance import random_bytes
from fetchmld.channel import REQUEST_TIMEOUT_S, Client, Dial
from fetchmld.config import Config
from fetchmld.core.errors import FetchmlError, NotFound, Unavailable, from_name
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.messages import Fact
from fetchmld.core.model import (
    Change,
    Counts,
    Experiment,
    Explanation,
    Feed,
    Intent,
    Key,
    ReservationView,
    Role,
    TaskId,
    TaskRequest,
    TaskView,
    UserId,
    WorkerView,
)
from fetchmld.measures import SchedulerMeasures
from fetchmld.plugins.secrets import Secrets
from fetchmld.plugins.tokens import Tokens
from fetchmld.store.artifacts import entries_of
from fetchmld.store.code import CodeStore
from fetchmld.store.content import ContentStore
from fetchmld.store.shipped_logs import ShippedLogs
from fetchmld.upstream import Serving, Upstream

log = logging.getLogger(__name__)

ID_ALPHABET: Final = b"abcdefghijklmnopqrstuvwxyz234567"
ID_CHARACTERS: Final = 12
_LETTERS: Final = ID_ALPHABET * (256 // len(ID_ALPHABET))  # of each byte, its five low bits
KEY_CACHE_S: Final = 1.0  # a revoked key is refused within this
SUBMIT_SLICE: Final = 100  # tasks that the scheduler takes at once: some milliseconds, in which no other moves on
CHANGES_MAX: Final = 1_000  # that one who comes back is told one by one
VERIFY_TIMEOUT_S: Final = 600.0
PRUNE_TIMEOUT_S: Final = 3600.0  # what goes is read once more, event by event
ASK_MAX_S: Final = 700.0  # for those before it and itself; the history bounds each (`history_query_s`)
FILES_MAX: Final = 65_536
READY_TIMEOUT_S: Final = 2.0


def new_id() -> str:
    """60 random bits in 12 letters and digits."""
    return random_bytes(ID_CHARACTERS).translate(_LETTERS).decode()


def _asker(caller: Caller) -> dict[str, str]:
    """What a message says of who asks for a change, for the record."""
    return {"user_id": caller.user_id, "ip_address": caller.ip_address, "trace_id": caller.trace_id}


def _by(caller: Caller) -> dict[str, str]:
    """As `_asker`, for what is done to the user of a key."""
    return {"by": caller.user_id, "ip_address": caller.ip_address, "trace_id": caller.trace_id}


class HeadActor:
    """One per cluster. Implements `api.head.Head` over the other actors' sockets."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._config = Config.from_dump(settings)
        self._run_dir = Path(settings["run_dir"])
        self._worker_id: str = settings["worker_id"]  # of the head's own node
        self._objects = ContentStore(self._config.paths.objects)
        code = CodeStore(self._config.paths.code)
        self.code = CodeDesk(code, self._record)
        self.sessions = SessionDesk(self._config.paths.sessions)
        keep, tokens = Secrets(self._config.paths.secrets), Tokens(self._config.paths.task_tokens_key)
        shipped = ShippedLogs(self._config.paths.shipped_logs)
        self.machine_logs = LogDesk(shipped, self._worker_id, self._agent, self.task)
        config = self._config
        self._keeper = ContentKeeper(
            self._objects, shipped, config.log_retention_days, config.artifact_retention_days, self._record
        )
        self._keeping: asyncio.Task[None] | None = None
        self._scheduler = self._client("scheduler")
        self._plugin_actors = Actors(self._run_dir)
        self.plugins = PluginDesk(keep, tokens, self._scheduler, self._plugin_actors)
        self.objects = ObjectDesk(self._objects, code)
        self._history = self._client("history")
        self._audit = self._client("audit")
        self._notes: Notes
        self._native: Native
        self._agents: dict[str, Client] = {}
        self._ways = Ways(self._worker_id, self._agent)
        self._keys: dict[str, tuple[float, Key | None]] = {}
        self._runner: web.AppRunner | None = None

    def _client(self, name: str) -> Client:
        path = self._run_dir / f"{name}.sock"

        async def resolve() -> Path:
            return path

        return Client(resolve)

    # -- life

    async def start(self) -> None:
        for client in (self._scheduler, self._history, self._audit):
            await client.start()
        self._notes = Notes(self._scheduler)
        self._notes.start()
        await self.code.open()
        await self.sessions.open()
        await self.plugins.open()
        self._keeping = asyncio.create_task(self._keeper.run())
        self._take_files()
        app = build_app(self, self._config)
        self._native = Native(self, app[ADMISSION])
        self._runner = make_runner(app)
        await self._runner.setup()
        tls = self._tls()
        for listening in await asyncio.to_thread(borrow, self._run_dir):
            await ApiSite(self._runner, listening, tls, backlog=BACKLOG).start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    @staticmethod
    def _take_files() -> None:
        """Each connection takes a descriptor, and most systems begin with 1,024."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    def _tls(self) -> ssl.SSLContext | None:
        if self._config.tls_cert is None or self._config.tls_key is None:
            return None
        from fetchmld.tls import Identities  # takes a while, and few need it

        return Identities(self._config.tls_cert, self._config.tls_key, self._config.paths.inner_tls).context

    async def ping(self) -> dict[str, Any]:
        return {"started": self._runner is not None}

    async def shutdown(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
            await self._notes.close()
            await self._plugin_actors.close()
        for client in (self._scheduler, self._history, self._audit, *self._agents.values()):
            await client.close()

    # -- what programs on Ray ask

    async def native(self, what: str, about: Any, who: dict[str, str]) -> Any:
        """See `api.native`."""
        return await self._native.answer(what, about, who)

    # -- tasks

    async def submit(
        self, caller: Caller, requests: list[TaskRequest], intents: Sequence[Intent | None] = ()
    ) -> list[TaskView | FetchmlError]:
        tasks: list[dict[str, Any]] = [{"id": new_id(), "request": request} for request in requests]
        for task, request in zip(tasks, requests, strict=True):
            if "depends_on" in request:
                task["known_ended"] = await self._ended_needs(request)
        for task, intent in zip(tasks, intents, strict=False):
            if intent is not None:
                task["intent"] = asdict(intent)
        outcomes: list[TaskView | FetchmlError] = []
        for at in range(0, len(tasks), SUBMIT_SLICE):
            body = {**_asker(caller), "tasks": tasks[at : at + SUBMIT_SLICE]}
            try:
                found = (await self._scheduler.request("submit", body)).body
            except FetchmlError as error:
                if not outcomes:
                    raise
                return outcomes + [error] * (len(tasks) - at)  # those before it are on record, and stay so
            outcomes += [one["task"] if "task" in one else from_name(*one["refused"]) for one in found]
        return outcomes

    async def _ended_needs(self, request: TaskRequest) -> dict[str, str]:
        """How those of the task's dependencies ended that the scheduler may have forgotten."""
        found = [await self.task(TaskId(needed["task_id"])) for needed in request.get("depends_on", ())]
        return {view["id"]: view["status"] for view in found if view is not None and view["status"] in ENDED}

    async def set_priority(self, caller: Caller, task_id: TaskId, priority: int) -> TaskView:
        live = (await self._scheduler.request("view", {"task_id": task_id})).body
        body = {
            "task_id": task_id,
            "priority": priority,
            "known_ended": live is None and await self._ended_task(task_id) is not None,
            **_asker(caller),
        }
        return cast(TaskView, (await self._scheduler.request("priority", body)).body)

    async def explain(self, task_id: TaskId) -> Explanation | None:
        return cast("Explanation | None", (await self._scheduler.request("explain", {"task_id": task_id})).body)

    async def cancel(self, caller: Caller, task_id: TaskId) -> None:
        live = (await self._scheduler.request("view", {"task_id": task_id})).body
        known_ended = live is None and await self._ended_task(task_id) is not None
        if live is None and not known_ended:
            raise NotFound(f"no task {task_id}")
        body = {
            "task_id": task_id,
            "known_ended": known_ended,
            **_asker(caller),
        }
        await self._scheduler.request("cancel", body)

    async def task(self, task_id: TaskId) -> TaskView | None:
        live = (await self._scheduler.request("view", {"task_id": task_id})).body
        return cast(TaskView, live) if live is not None else await self._ended_task(task_id)

    async def _ended_task(self, task_id: TaskId) -> TaskView | None:
        found = await self._history.request("task", {"id": task_id, "min_seq": await self._durable_seq()})
        return cast("TaskView | None", found.body)

    async def wait(self, task_id: TaskId, timeout_s: float) -> TaskView | None:
        try:
            body = {"task_id": task_id, "timeout_s": timeout_s}
            ended = (await self._scheduler.request("wait", body, timeout_s=timeout_s)).body
        except Unavailable:
            ended = None  # it goes on, or the scheduler does not answer: asking again tells which
        return cast(TaskView, ended) if ended is not None else await self.task(task_id)

    async def task_at(self, task_id: TaskId, at_us: int) -> TaskView | None:
        return cast("TaskView | None", await self._ask_history("task_at", {"id": task_id, "at_us": at_us}, ASK_MAX_S))

    async def ask_history(self, query: SqlQuery) -> SqlAnswer:
        return cast(SqlAnswer, await self._ask_history("ask", asdict(query), ASK_MAX_S))

    async def tasks(self, query: TaskQuery) -> TaskPage:
        if query.at_us is not None:
            return cast(TaskPage, await self._ask_history("tasks_at", {"query": asdict(query)}, ASK_MAX_S))
        return await self._with_live(await self._ask_history("tasks", {"query": asdict(query)}))

    async def _with_live(self, page: TaskPage) -> TaskPage:
        """The page with those that have not ended as they are now: the index knows no phases."""
        live = [task["id"] for task in page["tasks"] if task["status"] not in ENDED]
        if live:
            views = (await self._scheduler.request("views", {"task_ids": live})).body
            newer = {view["id"]: view for view in views if view is not None}
            page["tasks"] = [newer.get(task["id"], task) for task in page["tasks"]]
        return page

    async def _ask_history(self, kind: str, body: dict[str, Any], timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        """Ask the history for something that holds all that anybody has been told up to now."""
        asked = {**body, "min_seq": await self._durable_seq()}
        return (await self._history.request(kind, asked, timeout_s=timeout_s)).body

    async def _durable_seq(self) -> int:
        return int((await self._scheduler.request("durable")).body["seq"])

    # -- logs and artifacts

    async def logs(self, task: TaskView, offset: int, limit_bytes: int, wait_s: float) -> LogChunk:
        return LogChunk(*await self.machine_logs.read(task, offset, limit_bytes, wait_s))

    async def _agent(self, worker_id: str) -> Client:
        if worker_id not in self._agents:
            client = self._agents[worker_id] = self._agent_client(worker_id)
            await client.start()
        return self._agents[worker_id]

    def _agent_client(self, worker_id: str) -> Client:
        if worker_id == self._worker_id:
            return self._client(f"agent-{worker_id}")

        async def resolve() -> Dial:
            return over_ray(f"agent:{worker_id}", NAMESPACE)

        return Client(resolve)

    async def artifacts(self, task: TaskView) -> list[ArtifactEntry]:
        report = task["report"] or {}
        if not report.keys() & {"artifacts", "artifacts_of_others"}:
            return []
        if self._keeper.has_expired(report.get("ended_at", task["ended_at"] or 0.0)):
            days = self._config.artifact_retention_days
            raise NotFound(f"the artifacts of task {task['id']} were kept for {days:g} days (artifact_retention_days)")
        return cast(list[ArtifactEntry], await asyncio.to_thread(entries_of, report, self._objects.read))

    async def artifact(self, entry: ArtifactEntry, offset: int = 0) -> AsyncIterator[bytes]:
        file = await asyncio.to_thread(self._objects.open, entry["hash"])
        with file:
            file.seek(offset)
            while chunk := await asyncio.to_thread(file.read, 2**18):
                yield chunk

    # -- the cluster

    async def counts(self) -> Counts:
        return cast(Counts, (await self._scheduler.request("counts")).body)

    async def measures(self) -> SchedulerMeasures:
        return cast(SchedulerMeasures, (await self._scheduler.request("measures")).body)

    async def ended(self) -> Ended:
        return cast(Ended, await self._ask_history("ended", {}))

    async def workers(self) -> list[WorkerView]:
        return cast(list[WorkerView], (await self._scheduler.request("workers")).body)

    async def drain(self, caller: Caller, worker_id: str, wanted: bool) -> WorkerView:
        body = {
            "worker_id": worker_id,
            "wanted": wanted,
            **_asker(caller),
        }
        return cast(WorkerView, (await self._scheduler.request("drain", body)).body)

    async def release_gpu(self, caller: Caller, worker_id: str, index: int) -> WorkerView:
        by = {"user_id": caller.user_id, "ip_address": caller.ip_address}
        body = {"worker_id": worker_id, "index": index, **by}
        return cast(WorkerView, (await self._scheduler.request("gpu_release", body)).body)

    async def services(self) -> list[TaskView]:
        return cast(list[TaskView], (await self._scheduler.request("services")).body)

    async def serving(self, tasks: Sequence[TaskView]) -> dict[str, Serving]:
        return await self._ways.serving(tasks)

    async def reach(self, upstream: Upstream) -> socket.socket:
        return await self._ways.reach(upstream)

    def called(self, ticket: str) -> socket.socket:
        return self._ways.called(ticket)

    async def reservations(self) -> list[ReservationView]:
        return cast(list[ReservationView], (await self._scheduler.request("reservations")).body)

    async def reserve(
        self, caller: Caller, wanted: ReservationRequest, intent: Intent | None = None
    ) -> ReservationView:
        body = {"reservation_id": new_id(), **_asker(caller), **asdict(wanted), "intent": intent and asdict(intent)}
        return cast(ReservationView, (await self._scheduler.request("reserve", body)).body)

    async def release(self, caller: Caller, reservation_id: str, any_user: bool) -> None:
        body = {
            "reservation_id": reservation_id,
            "any_user": any_user,
            **_asker(caller),
        }
        await self._scheduler.request("unreserve", body)

    # -- the record

    async def events(self, query: EventQuery) -> EventPage:
        return cast(EventPage, await self._ask_history("events", {"query": asdict(query)}))

    async def verify(self, caller: Caller) -> Verification:
        result = cast(Verification, (await self._audit.request("verify", timeout_s=VERIFY_TIMEOUT_S)).body)
        metadata = {name: result[name] for name in ("valid", "total_events", "first_bad", "root_hash", "index_valid")}
        fact = Fact("audit_verified", "audit.verify", "ledger", caller.user_id, result["valid"], caller.ip_address)
        fact.metadata = {**metadata, "trace_id": caller.trace_id}
        await self._record(fact)
        return result

    async def root(self) -> Root:
        durable = (await self._scheduler.request("durable")).body
        return Root(
            root_hash=durable["root_hash"],
            at_us=durable["at_us"],
            total_events=durable["seq"] + 1,
            anchoring=await self._anchoring(),
        )

    async def _record(self, fact: Fact) -> None:
        """Put a fact on record; durable when this returns."""
        await self._scheduler.request("fact", asdict(fact))

    async def _anchoring(self) -> Anchoring:
        try:
            return cast(Anchoring, (await self._audit.request("status", timeout_s=READY_TIMEOUT_S)).body)
        except Unavailable as error:
            return Anchoring(anchored=False, checkpoint_size=0, sinks=[], problem=error.message)

    async def checkpoint(self) -> str:
        return cast(str, (await self._audit.request("checkpoint")).body)

    async def prove(self, seq: int, size: int | None) -> InclusionProof:
        return cast(InclusionProof, (await self._audit.request("prove", {"seq": seq, "size": size})).body)

    async def prove_consistency(self, old: int, new: int | None) -> ConsistencyProof:
        return cast(ConsistencyProof, (await self._audit.request("consistency", {"old": old, "new": new})).body)

    async def prune(self, caller: Caller, before_us: int, dry_run: bool) -> Pruning:
        fact = Fact("plugin_configured", "audit.policy", "ledger", caller.user_id, True, caller.ip_address)
        fact.metadata = {"trace_id": caller.trace_id}
        body = {"before_us": before_us, "dry_run": dry_run, "fact": asdict(fact)}
        return cast(Pruning, (await self._audit.request("prune", body, timeout_s=PRUNE_TIMEOUT_S)).body)

    async def rotate_key(self, caller: Caller) -> RotatedKey:
        fact = Fact("auth_attempt", "key.rotate", "ledger", caller.user_id, True, caller.ip_address)
        fact.metadata = {"trace_id": caller.trace_id}
        return cast(RotatedKey, (await self._audit.request("rotate", asdict(fact))).body)

    # -- experiments

    async def experiments(self) -> list[Experiment]:
        return cast(list[Experiment], await self._ask_history("experiments", {}))

    async def experiment_tasks(self, experiment_id: str, limit: int, offset: int) -> TaskPage:
        asked = {"experiment_id": experiment_id, "limit": limit, "offset": offset}
        return await self._with_live(await self._ask_history("experiment_tasks", asked))

    async def create_experiment(
        self, caller: Caller, wanted: ExperimentRequest, intent: Intent | None = None
    ) -> Experiment:
        body = {"experiment_id": new_id(), **asdict(wanted), **_asker(caller), "intent": intent and asdict(intent)}
        return cast(Experiment, (await self._scheduler.request("experiment", body)).body)

    async def update_experiment(self, caller: Caller, experiment_id: str, changes: dict[str, str]) -> Experiment:
        body = {"experiment_id": experiment_id, "changes": changes, **_asker(caller)}
        return cast(Experiment, (await self._scheduler.request("experiment_update", body)).body)

    # -- changes

    async def newest(self) -> int:
        return await self._durable_seq()

    async def changes(self) -> AsyncGenerator[Feed]:
        try:
            async with contextlib.aclosing(feed.watch(self._run_dir / "scheduler.sock")) as feeds:
                async for news in feeds:
                    yield news
        except OSError as error:
            raise Unavailable(f"cannot reach the scheduler: {error}; try again") from error

    async def changes_since(self, seq: int) -> list[Change] | None:
        found = await self._ask_history("changes", {"after": seq, "limit": CHANGES_MAX + 1})
        if found is None or len(found) > CHANGES_MAX:
            return None
        views = await self._views(list(dict.fromkeys(TaskId(task_id) for _, _, task_id in found)))
        return [
            Change(seq=number, action=action, task=views[task_id])
            for number, action, task_id in found
            if task_id in views
        ]

    async def _views(self, task_ids: list[TaskId]) -> dict[TaskId, TaskView]:
        """The tasks that are still known, as they are now."""
        live = (await self._scheduler.request("views", {"task_ids": task_ids})).body
        found = {task_id: view or await self._ended_task(task_id) for task_id, view in zip(task_ids, live, strict=True)}
        return {task_id: view for task_id, view in found.items() if view is not None}

    # -- plugins

    async def plugin_upstream(self, name: str) -> Upstream:
        return await self.plugins.upstream(name)

    async def task_token(self, token: str) -> tuple[Caller, str] | None:
        found = await self.plugins.token_holder(token)
        if found is None:
            return None
        user_id, opens = found
        return Caller(UserId(user_id), "task", f"task:{opens.task_id}", "", ""), opens.plugin

    # -- keys and facts

    async def key(self, sha256: str) -> Key | None:
        now = time.monotonic()
        cached = self._keys.get(sha256)
        if cached is not None and now - cached[0] < KEY_CACHE_S:
            return cached[1]
        found = (await self._scheduler.request("key", {"sha256": sha256})).body
        key = None if found is None else Key(**found)
        if key is not None:  # unknown ones are not kept: guesses must not fill our memory
            self._keys[sha256] = (now, key)
        return key

    async def keys(self) -> list[Key]:
        return [Key(**found) for found in (await self._scheduler.request("keys")).body]

    async def create_key(self, caller: Caller, user_id: str, role: Role, sha256: str, expires_at: float) -> Key:
        body = {
            "key_id": new_id(),
            "user_id": user_id,
            "role": role,
            "sha256": sha256,
            "expires_at": expires_at,
            **_by(caller),
        }
        return Key(**(await self._scheduler.request("create_key", body)).body)

    async def revoke_key(self, caller: Caller, key_id: str) -> None:
        await self._scheduler.request("revoke_key", {"key_id": key_id, **_by(caller)})
        self._keys.clear()

    def note(self, fact: Fact) -> None:
        self._notes.note(fact)

    async def ready(self) -> dict[Literal["scheduler", "history", "audit", "worker"], bool]:
        return {
            "scheduler": self._scheduler.connected,
            "history": self._history.connected,
            "audit": self._audit.connected,
            "worker": await self._has_worker(),
        }

    async def _has_worker(self) -> bool:
        if not self._scheduler.connected:
            return False
        workers = (await self._scheduler.request("workers", timeout_s=READY_TIMEOUT_S)).body
        return any(worker["status"] == "active" for worker in workers)
