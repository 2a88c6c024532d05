"""Control groups of attempts: one cell each, with its limits; made once, used again. Standard library only.

Version 1 has a hierarchy for each controller, version 2 one for all. Either way a runner has one directory per hierarchy,
below the cgroup it runs in or below the root, and in it a directory per cell. A process joins by writing "0" to a file of
the cell that was opened for it: in version 1 to `tasks`, which (unlike cgroup.procs) waits for no grace period of the
kernel.

In version 1 the thread that starts a process enters the `cpu` cell before it, so that the process is born there: one that
moves there itself has to wait for the processor anew, which costs a third of a short program's whole time. The thread goes
home afterwards. It stays out where the cell could hold it up: where it has less than a usual share, or a quota.
"""

import contextlib
import os
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "fetchml-"  # of what we make
CONTROLLERS: Final = ("memory", "pids", "cpu")
FREE_CELLS_MAX: Final = 256
PERIOD_US: Final = 100_000
SHARES_OF_CORE: Final = 1024  # version 1
WEIGHT_OF_CORE: Final = 100  # version 2


class NoCgroups(Exception):
    """Limits by cgroup are not to be had; says why."""


@dataclass(slots=True, frozen=True)
class Limits:
    """What one attempt may use; 0 = no limit. `weight_cores`: its share where processors are short."""

    memory_bytes: int = 0
    pids: int = 0
    cores: float = 0
    weight_cores: float = 1


@dataclass(slots=True, eq=False)
class Cell:
    """One attempt's cgroup: a directory in each hierarchy."""

    number: int
    version: int
    directories: dict[str, str]  # of each controller; in version 2 the same one
    join_fds: list[int] = field(default_factory=list)  # of its distinct directories
    cpu_fd: int = -1  # the one of them that is the `cpu` controller's alone
    count_fd: int = -1  # how many processes and threads are in it
    events_fd: int = -1
    written: dict[str, str] = field(default_factory=dict)
    ooms: int = 0  # processes that the kernel had killed in it before the attempt
    memory_bytes: int = 0  # its limit
    is_plain: bool = True  # nothing in it is slower than it would be outside

    def open(self) -> None:
        join = "tasks" if self.version == 1 else "cgroup.procs"
        distinct = list(dict.fromkeys(self.directories.values()))
        self.join_fds = [os.open(f"{path}/{join}", os.O_WRONLY | os.O_CLOEXEC) for path in distinct]
        others = {path for name, path in self.directories.items() if name != "cpu"}
        if self.version == 1 and "cpu" in self.directories and self.directories["cpu"] not in others:
            self.cpu_fd = self.join_fds[distinct.index(self.directories["cpu"])]
        if "pids" in self.directories:
            self.count_fd = os.open(f"{self.directories['pids']}/pids.current", os.O_RDONLY | os.O_CLOEXEC)
        if "memory" in self.directories:
            events = "memory.oom_control" if self.version == 1 else "memory.events"
            self.events_fd = os.open(f"{self.directories['memory']}/{events}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in [*self.join_fds, self.count_fd, self.events_fd]:
            if fd >= 0:
                os.close(fd)
        self.join_fds, self.cpu_fd, self.count_fd, self.events_fd = [], -1, -1, -1

    def limit(self, limits: Limits) -> None:
        """Set what differs from what it has. Raises OSError."""
        self.memory_bytes = limits.memory_bytes
        self.is_plain = not limits.cores and limits.weight_cores >= 1
        for controller, name, value in _knobs(self.version, limits):
            directory = self.directories.get(controller)
            if directory is not None and self.written.get(name) != value:
                _write(f"{directory}/{name}", value)
                self.written[name] = value

    def is_empty(self) -> bool:
        """Whether no process is in it, dead but unread ones included."""
        return int(os.pread(self.count_fd, 32, 0)) == 0 if self.count_fd >= 0 else not self.pids()

    def pids(self) -> list[int]:
        """The processes in it. (Version 1 gives who keeps the file open what it read before: so it is opened anew.)

        Not of the `cpu` controller, whose cell a thread of ours may be in.
        """
        directory = self.directories["memory"]
        try:
            return [int(word) for word in _read(f"{directory}/cgroup.procs").split()]
        except OSError:
            return []

    def oom_kills(self) -> int:
        """How many processes the kernel has killed in it for memory since this was asked last."""
        before, self.ooms = self.ooms, self._ooms_ever()
        return self.ooms - before

    def _ooms_ever(self) -> int:
        if self.events_fd < 0:
            return 0
        lines = os.pread(self.events_fd, 4096, 0).splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(b"oom_kill "))

    def remove(self) -> bool:
        """Whether its directories are gone: not while a process is left."""
        self.close()
        for path in dict.fromkeys(self.directories.values()):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True


