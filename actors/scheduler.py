"""The scheduler actor: the pure core, the ledger's writer, and the mailbox between them and everybody else.

One loop takes all that has arrived, lets the core decide on each message in turn, makes the facts of the whole batch
durable with one sync, and only then answers and gives orders. While a sync runs the next batch gathers, so the disk sets
the size of a batch and no timer does. Reads go through the same loop: nobody is told of what is not durable.

If the ledger cannot be written, the core has decided what never happened. It is thrown away and rebuilt from the record;
until a write succeeds again whoever wants a change is told to come back, and running tasks go on.
"""

import asyncio
import contextlib
import gc
import hashlib
import logging
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from actors import native
from actors.background import in_background
from actors.counting import Counting
from actors.feed import Watchers
from actors.mailbox import EVENTS
from actors.ray_channel import Gate
from actors.retention_keeper import RetentionKeeper
from actors.snapshot_keeper import SnapshotKeeper
from fetchmld.channel import Message, Peer, Server, serve
from fetchmld.config import Config
from fetchmld.core.arrays import place_of
from fetchmld.core.errors import BadRequest, Unavailable
from fetchmld.core.line import Line, without_orders
from fetchmld.core.messages import (
    AcknowledgeEnd,
    DropStaging,
    Effect,
    Event,
    Fact,
    FactNoted,
    KeyCreated,
    Launch,
    Persist,
    Reply,
    StageDatasets,
    StopAttempt,
    TaskChanged,
    TimePassed,
)
from fetchmld.core.model import TaskId, UserId, WorkerId
from fetchmld.core.scheduler import Policy, Scheduler
from fetchmld.core.state import ended
from fetchmld.measures import watch_loop
from fetchmld.store import disk_probe, snapshots
from fetchmld.store.clock import LogicalClock
from fetchmld.store.disk_probe import sync_latency
from fetchmld.store.head_http import worker_key
from fetchmld.store.ledger import Ledger, LedgerUnavailable
from fetchmld.store.notes import new_genesis

log = logging.getLogger(__name__)

MAILBOX_MAX: Final = 200_000  # messages that wait for the loop; beyond it requests are refused
WAITERS_MAX: Final = 100_000  # callers that wait for ends
TICK_S: Final = 1.0
QUICK_SYNC_S: Final = 0.002
PROBE_SYNCS: Final = 20
WANTED_HOLD_S: Final = 10.0
RETRY_S: Final = 0.5  # between two tries to write, while that fails
SNAPSHOT_WITHIN_S: Final = 3.0  # at a clean end; who stops us waits 5 s for the whole of it


class Halted(Exception):
    """The record cannot be written, and the setting `audit_on_failure` says to stop then."""

    final = True


