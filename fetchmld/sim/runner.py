"""The modelled runner of one node: its processes, its journal, its lease, as `fetchmld.runner` has them.

The processes outlive the runner, the journal outlives the node's reboot (what was not synced by then may not).
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from fetchmld.core.agent import Event, Exited, RunKey, RunnerReturned, Started, StartFailed
from fetchmld.core.messages import LaunchOrder
from fetchmld.core.model import EndReport
from fetchmld.sim.timeline import Timeline
from fetchmld.sim.workload import Program

LEASE_GRACE_S: Final = 10.0
PIPE_S: Final = 0.0005  # between agent and runner
SYNC_S: Final = 0.005


@dataclass(slots=True, eq=False)
class Process:
    """A living attempt."""

    key: RunKey
    rank: int
    order: LaunchOrder
    program: Program
    started_t: float
    adopted: bool = False  # by a runner that is not its parent: nobody can read its status
    word: str = ""
    detail: str = ""
    kill_t: float = 0.0


@dataclass(slots=True)
class Entry:
    """One attempt in the journal."""

    rank: int
    boot: int  # of the node when it was started
    synced: bool = False
    report: EndReport | None = None
    shown: bool = False  # its end is durable, so it may be told


class Runner:
    """One per node, for ever; `crash` and `reboot` take from it what they would take."""

    def __init__(
        self,
        timeline: Timeline,
        rng: Random,
        on_start: Callable[[Process], None],
        wall: Callable[[], float],
        boottime: Callable[[], float],
    ) -> None:
        self._timeline, self._rng, self._on_start = timeline, rng, on_start
        self._wall, self._boottime = wall, boottime
        self.up = True
        self.live: dict[RunKey, Process] = {}
        self.journal: dict[RunKey, Entry] = {}
        self.lease_until = 0.0  # 0 = none was given since the node started
        self._boot = 0
        self._incarnation = 0
        self._orders: set[RunKey] = set()
        self._lease_armed = False
        self._tell: Callable[[list[Event]], None] | None = None

    # -- the agent

    def attach(self, tell: Callable[[list[Event]], None]) -> None:
        """An agent is there: it hears what there is, and from now on what happens."""
        self._tell = tell
        running = [(process.key, process.rank) for process in self.live.values()]
        running += [(key, entry.rank) for key, entry in self.journal.items() if entry.report and not entry.shown]
        ended = [self._exited(key, entry) for key, entry in self.journal.items() if entry.report and entry.shown]
        running += [(key, 0) for key in self._orders]
        self._say([RunnerReturned(running, [event.key for event in ended]), *ended])

    def detach(self) -> None:
        self._tell = None

    def _say(self, events: list[Event]) -> None:
        if self._tell is not None:
            self._timeline.after(PIPE_S, self._said, self._tell, self._incarnation, events)

    def _said(self, tell: Callable[[list[Event]], None], incarnation: int, events: list[Event]) -> None:
        if incarnation == self._incarnation and tell is self._tell:
            tell(events)

    def _exited(self, key: RunKey, entry: Entry) -> Exited:
        assert entry.report is not None
        return Exited(key, entry.rank, EndReport(**entry.report))

    # -- what it is told

    def send(self, do: Callable[..., None], *arguments: Any) -> None:
        """A message of the agent; lost if the runner dies before it arrives."""
        if self.up and self._tell is not None:
            self._timeline.after(PIPE_S, self._got, self._incarnation, do, arguments)

    def _got(self, incarnation: int, do: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if incarnation == self._incarnation and self.up:
            do(*arguments)

    def start(self, order: LaunchOrder, program: Program) -> None:
        key = RunKey(order["task_id"], order["attempt"])
        if key not in self._orders:
            self._orders.add(key)
            self._timeline.after(
                SYNC_S * self._rng.random(), self._got, self._incarnation, self._start, (order, program)
            )

    def _start(self, order: LaunchOrder, program: Program) -> None:
        key, now = RunKey(order["task_id"], order["attempt"]), self._timeline.now
        if key not in self._orders:
            return  # stopped before it began
        self._orders.discard(key)
        if key in self.live or key in self.journal:
            return
        if program.ending.startswith("start_failed"):
            ours = program.ending == "start_failed_ours"
            word = "LAUNCH_FAILED" if ours else "ENTRYPOINT_NOT_FOUND"
            self._say([StartFailed(key, word, "it cannot be started", ours)])
            return
        process = self.live[key] = Process(key, order["rank"], order, program, now)
        self.journal[key] = Entry(order["rank"], self._boot)
        self._on_start(process)
        self._say([Started(key, order["rank"])])
        self._timeline.after(program.run_s, self._ends, process)
        self._limit(process)
        self._enforce_lease()

    def _limit(self, process: Process) -> None:
        if limit_s := process.order["request"].get("time_limit_s"):
            detail = f"it ran longer than its {limit_s} s"
            stop = (process.key, process.rank, "TIME_LIMIT", detail, LEASE_GRACE_S)
            self._timeline.at(process.started_t + limit_s, self._got, self._incarnation, self.stop, stop)

    def stop(self, key: RunKey, rank: int, word: str, detail: str, grace_s: float = LEASE_GRACE_S) -> None:
        if key in self._orders:
            self._orders.discard(key)
            self._say([StartFailed(key, "LAUNCH_FAILED", "stopped", True)])
        process, kill_t = self.live.get(key), self._timeline.now + grace_s
        if process is None or (process.kill_t and process.kill_t <= kill_t):
            return
        if not process.kill_t:
            process.word, process.detail = word, detail
        process.kill_t = kill_t
        hears_s = min(grace_s, self._rng.random())
        self._timeline.after(grace_s if process.program.deaf else hears_s, self._killed, process)

    def forget(self, key: RunKey) -> None:
        entry = self.journal.get(key)
        if entry is not None and entry.report is not None and entry.shown:
            del self.journal[key]

    def renew(self, until: float) -> None:
        """A new lease; at once, as nothing depends on the moment and there are many."""
        if not self.up or self._tell is None:
            return
        first = self.lease_until == 0.0
        self.lease_until = max(self.lease_until, until)
        if first:
            self._enforce_lease()

    def _enforce_lease(self) -> None:
        """Stop all when the lease is about to end; look again then if it is not."""
        left_s = self.lease_until - self._boottime()
        if not self.up or not self.lease_until or not self.live:
            return
        if left_s > LEASE_GRACE_S:
            if not self._lease_armed:
                self._lease_armed = True
                self._timeline.after(left_s - LEASE_GRACE_S, self._got, self._incarnation, self._lease_due, ())
            return
        for process in list(self.live.values()):
            detail = "the node could not reach the head for too long"
            self.stop(process.key, process.rank, "LEASE_EXPIRED", detail, max(0.0, left_s))

    def _lease_due(self) -> None:
        self._lease_armed = False
        self._enforce_lease()

    # -- ends

    def _ends(self, process: Process) -> None:
        if process.program.ending == "signal":
            self._gone(process, EndReport(signal=9))
        else:
            self._gone(process, EndReport(exit_code=process.program.code))

    def _killed(self, process: Process) -> None:
        self._gone(process, EndReport(signal=15))

    def abort(self, process: Process) -> None:
        """It dies of something that nobody asked for."""
        self._gone(process, EndReport(signal=6))

    def _gone(self, process: Process, report: EndReport) -> None:
        """The process is no more. Without a runner, or with one that is not its parent, nobody reads its status."""
        if self.live.get(process.key) is not process:
            return
        del self.live[process.key]
        if not self.up:
            return  # found missing by the next runner
        if process.word:
            report = EndReport(word=process.word, detail=process.detail)
        elif process.adopted:
            report = EndReport(word="EXIT_UNKNOWN", detail="its status is not known")
        if process.word == "LEASE_EXPIRED":
            report["infrastructure"] = True  # as the agent says of these words
        self._record(process.key, report)

    def _record(self, key: RunKey, report: EndReport) -> None:
        entry = self.journal[key]
        entry.report = report
        report["ended_at"] = self._wall()
        self._timeline.after(SYNC_S, self._got, self._incarnation, self._synced, (key,))

    def _synced(self, key: RunKey) -> None:
        for entry in self.journal.values():
            entry.synced = True
        entry = self.journal[key]
        entry.shown = True
        self._say([self._exited(key, entry)])

    # -- its own deaths

    def crash(self) -> None:
        """Killed; its processes go on."""
        self.up = False
        self._incarnation += 1
        self._lease_armed = False
        self._orders.clear()
        self._tell = None

    def recover(self) -> None:
        """A runner again, from the journal: adopts what lives, and does not know how the rest ended."""
        self.up = True
        self._incarnation += 1
        for process in self.live.values():
            process.adopted = True
            process.word = process.detail = ""
            process.kill_t = 0.0
            self._limit(process)
        for key, entry in self.journal.items():
            if entry.report is not None:
                entry.shown = True
            elif key not in self.live:
                entry.report = self._not_seen(entry)
                entry.shown = True
        self._enforce_lease()

    def _not_seen(self, entry: Entry) -> EndReport:
        if entry.boot != self._boot:
            return EndReport(word="WORKER_LOST", detail="the machine was restarted while it ran", infrastructure=True)
        return EndReport(word="EXIT_UNKNOWN", detail="it ended while no runner was there")

    def power_off(self, next_boot: int) -> None:
        """The node goes down: every process with it, and some of what was not synced."""
        self.crash()
        self._boot = next_boot
        self.live.clear()
        self.lease_until = 0.0
        self.journal = {key: entry for key, entry in self.journal.items() if entry.synced or self._rng.random() < 0.5}
        for entry in self.journal.values():
            if not entry.shown and not entry.synced:
                entry.report = None
