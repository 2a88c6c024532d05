"""The processes of attempts: started, stopped, reaped, adopted, and nothing of them left behind. Standard library only.

An attempt is its first process (the leader of a session of its own) and all that came from it: every process of its user,
where it has one of its own, and of its cgroup. We are the subreaper, so whatever outlives its parent becomes our child.
When the leader has ended, what is left is killed, and only when nothing is left does the attempt count as ended. `ended`
collects those; the runner takes them from there.
"""

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fetchmld.runner import proctree, spawning
from fetchmld.runner.cgroups import Cell
from fetchmld.runner.isolation import Isolation
from fetchmld.runner.loop import Loop, boottime

GRACE_S: Final = 10.0
AGAIN_S: Final = 0.05  # between two looks at processes that should be gone
GIVE_UP_S: Final = 15.0  # how long killed processes may take to go before the end is reported without them


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt and what became of it. `status` is wait4's, None while it lives or where nobody could read it."""

    key: str
    pid: int
    slot: int
    asked_t: float  # boot time, as all `_t`: its leader was started between asked_t and started_t, which identifies it
    started_t: float
    uid: int = -1  # the user that is its own; -1 = ours
    cell: Cell | None = None
    grace_s: float = GRACE_S
    log_bytes_max: int = 0
    deadline_t: float = 0.0  # the end of its time limit; 0 = none, or it is being enforced
    pidfd: int = -1  # of a living adopted one, whose end no SIGCHLD tells
    adopted: bool = False  # started by a runner before us: not our child
    leader_gone: bool = False
    status: int | None = None
    word: str = ""  # why we stopped it; WORKER_LOST or EXIT_UNKNOWN where we were not there
    detail: str = ""
    kill_t: float = 0.0  # when the grace ends, once it was told to stop
    give_up_t: float = 0.0
    swept_t: float = 0.0  # when what it left was killed last
    unkillable: bool = False  # something of it is still there: its log file must not be used again
    user_s: float = 0.0
    system_s: float = 0.0
    rss_max_bytes: int = 0
    log: dict[str, Any] | None = None  # where its output was put
    exit: dict[str, Any] | None = None  # how it ended, as it is journaled and reported

    @property
    def alive(self) -> bool:
        return not self.leader_gone

    def add_usage(self, usage: resource.struct_rusage) -> None:
        self.user_s += usage.ru_utime
        self.system_s += usage.ru_stime
        self.rss_max_bytes = max(self.rss_max_bytes, usage.ru_maxrss * 1024)

    def end(self, at: float) -> dict[str, Any]:
        """How it ended: `code` or `signal` where the status is known, and `word` where we had a hand in it."""
        record = {"key": self.key, "at": at, "log": self.log, "word": self.word, "detail": self.detail}
        if self.unkillable:
            record["unkillable"] = True
        if self.status is not None:
            code = os.waitstatus_to_exitcode(self.status)
            record["code" if code >= 0 else "signal"] = abs(code)
            record["usage"] = {
                "user_s": round(self.user_s, 6),
                "system_s": round(self.system_s, 6),
                "rss_max_bytes": self.rss_max_bytes,
            }
        return record


@dataclass(slots=True)
class Order:
    """What is to be started, as which attempt, with its output's file and its cgroup."""

    key: str
    start: spawning.Start
    slot: int
    log_fd: int
    cell: Cell | None


