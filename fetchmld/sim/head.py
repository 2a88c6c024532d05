"""The simulated head: the real `Scheduler` in a modelled shell.

As `actors.scheduler` does: take all that has arrived, let the core decide, make the batch's facts durable, and only then
speak. It dies at any boundary between two of these when the seed says so; what was not committed then is lost, and the
core is rebuilt from the record.
"""

from collections.abc import Callable
from random import Random
from typing import Any, Final, cast

from fetchmld.core.line import Line, without_orders
from fetchmld.core.messages import (
    AcknowledgeEnd,
    AttemptEnded,
    CancelRequested,
    DatasetAccessed,
    DrainChanged,
    Effect,
    Event,
    Fact,
    HeartbeatReceived,
    Launch,
    LiveAttempt,
    Persist,
    PhaseReported,
    PriorityChanged,
    Reply,
    ReservationAsked,
    ReservationReleased,
    StopAttempt,
    TaskSubmitted,
    TimePassed,
    WorkerJoined,
)
from fetchmld.core.model import TaskId, UserId, WorkerId
from fetchmld.core.scheduler import Policy, Scheduler
from fetchmld.sim.faults import NONE, Boundaries, Faults
from fetchmld.sim.ledger import Ledger
from fetchmld.sim.network import Body, Link
from fetchmld.sim.node import Crashed
from fetchmld.sim.timeline import Timeline

COMMIT_S: Final = 0.004
TICK_S: Final = 1.0
RESTART_S: Final = (0.5, 8.0)

Mail = tuple[Link | None, int, str, Body]


class Watcher:
    """Whoever wants to check what the head does; the simulator's invariants."""

    def decided(self, core: Scheduler, event: Event, effects: list[Effect]) -> None:
        """The core has handled `event`."""

    def committed(self, core: Scheduler, facts: list[Fact]) -> None:
        """These facts are durable, and nothing was said of them yet."""

    def rebuilt(self, core: Scheduler, now: float) -> None:
        """The core was built anew from the record, at logical time `now`."""

    def speaks(self, effect: Effect) -> None:
        """This effect is about to be performed."""


