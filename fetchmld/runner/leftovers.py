"""Files, shared memory and keys that an attempt left where every user may write: found by its user id, and removed.

Looked for only where something may be: a directory is read again once it has changed. Standard library only.
"""

import os
import shutil
import time
from collections.abc import Callable, Collection
from typing import Final

from fetchmld.runner.proctree import read_from_start

SHARED: Final = ("/dev/shm", "/tmp", "/var/tmp", "/dev/mqueue")
IPC: Final = ("shm", "sem", "msg")  # System V's, in the order of `_spawn.remove_ipc`
SETTLED_NS: Final = 50_000_000  # a directory's time of change is this coarse at worst


class Leftovers:
    """What of `users` lies where all may write. `remove_ipc(kind, id)` and `clear_keys(uid)` are `_spawn`'s."""

    def __init__(
        self,
        users: range,
        remove_ipc: Callable[[int, int], int],
        clear_keys: Callable[[int], int],
        directories: tuple[str, ...] = SHARED,
    ) -> None:
        self._users = users
        self._remove_ipc = remove_ipc
        self._clear_keys = clear_keys
        self._seen: dict[str, tuple[int, set[int]]] = dict.fromkeys(directories, (0, set()))
        self._ipc_fds = [_open(f"/proc/sysvipc/{name}") for name in IPC]
        self._keys_fd = _open("/proc/key-users")

    def remove(self, uids: Collection[int]) -> None:
        """Remove all but keys that belongs to `uids`, which have no process any more. One look serves all of them."""
        for directory in self._seen:
            self._clean(directory, uids)
        for kind, fd in enumerate(self._ipc_fds):
            if fd >= 0:
                self._clean_ipc(kind, read_from_start(fd), uids)

    def forget_keys(self, uids: Collection[int]) -> None:
        """Before another attempt gets one of `uids`, which could read them. Not at once: the kernel needs a moment to
        forget those of processes that have ended, and to do it for the kernel takes a process.
        """
        if self._keys_fd < 0:
            return
        listed = b"\n" + read_from_start(self._keys_fd)
        for uid in uids:
            if b"\n%5d:" % uid in listed:
                self._clear_keys(uid)

    def _clean(self, directory: str, uids: Collection[int]) -> None:
        try:
            changed_ns = os.stat(directory).st_mtime_ns
        except OSError:
            return
        seen_ns, owners = self._seen[directory]
        if seen_ns == changed_ns and owners.isdisjoint(uids):
            return
        began_ns = time.time_ns()
        found = self._owned(directory)
        for uid in uids:
            for name in found.pop(uid, ()):
                _remove(f"{directory}/{name}")
        self._seen[directory] = (changed_ns if changed_ns < began_ns - SETTLED_NS else 0, set(found))

    def _owned(self, directory: str) -> dict[int, list[str]]:
        """The names of what our users own, by user."""
        found: dict[int, list[str]] = {}
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        uid = entry.stat(follow_symlinks=False).st_uid
                    except OSError:
                        continue
                    if uid in self._users:
                        found.setdefault(uid, []).append(entry.name)
        except OSError:
            pass
        return found

    def _clean_ipc(self, kind: int, listed: bytes, uids: Collection[int]) -> None:
        head, *lines = listed.splitlines()
        if not lines:
            return
        owner = head.split().index(b"uid")
        for words in map(bytes.split, lines):
            if int(words[owner]) in uids:
                self._remove_ipc(kind, int(words[1]))  # key, id, ...


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _remove(path: str) -> None:
    """No process of the owner lives, so nobody can swap a directory for a link under our hands."""
    try:
        os.unlink(path)
    except IsADirectoryError:
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass
