"""The directories of a node's attempts, made once and used again while attempts leave them as they were.

Making and removing four directories costs more than all else that the agent does for a short attempt (on the file system
it waits for the journal), so one that comes back untouched is renamed and waits for the next attempt.
"""

import os
import stat
from pathlib import Path
from typing import Final

from actors.workspace import PARTS, Workspace

SPARES_MAX: Final = 128


class Workspaces:
    """Owns `attempts/`, where each attempt's directory lies, `spares/` and `trash/` of a node. Not for two threads."""

    def __init__(self, node_dir: Path) -> None:
        self._attempts = node_dir / "attempts"
        self._ready = node_dir / "spares"
        self.trash = node_dir / "trash"  # on the same file system: to discard is to rename
        self._spares: list[str] = []
        self._made = 0

    def make_roots(self) -> None:
        for root in (self._attempts, self._ready, self.trash):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def of(self, name: str) -> Workspace:
        """The attempt's directory, whether it is there or not."""
        return Workspace(f"{self._attempts}/{name}")

    def create(self, name: str) -> Workspace:
        """The attempt's directory, there and empty. Raises OSError."""
        workspace = self.of(name)
        if self._spares:
            os.rename(self._spares.pop(), workspace.base)
        else:
            workspace.create()
        return workspace

    def give_back(self, name: str) -> bool:
        """The attempt is over and nothing of it is left. True if something now lies in the trash."""
        workspace = self.of(name)
        if len(self._spares) < SPARES_MAX and _is_untouched(workspace.base):
            self._made += 1
            spare = f"{self._ready}/{self._made}"
            os.rename(workspace.base, spare)
            self._spares.append(spare)
            return False
        return not workspace.remove_if_empty() and workspace.discard(self.trash)

    def discard_strangers(self, known: set[str]) -> None:
        """Directories of attempts that nobody knows, and the spares of an agent before us."""
        for name in set(os.listdir(self._attempts)) - known:
            self.of(name).discard(self.trash)
        for name in os.listdir(self._ready):
            Workspace(f"{self._ready}/{name}").discard(self.trash)
        self._spares.clear()


def _is_untouched(base: str) -> bool:
    """As `Workspace.create` makes it: its parts, nothing in them, nobody else let in or locked out."""
    try:
        if sorted(os.listdir(base)) != sorted(PARTS):
            return False
        directories = [base, *(f"{base}/{part}" for part in PARTS)]
        return all(_is_private(path) for path in directories) and not any(map(os.listdir, directories[1:]))
    except OSError:
        return False


def _is_private(path: str) -> bool:
    found = os.lstat(path)
    return stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700 and found.st_uid == os.geteuid()