def _knobs(version: int, limits: Limits) -> list[tuple[str, str, str]]:
    """(controller, file, value) of each limit."""
    cores = max(limits.weight_cores, 0.1)
    quota = str(int(limits.cores * PERIOD_US)) if limits.cores else ""
    memory, pids = str(limits.memory_bytes), str(limits.pids)
    if version == 1:
        return [
            ("memory", "memory.limit_in_bytes", memory if limits.memory_bytes else "-1"),
            ("pids", "pids.max", pids if limits.pids else "max"),
            ("cpu", "cpu.cfs_quota_us", quota or "-1"),
            ("cpu", "cpu.shares", str(int(cores * SHARES_OF_CORE))),
        ]
    return [
        ("memory", "memory.max", memory if limits.memory_bytes else "max"),
        ("memory", "memory.oom.group", "1"),  # all of it ends, not one process somewhere in it
        ("pids", "pids.max", pids if limits.pids else "max"),
        ("cpu", "cpu.max", f"{quota or 'max'} {PERIOD_US}"),
        ("cpu", "cpu.weight", str(min(10_000, int(cores * WEIGHT_OF_CORE)))),
    ]


class Tree:
    """Our directories, and the cells in them."""

    def __init__(self, version: int, roots: dict[str, str], home: str = "") -> None:
        """`roots`: our own directory of each controller; `home`: the directory of the `cpu` cgroup that we run in."""
        self.version = version
        self.roots = roots
        self.home_fd = _opened(f"{home}/tasks") if home else -1  # where threads go back to
        self._free: list[Cell] = []
        self._next = 0

    @property
    def label(self) -> str:
        return f"cgroup-v{self.version}"

    def controls(self, controller: str) -> bool:
        return controller in self.roots

    def _cell(self, number: int) -> Cell:
        return Cell(number, self.version, {name: f"{root}/a{number}" for name, root in self.roots.items()})

    def acquire(self, limits: Limits) -> Cell:
        """A cell that nobody is in, limited. Raises OSError."""
        while self._free:
            cell = self._free.pop()
            try:
                cell.limit(limits)
            except OSError:  # what an attempt before left behind in memory is more than that
                cell.remove()
            else:
                return cell
        return self._made(limits)

    def _made(self, limits: Limits) -> Cell:
        cell, self._next = self._cell(self._next), self._next + 1
        for path in dict.fromkeys(cell.directories.values()):
            os.mkdir(path, 0o755)
        try:
            cell.open()
            cell.limit(limits)
        except OSError:
            cell.remove()
            raise
        return cell

    def ways_in(self, cell: Cell) -> tuple[list[int], int]:
        """What a new process is to write to, and what the thread that starts it (-1: nothing), to have it in the cell."""
        if self.home_fd < 0 or cell.cpu_fd < 0 or not cell.is_plain:
            return cell.join_fds, -1
        return [fd for fd in cell.join_fds if fd != cell.cpu_fd], cell.cpu_fd

    def release(self, cell: Cell) -> None:
        """Nobody is in it any more."""
        if len(self._free) >= FREE_CELLS_MAX:
            cell.remove()
            return
        self._free.append(cell)

    def adopt(self, number: int, ooms: int) -> Cell | None:
        """The cell of an attempt that a runner before us started; None where it is gone."""
        cell = self._cell(number)
        cell.ooms = ooms
        try:
            cell.open()
        except OSError:
            cell.close()
            return None
        return cell

    def drop_unowned(self, owned: set[int]) -> None:
        """Remove the cells of a runner before us that no attempt is in, and count on from behind the others."""
        for root in dict.fromkeys(self.roots.values()):
            for name in os.listdir(root):
                if name[0] == "a" and name[1:].isdigit():
                    number = int(name[1:])
                    if number in owned or not self._cell(number).remove():
                        self._next = max(self._next, number + 1)

    def siblings(self) -> set[str]:
        """The names of other runners' directories beside ours."""
        parents = {os.path.dirname(root) for root in self.roots.values()}
        found = {name for parent in parents for name in os.listdir(parent) if name.startswith(PREFIX)}
        return found - {os.path.basename(root) for root in self.roots.values()}

    def drop_sibling(self, name: str) -> bool:
        """Remove what is empty of another runner's directories; whether all of it is gone."""
        for parent in {os.path.dirname(root) for root in self.roots.values()}:
            for directory, _, _ in os.walk(f"{parent}/{name}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        return name not in self.siblings()

    def close(self) -> None:
        """Remove all that is not in use."""
        for cell in self._free:
            cell.remove()
        self._free.clear()
        if self.home_fd >= 0:
            os.close(self.home_fd)
            self.home_fd = -1
        for root in dict.fromkeys(self.roots.values()):
            with contextlib.suppress(OSError):
                os.rmdir(root)


def find_tree(name: str, memory_bytes: int, mounts: str = "", own: str = "") -> Tree:
    """Our directories `name` where cgroups are mounted, their memory together at most `memory_bytes`.

    `mounts` and `own` are what /proc/self/mounts and /proc/self/cgroup say. Raises `NoCgroups`.
    """
    mounts, own = mounts or _read("/proc/self/mounts"), own or _read("/proc/self/cgroup")
    problem = "no cgroups are mounted"
    for version, places in ((2, _places_v2(mounts, own)), (1, _places_v1(mounts, own))):
        for place in places:
            try:
                roots = _make_roots(version, place, name)
                _limit_all(version, roots, memory_bytes)
            except OSError as error:
                problem = str(error)
                continue
            if "memory" in roots:
                return Tree(version, roots, _home(mounts, own) if version == 1 else "")
            problem = "the memory controller is not available"
    raise NoCgroups(problem)


def _places_v2(mounts: str, own: str) -> list[dict[str, str]]:
    """Where our directory may lie: below our own cgroup (delegated to us), or below the root."""
    mount = next((words[1] for words in map(str.split, mounts.splitlines()) if words[2] == "cgroup2"), "")
    below = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    return [dict.fromkeys(CONTROLLERS, path) for path in _unique(mount, below)]


def _places_v1(mounts: str, own: str) -> list[dict[str, str]]:
    mounted: dict[str, str] = {}
    for words in map(str.split, mounts.splitlines()):
        if words[2] == "cgroup":
            mounted |= {option: words[1] for option in words[3].split(",") if option in CONTROLLERS}
    below = {
        name: path for _, names, path in (line.split(":", 2) for line in own.splitlines()) for name in names.split(",")
    }
    if not mounted:
        return []
    own_place = {name: _unique(mount, below.get(name, "/"))[0] for name, mount in mounted.items()}
    return [own_place, mounted] if own_place != mounted else [mounted]


def _home(mounts: str, own: str) -> str:
    """The directory of the `cpu` cgroup of version 1 that we run in; "" where it cannot be seen from here."""
    mount = next(
        (w[1] for w in map(str.split, mounts.splitlines()) if w[2] == "cgroup" and "cpu" in w[3].split(",")), ""
    )
    names = {name: path for _, of, path in (line.split(":", 2) for line in own.splitlines()) for name in of.split(",")}
    home = mount + names.get("cpu", "/").rstrip("/")
    return home if mount and "cpu" in names and os.path.isdir(home) else ""


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _unique(mount: str, below: str) -> list[str]:
    if not mount:
        return []
    inner = mount + below.rstrip("/")
    return [inner, mount] if inner != mount and os.path.isdir(inner) else [mount]


def _make_roots(version: int, place: dict[str, str], name: str) -> dict[str, str]:
    if version == 2:
        return _make_root_v2(place["memory"], name)
    roots = {}
    for controller, parent in place.items():
        with contextlib.suppress(OSError):
            os.makedirs(f"{parent}/{name}", mode=0o755, exist_ok=True)
            roots[controller] = f"{parent}/{name}"
    return roots


def _make_root_v2(parent: str, name: str) -> dict[str, str]:
    there = set(_read(f"{parent}/cgroup.controllers").split()) & set(CONTROLLERS)
    if "memory" not in there:
        return {}
    wanted = " ".join(f"+{controller}" for controller in sorted(there))
    _write(f"{parent}/cgroup.subtree_control", wanted)
    os.makedirs(f"{parent}/{name}", mode=0o755, exist_ok=True)
    _write(f"{parent}/{name}/cgroup.subtree_control", wanted)
    return dict.fromkeys(sorted(there), f"{parent}/{name}")


def _limit_all(version: int, roots: dict[str, str], memory_bytes: int) -> None:
    if "memory" in roots and memory_bytes:
        file = "memory.limit_in_bytes" if version == 1 else "memory.max"
        _write(f"{roots['memory']}/{file}", str(memory_bytes))


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
