"""The runner process: serves one agent, keeps the journal and the logs, enforces limits and leases.

It is detached from whoever started it, so agents, Ray and the daemon come and go while it stays. A newer agent replaces an
older one. An attempt ends in one `exited` message, sent after its log is put away, all that it left behind is killed, and
the exit is synced to the journal; it is repeated in every `state` until the agent says `forget`. If the runner itself is
killed, the next one adopts what still runs, and says `EXIT_UNKNOWN` where nobody could read the status; of what a restart
of the machine ended it says `WORKER_LOST`.

agent to runner   hello {} · start {key, path, argv, env, cwd, limits, uid, time_limit_s, grace_s, memory_bytes, pids,
                  cores, weight_cores, log_bytes_max, prelude} ·
                  stop {key, word, detail, grace_s} · lease {until} · forget {keys} · stop_if_idle {}
runner to agent   state {pid, native, isolation, running: [{key, pid, slot}], ended: [exited, ...]} ·
                  started {key, pid, slot}, unless its end is told as soon · start_failed {key, step, errno} · bye {idle} ·
                  exited {key, code | signal | neither: unknown, word, detail, usage, log, at, unkillable}
"""

import contextlib
import fcntl
import gc
import json
import os
import signal
import sys
import time
from collections import deque
from typing import Any, Final

from fetchmld.runner import isolation, lease, process, proctree, spawning
from fetchmld.runner.agent_link import AgentLink
from fetchmld.runner.attempts import GRACE_S, Attempt, Attempts, Order
from fetchmld.runner.cgroups import Limits
from fetchmld.runner.frames import Message
from fetchmld.runner.isolation import THE_BEST, Wanted
from fetchmld.runner.journal import Journal, Record
from fetchmld.runner.lease import Lease
from fetchmld.runner.logs import NO_OUTPUT, LogPool
from fetchmld.runner.loop import Loop, boottime
from fetchmld.runner.process import IDLE_S, say
from fetchmld.runner.recovery import recover
from fetchmld.runner.syncer import Syncer

STARTS_PER_TURN: Final = 12  # then exits are looked at again: a start takes about half a millisecond
FEW: Final = 4  # attempts: with more there is always something to start or to end while the disk works
TICK_S: Final = 1.0
CUT_S: Final = 0.05  # between two cuts of a log that goes on growing
RETRY_S: Final = 0.5  # between attempts to write to a full disk