class Head:
    """The scheduler's process, and the client's end of it: `submit` and `cancel` may go unanswered."""

    def __init__(
        self, timeline: Timeline, rng: Random, policy: Policy, watcher: Watcher, boundaries: Boundaries
    ) -> None:
        self._timeline, self._rng, self._policy, self._watcher = timeline, rng, policy, watcher
        self._boundaries = boundaries
        self.faults: Faults = NONE
        self.ledger = Ledger()
        self.core = Scheduler(policy)
        self.up = True
        self.incarnation = 0
        self.wall_offset_s = 0.0
        self.on_reply: Callable[[int, bool], None] = lambda _ticket, _ok: None
        self._clock_offset_s = 0.0
        self._mailbox: list[Mail] = []
        self._agents: dict[WorkerId, tuple[Link, int, Line]] = {}
        self._scheduled = self._busy = False
        self._paused_until = 0.0
        self._broken = False
        timeline.after(TICK_S, self._tick, 0)

    @property
    def idle(self) -> bool:
        """It is there, and what it decided is on record."""
        return self.up and not self._busy

    # -- clocks

    def now(self) -> float:
        """Logical time: goes on with the machine's clock that nobody sets, and after its restart from the record's."""
        return self._timeline.now + self._clock_offset_s

    def _wall_us(self) -> int:
        return int((1_700_000_000 + self._timeline.now + self.wall_offset_s) * 1e6)

    # -- life and death

    def crash(self, *, machine: bool = False) -> None:
        """Killed; with `machine` its node was restarted too, so that the logical clock goes on from the record's time."""
        if not self.up:
            return
        self.up = False
        self.incarnation += 1
        agents, self._agents = self._agents, {}
        self._mailbox.clear()
        for link, _, _ in agents.values():
            link.close()
        self._timeline.after(self._rng.uniform(*RESTART_S), self._restart, machine)

    def _restart(self, machine: bool) -> None:
        if machine:
            self._clock_offset_s = self.ledger.last_clock_us / 1e6 - self._timeline.now
        self._scheduled = self._busy = self._broken = False
        self._paused_until = 0.0
        self._rebuild()
        self.up = True
        self._timeline.after(TICK_S, self._tick, self.incarnation)

    def _rebuild(self) -> None:
        self.core = Scheduler(self._policy)
        self.core.replay(self.ledger.read(), self.now())
        self._watcher.rebuilt(self.core, self.now())

    def pause(self, pause_s: float) -> None:
        """Frozen for a while: what arrives waits."""
        self._paused_until = self._timeline.now + pause_s

    def _perhaps_crash(self) -> None:
        if self._boundaries.dies(self.faults.head_effect_p):
            raise Crashed

    # -- the mailbox

    def _tick(self, incarnation: int) -> None:
        if incarnation == self.incarnation and self.up:
            self._post(None, 0, "tick", {})
            self._timeline.after(TICK_S, self._tick, incarnation)

    def receive(self, link: Link, connection: int, kind: str, body: Body) -> None:
        self._post(link, connection, kind, body)

    def request(self, kind: str, body: Body) -> None:
        """What a client asks for; lost where nobody is there."""
        if self.up:
            self._post(None, 0, kind, body)

    def on_closed(self, link: Link, connection: int) -> None:
        """A closed connection is not spoken to; whoever had it comes back."""
        for worker_id, (known, number, _) in list(self._agents.items()):
            if known is link and number == connection:
                del self._agents[worker_id]

    def _post(self, link: Link | None, connection: int, kind: str, body: Body) -> None:
        self._mailbox.append((link, connection, kind, body))
        self._wake()

    def _wake(self) -> None:
        if self._scheduled or self._busy:
            return
        if self._timeline.now < self._paused_until:
            self._scheduled = True
            self._timeline.at(self._paused_until, self._work, self.incarnation)
        else:
            self._work(self.incarnation)

    def _work(self, incarnation: int) -> None:
        if incarnation != self.incarnation or not self.up:
            return
        self._scheduled = False
        if self._timeline.now < self._paused_until:
            self._wake()
            return
        batch, self._mailbox = self._mailbox, []
        try:
            self._perhaps_crash()
            effects: list[Effect] = []
            for mail in batch:
                self._take(effects, *mail)
            if effects:
                self._commit(batch, effects)
        except Crashed:
            self.crash()

    def _take(self, effects: list[Effect], link: Link | None, connection: int, kind: str, body: Body) -> None:
        """Let the core decide on one message, after what the batch has come to so far."""
        if link is not None and kind == "hello" and not self._is_newer(body):
            return
        event = EVENTS[kind](body, self._wall_us())
        decided = self.core.handle(event, self.now())
        self._watcher.decided(self.core, event, decided)
        if link is not None and kind == "hello":
            worker_id = WorkerId(body["worker_id"])
            self._agents[worker_id] = (link, connection, Line(body["boot_id"], body["sent_t"]))
            effects[:] = [*without_orders(effects, worker_id), Reply(0, body)]
        elif link is not None and kind == "beat":
            self._answer_beat(link, connection, body)
        effects += decided

    def _is_newer(self, hello: Body) -> bool:
        known = self._agents.get(WorkerId(hello["worker_id"]))
        return known is None or known[2].is_before(hello["boot_id"], hello["sent_t"])

    def _answer_beat(self, link: Link, connection: int, body: Body) -> None:
        """Renew the lease of a worker that we count on; one that must say hello first is made to."""
        worker_id = WorkerId(body["worker_id"])
        worker, known = self.core.state.workers.get(worker_id), self._agents.get(worker_id)
        if worker is None or worker.status == "offline" or known is None or known[1] != connection:
            link.hang_up(connection)
        else:
            self._tell(worker_id, "beat", {"sent_t": body["sent_t"]})

    # -- the ledger

    def _commit(self, batch: list[Mail], effects: list[Effect]) -> None:
        facts = [effect.fact for effect in effects if isinstance(effect, Persist)]
        if not facts:
            self._perform(effects)
            return
        self._busy = True
        data = self.ledger.encode(facts)
        self._timeline.after(COMMIT_S, self._committed, self.incarnation, data, effects)

    def _committed(self, incarnation: int, data: list[bytes], effects: list[Effect]) -> None:
        if incarnation != self.incarnation:  # killed while it was written: it may be there or not
            if self._rng.random() < 0.5 and not self.up:
                self._watcher.committed(self.core, self.ledger.append(data))
            return
        self._busy = False
        if self.faults.ledger_p and self._rng.random() < self.faults.ledger_p:
            self._fall_back()
            return
        self._watcher.committed(self.core, self.ledger.append(data))
        try:
            self._perhaps_crash()
            self._perform(effects)
        except Crashed:
            self.crash()
        if self.up and self._mailbox:
            self._wake()

    def _fall_back(self) -> None:
        """The batch was not written: forget what was decided, and let everybody say again what is true."""
        self._rebuild()
        agents, self._agents = self._agents, {}
        for link, _, _ in agents.values():
            link.close()
        if self._mailbox:
            self._wake()

    # -- deeds

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                continue
            self._perhaps_crash()
            self._watcher.speaks(effect)
            match effect:
                case Launch(worker_id, order):
                    self._tell(worker_id, "launch", {"order": order})
                case StopAttempt(worker_id, task_id, attempt, word, detail):
                    body = {"task_id": task_id, "attempt": attempt, "word": word, "detail": detail}
                    self._tell(worker_id, "stop", body)
                case AcknowledgeEnd(worker_id, task_id, attempt):
                    self._tell(worker_id, "ack", {"task_id": task_id, "attempt": attempt})
                case Reply(0, hello):
                    self._tell(WorkerId(hello["worker_id"]), "welcome", {"sent_t": hello["sent_t"]})
                case Reply(ticket, _, error):
                    self.on_reply(ticket, error is None)
                case _:
                    pass

    def _tell(self, worker_id: WorkerId, kind: str, body: Body) -> None:
        if worker_id in self._agents:
            link, connection, line = self._agents[worker_id]
            link.send_down(connection, kind, {**body, "mark": line.mark()})


