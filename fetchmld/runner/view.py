"""What attempts see of the file system: all of it, but of closed directories only what they need. Standard library only.

The data directory is closed to other users, and so may be a home directory above it or above our Python. Attempts run in a
mount namespace in which such a directory is empty but for the few places that they need, and in which /proc shows them
their own processes only. One namespace serves all attempts of a runner: entering it is one system call.
"""

import os
from typing import Any, Final

CLONE_NEWNS: Final = 0x20000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 8, 4096, 16384, 1 << 19


class NoView(Exception):
    """The namespace cannot be made here; says why."""


def closed_above(path: str) -> str:
    """The topmost directory above `path` that other users may not pass; "" where they may pass all."""
    parts = path.split("/")[1:-1]
    for depth in range(len(parts) + 1):
        directory = "/" + "/".join(parts[:depth])
        if not os.stat(directory).st_mode & 0o001:
            return directory
    return ""


def open_view(needed: list[str]) -> int:
    """A descriptor of a mount namespace in which every user reaches `needed` (real paths). Raises `NoView`."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    wait_end, go_end = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(go_end)
        os.write(write_end, _made(needed).encode()[:4000])
        os.read(wait_end, 1)  # until our parent has a descriptor, or has ended
        os._exit(0)
    os.close(write_end)
    os.close(wait_end)
    try:
        said = os.read(read_end, 4096).decode()
        if said != "ok":
            raise NoView(said)
        return os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(read_end)
        os.close(go_end)
        os.waitpid(child, 0)


def _made(needed: list[str]) -> str:
    """Make the namespace, in a process that is only there for it; "ok", or what went wrong."""
    try:
        import ctypes  # large; it goes with this process

        libc = ctypes.CDLL(None, use_errno=True)
        _check(ctypes, libc.unshare(CLONE_NEWNS), "unshare")
        _check(ctypes, libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None), "mount /")
        mounts = _Mounts(ctypes, libc)
        closed: dict[str, list[str]] = {}
        for path in needed:
            if directory := closed_above(path):
                closed.setdefault(directory, []).append(path)
        for directory, paths in closed.items():
            mounts.open_up(directory, paths)
        mounts.own_processes_only()
    except OSError as error:
        return str(error) or "an error without a text"
    return "ok"


class _Mounts:
    """mount(2), by ctypes."""

    def __init__(self, ctypes: Any, libc: Any) -> None:
        self._ctypes = ctypes
        self._libc = libc

    def _mount(self, source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        words = [os.fsencode(word) if word else None for word in (source, target, kind)]
        _check(self._ctypes, self._libc.mount(*words, flags, os.fsencode(data) if data else None), f"mount {target}")

    def open_up(self, directory: str, paths: list[str]) -> None:
        """Put an empty directory over `directory` that all may pass, and in it only `paths`."""
        held = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in sorted(paths)]
        self._mount("fetchml", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0711,size=1m")
        for path, fd in held:
            if not os.path.isdir(path):  # else it lies in one that is there already
                _make_way(directory, path)
                self._mount(f"/proc/self/fd/{fd}", path, "", MS_BIND | MS_REC)
            os.close(fd)

    def own_processes_only(self) -> None:
        """Best effort: without it other users' processes are seen by number and name, and no more."""
        try:
            self._mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2")
        except OSError:
            pass


def _make_way(directory: str, path: str) -> None:
    """Make `path` below `directory`: to be passed, not to be read or written."""
    at = directory.rstrip("/")
    for name in os.path.relpath(path, directory).split("/"):
        at = f"{at}/{name}"
        if not os.path.isdir(at):
            os.mkdir(at)
            os.chmod(at, 0o711)


def _check(ctypes: Any, result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