class Runner:
    """What the process owns, and its loop. `run` returns when there is nothing left to do."""

    def __init__(self, node_dir: str, socket_path: str, idle_s: float = IDLE_S, wanted: Wanted = THE_BEST) -> None:
        """Take the node's directory, adopt what runs, and listen. Raises BlockingIOError if another runner has it."""
        os.makedirs(node_dir, mode=0o700, exist_ok=True)
        self._lock = os.open(f"{node_dir}/runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._idle_s = idle_s
        self._idle_since_t = boottime()
        self._stopping = False
        self._orders: deque[Message] = deque()  # starts that were asked for
        self._unwritten: list[Attempt] = []  # ended, but the disk was full
        self._unsynced: list[Record] = []
        self._in_sync: list[Record] = []
        self._boot_id = proctree.boot_id()
        self._loop = Loop()
        self._journal = Journal.open(f"{node_dir}/journal")
        self._logs = LogPool(f"{node_dir}/logs", {entry.slot for entry in self._journal.entries.values()})
        owned_cells = {entry.cell for entry in self._journal.entries.values() if entry.exit is None}
        self._isolation = isolation.find(node_dir, wanted, owned_cells, say)
        self._syncer = Syncer(self._journal)
        self._loop.watch(self._syncer.done_fd, self._on_synced)
        spawning.become_subreaper()
        process.protect()
        marks = proctree.Marks(node_dir)
        self._attempts = Attempts(self._loop, self._logs.live_path, self._isolation, marks, say)
        self._catch_signals()
        self._lease = Lease(f"{node_dir}/lease", self._boot_id)
        recover(self._journal.entries, self._attempts, self._isolation, marks, self._boot_id)
        self._agent = AgentLink(self._loop, socket_path, self._handle, say)

    def _catch_signals(self) -> None:
        self._signals_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)
        self._loop.watch(self._signals_fd, self._on_signals)

    def _on_signals(self) -> None:
        numbers = os.read(self._signals_fd, 4096)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._stopping = self.is_idle  # else it stays: the attempts need it
        self._attempts.reap()

    # -- the loop

    def run(self) -> None:
        """Serve until idle for `idle_s` with no agent, or told to stop while idle."""
        self._idle_since_t = boottime()
        gc.freeze()  # what start-up made lives as long as we do
        gc.set_threshold(10_000, 20, 100)
        self._tick()
        while not self._stopping:
            self._loop.turn(wait=not self._has_work())
            self._start_some()
            self._record_ends()
            self._sync_some()
        self._close()

    def _has_work(self) -> bool:
        return bool(self._orders or self._attempts.ended or (self._unsynced and not self._syncer.busy))

    def _tick(self) -> None:
        """Once a second: leases and limits, being idle, the socket's name, the journal's size."""
        now = boottime()
        self._loop.at(now + TICK_S, self._tick)
        for attempt in self._attempts.living():
            self._enforce(attempt, now)
            self._cut_log(attempt)
        self._attempts.look_at_stuck()
        if not self._agent.is_there:
            self._agent.stay_reachable()
            idle_since_t = max(self._idle_since_t, self._agent.alone_since_t)
            self._stopping |= self.is_idle and now - idle_since_t > self._idle_s
        if not self._syncer.busy and (why := self._journal.compact_where_large(now)):
            say(f"the journal could not be made smaller: {why}")

    def _enforce(self, attempt: Attempt, now: float) -> None:
        if self._lease.is_ending(now):
            self._attempts.stop(attempt, lease.WORD, lease.DETAIL, self._lease.grace_s(now))
        if attempt.deadline_t and attempt.deadline_t <= now + TICK_S:
            deadline_t, attempt.deadline_t = attempt.deadline_t, 0.0
            detail = f"it ran longer than its {deadline_t - attempt.started_t:g} s"
            self._loop.at(deadline_t, lambda: self._attempts.stop(attempt, "TIME_LIMIT", detail, attempt.grace_s))

    def _cut_log(self, attempt: Attempt) -> None:
        if not attempt.log_bytes_max or attempt.slot < 0 or attempt.exit is not None:
            return
        try:
            grows = self._logs.cut(attempt.slot, attempt.log_bytes_max)
        except OSError as error:
            say(f"cannot cut the log of {attempt.key}: {error}")
            return
        if grows:
            self._loop.at(boottime() + CUT_S, lambda: self._cut_log(attempt))

    @property
    def is_idle(self) -> bool:
        """Nothing runs, and every end is acknowledged."""
        return not self._attempts.all and not self._orders

    def _close(self) -> None:
        self._agent.close()
        self._journal.close()
        self._isolation.close()

    # -- the agent

    def _handle(self, message: Message) -> None:
        match message["do"]:
            case "start":
                self._orders.append(message)
            case "stop":
                self._on_stop(message)
            case "forget":
                self._forget(message["keys"])
            case "lease":
                self._lease.renew(float(message["until"]))
            case "hello":
                self._greet()
            case "stop_if_idle":
                self._agent.tell({"event": "bye", "idle": self.is_idle})
                self._stopping = self.is_idle
            case other:
                say(f"unknown message {other!r}")

    def _greet(self) -> None:
        hidden = {record["key"] for record in self._unsynced + self._in_sync}  # reported once they are durable
        ended = [a.exit for a in self._attempts.all.values() if a.exit is not None and a.key not in hidden]
        running = [
            {"key": a.key, "pid": a.pid, "slot": a.slot}
            for a in self._attempts.all.values()
            if a.exit is None or a.key in hidden
        ]
        running += [{"key": order["key"], "pid": 0, "slot": -1} for order in self._orders]
        facts: Message = {"pid": os.getpid(), "native": spawning.NATIVE, "lease_until": self._lease.until}
        facts["isolation"] = self._isolation.facts()
        self._agent.greet({"event": "state", "running": running, "ended": ended, **facts})

    # -- starts and stops

    def _start_some(self) -> None:
        asked: dict[str, Message] = {}
        while self._orders and len(asked) < STARTS_PER_TURN:
            order = self._orders.popleft()
            if order["key"] not in self._attempts.all:
                asked.setdefault(order["key"], order)  # asked for twice, it is started once
        if not asked:
            return
        orders = [boxed for message in asked.values() if (boxed := self._boxed(message)) is not None]
        if error := self._write([self._intent(boxed) for boxed in orders]):
            for boxed in orders:
                self._take_back(boxed, "journal", error)
            return
        for boxed in orders:
            _write_prelude(boxed.log_fd, asked[boxed.key].get("prelude", ""))
        results = self._attempts.start(orders)
        # Where these cannot be written, the intents let the next runner find the processes.
        self._write([self._started(asked[o.key], o, r) for o, r in zip(orders, results, strict=True)])

    def _boxed(self, message: Message) -> Order | None:
        """The order with all that it is given of us; None, and the agent is told, where there is not enough."""
        start = _start_of(message)
        slot, log_fd = self._logs.acquire(start.uid)
        order = Order(message["key"], start, slot, log_fd, None)
        try:
            order.cell = self._isolation.box(start, _limits_of(message))
        except OSError as error:
            say(f"cannot start {order.key}: {error}")
            self._take_back(order, "cgroup", error.errno or 5)
            return None
        return order

    def _take_back(self, order: Order, step: str, error: int) -> None:
        """It was not started after all."""
        self._logs.release(order.slot)
        self._isolation.release(order.cell)
        self._agent.tell(_start_failed(order.key, step, error))

    def _intent(self, order: Order) -> Record:
        number, ooms = (order.cell.number, order.cell.ooms) if order.cell is not None else (-1, 0)
        owner = {"uid": order.start.uid, "cell": number, "ooms": ooms}
        return {"j": "intent", "key": order.key, "slot": order.slot, "boot": self._boot_id, **owner}

    def _started(self, message: Message, order: Order, attempt: Attempt | spawning.StartFailed) -> Record:
        """Tell the agent how a start went; what the journal is to say of it."""
        key, limit_s = order.key, message.get("time_limit_s") or 0.0
        if isinstance(attempt, spawning.StartFailed):
            self._take_back(order, attempt.step, attempt.error)
            return {"j": "forget", "key": key}
        attempt.grace_s = message.get("grace_s", GRACE_S)
        attempt.log_bytes_max = message.get("log_bytes_max", 0)
        attempt.deadline_t = attempt.started_t + limit_s if limit_s else 0.0
        self._enforce(attempt, attempt.started_t)
        self._agent.tell_start({"event": "started", "key": key, "pid": attempt.pid, "slot": order.slot})
        return {
            "j": "start",
            "key": key,
            "pid": attempt.pid,
            "asked_t": attempt.asked_t,
            "boot": self._boot_id,
            "slot": order.slot,
            "started_t": attempt.started_t,
            "limit_s": limit_s,
            "grace_s": attempt.grace_s,
            "log_bytes_max": attempt.log_bytes_max,
        }

    def _on_stop(self, message: Message) -> None:
        key = message["key"]
        attempt = self._attempts.all.get(key)
        if attempt is not None:
            grace_s = message.get("grace_s", attempt.grace_s)
            self._attempts.stop(attempt, message["word"], message.get("detail", ""), grace_s)
            return
        for order in [order for order in self._orders if order["key"] == key]:
            self._orders.remove(order)
            self._agent.tell(_start_failed(key, "stopped", 0))

    # -- ends

    def _record_ends(self) -> None:
        """Put the logs of ended attempts away and write their exits; they are reported once synced."""
        ended, self._attempts.ended = self._attempts.ended, []
        if not ended:
            return
        for attempt in ended:
            if attempt.log is None:
                attempt.log = self._put_away(attempt)
        records = [attempt.end(time.time()) for attempt in ended]
        if self._write([{"j": "exit", **record} for record in records]):
            self._loop.at(boottime() + RETRY_S, lambda: self._attempts.ended.extend(ended))
            return
        for attempt, record in zip(ended, records, strict=True):
            attempt.exit = record
        self._unsynced += records

    def _put_away(self, attempt: Attempt) -> dict[str, Any]:
        self._cut_log(attempt)
        try:
            if attempt.adopted:
                return self._logs.find_kept(attempt.slot, attempt.key)
            return self._logs.keep(attempt.slot, attempt.key)
        except OSError as error:
            say(f"lost the output of {attempt.key}: {error}")
            return dict(NO_OUTPUT)

    def _sync_some(self) -> None:
        if self._unsynced and not self._syncer.busy:
            self._in_sync, self._unsynced = self._unsynced, []
            if self._syncer.ask(may_wait=len(self._attempts.all) <= FEW):
                self._on_synced()

    def _on_synced(self) -> None:
        error = self._syncer.finish()
        records, self._in_sync = self._in_sync, []
        if error is not None:
            say(f"cannot sync the journal: {error}; trying again")
            self._loop.at(boottime() + RETRY_S, lambda: self._unsynced.extend(records))
            return
        self._agent.tell(*({"event": "exited", **record} for record in records))

    def _forget(self, keys: list[str]) -> None:
        hidden = {record["key"] for record in self._unsynced + self._in_sync}
        ends = {key: a for key in keys if (a := self._attempts.all.get(key)) and a.exit and key not in hidden}
        if self._write([{"j": "forget", "key": key} for key in ends]):
            return  # the agent is told of these ends once more
        self._isolation.free([attempt.uid for attempt in ends.values() if not attempt.unkillable])
        for key, attempt in ends.items():
            del self._attempts.all[key]
            self._logs.release(attempt.slot, shared=attempt.unkillable or attempt.adopted)
        self._idle_since_t = boottime()

    def _write(self, records: list[Record]) -> int:
        """Append to the journal; errno, 0 on success."""
        try:
            self._journal.append(records)
        except OSError as error:
            say(f"cannot write to the journal: {error}")
            return error.errno or 5
        return 0


