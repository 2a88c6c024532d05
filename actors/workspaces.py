"""The directories of a node's attempts, made once and used again while attempts leave them as they were.

Making and removing four directories costs more than all else that the agent does for a short attempt (on the file system
it waits for the journal), so one that comes back untouched is renamed and waits for the next attempt. Where attempts have
users of their own, a directory keeps its user for as long as it is there: who has the directory has the id.
"""

import errno
import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from actors.sidecars import SLOTS_MAX
from actors.workspace import Workspace

SPARES_MAX: Final = 128


class Workspaces:
    """Owns `attempts/`, where each attempt's directory lies, `spares/` and `trash/` of a node.

    `create` may be called by several threads, all else by one.
    """

    def __init__(self, node_dir: Path) -> None:
        self._attempts = node_dir / "attempts"
        self._ready = node_dir / "spares"
        self.trash = node_dir / "trash"  # on the same file system: to discard is to rename
        self._spares: list[Workspace] = []
        self._given: dict[str, Workspace] = {}  # by the name of the attempt that we gave it to
        self._made = 0
        self._users = range(0)
        self._free: deque[int] = deque()  # user ids that have no directory; the longest unused first

    def make_roots(self) -> None:
        for root, mode in ((self._attempts, 0o711), (self._ready, 0o700), (self.trash, 0o700)):
            root.mkdir(mode=mode, parents=True, exist_ok=True)

    def use(self, users: range) -> None:
        """From now on attempts get these user ids; none of them: ours. Those that have a directory keep it."""
        if users == self._users:
            return
        taken = {os.lstat(entry.path).st_uid for entry in os.scandir(self._attempts)}
        self._users = users
        self._free = deque(
            uid for uid in users[:-SLOTS_MAX] if uid not in taken
        )  # the last are sidecars' and the runner's
        for spare in self._spares:
            spare.discard(self.trash)
        self._spares.clear()
        self._given.clear()  # whose they are now, the directories themselves say

    def of(self, name: str) -> Workspace:
        """The attempt's directory, whether it is there or not."""
        given = self._given.get(name)
        if given is not None:
            return given
        base = f"{self._attempts}/{name}"
        if not self._users:
            return Workspace(base)
        try:
            uid = os.lstat(base).st_uid
        except FileNotFoundError:
            return Workspace(base)
        return Workspace(base, uid if uid in self._users else -1)

    def create(self, name: str) -> Workspace:
        """The attempt's directory, there and empty. Raises OSError."""
        base = f"{self._attempts}/{name}"
        with suppress(IndexError):
            spare = self._spares.pop()
            os.rename(spare.base, base)
            return self._give(name, spare)
        workspace = Workspace(base, self._new_user())
        workspace.create()
        return self._give(name, workspace)

    def _give(self, name: str, workspace: Workspace) -> Workspace:
        given = self._given[name] = workspace.moved(f"{self._attempts}/{name}", is_given=True)
        return given

    def _new_user(self) -> int:
        if not self._users:
            return -1
        try:
            return self._free.popleft()
        except IndexError:
            raise OSError(errno.EAGAIN, "all user ids for tasks are in use") from None

    def give_back(self, name: str, spoilt: bool = False) -> bool:
        """The attempt is over. True if something now lies in the trash. `spoilt`: a process of its user cannot be ended."""
        workspace = self.of(name)
        self._given.pop(name, None)
        if not spoilt and len(self._spares) < SPARES_MAX and workspace.is_untouched():
            self._made += 1
            spare = workspace.moved(f"{self._ready}/{self._made}", is_given=False)
            os.rename(workspace.base, spare.base)
            self._spares.append(spare)
            return False
        discarded = not workspace.remove_if_empty() and workspace.discard(self.trash)
        if workspace.uid >= 0 and not spoilt:
            self._free.append(workspace.uid)
        return discarded

    def discard_strangers(self, known: set[str]) -> None:
        """Directories of attempts that nobody knows, and the spares of an agent before us."""
        for name in set(os.listdir(self._attempts)) - known:
            self.of(name).discard(self.trash)
        for name in os.listdir(self._ready):
            Workspace(f"{self._ready}/{name}").discard(self.trash)
        self._spares.clear()
