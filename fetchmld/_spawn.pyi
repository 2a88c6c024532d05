"""One process start: a vfork-like start with directory, session, uid, limits and no-new-privileges."""

def spawn(
    path: bytes,
    argv: list[bytes],
    env: list[bytes],
    cwd: bytes,
    stdin_fd: int,
    log_fd: int,
    limits: list[tuple[int, int, int]],
    uid: int = -1,
    gid: int = -1,
    reset_oom: bool = False,
    no_new_privs: bool = True,
) -> tuple[int, int, int]:
    """Start `path` in a new session; (pid, 0, 0), or (0, step, errno) when a step failed (`spawning.STEPS` names them).

    `argv` and `env` ("NAME=value") are NUL-free bytes; `limits` are (resource, soft, hard) of setrlimit, 16 at most.
    """

def become_subreaper() -> int:
    """Let processes whose parents end become our children from now on; errno, 0 on success."""