# ---- what a message means, as `actors.mailbox` has it -------------------------------------------------------------


def _hello(body: Body, at_us: int) -> Event:
    live = [LiveAttempt(TaskId(a["task_id"]), a["attempt"], a["phase"]) for a in body["attempts"]]
    name, capacity = WorkerId(body["worker_id"]), body["capacity"]
    return WorkerJoined(
        name, body["boot_id"], name, capacity, live, at_us, datasets=body["datasets"], gpu_faults=body["gpu_faults"]
    )


def _beat(body: Body, at_us: int) -> Event:
    added, dropped = body.get("datasets_added", {}), body.get("datasets_dropped", [])
    return HeartbeatReceived(WorkerId(body["worker_id"]), at_us, added, dropped, body["gpu_faults"])


def _ended(body: Body, at_us: int) -> Event:
    report, rank = body["report"], body["rank"]
    return AttemptEnded(body["worker_id"], TaskId(body["task_id"]), body["attempt"], rank, report, body["seed"], at_us)


def _phase(body: Body, at_us: int) -> Event:
    return PhaseReported(body["worker_id"], TaskId(body["task_id"]), body["attempt"], body["phase"], at_us)


def _submit(body: Body, at_us: int) -> Event:
    return TaskSubmitted(
        TaskId(body["task_id"]), UserId(body["user_id"]), body["request"], at_us, ticket=body["ticket"]
    )


def _cancel(body: Body, at_us: int) -> Event:
    return CancelRequested(TaskId(body["task_id"]), UserId(body["user_id"]), at_us, ticket=body["ticket"])


def _reserve(body: Body, at_us: int) -> Event:
    return ReservationAsked(**cast(dict[str, Any], {**body, "at_us": at_us}))


EVENTS: Final[dict[str, Callable[[Body, int], Event]]] = {
    "hello": _hello,
    "beat": _beat,
    "phase": _phase,
    "dataset": lambda body, at_us: DatasetAccessed(**cast(dict[str, Any], {**body, "at_us": at_us})),
    "ended": _ended,
    "submit": _submit,
    "cancel": _cancel,
    "priority": lambda body, at_us: PriorityChanged(
        TaskId(body["task_id"]), body["priority"], UserId("ada"), at_us, ticket=body["ticket"]
    ),
    "drain": lambda body, at_us: DrainChanged(
        WorkerId(body["worker_id"]), body["wanted"], UserId("op"), at_us, ticket=body["ticket"]
    ),
    "reserve": _reserve,
    "release": lambda body, at_us: ReservationReleased(
        body["reservation_id"], UserId("op"), at_us, any_user=True, ticket=body["ticket"]
    ),
    "tick": lambda _body, at_us: TimePassed(at_us),
}
