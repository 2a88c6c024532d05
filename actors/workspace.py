"""An attempt's directory, program and environment, as `What a task sees` in the documentation promises them.

DIR/node/attempts/<task>-<attempt>-<rank>/   HOME
    work/      the working directory         output/   collected as artifacts         tmp/   TMPDIR
"""

import contextlib
import json
import os
import pwd
import shlex
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from fetchmld.core.messages import LaunchOrder
from fetchmld.core.model import Gpu, ParamValue, TaskRequest

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SCRIPT: Final = "train.py"
PARTS: Final = ("work", "output", "tmp")
SETTLED_NS: Final = 50_000_000  # a time of change is this coarse at worst
WORDS_MAX: Final = 1000  # commands that are kept split
JOB_USER: Final = "job"  # what a user without a name is called
_PASSED_ON: Final = ("LANG", "LC_ALL", "TZ")  # all that a task gets of our own environment


class CannotRun(Exception):
    """There is nothing that could be started. `word` begins the task's error; `infrastructure`: elsewhere it may go."""

    def __init__(self, word: str, detail: str, infrastructure: bool = False) -> None:
        super().__init__(word, detail, infrastructure)
        self.word = word
        self.detail = detail
        self.infrastructure = infrastructure


class Workspace:
    """The directory of one attempt."""

    __slots__ = ("_is_container", "_looks", "base", "given_ns", "uid")

    def __init__(self, base: str, uid: int = -1) -> None:
        """`uid`: the user whose it is, with a group of the same number; -1 = ours."""
        self.base = base
        self.uid = uid
        self.given_ns = 0  # wall time, when its attempt got it; 0 = an agent before us gave it
        self._is_container = False
        self._looks: dict[str, tuple[int, int]] = {}  # of parts, when they were seen to be as they were made

    def moved(self, base: str, *, is_given: bool) -> "Workspace":
        """The same directory where it is now: given to an attempt, or waiting for one."""
        moved = Workspace(base, self.uid)
        moved.given_ns, moved._looks = time.time_ns() if is_given else 0, self._looks
        return moved

    @property
    def work(self) -> str:
        return f"{self.base}/work"

    @property
    def output(self) -> str:
        return f"{self.base}/output"

    def create(self) -> None:
        """Make it, empty."""
        os.mkdir(self.base, 0o700)
        for part in PARTS:
            os.mkdir(f"{self.base}/{part}", 0o700)
            if self.uid >= 0:
                os.chown(f"{self.base}/{part}", self.uid, self.uid)
        if self.uid >= 0:
            os.chown(self.base, self.uid, self.uid)

    def hand_over(self) -> None:
        """Give what was put into the working directory to its user. Files with a second name elsewhere stay ours."""
        if self.uid < 0:
            return
        for base, names, files in os.walk(self.work):
            for name in (*names, *files):
                path = os.path.join(base, name)
                status = os.lstat(path)
                if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
                    os.lchown(path, self.uid, self.uid)

    def mark_container(self) -> None:
        """A container runs in it, which may outlive the command that started it."""
        self._is_container = True
        with open(self._mark, "wb"):
            pass

    @property
    def _mark(self) -> str:
        return f"{self.base}/.container"

    @property
    def is_container(self) -> bool:
        return self._is_container if self.given_ns else os.path.exists(self._mark)

    def has_leavings(self) -> bool:
        """Is there anything to collect, or to remove, now that the attempt is over?"""
        return self.has_output() or self.is_container

    def has_output(self) -> bool:
        try:
            if self._looks_as_made("output", os.lstat(self.output)):
                return False
            with os.scandir(self.output) as found:
                return next(found, None) is not None
        except FileNotFoundError:
            return False

    def is_untouched(self) -> bool:
        """Whether it is as `create` makes it: its parts, nothing in them, nobody else let in or locked out."""
        try:
            if set(os.listdir(self.base)) != set(PARTS) or not self._is_private(self.base, os.lstat(self.base)):
                return False
            return all(map(self._is_as_made, PARTS))
        except OSError:
            return False

    def _is_as_made(self, part: str) -> bool:
        """Looked into only where it may have changed: three directories of each attempt would cost as much as its end."""
        path = f"{self.base}/{part}"
        found = os.lstat(path)
        if self._looks_as_made(part, found):
            return True
        if not self._is_private(path, found) or os.listdir(path):
            return False
        self._looks[part] = _look(found)
        return True

    def _looks_as_made(self, part: str, found: os.stat_result) -> bool:
        """Whether nothing was changed since it was seen to be as it was made: all that can be done to it or in it changes
        its time of change, which nobody can set, but which tells moments apart only if they are not too close.
        """
        return self._looks.get(part) == _look(found) and found.st_ctime_ns < self.given_ns - SETTLED_NS

    def _is_private(self, path: str, found: os.stat_result) -> bool:
        """Also without an access list, which its mode does not always show."""
        owner = self.uid if self.uid >= 0 else os.geteuid()
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700 and found.st_uid == owner
        return private and not os.listxattr(path, follow_symlinks=False)

    def remove_if_empty(self) -> bool:
        """Remove it at once if the attempt left nothing; whether it is gone."""
        try:
            for part in PARTS:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(f"{self.base}/{part}")
            os.rmdir(self.base)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def discard(self, trash: Path) -> bool:
        """Move it out of the way, to be removed by `empty`; whether there was anything."""
        try:
            os.rename(self.base, tempfile.mkdtemp(dir=trash))
        except FileNotFoundError:
            return False
        return True


