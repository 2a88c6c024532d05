"""User ids for attempts: a block of them that no account, no other runner and no process of this machine uses.

Each runner holds one block for as long as it lives, by a lock in a directory of root's. A runner that finds processes in a
block that it has not held before leaves it alone: their runner was killed, and its successor will want it. Linux only,
standard library only.
"""

import contextlib
import fcntl
import os
from typing import Final

from fetchmld.runner.proctree import all_pids, uid_of

LOCKS_DIR: Final = "/run/fetchml-users"
BLOCK_COUNT: Final = 4096  # ids in one block: as many attempts may live on one node at a time
UID_MIN: Final = 10_000  # what `_spawn.kill_user` agrees to signal


class NoUsers(Exception):
    """There is no block to be had; says why."""


class Users:
    """One block, held. `block` are its ids."""

    def __init__(self, block: range, lock: int) -> None:
        self.block = block
        self._lock = lock

    def close(self) -> None:
        """Let go of it."""
        os.close(self._lock)


def claim(memory_file: str, first: int, count: int, locks_dir: str = LOCKS_DIR) -> Users:
    """Hold a block of `count` ids from `first` on: the one that `memory_file` names, if it can be had. Raises `NoUsers`."""
    _check_range(first, count)
    remembered = _remembered(memory_file)
    starts = [first + at for at in range(0, count - BLOCK_COUNT + 1, BLOCK_COUNT)]
    try:
        os.makedirs(locks_dir, mode=0o700, exist_ok=True)
        for start in sorted(starts, key=lambda start: start != remembered):
            block = range(start, start + BLOCK_COUNT)
            lock = try_lock(f"{locks_dir}/{start}")
            if lock >= 0 and (start == remembered or not _in_use(block)):
                _remember(memory_file, start)
                return Users(block, lock)
            if lock >= 0:
                os.close(lock)
    except OSError as error:
        raise NoUsers(f"cannot hold user ids in {locks_dir}: {error}") from None
    raise NoUsers(f"all {len(starts)} blocks of user ids from {first} on are held by other runners")


def _check_range(first: int, count: int) -> None:
    """Raises `NoUsers` where an account, or the sub-ids of one, lies in the range."""
    if first < UID_MIN or count < BLOCK_COUNT:
        raise NoUsers(f"a range of {count} user ids from {first}: it must begin at {UID_MIN} and have {BLOCK_COUNT}")
    for name, start, number in _accounts():
        if start < first + count and first < start + number:
            raise NoUsers(f"the user ids from {first} to {first + count - 1} overlap with {name}; set job_uid_first")


def _accounts() -> list[tuple[str, int, int]]:
    found = []
    for file, columns in (("/etc/passwd", (2, None)), ("/etc/group", (2, None)), ("/etc/subuid", (1, 2))):
        with contextlib.suppress(OSError), open(file, errors="replace") as lines:
            for line in lines:
                words = line.strip().split(":")
                with contextlib.suppress(ValueError, IndexError):
                    start, number = columns
                    found.append((f"{words[0]} of {file}", int(words[start]), int(words[number]) if number else 1))
    return found


def try_lock(path: str) -> int:
    """A descriptor that holds the lock for as long as it is open; -1 where another process has it. Raises OSError."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return -1
    return lock


def _in_use(block: range) -> bool:
    return any(uid_of(pid) in block for pid in all_pids())


def _remembered(memory_file: str) -> int:
    try:
        with open(memory_file) as file:
            return int(file.read())
    except (OSError, ValueError):
        return -1


def _remember(memory_file: str, start: int) -> None:
    fd = os.open(memory_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.write(fd, f"{start}\n".encode())
    os.close(fd)
