"""Which processes belong to an attempt, read from /proc. Standard library only; Linux only.

A process that an attempt started stays below the attempt's first process, or, once its parent has ended, becomes a child
of the runner (the subreaper). It is told whose it is by its session, else by the mark that the runner puts in each
attempt's environment, else by the log file it writes to.
"""

import hashlib
import os
from typing import Final, NamedTuple

MARK: Final = "FETCHML_RUN"  # the environment variable that names the attempt; inherited by all it starts
TICK_S: Final = 1.0 / os.sysconf("SC_CLK_TCK")
DESCENDANTS_MAX: Final = 100_000
READ_BYTES: Final = 65536
READ_WHOLE_BYTES: Final = 2048  # the kernel gives a page at a time: what is shorter than half of one is all there is


class Stat(NamedTuple):
    """What identifies a process: its session, and its start in boot time, cut to TICK_S (a pid alone does not)."""

    state: str
    session: int
    started_t: float


def stat_of(pid: int) -> Stat | None:
    """The process `pid`, or None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            raw = file.read(1024)
    except OSError:
        return None
    fields = raw[raw.rindex(b")") + 2 :].split()
    return Stat(fields[0].decode(), int(fields[3]), int(fields[19]) * TICK_S)


def children_of(pid: int) -> list[int]:
    """The children of all threads of `pid`; empty when it has ended."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        found += children_of_thread(pid, thread)
    return found


def children_of_thread(pid: int, thread: str) -> list[int]:
    """The children of one thread; empty when it has ended."""
    try:
        fd = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return [int(word) for word in read_from_start(fd).split()]
    except OSError:
        return []
    finally:
        os.close(fd)


class OwnChildren:
    """Our own children, often asked for. All threads that ever start one must run when this is made."""

    def __init__(self) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._fds = [os.open(f"/proc/self/task/{thread}/children", flags) for thread in os.listdir("/proc/self/task")]

    def now(self) -> list[int]:
        """The children of all our threads, those that have ended and are not reaped included."""
        return [int(word) for fd in self._fds for word in read_from_start(fd).split()]


def read_from_start(fd: int) -> bytes:
    """All of a file of /proc, which gives a page at a time."""
    found = os.pread(fd, READ_BYTES, 0)
    if len(found) < READ_WHOLE_BYTES:
        return found
    parts = [found]
    while part := os.pread(fd, READ_BYTES, sum(map(len, parts))):
        parts.append(part)
    return b"".join(parts)


def with_descendants(roots: list[int]) -> list[int]:
    """`roots` and all that is below them now, parents first, each once."""
    found = dict.fromkeys(roots)
    queue = list(found)
    while queue and len(found) < DESCENDANTS_MAX:
        for child in children_of(queue.pop()):
            if child not in found:
                found[child] = None
                queue.append(child)
    return list(found)


def mark_of(pid: int) -> str:
    """The attempt that the environment of `pid` names, or "" (also when it may not be read, or has ended)."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            raw = b"\0" + file.read(1 << 20)
    except OSError:
        return ""
    start = raw.rfind(b"\0" + MARK.encode() + b"=")
    if start < 0:
        return ""
    value = raw[start + len(MARK) + 2 :]
    return value.partition(b"\0")[0].decode("ascii", "replace")


def output_of(pid: int) -> str:
    """The file that `pid` writes its standard output or errors to, or ""."""
    for fd in (1, 2):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if target.endswith(".log"):
            return target
    return ""


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def uid_of(pid: int) -> int:
    """The real user id of a process, also of one that hides; -1 where there is none."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            raw = file.read(4096)
    except OSError:
        return -1
    at = raw.find(b"\nUid:\t")
    return int(raw[at + 6 :].split(b"\t", 1)[0]) if at >= 0 else -1


class Marks:
    """The marks of one node directory's attempts; those of another on this machine may bear the same ids."""

    def __init__(self, node_dir: str) -> None:
        self._home = hashlib.blake2b(os.fsencode(os.path.realpath(node_dir)), digest_size=6).hexdigest() + "/"

    def of(self, key: str) -> str:
        """What the environment of that attempt's processes says."""
        return self._home + key

    def key_of(self, pid: int) -> str:
        """The attempt of ours that the environment of `pid` names, or ""."""
        mark = mark_of(pid)
        return mark.removeprefix(self._home) if mark.startswith(self._home) else ""

    def find(self, keys: set[str], users: dict[int, str] | None = None) -> dict[int, str]:
        """Every living process whose environment names one of `keys`, or whose user is one of `users`: pid to key.

        Reads all of /proc: for recovery only.
        """
        found: dict[int, str] = {}
        for pid in all_pids():
            key = (users.get(uid_of(pid)) if users else None) or self.key_of(pid)
            if key in keys and (stat := stat_of(pid)) is not None and stat.state not in "ZX":
                found[pid] = key
        return found


def boot_id() -> str:
    """Which start of the machine this is; pids and start times mean nothing across two of them."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
