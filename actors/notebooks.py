"""The directories that users keep from one Jupyter server to the next: `DIR/workspaces/<user>/<name>`, on each worker.

A server has one to itself. Where attempts have users of their own, it is handed over to each new one with all in it.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from actors.workspace import CannotRun

ROOT: Final = "workspaces"


class Notebooks:
    """`block`: all user ids that attempts have had or may have; files of anybody else are left as they are."""

    def __init__(self, root: Path, block: range) -> None:
        self._root = root
        self._block = block

    def path_of(self, user_id: str, name: str) -> str:
        """Both were checked when the service was asked for; what could lead elsewhere is refused all the same."""
        if any(part in ("", ".", "..") or "/" in part for part in (user_id, name)):
            raise CannotRun("LAUNCH_FAILED", f"workspace {name[:64]!r} of {user_id[:64]!r} is no name of a directory")
        return f"{self._root}/{user_id}/{name}"

    def make(self, user_id: str, name: str, uid: int) -> str:
        """The directory, there, and `uid`'s (-1: ours). Takes long where there is much in it. Raises OSError."""
        path = self.path_of(user_id, name)
        mode = 0o700 if uid < 0 else 0o711
        for above in (self._root, self._root / user_id):
            above.mkdir(mode=mode, exist_ok=True)
            above.chmod(mode)
        Path(path).mkdir(mode=0o700, exist_ok=True)
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(20, "is not a directory", path)
        if uid >= 0 and os.lstat(path).st_uid != uid:
            self._hand_over(path, uid)
        return path

    def _hand_over(self, path: str, uid: int) -> None:
        """The directory itself last, so that what breaks off is done again. Links are not followed."""
        before = os.lstat(path).st_uid
        for name, fd in _entries(path):
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            is_alone = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1
            if found.st_uid in self._block and (is_alone or found.st_uid == before):
                os.chown(name, uid, uid, dir_fd=fd, follow_symlinks=False)
        os.chown(path, uid, uid, follow_symlinks=False)
        os.chmod(path, 0o700)


def _entries(path: str) -> Iterator[tuple[str, int]]:
    """Every name below `path`, with a descriptor of the directory that it is in."""
    for _, names, files, fd in os.fwalk(path, follow_symlinks=False):
        for name in (*names, *files):
            yield name, fd
