"""How the runner starts one process: by our extension, or by the standard library where that was not built.

Standard library only. What a child gets is built here from what the order says; nothing of our own environment,
descriptors, signal settings or protection reaches it.
"""

import errno
import os
import resource
import subprocess
import threading
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final


def _load() -> Any:
    try:
        from fetchmld import _spawn
    except ImportError:  # the extension was not built: slower, and without no-new-privileges
        return None
    return _spawn if hasattr(_spawn, "clear_keys") else None  # built from older sources: as good as none


_spawn: Final = _load()
PR_SET_CHILD_SUBREAPER: Final = 36
NATIVE: Final = _spawn is not None
STEPS: Final = (
    "",
    "session",
    "files",
    "limits",
    "user",
    "privileges",
    "directory",
    "execute",
    "fork",
    "cgroup",
    "view",
)


@dataclass(slots=True)
class Start:
    """What to start: the resolved program, its words, its environment, where it runs and as whom (-1: as we are)."""

    path: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    limits: list[tuple[int, int, int]] = field(default_factory=list)
    uid: int = -1
    gid: int = -1
    cgroups: list[int] = field(default_factory=list)  # descriptors that it joins by writing to
    view_fd: int = -1  # the mount namespace that it enters


class StartFailed(Exception):
    """The process could not be started: the step (one of STEPS) and its errno."""

    def __init__(self, step: str, error: int) -> None:
        super().__init__(step, error)
        self.step = step
        self.error = error

    def __str__(self) -> str:
        return f"{self.step}: {os.strerror(self.error)}"


def spawn(start: Start, stdin_fd: int, log_fd: int) -> int:
    """The new process's pid, which is also its session. Raises `StartFailed`; ValueError for a NUL in a string."""
    if _spawn is None:
        return _spawn_plain(start, stdin_fd, log_fd)
    pid, step, error = _spawn.spawn(
        _encoded(start.path),
        [_encoded(word) for word in start.argv],
        [_encoded(f"{name}={value}") for name, value in start.env.items()],
        _encoded(start.cwd),
        stdin_fd,
        log_fd,
        start.limits,
        start.uid,
        start.gid,
        start.cgroups,
        start.view_fd,
    )
    if error:
        raise StartFailed(STEPS[step], error)
    return int(pid)


class Spawner:
    """Starts several processes side by side: a start mostly waits, for the kernel to load the program."""

    def __init__(self, stdin_fd: int) -> None:
        """`stdin_fd` becomes every child's input."""
        self._stdin_fd = stdin_fd
        self._asked: SimpleQueue[list[tuple[Start, int]]] = SimpleQueue()
        self._done: SimpleQueue[list[int | StartFailed]] = SimpleQueue()
        threading.Thread(target=self._help, name="spawn", daemon=True).start()

    def spawn_all(self, starts: list[tuple[Start, int]]) -> list[int | StartFailed]:
        """For each (start, log descriptor) the pid or the failure; returns when all of them have been started."""
        half = len(starts) // 2
        if half:
            self._asked.put(starts[:half])
        mine = self._spawn_each(starts[half:])
        return self._done.get() + mine if half else mine

    def _help(self) -> None:
        while True:
            self._done.put(self._spawn_each(self._asked.get()))

    def _spawn_each(self, starts: list[tuple[Start, int]]) -> list[int | StartFailed]:
        results: list[int | StartFailed] = []
        for start, log_fd in starts:
            try:
                results.append(spawn(start, self._stdin_fd, log_fd))
            except StartFailed as failure:
                results.append(failure)
            except ValueError:  # a NUL in a word
                results.append(StartFailed("execute", errno.EINVAL))
        return results


def become_subreaper() -> None:
    """Let processes whose parents end become our children from now on. Raises OSError where the kernel refuses."""
    if _spawn is not None:
        number = _spawn.become_subreaper()
    else:
        import ctypes  # large, so only where it is needed

        libc = ctypes.CDLL(None, use_errno=True)
        number = ctypes.get_errno() if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 else 0
    if number:
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


def _encoded(text: str) -> bytes:
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise ValueError(f"NUL in {text!r}")
    return raw


def kill_user(uid: int, number: int) -> bool:
    """Signal all processes of `uid` at once; whether there was one. Only with the native extension."""
    error: int = _spawn.kill_user(uid, number)
    if error not in (0, errno.ESRCH):
        raise OSError(error, f"signalling user {uid}: {os.strerror(error)}")
    return error == 0


def clear_keys(uid: int) -> int:
    """Forget the keys that a user left in the kernel; errno, 0 on success. Only with the native extension."""
    return int(_spawn.clear_keys(uid))


def remove_ipc(kind: int, ident: int) -> int:
    """Remove a System V object; errno, 0 on success. Only with the native extension."""
    return int(_spawn.remove_ipc(kind, ident))


def _spawn_plain(start: Start, stdin_fd: int, log_fd: int) -> int:
    try:
        process = subprocess.Popen(
            start.argv,
            executable=start.path,
            env=start.env,
            cwd=start.cwd,
            stdin=stdin_fd,
            stdout=log_fd,
            stderr=log_fd,
            close_fds=False,  # all of ours close on execution by themselves
            start_new_session=True,
            user=start.uid if start.uid >= 0 else None,
            group=start.gid if start.gid >= 0 else None,
            extra_groups=[] if start.gid >= 0 else None,
            umask=0o022,
        )
    except OSError as error:
        step = "directory" if error.filename == start.cwd else "execute"
        raise StartFailed(step, error.errno or 0) from None
    process.returncode = 0  # the runner reaps it, not subprocess
    _after_start(process.pid, start.limits)
    return process.pid


def _after_start(pid: int, limits: list[tuple[int, int, int]]) -> None:
    """What `_spawn` does before the execution and this way can only do right after it."""
    try:
        for which, soft, hard in limits:
            resource.prlimit(pid, which, (soft, hard))
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write("500")
    except (OSError, ValueError):
        pass  # it has ended already
