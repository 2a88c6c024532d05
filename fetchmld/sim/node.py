"""One simulated node: the real `AgentCore` in a modelled shell, beside its runner.

The shell performs effects and turns what comes back into events as `actors.agent` does; it dies at any boundary between two
effects when the seed says so, and its successor finds the runner again.
"""

from collections.abc import Callable
from dataclasses import asdict
from random import Random
from typing import Any, Final, cast

from fetchmld.core.agent import (
    Abandon,
    Acknowledged,
    AgentCore,
    Collect,
    Collected,
    Effect,
    Event,
    Forget,
    Greeted,
    Ordered,
    Prepare,
    Prepared,
    PrepareFailed,
    Report,
    RunKey,
    SayPhase,
    Spawn,
    Stop,
    StopAsked,
)
from fetchmld.core.caches import dataset_key
from fetchmld.core.line import Hearing
from fetchmld.core.messages import LaunchOrder
from fetchmld.core.model import ArtifactSet, Capacity
from fetchmld.sim.faults import NONE, Boundaries, Faults
from fetchmld.sim.network import Body, Link
from fetchmld.sim.runner import Process, Runner
from fetchmld.sim.timeline import Timeline
from fetchmld.sim.workload import Program

RECONNECT_S: Final = 1.0
HELLO_TIMEOUT_S: Final = 30.0
RESTART_S: Final = (0.5, 5.0)
CACHED_MAX: Final = 3  # datasets that a node keeps
ARTIFACTS: Final = ArtifactSet(manifest="0" * 64, file_count=1, total_bytes=1)


class Crashed(Exception):
    """The process that performs effects is killed before the next one."""


