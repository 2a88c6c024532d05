"""Images: which container commands this node has, and the words that run a task's program in one.

The task's directory is at the same place inside, its environment too, except for what speaks of this machine's Python. The
network is the host's, as for every task. Values of variables are in no argument: `ps` shows those to everybody.
"""

import os
import subprocess
from collections.abc import Sequence
from shutil import which
from typing import Final

from actors.workspace import CannotRun, Workspace
from fetchmld.core.model import TaskRequest

ASK_MAX_S: Final = 10.0
# In the order of preference: with the first two, all processes stay below the runner, whatever happens to us.
_WORKS: Final[dict[str, tuple[str, ...]]] = {"apptainer": ("version",), "podman": ("info",), "docker": ("info",)}
_OF_THIS_MACHINE: Final = frozenset({"PATH", "SHELL", "VIRTUAL_ENV"})


def found(isolated: bool) -> list[str]:
    """The container commands that are here and work, best first. Where tasks have users of their own, only what needs no
    rights on the machine."""
    names = ["apptainer"] if isolated else list(_WORKS)
    return [name for name in names if (path := which(name)) and _answers(path, _WORKS[name])]


def _answers(path: str, words: tuple[str, ...]) -> bool:
    try:
        ran = subprocess.run(
            [path, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_MAX_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0


def command(
    runtimes: list[str],
    request: TaskRequest,
    words: list[str],
    attempt: str,
    workspace: Workspace,
    env: dict[str, str],
    more: Sequence[str] = (),
) -> list[str]:
    """The whole argv, whose first word is a path. No `words`: what the image runs by itself. Raises `CannotRun`.

    `more`: directories that it sees beside the task's own, at the same place; it begins in the first of them.
    """
    if not runtimes or (path := which(runtimes[0])) is None:
        raise CannotRun(
            "LAUNCH_FAILED", "this worker has no podman, docker or apptainer that works", infrastructure=True
        )
    image = request["image"]
    if runtimes[0] == "apptainer":
        return [path, *_apptainer(image, words, workspace, env, more)]
    return [path, *_docker_like(runtimes[0], request, image, words, attempt, workspace, env, more)]


def _apptainer(
    image: str, words: list[str], workspace: Workspace, env: dict[str, str], more: Sequence[str]
) -> list[str]:
    """It takes over the environment that it is started in."""
    binds = [f"--bind={place}:{place}" for place in (workspace.base, *more)]
    flags = ["--no-home", *binds, f"--pwd={[*more, workspace.work][0]}"]
    gpus = ["--nv"] if env["CUDA_VISIBLE_DEVICES"] else []
    return ["exec" if words else "run", *flags, *gpus, f"docker://{image}", *words]


def _docker_like(
    runtime: str,
    request: TaskRequest,
    image: str,
    words: list[str],
    attempt: str,
    workspace: Workspace,
    env: dict[str, str],
    more: Sequence[str],
) -> list[str]:
    limits = [f"--cpus={request['cpu']}"] if request.get("cpu") else []
    limits += [f"--memory={request['memory_gb']}g"] if request.get("memory_gb") else []
    return [
        *("run", "--rm", "--init", f"--name={name_of(attempt)}", "--network=host", "--security-opt=no-new-privileges"),
        *(f"--user={os.geteuid()}:{os.getegid()}", *(f"--volume={place}:{place}" for place in (workspace.base, *more))),
        *(f"--workdir={[*more, workspace.work][0]}", *limits, *_gpus(runtime, env["CUDA_VISIBLE_DEVICES"])),
        *(f"--env={name}" for name in sorted(env.keys() - _OF_THIS_MACHINE)),
        *(image, *words),
    ]


def _gpus(runtime: str, uuids: str) -> list[str]:
    real = [uuid for uuid in uuids.split(",") if uuid.startswith(("GPU-", "MIG-"))]  # declared ones are names only
    if not real:
        return []
    return (
        [f'--gpus="device={",".join(real)}"'] if runtime == "docker" else [f"--device=nvidia.com/gpu={u}" for u in real]
    )


def name_of(attempt: str) -> str:
    return f"fetchml-{attempt}"


def remove(runtimes: list[str], attempt: str) -> None:
    """What docker has of an attempt that is over: its daemon may not have noticed. For a thread."""
    if runtimes[:1] == ["docker"] and (path := which("docker")):
        words = [path, "rm", "--force", "--volumes", name_of(attempt)]
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as ran:
            try:
                ran.wait(ASK_MAX_S)
            except subprocess.TimeoutExpired:
                ran.kill()
