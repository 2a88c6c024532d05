"""A `Head` without a cluster: the real scheduler core, one worker, the record in a list, logs and files in memory."""

import asyncio
import hashlib
import itertools
import socket
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

from actors.code_desk import CodeDesk
from actors.counting import Counting
from actors.log_desk import LogDesk
from actors.mailbox import EVENTS
from actors.object_desk import ObjectDesk
from actors.plugin_desk import PluginDesk
from actors.session_desk import SessionDesk
from actors.ways import Ways
from fetchmld.api.head import (
    Anchoring,
    ArtifactEntry,
    Caller,
    ConsistencyProof,
    Ended,
    EventPage,
    EventQuery,
    EventRow,
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
from fetchmld.channel import Client
from fetchmld.channel import Reply as ChannelReply
from fetchmld.core.arrays import element_id
from fetchmld.core.errors import FetchmlError, NotFound, Unavailable
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.merkle import leaf_hash
from fetchmld.core.messages import (
    AttemptEnded,
    CancelRequested,
    DrainChanged,
    Effect,
    Event,
    ExperimentCreated,
    ExperimentUpdated,
    Fact,
    FactNoted,
    GpuReleaseAsked,
    HeartbeatReceived,
    KeyCreated,
    KeyRevoked,
    Persist,
    PhaseReported,
    PriorityChanged,
    Reply,
    ReservationAsked,
    ReservationReleased,
    TaskChanged,
    TaskSubmitted,
    WorkerJoined,
)
from fetchmld.core.model import (
    ArtifactSet,
    Capacity,
    Change,
    Counts,
    EndReport,
    Experiment,
    Explanation,
    Feed,
    Gpu,
    Intent,
    JupyterRequest,
    Key,
    LogPlace,
    ReservationView,
    Role,
    TaskId,
    TaskRequest,
    TaskView,
    Usage,
    UserId,
    WorkerId,
    WorkerView,
)
from fetchmld.core.scheduler import Policy, Scheduler
from fetchmld.measures import SchedulerMeasures
from fetchmld.plugins.secrets import Secrets
from fetchmld.plugins.tokens import Tokens
from fetchmld.store.code import CodeStore
from fetchmld.store.content import ContentStore
from fetchmld.store.shipped_logs import ShippedLogs
from fetchmld.upstream import Serving, Upstream
from tests.memory_log import MemoryLog

WORKER = WorkerId("w1")

Part = Literal["scheduler", "history", "audit", "worker"]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class _Asked:
    """The scheduler's socket, as far as plugins need it."""

    def __init__(self, head: "LocalHead") -> None:
        self._head = head

    def post(self, kind: str, body: Any = None) -> None:
        raise AssertionError(kind)

    async def request(self, kind: str, body: Any = None, *, timeout_s: float = 0.0) -> ChannelReply:
        match kind:
            case "plugins":
                return ChannelReply([asdict(one) for one in self._head.core.state.plugins.values()], b"")
            case "view":
                return ChannelReply(self._head.core.view(body["task_id"]), b"")
            case "configure_plugin":
                self._head._ask(EVENTS[kind](body, time.time_ns() // 1000, 1)[0])
                return ChannelReply(None, b"")
        raise AssertionError(kind)


class _Nobody:
    """The actor of a plugin that does not run."""

    def post(self, kind: str, body: Any = None) -> None:
        pass

    async def request(self, kind: str, body: Any = None, *, timeout_s: float = 0.0) -> ChannelReply:
        raise Unavailable("it does not run")


NOBODY = _Nobody()


async def _no_agent(worker_id: str) -> Client:
    raise NotFound(f"there is no worker {worker_id}")


class LocalHead:
    """Implements `fetchmld.api.head.Head`. The methods below `-- the test's side` are what the world does to it."""

    def __init__(self, cpu: int = 4, code_dir: Path = Path("/nonexistent")) -> None:
        code = CodeStore(code_dir)
        self.code = CodeDesk(code, self._record)
        self.store = ContentStore(code_dir.with_name("objects"))
        self.objects = ObjectDesk(self.store, code)
        self.sessions = SessionDesk(code_dir.parent.parent / "sessions.json")
        secret_dir = code_dir.with_name("secrets")
        self.shipped = ShippedLogs(code_dir.with_name("logs"))
        self.machine_logs = LogDesk(self.shipped, WORKER, _no_agent, self.task)
        self.tokens = Tokens(secret_dir / "key")
        self.plugins = PluginDesk(Secrets(secret_dir), self.tokens, _Asked(self), lambda _name: NOBODY)
        self.core = Scheduler(Policy())
        self.ways = Ways("", self._agent)
        self.served: dict[str, Serving] = {}
        self.agents: dict[str, Client] = {}
        self.facts: list[Fact] = []
        self.callers: list[Caller] = []
        self.asked: list[SqlQuery] = []
        self.key_seed = bytes(32)
        self.anchoring = Anchoring(anchored=False, checkpoint_size=0, sinks=[], problem="")
        self.parts: dict[Part, bool] = {"scheduler": True, "history": True, "audit": True, "worker": True}
        self.broken: Exception | None = None  # raised by whatever is asked next
        self.slow: asyncio.Event | None = None  # what submissions wait for
        self.index_first_bad = -1
        self.first_seq = 0
        self._order: list[TaskId] = []
        self._gone: set[TaskId] = set()
        self._logs: dict[tuple[str, int], bytes] = defaultdict(bytes)
        self._files: dict[str, bytes] = {}
        self._manifests: dict[str, list[ArtifactEntry]] = {}
        self._changed = asyncio.Condition()
        self.changes_max = 1000
        self.cut = False  # the connection that tells of changes breaks after the next
        self._listeners: set[asyncio.Queue[Feed]] = set()
        self._numbers = itertools.count(1)
        capacity = Capacity(cpu=cpu, memory_gb=16, batch_slots=cpu, service_slots=1)
        self._handle(WorkerJoined(WORKER, "boot", "host", capacity, [], time.time_ns() // 1000))

    async def _agent(self, worker_id: str) -> Client:
        return self.agents[worker_id]

    # -- Head

    async def plugin_upstream(self, name: str) -> Upstream:
        return await self.plugins.upstream(name)

    async def task_token(self, token: str) -> tuple[Caller, str] | None:
        found = await self.plugins.token_holder(token)
        return found and (Caller(UserId(found[0]), "task", f"task:{found[1].task_id}", "", ""), found[1].plugin)

    async def submit(
        self, caller: Caller, requests: list[TaskRequest], intents: Sequence[Intent | None] = ()
    ) -> list[TaskView | FetchmlError]:
        self._trip()
        self.callers.append(caller)
        if self.slow is not None:
            await self.slow.wait()
        return [
            self._submit_one(caller, request, intent) for request, intent in itertools.zip_longest(requests, intents)
        ]

    async def cancel(self, caller: Caller, task_id: TaskId) -> None:
        self._trip()
        known = task_id in self._order and self.core.state.live(task_id) is None
        event = CancelRequested(
            task_id, caller.user_id, self._at_us(), ticket=1, known_ended=known, trace_id=caller.trace_id
        )
        self._ask(event)
        if known:
            self._gone.add(task_id)

    async def set_priority(self, caller: Caller, task_id: TaskId, priority: int) -> TaskView:
        self._trip()
        known = task_id in self._order and task_id not in self.core.state.tasks
        event = PriorityChanged(
            task_id, priority, caller.user_id, self._at_us(), known, ticket=1, trace_id=caller.trace_id
        )
        return cast(TaskView, self._ask(event))

    async def explain(self, task_id: TaskId) -> Explanation | None:
        self._trip()
        return self.core.explain(task_id, self._at_us())

    async def task(self, task_id: TaskId) -> TaskView | None:
        self._trip()
        return None if task_id in self._gone else self.core.view(task_id)

    async def wait(self, task_id: TaskId, timeout_s: float) -> TaskView | None:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: task_id not in self.core.state.tasks)
        except TimeoutError:
            pass
        return await self.task(task_id)

    async def tasks(self, query: TaskQuery) -> TaskPage:
        self._trip()
        views = [self.core.view(task_id) for task_id in self._listed(query) if task_id not in self._gone]
        found = [view for view in views if view is not None and _matches(view, query)]
        return TaskPage(tasks=found[query.offset : query.offset + query.limit], total=len(found))

    async def task_at(self, task_id: TaskId, at_us: int) -> TaskView | None:
        self._trip()
        view = self.core.view(task_id)
        return view if view is not None and view["created_at"] * 1e6 <= at_us else None

    async def ask_history(self, query: SqlQuery) -> SqlAnswer:
        self._trip()
        self.asked.append(query)
        return SqlAnswer(
            columns=[{"name": "n", "type": "BIGINT"}], rows=[[1]], row_count=1, truncated=False, elapsed_ms=0.5
        )

    def _listed(self, query: TaskQuery) -> list[TaskId]:
        if query.array_id is None:
            return self._order[::-1]
        parent = self.core.view(query.array_id)
        size = parent["array"]["size"] if parent is not None and "array" in parent else 0
        return [element_id(query.array_id, index) for index in range(size)]

    async def logs(self, task: TaskView, offset: int, limit_bytes: int, wait_s: float) -> LogChunk:
        self._trip()
        if not task["assignments"]:
            return LogChunk(b"", offset, 0, task["status"] in ENDED)
        place = (task["id"], task["attempt"])
        try:
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(lambda: len(self._logs[place]) > offset or self._is_over(task))
        except TimeoutError:
            pass
        whole = self._logs[place]
        data = whole[offset : offset + limit_bytes]
        return LogChunk(data, offset, len(whole), self._is_over(task) and offset + len(data) >= len(whole))

    async def artifacts(self, task: TaskView) -> list[ArtifactEntry]:
        found = (task["report"] or {}).get("artifacts")
        return self._manifests[found["manifest"]] if found else []

    async def artifact(self, entry: ArtifactEntry, offset: int = 0) -> AsyncIterator[bytes]:
        if entry["hash"] not in self._files:
            raise NotFound(f"no object {entry['hash']}")
        data = self._files[entry["hash"]]
        for start in range(offset, len(data), 1000):
            yield data[start : start + 1000]

    async def counts(self) -> Counts:
        self._trip()
        return self.core.counts()

    async def measures(self) -> SchedulerMeasures:
        self._trip()
        counting = Counting()
        counting.count(self.facts, self.core.state)
        counting.appended(0.002)
        return counting.data(self.core)

    async def ended(self) -> Ended:
        statuses = [task.status for task in self.core.state.recent.values()]
        done, failed = statuses.count("completed"), statuses.count("failed")
        return Ended(completed_today=done, failed_today=failed, completed_24h=done)

    async def workers(self) -> list[WorkerView]:
        self._trip()
        return self.core.worker_views()

    async def drain(self, caller: Caller, worker_id: str, wanted: bool) -> WorkerView:
        self._trip()
        trace_id = caller.trace_id
        event = DrainChanged(WorkerId(worker_id), wanted, caller.user_id, self._at_us(), ticket=1, trace_id=trace_id)
        return cast(WorkerView, self._ask(event))

    async def release_gpu(self, caller: Caller, worker_id: str, index: int) -> WorkerView:
        self._trip()
        event = GpuReleaseAsked(WorkerId(worker_id), index, caller.user_id, self._at_us(), ticket=1)
        return cast(WorkerView, self._ask(event))

    async def services(self) -> list[TaskView]:
        self._trip()
        return [view for view in self.core.service_views() if view["id"] not in self._gone]

    async def serving(self, tasks: Sequence[TaskView]) -> dict[str, Serving]:
        return {task["id"]: self.served[task["id"]] for task in tasks if task["id"] in self.served}

    async def reach(self, upstream: Upstream) -> socket.socket:
        return await self.ways.reach(upstream)

    def called(self, ticket: str) -> socket.socket:
        return self.ways.called(ticket)

    async def reservations(self) -> list[ReservationView]:
        self._trip()
        return self.core.reservation_views()

    async def reserve(
        self, caller: Caller, wanted: ReservationRequest, intent: Intent | None = None
    ) -> ReservationView:
        self._trip()
        asked = {**asdict(wanted), "intent": intent, "trace_id": caller.trace_id}
        event = ReservationAsked(self._id("r"), caller.user_id, at_us=self._at_us(), ticket=1, **asked)
        return cast(ReservationView, self._ask(event))

    async def release(self, caller: Caller, reservation_id: str, any_user: bool) -> None:
        self._trip()
        event = ReservationReleased(reservation_id, caller.user_id, self._at_us(), any_user, ticket=1)
        event.trace_id = caller.trace_id
        self._ask(event)

    async def events(self, query: EventQuery) -> EventPage:
        self._trip()
        rows = [_row(seq, fact) for seq, fact in enumerate(self.facts)]
        found = [row for row in reversed(rows) if _is_asked_for(row, query)]
        return EventPage(events=found[query.offset : query.offset + query.limit], total=len(found))

    async def verify(self, caller: Caller) -> Verification:
        self._trip()
        return Verification(
            valid=True,
            total_events=len(self.facts),
            first_seq=self.first_seq,
            first_bad=-1,
            problem="",
            root_hash="ab" * 32,
            index_valid=self.index_first_bad < 0,
            index_first_bad=self.index_first_bad,
            verified_at=time.time(),
        )

    async def root(self) -> Root:
        self._trip()
        return Root(root_hash="ab" * 32, at_us=self._at_us(), total_events=len(self.facts), anchoring=self.anchoring)

    async def checkpoint(self) -> str:
        self._trip()
        return self._log().note(len(self.facts))

    async def prove(self, seq: int, size: int | None) -> InclusionProof:
        self._trip()
        if seq >= len(self.facts):
            raise NotFound(f"there is no event {seq}")
        log, wanted = self._log(), size or len(self.facts)
        return InclusionProof(
            seq=seq,
            record=log.records[seq].hex(),
            event_hash=log.hashes[seq].hex(),
            leaf_hash=leaf_hash(log.hashes[seq]).hex(),
            size=wanted,
            root=log.root(wanted).hex(),
            proof=[node.hex() for node in log.inclusion(seq, wanted)],
            note=log.note(wanted),
            origin=log.signer.origin,
            verifier_key=log.verifier_key,
        )

    async def prove_consistency(self, old: int, new: int | None) -> ConsistencyProof:
        self._trip()
        log, wanted = self._log(), new or len(self.facts)
        return ConsistencyProof(
            old=old,
            new=wanted,
            old_root=log.root(old).hex(),
            new_root=log.root(wanted).hex(),
            proof=[node.hex() for node in log.consistency(old, wanted)],
            old_note="",
            new_note=log.note(wanted),
            origin=log.signer.origin,
            verifier_key=log.verifier_key,
        )

    async def prune(self, caller: Caller, before_us: int, dry_run: bool) -> Pruning:
        self._trip()
        old = sum(fact.at_us < before_us for fact in self.facts)
        if dry_run or not old:
            return Pruning(first_seq=old, events=old, bytes=old * 400, dry_run=dry_run)
        self.note(Fact("plugin_configured", "audit.policy", "ledger", caller.user_id, ip_address=caller.ip_address))
        seq = len(self.facts) - 1
        self.first_seq = old
        return Pruning(first_seq=old, events=old, bytes=old * 400, dry_run=False, until_us=before_us - 1, seq=seq)

    async def rotate_key(self, caller: Caller) -> RotatedKey:
        self._trip()
        self.key_seed = digest(self.key_seed.hex()).encode()[:32]
        self.note(Fact("auth_attempt", "key.rotate", "ledger", caller.user_id, ip_address=caller.ip_address))
        log = self._log()
        return RotatedKey(seq=len(self.facts) - 1, verifier_key=log.verifier_key, note=log.note(len(self.facts)))

    async def experiments(self) -> list[Experiment]:
        self._trip()
        return list(self.core.state.experiments.values())

    async def experiment_tasks(self, experiment_id: str, limit: int, offset: int) -> TaskPage:
        self._trip()
        views = [self.core.view(task_id) for task_id in self._order[::-1] if task_id not in self._gone]
        elements = [self.core.view(element_id(view["id"], index)) for view in views if view is not None
                    for index in range(view["array"]["size"] if "array" in view else 0)]  # fmt: skip
        found = [view for view in [*elements, *views] if view is not None and "array" not in view
                 and view["request"].get("experiment_id") == experiment_id]  # fmt: skip
        return TaskPage(tasks=found[offset : offset + limit], total=len(found))

    async def create_experiment(
        self, caller: Caller, wanted: ExperimentRequest, intent: Intent | None = None
    ) -> Experiment:
        self._trip()
        event = ExperimentCreated(
            self._id("e"), wanted.name, wanted.description, caller.user_id, self._at_us(), ticket=1
        )
        event.intent, event.trace_id, event.commit_id = intent, caller.trace_id, wanted.commit_id
        return cast(Experiment, self._ask(event))

    async def update_experiment(self, caller: Caller, experiment_id: str, changes: dict[str, str]) -> Experiment:
        self._trip()
        event = ExperimentUpdated(experiment_id, changes, caller.user_id, self._at_us(), ticket=1)
        return cast(Experiment, self._ask(event))

    async def newest(self) -> int:
        return len(self.facts) - 1

    async def changes(self) -> AsyncGenerator[Feed]:
        listener: asyncio.Queue[Feed] = asyncio.Queue()
        self._listeners.add(listener)
        try:
            yield Feed(since=len(self.facts) - 1, seq=len(self.facts) - 1, tasks=[], workers=[], counts=None)
            while True:
                yield await listener.get()
                if self.cut:
                    self.cut = False
                    return
        finally:
            self._listeners.discard(listener)

    async def changes_since(self, seq: int) -> list[Change] | None:
        if len(self.facts) - seq > self.changes_max:
            return None
        return self._changes(seq + 1, self.facts[seq + 1 :], [])

    async def key(self, sha256: str) -> Key | None:
        return self.core.state.keys.get(sha256)

    async def keys(self) -> list[Key]:
        return list(reversed(self.core.state.keys.values()))

    async def create_key(self, caller: Caller, user_id: str, role: Role, sha256: str, expires_at: float) -> Key:
        event = KeyCreated(
            self._id("k"), UserId(user_id), role, sha256, expires_at, caller.user_id, self._at_us(), ticket=1
        )
        event.trace_id = caller.trace_id
        return cast(Key, self._ask(event))

    async def revoke_key(self, caller: Caller, key_id: str) -> None:
        self._ask(KeyRevoked(key_id, caller.user_id, self._at_us(), ticket=1, trace_id=caller.trace_id))

    async def _record(self, fact: Fact) -> None:
        self._trip()
        self._handle(FactNoted(fact))

    def note(self, fact: Fact) -> None:
        self._handle(FactNoted(fact))

    async def ready(self) -> dict[Part, bool]:
        self._trip()
        return self.parts

    def _log(self) -> MemoryLog:
        return MemoryLog(self.facts, self.key_seed)

    # -- the test's side

    def add_key(self, key: str, user_id: str, role: Role, expires_at: float = 0.0) -> str:
        made = KeyCreated(self._id("k"), UserId(user_id), role, digest(key), expires_at, UserId("admin"), self._at_us())
        self._handle(made)
        return key

    def start_service(self, service_id: str, user_id: str) -> None:
        """A Jupyter server of the user's whose program has begun. Twice is once."""
        if TaskId(service_id) in self.core.state.tasks:
            return
        asked = TaskRequest(
            job_name="lab", kind="service", cpu=0, jupyter=JupyterRequest(name="lab", workspace="default")
        )
        self._handle(TaskSubmitted(TaskId(service_id), UserId(user_id), asked, self._at_us()))
        self._order.append(TaskId(service_id))
        self._handle(PhaseReported(WORKER, TaskId(service_id), 1, "running", self._at_us()))

    def add_worker(self, worker_id: str, gpus: int) -> None:
        """One more worker, with GPUs of type A100."""
        held = tuple(Gpu(index, "A100", str(index)) for index in range(gpus))
        capacity = Capacity(cpu=8, memory_gb=32, batch_slots=8, service_slots=1, gpus=held)
        self._handle(WorkerJoined(WorkerId(worker_id), "boot", "host", capacity, [], self._at_us()))

    def fail_gpu(self, worker_id: str, uuid: str, cause: str) -> None:
        self._handle(HeartbeatReceived(WorkerId(worker_id), self._at_us(), gpu_faults={uuid: cause}))

    async def run(self, task_id: str) -> None:
        """The program of the task's current attempt began."""
        attempt = self.core.state.tasks[TaskId(task_id)].attempt
        self._handle(PhaseReported(WORKER, TaskId(task_id), attempt, "running", self._at_us()))
        await self._tell()

    async def write(self, task_id: str, data: bytes, attempt: int = 1) -> None:
        """The program wrote to its log."""
        self._logs[task_id, attempt] += data
        await self._tell()

    async def end(self, task_id: str, exit_code: int = 0, files: dict[str, bytes] | None = None) -> None:
        """The current attempt ended, leaving `files`."""
        report = EndReport(exit_code=exit_code, usage=Usage(user_s=0.5, system_s=0.1, rss_max_bytes=1 << 20))
        report["log"] = LogPlace(worker_id=WORKER, file="some", offset=0, length=0)
        if files:
            report["artifacts"] = self._keep(task_id, files)
        attempt = self.core.state.tasks[TaskId(task_id)].attempt
        self._handle(AttemptEnded(WORKER, TaskId(task_id), attempt, 0, report, 7, self._at_us()))
        await self._tell()

    def lose_file(self, content: bytes) -> None:
        del self._files[digest(content.decode())]

    def cut_file(self, content: bytes) -> None:
        self._files[digest(content.decode())] = content[:-1]

    def facts_of(self, action: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.action == action]

    # -- inside

    def _submit_one(self, caller: Caller, request: TaskRequest, intent: Intent | None) -> TaskView | FetchmlError:
        task_id = TaskId(self._id("t"))
        event = TaskSubmitted(task_id, caller.user_id, request, self._at_us(), trace_id=caller.trace_id, ticket=1)
        event.intent = intent
        try:
            view = cast(TaskView, self._ask(event))
        except FetchmlError as error:
            return error
        self._order.append(task_id)
        return view

    def _keep(self, task_id: str, files: dict[str, bytes]) -> ArtifactSet:
        entries = [ArtifactEntry(path=p, bytes=len(d), hash=digest(d.decode())) for p, d in sorted(files.items())]
        self._files.update({entry["hash"]: files[entry["path"]] for entry in entries})
        self._manifests[task_id] = entries
        return ArtifactSet(manifest=task_id, file_count=len(files), total_bytes=sum(map(len, files.values())))

    def _is_over(self, task: TaskView) -> bool:
        live = self.core.state.tasks.get(TaskId(task["id"]))
        return live is None or live.attempt != task["attempt"] or not live.assignments

    def _ask(self, event: Event) -> Any:
        for effect in self._handle(event):
            if isinstance(effect, Reply):
                if effect.error is not None:
                    raise effect.error
                return effect.value
        return None

    def _handle(self, event: Event) -> list[Effect]:
        effects = list(self.core.handle(event, time.monotonic()))
        first, facts = len(self.facts), [replace(effect.fact) for effect in effects if isinstance(effect, Persist)]
        self.facts += facts
        self._publish(first, facts, [effect.task_id for effect in effects if isinstance(effect, TaskChanged)])
        return effects

    def _publish(self, first: int, facts: list[Fact], changed: list[TaskId]) -> None:
        recorded = {fact.resource for fact in facts}
        views = [view for view in self.core.worker_views() if view["id"] in recorded]
        feed = Feed(
            since=first - 1,
            seq=first + len(facts) - 1,
            tasks=self._changes(first, facts, [task_id for task_id in changed if task_id not in recorded]),
            workers=views,
            counts=self.core.counts(),
        )
        for listener in self._listeners:
            listener.put_nowait(feed)

    def _changes(self, first: int, facts: list[Fact], phases: list[TaskId]) -> list[Change]:
        found = [(seq, fact.action, TaskId(fact.resource)) for seq, fact in enumerate(facts, first)]
        found += [(0, "", task_id) for task_id in phases]
        views = [(seq, action, self.core.view(task_id)) for seq, action, task_id in found]
        return [Change(seq=seq, action=action, task=view) for seq, action, view in views if view is not None]

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _trip(self) -> None:
        if self.broken is not None:
            raise self.broken

    def _id(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"

    @staticmethod
    def _at_us() -> int:
        return time.time_ns() // 1000


def _matches(view: TaskView, query: TaskQuery) -> bool:
    request = view["request"]
    return (
        (query.at_us is None or view["created_at"] * 1e6 <= query.at_us)
        and (query.status is None or view["status"] == query.status)
        and (query.user_id is None or view["user_id"] == query.user_id)
        and (query.node_count is None or request.get("node_count", 1) == query.node_count)
        and (query.reservation_id is None or request.get("reservation_id") == query.reservation_id)
        and (query.experiment_id is None or request.get("experiment_id") == query.experiment_id)
        and (query.plugins is None or set(query.plugins) <= request.get("plugin_configs", {}).keys())
    )


def _is_asked_for(row: EventRow, query: EventQuery) -> bool:
    return (
        (query.from_us is None or row["at_us"] >= query.from_us)
        and (query.to_us is None or row["at_us"] <= query.to_us)
        and (query.event_type is None or row["event_type"] == query.event_type)
        and (query.user_id is None or row["user_id"] == query.user_id)
    )


def _row(seq: int, fact: Fact) -> EventRow:
    return EventRow(
        sequence_num=seq,
        at_us=fact.at_us,
        clock_us=fact.clock_us,
        event_type=fact.event_type,
        action=fact.action,
        user_id=fact.user_id,
        resource=fact.resource,
        success=fact.success,
        ip_address=fact.ip_address,
        error=fact.error,
        prev_hash="00" * 32,
        event_hash="11" * 32,
        metadata=fact.metadata,
    )