class SchedulerActor:
    """One per cluster. `settings` is the daemon's configuration as `Config.model_dump` wrote it, and the run directory."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._config = Config.from_dump(settings)
        self._socket = Path(settings["run_dir"]) / "scheduler.sock"
        can_be_joined = bool(settings.get("members_url"))
        self._token_path = Path(settings["token_path"]) if can_be_joined else None
        self._policy = Policy(
            self._config.ageing_tau_s,
            self._config.suspect_after_s,
            self._config.offline_after_s,
            self._config.requeue_after_s,
            self._config.grace_s,
            self._config.reservation_lead_s,
            self._config.gpu_release_after_s,
            self._config.user_gpus_max,
            self._config.unsatisfiable,
            self._config.plans_max,
            self._config.stage_datasets,
            self._config.backfill,
            self._config.offline_workers_days * 86_400,
        )
        self._writer = ThreadPoolExecutor(1, "ledger")
        self._mailbox: list[Message | Event] = []
        self._sync_s = math.inf  # what the last write took
        self._arrived = 0.0  # when the oldest message in it did, monotonic
        self._counting = Counting()
        self._tickets: dict[int, Message] = {}
        self._last_ticket = 0
        self._waiters: dict[TaskId, list[tuple[float, Message]]] = {}  # with the time when they stop waiting
        self._agents: dict[WorkerId, tuple[Peer, Line]] = {}  # the newest line of each
        self._watchers = Watchers()
        self._broken_since = 0.0  # monotonic; 0 = the ledger can be written
        self._retry_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._server: Server | None = None
        self._gate: Gate
        self._ledger: Ledger
        self._core: Scheduler
        self._snapshots: SnapshotKeeper
        self._probing: asyncio.Task[None]
        self._clock: LogicalClock
        self._wake: asyncio.Event
        self._plugins_changed: asyncio.Event  # set, and another one put in its place, with each change

    # -- life

    async def start(self) -> None:
        """Recover the state from the record and open for business. Raises `LedgerDamaged` rather than start on loss."""
        self._wake, self._plugins_changed = asyncio.Event(), asyncio.Event()
        await self._in_thread(self._recover)
        self._server = await serve(self._socket, self._on_messages, self._on_close)
        self._gate = Gate(self._server)
        self._tasks = [asyncio.create_task(loop) for loop in self._loops()]
        self._probing = asyncio.create_task(self._probe_disk())
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do
        gc.set_threshold(50_000, 20, 100)

    def _loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        retention = RetentionKeeper(self._config.paths.ledger_dir, self._config.seal_after_segments)
        return self._work(), self._tick(), self._snapshots.run(), retention.run(), watch_loop(self._counting.lag_s)

    async def _probe_disk(self) -> None:
        """Say once how long a sync takes here: every accepted request waits for one."""
        try:
            took = await in_background("disk-probe", sync_latency, self._config.paths.ledger_dir, PROBE_SYNCS)
            log.info("disk_sync", extra=asdict(took))
            disk_probe.keep(self._config.paths.disk_sync, took, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        except OSError as error:
            log.warning("disk_sync_unknown", extra={"why": str(error)})

    def _recover(self) -> None:
        paths, begun = self._config.paths, time.monotonic()
        base = snapshots.newest(paths.ledger_dir)
        since = base.mark if base else None
        genesis = new_genesis(paths.ledger_dir)
        size = self._config.segment_bytes
        self._ledger = Ledger.open(paths.ledger_dir, segment_bytes=size, genesis=genesis, since=since)
        self._clock = LogicalClock(paths.data_dir / "clock", self._ledger.last_clock_us)
        self._rebuild(base)
        reached = base.mark.seq if base else 0
        self._snapshots = SnapshotKeeper(paths.ledger_dir, self._config.snapshot_events, reached, self._newest)
        took = {"events": self._ledger.next_seq, "from_snapshot": reached, "took_s": round(time.monotonic() - begun, 3)}
        log.info("ledger_recovered", extra=took)
        recovery = self._ledger.recovery
        for repair in recovery.repairs:
            log.warning("ledger_repaired", extra={"what": repair})
        if recovery.torn_bytes:
            gap = {"cause": "torn tail", "bytes": recovery.torn_bytes, "first_seq": recovery.torn_seq}
            self._mailbox.append(FactNoted(Fact("audit_verified", "audit.gap", "ledger", success=False, metadata=gap)))
        self._mailbox.append(self._admin_key())
        if self._token_path is not None:
            self._mailbox.append(self._worker_key(self._token_path))

    def _rebuild(self, base: snapshots.Snapshot | None) -> None:
        """The core as the record has it, read from `base` on."""
        gc.disable()  # all of it stays; the collector would walk it again and again for nothing
        try:
            self._core = Scheduler(self._policy, state=base.state() if base else None)
            events = self._ledger.read(base.mark.seq if base else 0)
            self._core.replay((event.fact for event in events), self._clock.now())
        finally:
            gc.enable()

    def _rebuild_anew(self) -> None:
        self._rebuild(snapshots.newest(self._config.paths.ledger_dir))

    def _newest(self) -> int:
        return self._ledger.next_seq - 1

    def _admin_key(self) -> KeyCreated:
        digest = hashlib.sha256(self._config.paths.admin_key.read_bytes().strip()).hexdigest()
        admin = UserId("admin")
        return KeyCreated(f"admin-{digest[:8]}", admin, "admin", digest, 0.0, admin, _wall_us())

    def _worker_key(self, token_path: Path) -> KeyCreated:
        """Of the machines that join: they can make it from the token that let them in."""
        digest = hashlib.sha256(worker_key(token_path.read_text().strip()).encode()).hexdigest()
        workers = UserId("workers")
        return KeyCreated(f"workers-{digest[:8]}", workers, "worker", digest, 0.0, workers, _wall_us())

    async def ping(self) -> dict[str, Any]:
        """How it is. A loop of ours that ended is a reason to be replaced: whoever asks does that."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                error = task.exception()
                said = f"a loop of the scheduler ended: {error}"
                return {"started": False, "error": said, "final": getattr(error, "final", False)}
        return {"started": self._server is not None, "seq": self._core.state.seq if self._server else -1}

    async def address(self) -> str:
        return str(self._socket)

    async def push(self, line: str, number: int, piece: bytes) -> bool:
        """What an agent on another machine says (see `ray_channel`)."""
        return await self._gate.push(line, number, piece)

    async def pull(self, line: str, number: int) -> bytes | None:
        return await self._gate.pull(line, number)

    async def plugins_wanted(self, known: list[str]) -> list[str]:
        """The plugins that are to run, as soon as they are not `known`; the same again after a while."""
        until = time.monotonic() + WANTED_HOLD_S
        while (found := self._wanted_plugins()) == known and time.monotonic() < until:
            changed = self._plugins_changed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await changed.wait()
        return found

    def _wanted_plugins(self) -> list[str]:
        return sorted(plugin.id for plugin in self._core.state.plugins.values() if plugin.wanted)

    # What programs on Ray ask; without a key they are `ray:<user>`.

    async def submit(self, requests: list[dict[str, Any]], api_key: str = "", user: str = "") -> list[dict[str, Any]]:
        """For each request, in their order, the Task or what is wrong with it."""
        return cast(list[dict[str, Any]], await native.hand_on("submit", list(requests), api_key, user))

    async def status(self, task_id: str, api_key: str = "", user: str = "") -> dict[str, Any]:
        return cast(dict[str, Any], await native.hand_on("status", task_id, api_key, user))

    async def wait(self, task_id: str, api_key: str = "", user: str = "") -> dict[str, Any]:
        return cast(dict[str, Any], await native.hand_on("wait", task_id, api_key, user))

    async def cancel(self, task_id: str, api_key: str = "", user: str = "") -> None:
        await native.hand_on("cancel", task_id, api_key, user)

    async def shutdown(self) -> None:
        """Take no more, finish the batch at hand, close the ledger."""
        if self._server is not None:
            self._server.close()
        for task in (*self._tasks, self._probing):
            task.cancel()
        await asyncio.gather(*self._tasks, self._probing, return_exceptions=True)
        await self._snapshots.make_last(SNAPSHOT_WITHIN_S)
        await self._in_thread(self._ledger.close)
        self._writer.shutdown()

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *arguments)

    # -- the mailbox

    def _on_messages(self, _peer: Peer, messages: list[Message]) -> None:
        if len(self._mailbox) + len(messages) > MAILBOX_MAX:
            for message in messages:
                self._refuse(message, "too many requests are waiting")
            return
        if not self._mailbox:
            self._arrived = time.monotonic()
        self._mailbox += messages
        self._wake.set()

    def _on_close(self, peer: Peer) -> None:
        self._watchers.discard(peer)
        self._keep_waiters(lambda _until, message: message.peer is not peer)

    def _keep_waiters(self, stays: Callable[[float, Message], bool]) -> None:
        for task_id, waiting in list(self._waiters.items()):
            left = [(until, message) for until, message in waiting if stays(until, message)]
            if left:
                self._waiters[task_id] = left
            else:
                del self._waiters[task_id]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._keep_waiters(lambda until, _message, now=now: until > now)  # type: ignore[misc]
            self._mailbox.append(TimePassed(_wall_us()))
            self._wake.set()

    async def _work(self) -> None:
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._mailbox = self._mailbox, []
            arrived = self._arrived
            try:
                await self._work_through(batch, arrived)
            except Halted:
                await self._fall_back(batch, "the record cannot be written, and the daemon stops")
                raise
            except Exception:
                log.exception("scheduler.batch_failed size=%d", len(batch))
                await self._fall_back(batch, "something went wrong on our side")

    async def _work_through(self, batch: list[Message | Event], arrived: float = 0.0) -> None:
        if self._broken_since and not await self._mended():
            self._refuse_changes(batch)
            return
        effects: list[Effect] = []
        for item in batch:
            self._take(item, effects)
        facts = [effect.fact for effect in effects if isinstance(effect, Persist)]
        first_seq = self._ledger.next_seq
        if facts:
            try:
                await self._append(facts)
            except LedgerUnavailable as error:
                log.error("ledger.unavailable error=%s", error)
                if self._config.audit_on_failure == "halt":
                    raise Halted(str(error)) from error
                self._broken_since = time.monotonic()
                await self._fall_back(batch, f"the record cannot be written: {error}")
                return
        self._perform(effects)
        self._counting.count(facts, self._core.state)
        if facts and arrived and isinstance(batch[0], Message):
            self._counting.acknowledged(arrived)
        if any(fact.event_type == "plugin_configured" for fact in facts):
            self._plugins_changed.set()
            self._plugins_changed = asyncio.Event()
        ticked = any(isinstance(item, TimePassed) for item in batch)
        self._watchers.tell(self._core, effects, first_seq, ticked=ticked)

    async def _append(self, facts: list[Fact]) -> None:
        """Make them durable. Raises LedgerUnavailable.

        Here, while the disk is quick: the way to another thread and back takes longer than such a sync. Beside the loop
        otherwise, which then answers whoever asks how we are.
        """
        if self._sync_s < QUICK_SYNC_S:
            self._timed_append(facts)
        else:
            await self._in_thread(self._timed_append, facts)
        self._counting.appended(self._sync_s)

    def _timed_append(self, facts: list[Fact]) -> None:
        begun = time.monotonic()
        try:
            self._ledger.append(facts)
        finally:
            self._sync_s = time.monotonic() - begun

    def _take(self, item: Message | Event, effects: list[Effect]) -> None:
        """Let the core decide on one message, after what the batch has come to so far. Nothing is said yet."""
        now = self._clock.now()
        if not isinstance(item, Message):
            effects += self._core.handle(item, now)
            return
        ticket = self._ticket(item)
        if item.kind == "hello" and not self._is_newer(item):
            effects.append(Reply(ticket, error=Unavailable("this line of the agent is not its newest")))
            return
        if item.kind not in EVENTS:
            effects += self._read(item, ticket)
            return
        decided: list[Effect] = []
        for event in EVENTS[item.kind](item.body, _wall_us(), ticket):
            decided += self._core.handle(event, now)
        if item.kind == "submit":
            decided = _one_reply(decided, ticket)
        elif item.kind == "hello":
            self._greet(item, effects)
            effects.append(Reply(ticket, {}))
        elif item.kind == "beat":
            self._answer_beat(item)
        effects += decided

    def _greet(self, hello: Message, effects: list[Effect]) -> None:
        """A new line: what the batch has for the agent was decided before it spoke, and is not for this line."""
        worker_id = WorkerId(hello.body["worker_id"])
        self._agents[worker_id] = (hello.peer, Line(hello.body["boot_id"], hello.body["line"]))
        effects[:] = without_orders(effects, worker_id)

    def _is_newer(self, hello: Message) -> bool:
        """Whether the agent has not said hello on a later line: two sockets are read in any order."""
        known = self._agents.get(WorkerId(hello.body["worker_id"]))
        return known is None or known[1].is_before(hello.body["boot_id"], hello.body["line"])

    def _answer_beat(self, beat: Message) -> None:
        """An answer renews the leases of the worker's attempts, so a worker that was given up gets none: its tasks may
        start elsewhere. Its connection is closed, so that it says hello and learns what is still its own."""
        worker_id = WorkerId(beat.body["worker_id"])
        worker = self._core.state.workers.get(worker_id)
        peer, _ = self._agents.get(worker_id, (None, None))
        if worker is None or worker.status == "offline" or peer is not beat.peer:
            beat.peer.close()
        else:
            self._tell(worker_id, "beat", {"sent_t": beat.body["sent_t"]})

    def _ticket(self, message: Message) -> int:
        if not message.id:
            return 0
        self._last_ticket += 1
        self._tickets[self._last_ticket] = message
        return self._last_ticket

    # -- reads, answered in turn with the writes

    def _read(self, message: Message, ticket: int) -> list[Effect]:
        core, body = self._core, message.body
        match message.kind:
            case "view":
                value: Any = core.view(TaskId(body["task_id"]))
            case "views":
                value = [core.view(TaskId(task_id)) for task_id in body["task_ids"]]
            case "wait":
                return self._wait(message, ticket)
            case "explain":
                value = core.explain(TaskId(body["task_id"]), _wall_us())
            case "reservations":
                value = core.reservation_views()
            case "services":
                value = core.service_views()
            case "counts":
                value = core.counts()
            case "measures":
                value = self._counting.data(core)
            case "workers":
                value = core.worker_views()
            case "key":
                key = core.state.keys.get(body["sha256"])
                value = asdict(key) if key else None
            case "keys":
                value = [asdict(key) for key in reversed(core.state.keys.values())]
            case "plugins":
                value = [asdict(plugin) for plugin in core.state.plugins.values()]
            case "experiment_name":
                found = core.state.experiments.get(body["experiment_id"])
                value = found["name"] if found else ""
            case "watch":
                self._watchers.add(message.peer)
                value = {"seq": self._ledger.next_seq - 1}
            case "durable":
                value = {
                    "seq": self._ledger.next_seq - 1,
                    "root_hash": self._ledger.root_hash.hex(),
                    "at_us": self._ledger.last_at_us,
                }
            case _:
                return [Reply(ticket, error=BadRequest(f"the scheduler knows no message {message.kind!r}"))]
        return [Reply(ticket, value)]

    def _wait(self, message: Message, ticket: int) -> list[Effect]:
        """Answer when the task has ended; at once if it has, or is not known here."""
        task_id = TaskId(message.body["task_id"])
        task = self._core.state.task(task_id)
        if task is None or ended(task):
            return [Reply(ticket, self._core.view(task_id))]
        del self._tickets[ticket]
        if len(self._waiters) >= WAITERS_MAX:
            message.fail(Unavailable("too many callers wait for tasks; ask again later"))
        else:
            until = time.monotonic() + message.body["timeout_s"]
            self._waiters.setdefault(task_id, []).append((until, message))
        return []

    # -- deeds, once everything before them is durable

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Persist():
                    pass
                case Reply():
                    self._answer(effect)
                case TaskChanged():
                    self._changed(effect.task_id)
                case Launch():
                    self._tell(effect.worker_id, "launch", {"order": effect.order})
                case StopAttempt():
                    self._tell(
                        effect.worker_id,
                        "stop",
                        {
                            "task_id": effect.task_id,
                            "attempt": effect.attempt,
                            "word": effect.word,
                            "detail": effect.detail,
                        },
                    )
                case StageDatasets():
                    self._tell(effect.worker_id, "stage", {"task_id": effect.task_id, "specs": effect.specs})
                case DropStaging():
                    self._tell(effect.worker_id, "unstage", {"task_id": effect.task_id})
                case AcknowledgeEnd():
                    self._tell(effect.worker_id, "ack", {"task_id": effect.task_id, "attempt": effect.attempt})

    def _tell(self, worker_id: WorkerId, kind: str, body: dict[str, Any]) -> None:
        """Tell an agent. One that is away hears it again when it says hello."""
        if worker_id in self._agents:
            peer, line = self._agents[worker_id]
            peer.post(kind, {**body, "mark": line.mark()})

    def _answer(self, reply: Reply) -> None:
        message = self._tickets.pop(reply.ticket, None)
        if message is None:
            return
        if reply.error is not None:
            message.fail(reply.error)
        else:
            message.reply(reply.value)

    def _changed(self, task_id: TaskId) -> None:
        if not self._waiters:
            return
        task = self._core.state.task(task_id)
        self._release(task_id)
        if task is not None and task.array is not None:  # with it end those elements that nobody ever named
            for waited in [waited for waited in self._waiters if place_of(waited)]:
                self._release(waited)

    def _release(self, task_id: TaskId) -> None:
        """Answer who waits for the task, if it has ended."""
        waiting = self._waiters.get(task_id)
        task = self._core.state.task(task_id)
        if waiting and (task is None or ended(task)):
            view = self._core.view(task_id)
            for _until, message in self._waiters.pop(task_id):
                message.reply(view)

    # -- when the ledger cannot be written

    async def _fall_back(self, batch: list[Message | Event], why: str) -> None:
        """Forget what was decided in this batch: the record has none of it."""
        for item in batch:
            if isinstance(item, Message):
                self._refuse(item, why)
        self._tickets.clear()
        await self._in_thread(self._rebuild_anew)
        for peer, _ in self._agents.values():
            peer.close()  # they come back, say what they have, and report their ends again
        self._agents.clear()

    async def _mended(self) -> bool:
        """Try to write again, now and then. The core learns of it only when it is on record: a failure changes nothing."""
        if time.monotonic() < self._retry_at:
            return False
        gap = {"cause": "the record could not be written", "seconds": round(time.monotonic() - self._broken_since, 3)}
        fact = Fact("audit_verified", "audit.gap", "ledger", success=False, metadata=gap, at_us=_wall_us())
        fact.clock_us = int(self._clock.now() * 1e6)
        try:
            await self._in_thread(self._ledger.append, [fact])
        except LedgerUnavailable:
            self._retry_at = time.monotonic() + RETRY_S
            return False
        self._core.state.apply(fact)
        self._broken_since = 0.0
        log.info("ledger.mended %s", gap)
        return True

    def _refuse_changes(self, batch: list[Message | Event]) -> None:
        """Reads go on; whoever wants a change is told to come back."""
        for item in batch:
            if isinstance(item, Message):
                if item.kind in EVENTS:
                    self._refuse(item, "the record cannot be written")
                else:
                    self._perform(self._read(item, self._ticket(item)))

    def _refuse(self, message: Message, why: str) -> None:
        if message.kind == "hello":
            message.peer.close()
        elif message.id:
            message.fail(Unavailable(f"{why}; nothing was changed, try again later"))


def _one_reply(effects: list[Effect], ticket: int) -> list[Effect]:
    """The replies to the tasks of one request as one: for each its view, or the name and words of its refusal."""
    replies = [effect for effect in effects if isinstance(effect, Reply) and effect.ticket == ticket]
    others = [effect for effect in effects if not (isinstance(effect, Reply) and effect.ticket == ticket)]
    return [*others, Reply(ticket, [_outcome(reply) for reply in replies])]


def _outcome(reply: Reply) -> dict[str, Any]:
    if reply.error is None:
        return {"task": reply.value}
    return {"refused": [type(reply.error).__name__, reply.error.message]}


def _wall_us() -> int:
    return time.time_ns() // 1000
