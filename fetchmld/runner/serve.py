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
                  started {key, pid, slot} · start_failed {key, step, errno} · bye {idle} ·
                  exited {key, code | signal | neither: unknown, word, detail, usage, log, at, unkillable}
"""

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import asdict
from typing import Any, Final

from fetchmld.runner import isolation, proctree, spawning
from fetchmld.runner.attempts import GRACE_S, Attempt, Attempts, Order
from fetchmld.runner.cgroups import Limits
from fetchmld.runner.frames import Decoder, FrameError, Message, encode
from fetchmld.runner.isolation import THE_BEST, Wanted
from fetchmld.runner.journal import Entry, Journal, Record
from fetchmld.runner.logs import NO_OUTPUT, LogPool
from fetchmld.runner.loop import Loop, boottime

STARTS_PER_TURN: Final = 4  # then exits are looked at again: a start takes about half a millisecond
STARTED_DELAY_S: Final = 0.005  # a start may wait this long to travel together with its end
LEASE_GRACE_S: Final = 10.0  # SIGTERM comes this long before a lease's end
TICK_S: Final = 1.0
CUT_S: Final = 0.05  # between two cuts of a log that goes on growing
RETRY_S: Final = 0.5  # between attempts to write to a full disk
IDLE_S: Final = 60.0
OUTGOING_BYTES_MAX: Final = 64 * 2**20


class Syncer:
    """Makes the journal durable in a second thread, so that starts go on meanwhile; one sync covers all before it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._asked = threading.Semaphore(0)
        self._error: OSError | None = None
        self.done_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = False
        threading.Thread(target=self._run, name="sync", daemon=True).start()

    def ask(self) -> None:
        self.busy = True
        self._asked.release()

    def _run(self) -> None:
        while True:
            self._asked.acquire()
            try:
                self._journal.sync()
                self._error = None
            except OSError as error:
                self._error = error
            os.eventfd_write(self.done_fd, 1)

    def finish(self) -> OSError | None:
        """To be called when `done_fd` is readable: the sync is over; its error, if any."""
        os.eventfd_read(self.done_fd)
        self.busy = False
        return self._error


