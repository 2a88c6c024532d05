"""Process starts: vfork-like, with directory, session, uid, limits, cgroups, mounts and no-new-privileges."""

class Starts:
    """Starts that are made ready one by one, and then made without the interpreter.

    `room`: how many at most. `home_fd`: the cgroup file that the calling thread goes back to, -1: it never leaves.
    """

    def __init__(self, room: int, home_fd: int = -1) -> None: ...
    def add(
        self,
        path: bytes,
        argv: bytes,
        env: bytes,
        cwd: bytes,
        stdin_fd: int,
        log_fd: int,
        limits: list[tuple[int, int, int]],
        uid: int = -1,
        gid: int = -1,
        cgroups: list[int] = ...,
        view_fd: int = -1,
        enter_fd: int = -1,
        no_new_privs: bool = True,
    ) -> None:
        """One more, of `path` in a new session. Raises ValueError where it is too large, or beyond the room.

        `argv` and `env` ("NAME=value") are their strings, each ended by a NUL. `cgroups` are descriptors that a process
        joins by writing to (8 at most), `enter_fd` one that the calling thread joins before, so that the process is born
        there; `view_fd` is a mount namespace to enter, `limits` are (resource, soft, hard) of
        setrlimit, 16 at most.
        """

    def run(self) -> list[tuple[int, int, int]]:
        """Make them, in order, once. Of each (pid, 0, 0), or (0, step, errno) where a step failed (`spawning.STEPS`)."""

def become_subreaper() -> int:
    """Let processes whose parents end become our children from now on; errno, 0 on success."""

def kill_user(uid: int, number: int) -> int:
    """Signal every process of `uid` (10000 or more) at once; errno, ESRCH where there is none."""

def clear_keys(uid: int) -> int:
    """Forget the keys that a user (10000 or more) left in the kernel's keyrings; errno, 0 on success."""

def remove_ipc(kind: int, ident: int) -> int:
    """Remove a System V object: shared memory (0), semaphores (1), queue (2); errno, 0 on success."""
