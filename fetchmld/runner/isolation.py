"""How attempts are kept apart here: the best that this machine allows, tried out before it is claimed.

    uid+cgroup-v2, uid+cgroup-v1, uid+rlimits      a user of its own for each attempt, and limits by the named means
    single-trust                                   attempts are processes of our own user, limited by rlimits (and cgroups)

Several users need root, our native extension, a block of user ids, and a way for them to what they need: a mount
namespace, or directories that are open anyway. Standard library only.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

from fetchmld.runner import cgroups, spawning, users, view
from fetchmld.runner.cgroups import Cell, Limits, NoCgroups, Tree
from fetchmld.runner.leftovers import Leftovers
from fetchmld.runner.users import NoUsers, Users
from fetchmld.runner.view import NoView

UIDS_FIRST: Final = 1_900_000_000  # systemd leaves this range to nobody
UIDS_COUNT: Final = 65_536
ATTEMPTS: Final = "attempts"
REACHED: Final = (
    ATTEMPTS,
    "environments",
    "plugins",
    "../workspaces",
)  # from the node's directory: what attempts may pass


class NotPossible(Exception):
    """A user of its own for each attempt is not possible here; says why."""


@dataclass(slots=True, frozen=True)
class Wanted:
    """What the settings ask for; `memory_bytes`: what all attempts together may use, 0 = all there is."""

    isolation: str = "auto"  # or "uid", which is the same to us, or "none"
    uid_first: int = UIDS_FIRST
    uid_count: int = UIDS_COUNT
    memory_bytes: int = 0


THE_BEST: Final = Wanted()


@dataclass(slots=True)
class Isolation:
    """What attempts are given, and how to take it back."""

    tree: Tree | None = None
    users: Users | None = None
    view_fd: int = -1
    why: list[str] = field(default_factory=list)  # why it is no better
    _leftovers: Leftovers | None = None

    @property
    def label(self) -> str:
        if self.users is None:
            return "single-trust"
        return f"uid+{self.tree.label if self.tree else 'rlimits'}"

    def facts(self) -> dict[str, Any]:
        """For the worker's record; `uids` are the first and the number of the user ids, absent without."""
        means = self.tree.label if self.tree else ""
        by = {name: means if self.tree and self.tree.controls(name) else "rlimits" for name in ("memory", "pids")}
        by["cores"] = means if self.tree and self.tree.controls("cpu") else "not limited"
        facts: dict[str, Any] = {"label": self.label, "limits": by, "why": "; ".join(self.why)}
        if self.users is not None:
            facts["uids"] = [self.users.block.start, len(self.users.block)]
        return facts

    def box(self, start: spawning.Start, limits: Limits) -> Cell | None:
        """Add to `start` what we know of it; its cell, to be given back by `release`. Raises OSError."""
        if start.uid >= 0:
            if self.users is None or start.uid not in self.users.block:
                raise PermissionError(1, f"user id {start.uid} is not ours to give")
            start.view_fd = self.view_fd
        if self.tree is None:
            return None
        cell = self.tree.acquire(limits)
        start.cgroups, start.enter_fd = self.tree.ways_in(cell)
        return cell

    @property
    def home_fd(self) -> int:
        """Where a thread that starts processes goes back to; -1 where it never leaves."""
        return self.tree.home_fd if self.tree is not None else -1

    def release(self, cell: Cell | None) -> None:
        """Nobody is in it any more."""
        if cell is not None and self.tree is not None:
            self.tree.release(cell)

    def adopt(self, number: int, ooms: int) -> Cell | None:
        return self.tree.adopt(number, ooms) if self.tree is not None and number >= 0 else None

    def clean_up(self, uids: Collection[int]) -> None:
        """Remove what `uids`, which have no process any more, left in shared places."""
        own = [uid for uid in uids if uid >= 0]
        if own and self._leftovers is not None:
            self._leftovers.remove(own)

    def free(self, uids: Collection[int]) -> None:
        """Other attempts may get them from now on."""
        own = [uid for uid in uids if uid >= 0]
        if own and self._leftovers is not None:
            self._leftovers.forget_keys(own)

    def close(self) -> None:
        if self.tree is not None:
            self.tree.close()

    def drop_users(self, why: str) -> None:
        self.why.append(why)
        if self.users is not None:
            self.users.close()
        self.users, self._leftovers = None, None
        if self.view_fd >= 0:
            os.close(self.view_fd)
            self.view_fd = -1


