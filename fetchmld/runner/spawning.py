"""How the runner starts one process: by our extension, or by the standard library where that was not built.

Standard library only. What a child gets is built here from what the order says; nothing of our own environment,
descriptors, signal settings or protection reaches it.
"""

import errno
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final


def _load() -> Any:
    try:
        from fetchmld import _spawn
    except ImportError:  # the extension was not built: slower, and without no-new-privileges
        return None
    return _spawn if hasattr(_spawn, "Starts") else None  # built from older sources: as good as none


_spawn: Final = _load()
PR_SET_CHILD_SUBREAPER: Final = 36
HELPERS: Final = 2  # threads beside the main one that start processes
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
    enter_fd: int = -1  # one that its starter joins before, so that it is born there
    view_fd: int = -1  # the mount namespace that it enters


class StartFailed(Exception):
    """The process could not be started: the step (one of STEPS) and its errno."""

    def __init__(self, step: str, error: int) -> None:
        super().__init__(step, error)
        self.step = step
        self.error = error

    def __str__(self) -> str:
        return f"{self.step}: {os.strerror(self.error)}"


def spawn(start: Start, stdin_fd: int, log_fd: int, home_fd: int = -1) -> int:
    """The new process's pid, which is also its session. Raises `StartFailed`."""
    (result,) = _prepared([(start, log_fd)], stdin_fd, home_fd)()
    if isinstance(result, StartFailed):
        raise result
    return result


Results = list[int | StartFailed]


def _prepared(starts: list[tuple[Start, int]], stdin_fd: int, home_fd: int) -> Callable[[], Results]:
    """All that can be done before they start; the call starts them, one after the other.

    `home_fd`: what the calling thread joins at the end, where it has joined others for them.
    """
    if _spawn is None:
        return lambda: [_spawn_plain(start, stdin_fd, log_fd) for start, log_fd in starts]
    batch, failed = _spawn.Starts(len(starts), home_fd), dict[int, StartFailed]()
    for place, (start, log_fd) in enumerate(starts):
        try:
            batch.add(
                _encoded([start.path])[:-1],
                _encoded(start.argv),
                _encoded([f"{name}={value}" for name, value in start.env.items()]),
                _encoded([start.cwd])[:-1],
                stdin_fd,
                log_fd,
                start.limits,
                start.uid,
                start.gid,
                start.cgroups,
                start.view_fd,
                start.enter_fd,
            )
        except ValueError:
            failed[place] = StartFailed("execute", errno.EINVAL)

    def run() -> Results:
        made = iter(batch.run())
        return [failed[place] if place in failed else _result(*next(made)) for place in range(len(starts))]

    return run


def _result(pid: int, step: int, error: int) -> int | StartFailed:
    return StartFailed(STEPS[step], error) if error else pid


class Spawner:
    """Starts several processes side by side: a start mostly waits, for the kernel to load the program."""

    def __init__(self, stdin_fd: int, home_fd: int) -> None:
        """`stdin_fd` becomes every child's input; `home_fd`: see `Isolation`."""
        self._fds = stdin_fd, home_fd
        self._asked: SimpleQueue[tuple[int, Callable[[], Results]]] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, Results]] = SimpleQueue()
        for _ in range(HELPERS):
            threading.Thread(target=self._help, name="spawn", daemon=True).start()

    def spawn_all(self, starts: list[tuple[Start, int]]) -> Results:
        """For each (start, log descriptor) the pid or the failure; returns when all of them have been started."""
        if not starts:
            return []
        share = -(-len(starts) // (HELPERS + 1))
        parts = [starts[at : at + share] for at in range(0, len(starts), share)]
        for place, part in enumerate(parts[1:], 1):
            self._asked.put((place, _prepared(part, *self._fds)))
        done = {0: _prepared(parts[0], *self._fds)()}
        while len(done) < len(parts):
            place, results = self._done.get()
            done[place] = results
        return [result for place in range(len(parts)) for result in done[place]]

    def _help(self) -> None:
        leave_signals_to_main()
        while True:
            place, start = self._asked.get()
            self._done.put((place, start()))


def leave_signals_to_main() -> None:
    """To be called by every other thread: a signal that wakes it costs as much as what it says is worth."""
    if NATIVE:  # what `_spawn_plain` starts would inherit it
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


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


def _encoded(texts: list[str]) -> bytes:
    """Each ended by a NUL. Raises ValueError where one has a NUL of its own."""
    joined = "\0".join(texts)
    if joined.count("\0") != max(len(texts) - 1, 0):
        raise ValueError(f"NUL in one of {texts!r}")
    return os.fsencode(joined) + b"\0" if texts else b""


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


def _spawn_plain(start: Start, stdin_fd: int, log_fd: int) -> int | StartFailed:
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
        return StartFailed(step, error.errno or 0)
    except ValueError:  # a NUL in a word
        return StartFailed("execute", errno.EINVAL)
    process.returncode = 0  # the runner reaps it, not subprocess
    _after_start(process.pid, start.limits)
    return process.pid


def _after_start(pid: int, limits: list[tuple[int, int, int]]) -> None:
    """What `_spawn` does before the execution and this way can only do right after it."""
    try:
        for which, soft, hard in limits:
            resource.prlimit(pid, which, (soft, hard))
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))  # not ours
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write("500")
    except (OSError, ValueError):
        pass  # it has ended already