def _look(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_ctime_ns


def empty(trash: Path) -> None:
    """Remove all that was discarded; what the job made unreadable too. Meant for a thread."""
    for name in os.listdir(trash):
        shutil.rmtree(trash / name, onerror=_force)


def _force(_function: object, path: str, _error: object) -> None:
    """Open the directory that would not be read, and try again; what then stays is found at the next start."""
    with contextlib.suppress(OSError):
        os.chmod(os.path.dirname(path), 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def program_of(request: TaskRequest, work: str, path: str, python: str = sys.executable) -> tuple[str, list[str]]:
    """What to execute and its words: `entrypoint` and `args`, split as a shell would, and never given to one.

    `path` is the PATH that names without a slash are looked up in, `python` runs scripts. Raises `CannotRun`.
    """
    words = [*(_words("entrypoint", request.get("entrypoint", "")) or _default(work))]
    words += _words("args", request.get("args", ""))
    first = words[0]
    if first.endswith((".py", ".sh")):
        where = f"snapshot {request['snapshot_id']}" if "snapshot_id" in request else "the working directory"
        if ".." in Path(first).parts or not os.path.isfile(os.path.join(work, first)):
            raise CannotRun("ENTRYPOINT_NOT_FOUND", f"there is no file {first!r} in {where}")
        interpreter = python if first.endswith(".py") else _found("bash", path)
        return interpreter, [interpreter, *words]
    return _found(first, path), words


def words_of(request: TaskRequest, work: str) -> list[str]:
    """A program and its words as they are given to an image, which has its own Python; none: what the image runs itself.

    Raises `CannotRun`.
    """
    words = _words("entrypoint", request.get("entrypoint", ""))
    if not words and os.path.isfile(f"{work}/{DEFAULT_SCRIPT}"):
        words = (DEFAULT_SCRIPT,)
    if not words:
        return [*_words("args", request.get("args", ""))]
    interpreters = {".py": ["python3"], ".sh": ["sh"]}
    return [*interpreters.get(words[0][-3:], []), *words, *_words("args", request.get("args", ""))]


def script_of(request: TaskRequest) -> str:
    """The file that would be run by Python or a shell, or whatever the first word is. Raises `CannotRun`."""
    return (_words("entrypoint", request.get("entrypoint", "")) or (DEFAULT_SCRIPT,))[0]


@lru_cache(WORDS_MAX)
def _words(name: str, text: str) -> tuple[str, ...]:
    """Kept: many tasks have the same command. Raises `CannotRun`."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise CannotRun("ENTRYPOINT_NOT_FOUND", f"{name} {text[:200]!r} cannot be split into words: {error}") from None


def _default(work: str) -> list[str]:
    if os.path.isfile(f"{work}/{DEFAULT_SCRIPT}"):
        return [DEFAULT_SCRIPT]
    raise CannotRun("NO_ENTRYPOINT", f"the task names no entrypoint and its directory has no {DEFAULT_SCRIPT}")


def _found(name: str, path: str) -> str:
    """The file to execute. A name with a slash is left to the start itself, which says what is wrong with it."""
    if "/" in name:
        return name
    found = shutil.which(name, path=path)
    if found is None:
        raise CannotRun(
            "ENTRYPOINT_NOT_FOUND",
            f"no program {name!r} in {path}; a program of the working directory is named with a slash: ./{name}",
        )
    return found


def environment_of(
    order: LaunchOrder,
    workspace: Workspace,
    gpus: tuple[Gpu, ...],
    datasets: dict[str, str],
    python: Callable[[str], dict[str, str]] = lambda _path: {},
) -> dict[str, str]:
    """The task's whole environment: an allow-list, what the request's `env` adds, and our own words, which win.

    `python`: what its Python environment adds, given the PATH without it.
    """
    mine = next(node for node in order["assignments"] if node["rank"] == order["rank"])
    uuids = {gpu.index: gpu.uuid for gpu in gpus}
    user = {"USER": JOB_USER, "LOGNAME": JOB_USER} if workspace.uid >= 0 else {}
    return {
        **_base(),
        **user,
        **python(_base()["PATH"]),
        "HOME": workspace.base,
        "TMPDIR": f"{workspace.base}/tmp",
        **order["request"].get("env", {}),
        **datasets,
        **_of_element(order),
        "FETCHML_TASK_ID": order["task_id"],
        "FETCHML_ATTEMPT": str(order["attempt"]),
        "FETCHML_JOB_NAME": order["request"].get("job_name", ""),
        "FETCHML_OUTPUT_DIR": workspace.output,
        **_of_gang(order),
        "FETCHML_NODE_RANK": str(order["rank"]),
        "FETCHML_NODE_COUNT": str(len(order["assignments"])),
        "CUDA_VISIBLE_DEVICES": ",".join(uuids[index] for index in mine["gpus"]),
    }


def _of_gang(order: LaunchOrder) -> dict[str, str]:
    """Where the members of a gang find each other, as torch.distributed and its kin read it."""
    place = rendezvous_of(order)
    if place is None:
        return {}
    return {
        "MASTER_ADDR": place[0],
        "MASTER_PORT": str(place[1]),
        "NODE_RANK": str(order["rank"]),
        "WORLD_SIZE": str(len(order["assignments"])),
    }


def rendezvous_of(order: LaunchOrder) -> tuple[str, int] | None:
    """Host and port of a gang's rank 0; None where there is no gang."""
    host, _, port = order["assignments"][0].get("rendezvous", "").rpartition(":")
    return (host, int(port)) if port else None


def _of_element(order: LaunchOrder) -> dict[str, str]:
    """Its place and its params, for an element of an array."""
    element = order.get("element")
    if element is None:
        return {}
    return {
        "FETCHML_ARRAY_ID": element["array_id"],
        "FETCHML_ARRAY_INDEX": str(element["index"]),
        "FETCHML_ARRAY_SIZE": str(element["size"]),
        **{f"FETCHML_PARAM_{name.upper()}": param_text(value) for name, value in element["params"].items()},
    }


def param_text(value: ParamValue) -> str:
    """A param's value as its variable has it: text as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value)


@cache
def _base() -> dict[str, str]:
    """What every task gets."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "LANG": "C.UTF-8",
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "PYTHONUNBUFFERED": "1",
        **passed_on,
    }