def find(node_dir: str, wanted: Wanted, owned_cells: set[int], say: Callable[[str], None]) -> Isolation:
    """The best that works here. Call it before the first thread: it forks, and waits for its children."""
    found = Isolation()
    if wanted.isolation == "none":
        found.why.append("isolation = none")
        return found
    _add_cgroups(found, node_dir, wanted, owned_cells)
    try:
        _add_users(found, node_dir, wanted)
        _try_out(found, node_dir)
    except (NotPossible, NoUsers, OSError, spawning.StartFailed) as error:
        found.drop_users(str(error))
    say(f"isolation: {found.label} {found.facts()['limits']} {'; '.join(found.why)}".rstrip())
    return found


def _add_cgroups(found: Isolation, node_dir: str, wanted: Wanted, owned_cells: set[int]) -> None:
    if not spawning.NATIVE:
        found.why.append("no cgroups: the native extension was not built")
        return
    name = tree_name(node_dir)
    try:
        with contextlib.suppress(OSError):  # not root: others' directories are not ours to remove either
            os.makedirs(users.LOCKS_DIR, mode=0o700, exist_ok=True)
            users.try_lock(f"{users.LOCKS_DIR}/{name}")  # until we end, so that nobody takes our cgroups for left over
        found.tree = cgroups.find_tree(name, wanted.memory_bytes)
        found.tree.drop_unowned(owned_cells)
        _drop_left_over(found.tree)
    except (NoCgroups, OSError) as error:
        found.tree = None
        found.why.append(f"no cgroups: {error}")


def _drop_left_over(tree: Tree) -> None:
    """Remove the empty cgroups of runners that were killed and never came back."""
    for name in tree.siblings():
        lock_file = f"{users.LOCKS_DIR}/{name}"
        try:
            lock = users.try_lock(lock_file)
        except OSError:
            return
        if lock >= 0:
            if tree.drop_sibling(name):
                os.unlink(lock_file)
            os.close(lock)


def tree_name(node_dir: str) -> str:
    """What a node's cgroups are called."""
    return cgroups.PREFIX + hashlib.blake2b(os.fsencode(os.path.realpath(node_dir)), digest_size=6).hexdigest()


def _add_users(found: Isolation, node_dir: str, wanted: Wanted) -> None:
    if os.geteuid():
        raise NotPossible("not started as root")
    if not spawning.NATIVE:
        raise NotPossible("the native extension was not built")
    reached = [os.path.normpath(f"{os.path.realpath(node_dir)}/{name}") for name in REACHED]
    for path in reached:
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o711)
    found.users = users.claim(f"{node_dir}/users", wanted.uid_first, wanted.uid_count)
    found._leftovers = Leftovers(found.users.block, spawning.remove_ipc, spawning.clear_keys)
    try:
        found.view_fd = view.open_view(_needed(reached))
    except NoView as error:
        found.why.append(f"no mount namespace: {error}")
        _open_ways(reached)


def _needed(reached: list[str]) -> list[str]:
    """What every attempt must reach: its directory, environments, and our Python."""
    programs = (sys.executable, os.path.realpath(sys.executable))
    pythons = [os.path.realpath(os.path.dirname(os.path.dirname(program))) for program in programs]
    return list(dict.fromkeys([*reached, os.path.realpath(sys.base_prefix), *pythons]))


def _open_ways(reached: list[str]) -> None:
    """Let other users pass (and not look around in) our own two directories. Raises `NotPossible` if that is not enough."""
    node_dir = os.path.dirname(reached[0])
    for directory in (os.path.dirname(node_dir), node_dir):
        os.chmod(directory, 0o711)
    for path in _needed(reached):
        if closed := view.closed_above(path):
            raise NotPossible(f"{closed}, above {path}, is closed to other users")


def _try_out(found: Isolation, node_dir: str) -> None:
    """Start our Python as an attempt would be, with all of it. Raises `NotPossible` where it does not get far."""
    assert found.users is not None
    uid = found.users.block[-1]
    code = f"import os; os.chdir({node_dir + '/' + ATTEMPTS!r}); assert os.getresuid() == ({uid},) * 3"
    start = spawning.Start(
        sys.executable, [sys.executable, "-S", "-E", "-I", "-c", code], {"PATH": "/usr/bin:/bin"}, "/", [], uid, uid
    )
    try:
        status = _run(found, start)
    except spawning.StartFailed as error:
        if error.step != "cgroup" or found.tree is None:
            raise NotPossible(f"a process of another user cannot be started: {error}") from None
        found.why.append(f"no cgroups: joining one: {error}")
        found.tree.close()
        found.tree = None
        status = _run(found, start)
    if status:
        raise NotPossible(f"{sys.executable} does not run as another user (status {status})")


def _run(found: Isolation, start: spawning.Start) -> int:
    start.cgroups, start.enter_fd = [], -1
    cell = found.box(start, Limits())
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        _, status = os.waitpid(spawning.spawn(start, null, null, found.home_fd), 0)
    finally:
        os.close(null)
        found.release(cell)
    return os.waitstatus_to_exitcode(status)