class Attempts:
    """Every attempt that is not forgotten, and their processes. Must live on the thread that reaps."""

    def __init__(
        self,
        loop: Loop,
        live_log: Callable[[int], str],
        isolation: Isolation,
        marks: proctree.Marks,
        say: Callable[[str], None],
    ) -> None:
        """`live_log` names a slot's file."""
        self.all: dict[str, Attempt] = {}
        self.ended: list[Attempt] = []
        self._loop = loop
        self._live_log = live_log
        self._say = say
        self._isolation = isolation
        self._marks = marks
        self._spawner = spawning.Spawner(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), isolation.home_fd)
        self._children = proctree.OwnChildren()
        self._by_pid: dict[int, Attempt] = {}  # leaders that are our children and not reaped yet
        self._orphans: dict[int, str] = {}  # our other children: leftovers of the attempt of that key ("" = unknown)
        self._sweeping: dict[str, Attempt] = {}  # leader gone, leftovers perhaps not
        self._looks_again = False  # a timer is set: one for all of them
        self._stuck: list[Attempt] = []  # ended as far as anybody is told; something of them could not be killed

    def living(self) -> list[Attempt]:
        """Those whose end is not on record."""
        return [attempt for attempt in self.all.values() if attempt.exit is None]

    # -- starting

    def start(self, orders: list["Order"]) -> list[Attempt | spawning.StartFailed]:
        """Start the first process of each."""
        for order in orders:
            order.start.env[proctree.MARK] = self._marks.of(order.key)
        asked_t = boottime()
        pids = self._spawner.spawn_all([(order.start, order.log_fd) for order in orders])
        return [
            self._started(Attempt(o.key, pid, o.slot, asked_t, boottime(), o.start.uid, o.cell))
            if isinstance(pid, int)
            else pid
            for o, pid in zip(orders, pids, strict=True)
        ]

    def _started(self, attempt: Attempt) -> Attempt:
        self.all[attempt.key] = self._by_pid[attempt.pid] = attempt
        return attempt

    # -- stopping

    def stop(self, attempt: Attempt, word: str, detail: str, grace_s: float) -> None:
        """SIGTERM to all of the attempt now, SIGKILL after `grace_s`. A second call can only shorten the grace."""
        kill_t = boottime() + grace_s
        told = attempt.kill_t > 0
        if attempt.exit is not None or (attempt.leader_gone and not told) or (told and attempt.kill_t <= kill_t):
            return
        attempt.kill_t = kill_t
        if not told:
            attempt.word, attempt.detail = word, detail
            self._signal(attempt, signal.SIGTERM)
        self._loop.at(kill_t, lambda: self._kill_until_gone(attempt))

    def _kill_until_gone(self, attempt: Attempt) -> None:
        if attempt.alive:  # afterwards the sweep does it
            self._signal(attempt, signal.SIGKILL)
            self._loop.at(boottime() + AGAIN_S, lambda: self._kill_until_gone(attempt))

    def _signal(self, attempt: Attempt, number: int) -> None:
        self._find_orphans()
        if attempt.uid >= 0:  # all at once: none can fork away
            try:
                spawning.kill_user(attempt.uid, number)
            except OSError as error:
                self._say(f"cannot signal {attempt.key}: {error}")
            return
        for pid in self._tree(attempt):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
            except PermissionError as error:
                self._say(f"cannot signal {pid} of {attempt.key}: {error}")

    def _tree(self, attempt: Attempt) -> list[int]:
        """Every process of the attempt that is there now."""
        roots = [attempt.pid] if attempt.alive else []
        roots += [pid for pid, key in self._orphans.items() if key == attempt.key]
        if attempt.adopted:  # not below us: its leftovers went to another reaper
            roots += [pid for pid in self._marks.find({attempt.key}) if pid not in roots]
        if attempt.cell is not None:
            roots += [pid for pid in attempt.cell.pids() if pid not in roots]
        return proctree.with_descendants(roots)

    # -- ends

    def reap(self) -> None:
        """Take every child that has ended, then see what the ended leaders left behind."""
        gone: list[Attempt] = []
        while (child := _next_ended()) is not None:
            pid, status, usage = child
            attempt = self._by_pid.pop(pid, None)
            if attempt is not None:
                attempt.status = status
                attempt.add_usage(usage)
                gone.append(attempt)
            else:
                owner = self.all.get(self._orphans.pop(pid, ""))
                if owner is not None:
                    owner.add_usage(usage)
        self._settle(gone)

    def _settle(self, gone: list[Attempt]) -> None:
        """`gone` have lost their leader: they have ended once nothing of them is left."""
        for attempt in gone:
            attempt.leader_gone = True
            attempt.give_up_t = boottime() + GIVE_UP_S
            self._sweeping[attempt.key] = attempt
        if not self._sweeping:
            return
        self._find_orphans()
        left, now, over = set(self._orphans.values()), boottime(), list[Attempt]()
        for attempt in list(self._sweeping.values()):
            if attempt.key not in left and not self._hides(attempt):
                over.append(attempt)
            elif now - attempt.swept_t >= AGAIN_S:
                self._sweep(attempt, now)
        for attempt in over:
            self._finish(attempt)
        self._take_back(over)
        if self._sweeping and not self._looks_again:
            self._looks_again = True
            self._loop.at(now + AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._looks_again = False
        self._settle([])

    def _hides(self, attempt: Attempt) -> bool:
        """Whether something of it lives that is not below us: what another runner started, and nobody else should."""
        if attempt.cell is not None:
            return not attempt.cell.is_empty()
        if not attempt.adopted:
            return False
        return spawning.kill_user(attempt.uid, 0) if attempt.uid >= 0 else bool(self._tree(attempt))

    def _finish(self, attempt: Attempt) -> None:
        del self._sweeping[attempt.key]
        self._blame_memory(attempt)
        self.ended.append(attempt)

    def _take_back(self, attempts: list[Attempt]) -> None:
        """Nothing of them lives."""
        self._isolation.clean_up([attempt.uid for attempt in attempts])
        for attempt in attempts:
            self._isolation.release(attempt.cell)
            attempt.cell = None

    def look_at_stuck(self) -> None:
        """Clean up after those whose last processes have ended after all."""
        if self._stuck:
            self._find_orphans()
        left = set(self._orphans.values())
        over = [attempt for attempt in self._stuck if attempt.key not in left and not self._hides(attempt)]
        self._take_back(over)
        self._isolation.free([attempt.uid for attempt in over])
        for attempt in over:
            self._stuck.remove(attempt)
            self._say(f"{attempt.key}: what could not be killed has ended")

    def _blame_memory(self, attempt: Attempt) -> None:
        """Say so where the kernel killed some of it for memory, and it did not end well."""
        kills = attempt.cell.oom_kills() if attempt.cell is not None else 0
        if attempt.cell is not None and kills and attempt.status != 0 and attempt.word in ("", "EXIT_UNKNOWN"):
            limit = attempt.cell.memory_bytes
            attempt.word = "OOM_KILLED"
            attempt.detail = f"it used more than its {_size(limit)} of memory" if limit else "memory was short"
            attempt.detail += f"; {kills} of its processes killed" if kills > 1 else ""

    def _sweep(self, attempt: Attempt, now: float) -> None:
        """Kill leftovers, unless they were told to stop and still have time; give up on what cannot be killed."""
        attempt.swept_t = now
        if attempt.kill_t > now:
            attempt.give_up_t = attempt.kill_t + GIVE_UP_S
        elif now > attempt.give_up_t:
            self._say(f"{attempt.key} left processes that cannot be killed: {self._tree(attempt)}")
            attempt.unkillable = True
            self._stuck.append(attempt)
            self._finish(attempt)
        else:
            self._signal(attempt, signal.SIGKILL)

    # -- leftovers

    def _find_orphans(self) -> None:
        """Learn of the children that we did not start, and whose they are."""
        for pid in self._children.now():
            if pid not in self._by_pid and pid not in self._orphans:
                self._orphans[pid] = self._owner_of(pid)
        if not self._by_pid:
            for pid in [pid for pid, key in self._orphans.items() if key not in self.all]:
                _kill(pid)  # it hides whose it is, and everybody it could belong to has ended

    def _owner_of(self, pid: int) -> str:
        if self._isolation.users is not None:
            uid = proctree.uid_of(pid)
            if uid in self._isolation.users.block:
                return next((a.key for a in self.all.values() if a.uid == uid and a.exit is None), "")
        stat = proctree.stat_of(pid)
        session = stat.session if stat else 0
        for attempt in (self._by_pid.get(session), *self._sweeping.values()):
            if attempt is not None and attempt.pid == session:
                return attempt.key
        key = self._marks.key_of(pid)
        if key in self.all:
            return key
        output = proctree.output_of(pid)
        return next((a.key for a in self.all.values() if output and self._live_log(a.slot) == output), "")

    # -- what a runner before us started

    def adopt(self, attempt: Attempt) -> bool:
        """Take over an attempt of this boot by its pid and start time. False when that process has ended.

        `attempt.pid` alone is never trusted: a descriptor holds the process while its start time is compared.
        """
        self.all[attempt.key] = attempt
        attempt.adopted = True
        attempt.pidfd = _open_pidfd(attempt)
        if attempt.pidfd >= 0:
            self._loop.watch(attempt.pidfd, lambda: self._on_adopted_end(attempt))
        return attempt.pidfd >= 0

    def _on_adopted_end(self, attempt: Attempt) -> None:
        self._loop.unwatch(attempt.pidfd)
        os.close(attempt.pidfd)
        attempt.pidfd = -1
        self.lost(attempt, "it ended after its runner was killed; its status is not known")

    def lost(self, attempt: Attempt, detail: str = "it ended while no runner was there to read its status") -> None:
        """An adopted attempt's leader has ended and nobody read its status; what it left is killed as usual."""
        self.all[attempt.key] = attempt
        attempt.adopted = True
        if not attempt.word:
            attempt.word, attempt.detail = "EXIT_UNKNOWN", detail
        self._settle([attempt])


def _next_ended() -> tuple[int, int, resource.struct_rusage] | None:
    try:
        child = os.wait4(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return child if child[0] else None


def _open_pidfd(attempt: Attempt) -> int:
    if attempt.pid <= 0:
        return -1
    try:
        fd = os.pidfd_open(attempt.pid)
    except OSError:
        return -1
    stat = proctree.stat_of(attempt.pid)
    if stat is None or not attempt.asked_t - proctree.TICK_S <= stat.started_t <= attempt.started_t:
        os.close(fd)
        return -1
    return fd


def _size(number: int) -> str:
    for unit, name in ((2**30, "GB"), (2**20, "MB")):
        if number >= unit:
            return f"{number / unit:g} {name}"
    return f"{number} bytes"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