def _start_of(order: Message) -> spawning.Start:
    limits = [(int(which), int(soft), int(hard)) for which, soft, hard in order.get("limits", ())]
    uid = order.get("uid", -1)  # its group has the same number
    return spawning.Start(order["path"], order["argv"], order["env"], order["cwd"], limits, uid, uid)


def _limits_of(order: Message) -> Limits:
    memory_bytes, pids = int(order.get("memory_bytes", 0)), int(order.get("pids", 0))
    return Limits(memory_bytes, pids, float(order.get("cores", 0)), float(order.get("weight_cores", 1)))


def _write_prelude(log_fd: int, text: str) -> None:
    """What was said of the attempt before it started stands at the head of its output. A full disk does not stop it."""
    with contextlib.suppress(OSError):
        if text:
            os.write(log_fd, text.encode())


def _start_failed(key: str, step: str, number: int) -> Message:
    return {"event": "start_failed", "key": key, "step": step, "errno": number}


def main() -> None:
    """Become the runner of a node directory, detached; ends at once, with status 0, where there is one already."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m fetchmld.runner NODE_DIR SOCKET [IDLE_S [ISOLATION]]")
    node_dir, socket_path = sys.argv[1:3]
    idle_s = float(sys.argv[3]) if len(sys.argv) > 3 else IDLE_S
    wanted = Wanted(**json.loads(sys.argv[4])) if len(sys.argv) > 4 else THE_BEST
    os.makedirs(node_dir, mode=0o700, exist_ok=True)
    process.detach(f"{node_dir}/runner.log")
    try:
        runner = Runner(node_dir, socket_path, idle_s, wanted)
    except BlockingIOError:
        say("another runner has this directory")
        return
    say("ready" if spawning.NATIVE else "ready, without the native extension: slower, and no no-new-privileges")
    runner.run()
    say("nothing left to do: bye")