class Agent:
    """The connection to the agent that is there now."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.decoder = Decoder()
        self.outgoing = bytearray()
        self.greeted = False

    def flush(self) -> bool:
        """Send what the socket takes. False when the connection is dead, or the agent does not read."""
        while self.outgoing:
            try:
                sent = self.socket.send(self.outgoing)
            except BlockingIOError:
                return len(self.outgoing) <= OUTGOING_BYTES_MAX
            except OSError:
                return False
            del self.outgoing[:sent]
        return True


class Runner:
    """What the process owns, and its loop. `run` returns when there is nothing left to do."""

    def __init__(self, node_dir: str, socket_path: str, idle_s: float = IDLE_S, wanted: Wanted = THE_BEST) -> None:
        """Take the node's directory, adopt what runs, and listen. Raises BlockingIOError if another runner has it."""
        os.makedirs(node_dir, mode=0o700, exist_ok=True)
        self._lock = os.open(f"{node_dir}/runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._socket_path = socket_path
        self._idle_s = idle_s
        self._idle_since_t = boottime()
        self._stopping = False
        self._agent: Agent | None = None
        self._orders: deque[Message] = deque()  # starts that were asked for
        self._news: list[Message] = []
        self._unwritten: list[Attempt] = []  # ended, but the disk was full
        self._unsynced: list[Record] = []
        self._in_sync: list[Record] = []
        self._boot_id = proctree.boot_id()
        self._lease_until = 0.0  # boot time; 0 = none was given since the machine started
        self._loop = Loop()
        self._journal = Journal.open(f"{node_dir}/journal")
        self._logs = LogPool(f"{node_dir}/logs", {entry.slot for entry in self._journal.entries.values()})
        owned_cells = {entry.cell for entry in self._journal.entries.values() if entry.exit is None}
        self._isolation = isolation.find(node_dir, wanted, owned_cells, say)
        self._syncer = Syncer(self._journal)
        self._loop.watch(self._syncer.done_fd, self._on_synced)
        spawning.become_subreaper()
        _protect()
        self._marks = proctree.Marks(node_dir)
        self._attempts = Attempts(self._loop, self._logs.live_path, self._isolation, self._marks, say)
        self._catch_signals()
        self._lease_fd = os.open(f"{node_dir}/lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._read_lease()
        self._recover()
        self._listen()

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
        if self._agent is None:
            self._stay_reachable()
            self._stopping |= self.is_idle and now - self._idle_since_t > self._idle_s
        if self._journal.is_large and not self._syncer.busy:
            self._journal.compact()

    def _enforce(self, attempt: Attempt, now: float) -> None:
        if self._lease_until and now >= self._lease_until - LEASE_GRACE_S:
            detail = "the node could not reach the head for too long"
            self._attempts.stop(attempt, "LEASE_EXPIRED", detail, max(0.0, self._lease_until - now))
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
        self._flush_agent()
        self._drop_agent()
        self._listener.close()
        if self._has_name():
            os.unlink(self._socket_path)
        self._journal.close()
        self._isolation.close()

    # -- the agent

    def _listen(self) -> None:
        try:
            os.unlink(self._socket_path)
        except FileNotFoundError:
            pass
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        mask = os.umask(0o177)
        try:
            self._listener.bind(self._socket_path)
        finally:
            os.umask(mask)
        self._listener.listen(8)
        self._socket_inode = os.stat(self._socket_path).st_ino
        self._loop.watch(self._listener.fileno(), self._on_connection)

    def _has_name(self) -> bool:
        try:
            return os.stat(self._socket_path).st_ino == self._socket_inode
        except OSError:
            return False

    def _stay_reachable(self) -> None:
        """Listen anew if the socket's name was removed or taken: run directories get cleaned."""
        if self._has_name():
            return
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        try:
            os.makedirs(os.path.dirname(self._socket_path), mode=0o700, exist_ok=True)
            self._listen()
        except OSError as error:
            say(f"cannot listen on {self._socket_path}: {error}")

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] not in (os.geteuid(), 0):
            connection.close()
            return
        connection.setblocking(False)
        self._drop_agent()
        self._agent = Agent(connection)
        self._loop.watch(connection.fileno(), self._on_agent)

    def _drop_agent(self) -> None:
        if self._agent is not None:
            self._loop.unwatch(self._agent.socket.fileno())
            self._agent.socket.close()
            self._agent = None
            self._idle_since_t = boottime()

    def _on_agent(self) -> None:
        assert self._agent is not None
        try:
            data = self._agent.socket.recv(1 << 20)
            for message in self._agent.decoder.feed(data):
                self._handle(message)
        except BlockingIOError:
            pass  # it takes data again, that is all
        except (OSError, FrameError, KeyError, TypeError, ValueError) as error:
            say(f"dropped the agent: {error!r}")
            self._drop_agent()
        else:
            if not data:
                self._drop_agent()
        self._flush_agent()

    def _handle(self, message: Message) -> None:
        match message["do"]:
            case "start":
                self._orders.append(message)
            case "stop":
                self._on_stop(message)
            case "forget":
                self._forget(message["keys"])
            case "lease":
                self._renew(float(message["until"]))
            case "hello":
                self._greet()
            case "stop_if_idle":
                self._tell({"event": "bye", "idle": self.is_idle})
                self._stopping = self.is_idle
            case other:
                say(f"unknown message {other!r}")

    def _greet(self) -> None:
        assert self._agent is not None
        self._agent.greeted = True
        self._news = []  # all of it is in the state
        hidden = {record["key"] for record in self._unsynced + self._in_sync}  # reported once they are durable
        ended = [a.exit for a in self._attempts.all.values() if a.exit is not None and a.key not in hidden]
        running = [
            {"key": a.key, "pid": a.pid, "slot": a.slot}
            for a in self._attempts.all.values()
            if a.exit is None or a.key in hidden
        ]
        running += [{"key": order["key"], "pid": 0, "slot": -1} for order in self._orders]
        facts: Message = {"pid": os.getpid(), "native": spawning.NATIVE, "lease_until": self._lease_until}
        facts["isolation"] = self._isolation.facts()
        self._tell({"event": "state", "running": running, "ended": ended, **facts})

    def _tell(self, message: Message) -> None:
        self._news.append(message)
        self._tell_now()

    def _tell_soon(self, message: Message) -> None:
        """Send with the next message, or within STARTED_DELAY_S."""
        if not self._news:
            self._loop.at(boottime() + STARTED_DELAY_S, self._tell_now)
        self._news.append(message)

    def _tell_now(self) -> None:
        news, self._news = self._news, []
        if news and self._agent is not None and self._agent.greeted:
            self._agent.outgoing += encode(news)
            self._flush_agent()

    def _flush_agent(self) -> None:
        agent = self._agent
        if agent is None:
            return
        waited = len(agent.outgoing) > 0
        if not agent.flush():
            self._drop_agent()
        elif waited:
            self._loop.want_write(agent.socket.fileno(), bool(agent.outgoing))

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
        self._tell(_start_failed(order.key, step, error))

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
        self._tell_soon({"event": "started", "key": key, "pid": attempt.pid, "slot": order.slot})
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
            self._tell(_start_failed(key, "stopped", 0))

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
            self._syncer.ask()

    def _on_synced(self) -> None:
        error = self._syncer.finish()
        records, self._in_sync = self._in_sync, []
        if error is not None:
            say(f"cannot sync the journal: {error}; trying again")
            self._loop.at(boottime() + RETRY_S, lambda: self._unsynced.extend(records))
            return
        self._news += [{"event": "exited", **record} for record in records]
        self._tell_now()

    def _forget(self, keys: list[str]) -> None:
        hidden = {record["key"] for record in self._unsynced + self._in_sync}
        ends = {key: a for key in keys if (a := self._attempts.all.get(key)) and a.exit and key not in hidden}
        if self._write([{"j": "forget", "key": key} for key in ends]):
            return  # the agent is told of these ends once more
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

    # -- leases

    def _renew(self, until: float) -> None:
        self._lease_until = max(self._lease_until, until)
        os.pwrite(self._lease_fd, f"{self._boot_id} {self._lease_until:020.6f}\n".encode("ascii"), 0)

    def _read_lease(self) -> None:
        """The last lease, if it was given since the machine started."""
        words = os.pread(self._lease_fd, 200, 0).split()
        if len(words) == 2 and words[0].decode("ascii", "replace") == self._boot_id:
            self._lease_until = float(words[1])

    # -- recovery

    def _recover(self) -> None:
        """Adopt what a runner before us started and has not seen the end of."""
        unended = {key for key, entry in self._journal.entries.items() if entry.exit is None}
        users = {
            entry.uid: key for key, entry in self._journal.entries.items() if entry.exit is None and entry.uid >= 0
        }
        marked = self._marks.find(unended, users) if unended else {}
        for key, entry in self._journal.entries.items():
            if entry.exit is not None:
                self._restore(key, entry)
            else:
                self._adopt(key, entry, [pid for pid, owner in marked.items() if owner == key])

    def _restore(self, key: str, entry: Entry) -> None:
        """An end that was recorded and perhaps reported, but not acknowledged."""
        assert entry.exit is not None
        ended = {name: value for name, value in entry.exit.items() if name != "j"}
        self._attempts.all[key] = Attempt(key, 0, entry.slot, 0.0, 0.0, adopted=True, leader_gone=True, exit=ended)

    def _adopt(self, key: str, entry: Entry, pids: list[int]) -> None:
        start = entry.start or self._unwritten_start(pids)
        asked_t, started_t = start.get("asked_t", 0.0), start.get("started_t", 0.0)
        attempt = Attempt(key, start.get("pid", 0), entry.slot, asked_t, started_t)
        attempt.uid, attempt.cell = entry.uid, self._isolation.adopt(entry.cell, entry.ooms)
        attempt.grace_s = start.get("grace_s", GRACE_S)
        attempt.log_bytes_max = start.get("log_bytes_max", 0)
        if limit_s := start.get("limit_s", 0.0):
            attempt.deadline_t = attempt.started_t + limit_s
        boot = start.get("boot") or entry.boot
        if boot and boot != self._boot_id:
            attempt.word, attempt.detail = "WORKER_LOST", "the machine was restarted while it ran"
            self._attempts.lost(attempt)
        elif not boot or not self._attempts.adopt(attempt):
            self._attempts.lost(attempt)

    def _unwritten_start(self, pids: list[int]) -> Record:
        """The start that the runner before us made and could not write down any more; `pids` bear its mark."""
        for pid in pids:
            stat = proctree.stat_of(pid)
            if stat is not None and stat.session == pid:
                return {"pid": pid, "asked_t": stat.started_t, "started_t": stat.started_t, "boot": self._boot_id}
        return {}


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


def _protect() -> None:
    """Keep the OOM killer away from us where we may, and have room for the descriptors of many attempts."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
    except OSError:
        pass
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def say(text: str) -> None:
    """One line to the runner's own log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{stamp} runner[{os.getpid()}] {text}", file=sys.stderr, flush=True)


def command(node_dir: str, socket_path: str, idle_s: float = IDLE_S, wanted: Wanted = THE_BEST) -> list[str]:
    """The words that start a runner for that directory: isolated, without site packages; it detaches by itself."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.insert(0, {root!r}); from fetchmld.runner.serve import main; main()"
    return [
        sys.executable,
        "-S",
        "-E",
        "-I",
        "-c",
        code,
        node_dir,
        socket_path,
        str(idle_s),
        json.dumps(asdict(wanted)),
    ]


def detach(log_path: str) -> None:
    """Leave the tree, the session and the descriptors of whoever started us: the second half of a double fork."""
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDWR)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def main() -> None:
    """Become the runner of a node directory, detached; ends at once, with status 0, where there is one already."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m fetchmld.runner NODE_DIR SOCKET [IDLE_S [ISOLATION]]")
    node_dir, socket_path = sys.argv[1:3]
    idle_s = float(sys.argv[3]) if len(sys.argv) > 3 else IDLE_S
    wanted = Wanted(**json.loads(sys.argv[4])) if len(sys.argv) > 4 else THE_BEST
    os.makedirs(node_dir, mode=0o700, exist_ok=True)
    detach(f"{node_dir}/runner.log")
    try:
        runner = Runner(node_dir, socket_path, idle_s, wanted)
    except BlockingIOError:
        say("another runner has this directory")
        return
    say("ready" if spawning.NATIVE else "ready, without the native extension: slower, and no no-new-privileges")
    runner.run()
    say("nothing left to do: bye")