class Node:
    """One machine: what it has, its runner, its agent, and whether they are there."""

    def __init__(
        self,
        name: str,
        capacity: Capacity,
        timeline: Timeline,
        rng: Random,
        link: Link,
        boundaries: Boundaries,
        program_of: Callable[[str], Program],
        on_start: Callable[["Node", Process], None],
        heartbeat_s: float,
        lease_s: float,
    ) -> None:
        self.name, self.capacity, self.link = name, capacity, link
        self.full_capacity = capacity
        self.boot = 0
        self.powered = True
        self.wall_offset_s = 0.0
        self.drift = 0.0
        self._booted_t = timeline.now - rng.uniform(1.0, 1e6)
        self.faults: Faults = NONE
        self.core = AgentCore()
        self._hearing = Hearing()
        self._timeline, self._rng, self._boundaries = timeline, rng, boundaries
        self._program_of = program_of
        self._heartbeat_s, self._lease_s = heartbeat_s, lease_s
        self.runner = Runner(timeline, rng, lambda process: on_start(self, process), self.wall, self.boottime)
        self.agent_up = False
        self._incarnation = 0
        self._greeted = False
        self._starts: dict[RunKey, LaunchOrder] = {}  # prepared, not known to run yet
        self._preparing: dict[RunKey, int] = {}
        self._count = 0
        self._unsent: list[Body] = []
        self._cache: dict[str, int] = {}  # what `caches.dataset_key` names, with its bytes; on disk
        self._told: dict[str, int] = {}  # what the head was told of it
        self.gpu_faults: dict[str, str] = {}  # what is wrong with which GPU now, by uuid
        self._paused: list[tuple[str, Body]] | None = None
        link.on_message, link.on_lost = self._on_message, self._on_lost

    def wall(self) -> float:
        return self._timeline.now + self.wall_offset_s

    def boottime(self) -> float:
        """The clock that nobody sets: it begins anew with each boot, and may go a little fast or slow."""
        return (self._timeline.now - self._booted_t) * (1.0 + self.drift)

    # -- life and death

    def start_agent(self) -> None:
        if not self.powered or self.agent_up:
            return
        self.agent_up = True
        self._incarnation += 1
        self.core, self._hearing = AgentCore(), Hearing()
        self._attach()

    def _attach(self) -> None:
        """Find the runner, starting one where there is none; only then is the scheduler told of us."""
        if not self.runner.up:
            self.runner.recover()
        incarnation = self._incarnation

        def tell(events: list[Event]) -> None:
            if incarnation == self._incarnation:
                self._apply(events)
                self._timeline.after(0.0, self._connect, incarnation)

        self.runner.attach(tell)

    def crash_agent(self) -> None:
        """Killed; nothing of it is left but what the runner has."""
        if not self.agent_up:
            return
        self.agent_up = False
        self._incarnation += 1
        self.core = AgentCore()
        self._starts.clear()
        self._preparing.clear()
        self._unsent.clear()
        self._paused = None
        self.runner.detach()
        self.link.close()
        self._timeline.after(self._rng.uniform(*RESTART_S), self.start_agent)

    def crash_runner(self) -> None:
        if self.runner.up:
            self.runner.crash()
            self._timeline.after(self._rng.uniform(0.1, 3.0), self._find_runner, self._incarnation)

    def _find_runner(self, incarnation: int) -> None:
        if incarnation == self._incarnation and self.agent_up and not self.runner.up:
            self._attach()

    def reboot(self, down_s: float) -> None:
        if not self.powered:
            return
        self.crash_agent()
        self.runner.power_off(self.boot + 1)
        self.powered = False
        self._timeline.after(down_s, self._boot)

    def _boot(self) -> None:
        self.boot += 1
        self._booted_t = self._timeline.now - self._rng.uniform(1.0, 30.0)
        self.powered = True
        self.start_agent()

    def break_gpu(self, index: int) -> None:
        """Whatever uses this GPU dies of it."""
        for process in list(self.runner.live.values()):
            if index in gpus_on(process, self.name):
                self.runner.abort(process)

    def pause(self, pause_s: float) -> None:
        """Frozen for a while: what arrives waits, nothing is said."""
        if self.agent_up and self._paused is None:
            self._paused = []
            self._timeline.after(pause_s, self._resume, self._incarnation)

    def _resume(self, incarnation: int) -> None:
        if incarnation == self._incarnation and self._paused is not None:
            messages, self._paused = self._paused, None
            for kind, body in messages:
                self._on_message(kind, body)

    # -- the scheduler

    def _connect(self, incarnation: int) -> None:
        if incarnation != self._incarnation or not self.agent_up or self.link.open:
            return
        if self._paused is not None or not self.link.connect():
            self._timeline.after(RECONNECT_S, self._connect, incarnation)
            return
        self._greeted = False
        sent_t = self.boottime()
        self._hearing.begin(sent_t)
        hello = {
            "sent_t": sent_t,
            "worker_id": self.name,
            "boot_id": f"{self.name}-boot{self.boot}",
            "capacity": self.capacity,
            "attempts": [asdict(attempt) for attempt in self.core.live()],
            "datasets": dict(self._cache),
            "gpu_faults": dict(self.gpu_faults),
        }
        self._told = dict(self._cache)
        self.link.send_up("hello", hello)
        self._timeline.after(HELLO_TIMEOUT_S, self._hello_due, self.link.connection)

    def _hello_due(self, connection: int) -> None:
        if connection == self.link.connection and not self._greeted:
            self.link.close()

    def _on_lost(self) -> None:
        self._greeted = False
        self._timeline.after(self._rng.uniform(0.0, RECONNECT_S), self._connect, self._incarnation)

    def _on_message(self, kind: str, body: Body) -> None:
        if not self.agent_up:
            return
        if self._paused is not None:
            self._paused.append((kind, body))
            return
        verdict = self._hearing.hear(*body["mark"])
        if verdict != "take":
            if verdict == "broken":
                self.link.close()
            return
        match kind:
            case "welcome":
                self._welcomed(body)
            case "beat":
                self._renew(body["sent_t"])
            case "launch":
                self._apply([Ordered(body["order"])])
            case "stop":
                self._apply([StopAsked(_key(body), body["word"], body["detail"])])
            case "ack":
                self._apply([Acknowledged(_key(body))])

    def _welcomed(self, body: Body) -> None:
        if self._greeted:
            return
        self._greeted = True
        self._renew(body["sent_t"])
        unsent, self._unsent = self._unsent, []
        for access in unsent:
            self.link.send_up("dataset", access)
        self._timeline.after(self._heartbeat_s, self._beat, self.link.connection)
        self._apply([Greeted()])

    def _beat(self, connection: int) -> None:
        if connection == self.link.connection and self._greeted and self.agent_up:
            if self._paused is None:
                self._say_beat()
            self._timeline.after(self._heartbeat_s, self._beat, connection)

    def _say_beat(self) -> None:
        beat = {"worker_id": self.name, "sent_t": self.boottime(), "gpu_faults": dict(self.gpu_faults)}
        self.link.send_up("beat", {**beat, **self._cache_news()})

    def _cache_news(self) -> Body:
        """What came into the cache, and what left it, since the head was last told."""
        if self._told == self._cache:
            return {}
        told, self._told = self._told, dict(self._cache)
        added = {key: size for key, size in self._cache.items() if key not in told}
        return {"datasets_added": added, "datasets_dropped": [key for key in told if key not in self._cache]}

    def _renew(self, sent_t: float) -> None:
        self.runner.renew(sent_t + self._lease_s)

    def _tell(self, kind: str, key: RunKey, **fields: Any) -> None:
        body = {"worker_id": self.name, "task_id": key.task_id, "attempt": key.attempt, **fields}
        if kind == "dataset" and not self._greeted:
            self._unsent.append(body)
            return
        self.link.send_up(kind, body)

    # -- the core

    def _apply(self, events: list[Event]) -> None:
        """As the actor does: what takes no time follows at once; phases that are over are not told."""
        effects: list[Effect] = []
        events = list(events)
        while events:
            for effect in self.core.handle(events.pop(0)):
                if isinstance(effect, Spawn):
                    assert not self.core.runs[effect.key].stop_word, f"{effect.key} is to start, though it was stopped"
                following = self._do_now(effect)
                if following is None:
                    effects.append(effect)
                else:
                    events.append(following)
        self.core.check()
        over = {effect.key for effect in effects if isinstance(effect, Report)}
        told = [effect for effect in effects if not (isinstance(effect, SayPhase) and effect.key in over)]
        try:
            for effect in told:
                self._perhaps_crash()
                self._perform(effect)
        except Crashed:
            self.crash_agent()

    def _perhaps_crash(self) -> None:
        if self._boundaries.dies(self.faults.agent_effect_p):
            raise Crashed

    def _do_now(self, effect: Effect) -> Event | None:
        match effect:
            case Prepare(order) if not order["request"].get("dataset_specs"):
                return self._prepared(order)
            case Collect(key, _) if not self._program_of(key.task_id).collect_s:
                return Collected(key, None)
        return None

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Prepare(order):
                self._prepare(order)
            case Abandon(key):
                if self._preparing.pop(key, None) is not None:
                    self._apply([PrepareFailed(key, "CANCELLED", "it was stopped while its datasets were fetched")])
            case Spawn(key):
                self.runner.send(self.runner.start, self._starts[key], self._program_of(key.task_id))
            case Stop(key, rank, word, detail):
                self.runner.send(self.runner.stop, key, rank, word, detail)
            case Collect(key, _):
                work = self._program_of(key.task_id).collect_s
                self._timeline.after(work, self._later, self._incarnation, Collected(key, ARTIFACTS))
            case SayPhase(key, phase):
                self._tell("phase", key, phase=phase)
            case Report(key, rank, report):
                if self.gpu_faults and self._greeted:
                    self._say_beat()  # before the end, so that the right thing is blamed
                self._tell("ended", key, rank=rank, report=dict(report), seed=self._rng.getrandbits(32))
            case Forget(key, _):
                self._starts.pop(key, None)
                self.runner.send(self.runner.forget, key)

    def _prepared(self, order: LaunchOrder) -> Event:
        key = RunKey(order["task_id"], order["attempt"])
        self._starts[key] = order
        return Prepared(key)

    def _prepare(self, order: LaunchOrder) -> None:
        key = RunKey(order["task_id"], order["attempt"])
        self._count += 1
        self._preparing[key] = self._count
        self._timeline.after(self._program_of(key.task_id).prepare_s, self._fetched, key, self._count, order)

    def _fetched(self, key: RunKey, number: int, order: LaunchOrder) -> None:
        if self._preparing.get(key) != number:
            return  # abandoned, or of an agent before us
        del self._preparing[key]
        word = self._program_of(key.task_id).prepare_word
        for spec in order["request"]["dataset_specs"]:
            access = {"name": spec["name"], "source": spec["source"], "success": not word, "sha256": "", "error": word}
            self._tell("dataset", key, **access)
            if not word:
                self._keep(dataset_key(spec))
        failed = PrepareFailed(key, word, "the dataset", word == "DATASET_UNAVAILABLE")
        self._apply([failed if word else self._prepared(order)])

    def _keep(self, dataset: str) -> None:
        """It is in the cache now, and the newest there."""
        self._cache.pop(dataset, None)
        self._cache[dataset] = 1
        for oldest in list(self._cache)[:-CACHED_MAX]:
            del self._cache[oldest]

    def _later(self, incarnation: int, event: Event) -> None:
        if incarnation == self._incarnation:
            self._apply([event])


def gpus_on(process: Process, node_name: str) -> list[int]:
    """The GPUs that a process was given on its node."""
    return [i for node in process.order["assignments"] if node["worker_id"] == node_name for i in node["gpus"]]


def _key(body: Body) -> RunKey:
    return RunKey(cast(str, body["task_id"]), body["attempt"])
