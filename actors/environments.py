"""Python environments of tasks, `DIR/node/environments/<key>-<random>/`: made once by uv, the longest unused removed first.

    env/        the environment         ready       its size, once it is complete; its time says when it was last wanted
    holders/    one empty file for each attempt that uses it

The key is the hash of what is asked for and of the Python. However many tasks wait for one, it is built once; when the last
of them gives up, so does the build. What a crash left unfinished has no `ready` and is removed at the next start.
"""

import asyncio
import contextlib
import json
import os
import platform
import secrets
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from blake3 import blake3

from actors import uv
from actors.requirements import Wanted, exported, refused
from actors.workspace import CannotRun

BUILDS_MAX: Final = 2  # at once
LINES_MAX: Final = 200
FAILED_KEPT_S: Final = 30.0  # the thousandth element of an array need not ask the index again
FAILED_MAX: Final = 100
CACHE: Final = "cache"
Say = Callable[[str], None]


@dataclass(slots=True, frozen=True)
class Environment:
    """A complete one. Whoever got it lets it go."""

    base: Path

    @property
    def top(self) -> Path:
        return self.base / "env"

    @property
    def python(self) -> str:
        return str(self.top / "bin" / "python")

    def variables(self, path: str) -> dict[str, str]:
        """What a task's environment has of it; `path` is the PATH without it."""
        return {"VIRTUAL_ENV": str(self.top), "PATH": f"{self.top}/bin:{path}"}


class Build:
    """One build that any number of tasks wait for."""

    def __init__(self) -> None:
        self.waiting = 0
        self.given_up = threading.Event()
        self.lines: list[str] = []
        self.listeners: set[Say] = set()
        self.result: Future[Environment]

    def say(self, line: str) -> None:
        """To be called on the event loop."""
        if len(self.lines) < LINES_MAX:
            self.lines.append(line)
            for listener in list(self.listeners):
                listener(line)


class Environments:
    """The node's environments. `get` and `let_go` are called from one event loop; the work is done in threads."""

    def __init__(
        self,
        directory: Path,
        bytes_max: int,
        build_s: float,
        from_source: bool,
        is_held: Callable[[str], bool],
        compiled: bool = False,
    ) -> None:
        """`from_source`: may packages be built, which runs their code as us? `is_held`: does that attempt still exist?
        `compiled`: all of it is compiled at once, for those who start often and cannot write there."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._build_s = build_s
        self._from_source = from_source
        self._is_held = is_held
        self._compiled = compiled
        self._builds: dict[str, Build] = {}
        self._failed: dict[str, tuple[float, CannotRun]] = {}
        self._holding: dict[str, Path] = {}  # attempts that use one
        self._pins: Counter[Path] = Counter()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(BUILDS_MAX, "environment")

    def open(self) -> None:
        """Take over what an agent before us left; what it left unfinished is removed."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for base in self._directory.iterdir():
            if base.name == CACHE:
                continue
            if not (base / "ready").exists():
                shutil.rmtree(base, ignore_errors=True)
            elif self._is_used(base):
                self._holding.update(dict.fromkeys(os.listdir(base / "holders"), base))

    async def get(self, wanted: Wanted, say: Say) -> Environment:
        """The environment that has what is wanted. `say` hears the lines of its build. Raises `CannotRun`."""
        key = key_of(wanted)
        failed = self._failed.get(key)
        if failed is not None and time.monotonic() - failed[0] < FAILED_KEPT_S:
            raise failed[1]
        build = self._builds.get(key)
        if build is None:
            found = await asyncio.to_thread(self._find, key)
            build = self._builds.get(key)  # somebody else may have begun meanwhile
            if found is not None:
                return found
        if build is None:
            build = self._builds[key] = self._begin(key, wanted)
        return await self._wait(key, build, say)

    def _begin(self, key: str, wanted: Wanted) -> Build:
        build, loop = Build(), asyncio.get_running_loop()

        def say(line: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are going
                loop.call_soon_threadsafe(build.say, line)

        build.result = self._threads.submit(self._make, key, wanted, build.given_up, say)
        return build

    async def _wait(self, key: str, build: Build, say: Say) -> Environment:
        for line in build.lines:
            say(line)
        build.listeners.add(say)
        build.waiting += 1
        try:
            found = await asyncio.shield(asyncio.wrap_future(build.result))
            with self._lock:
                self._pins[found.base] += 1
            return found
        except CannotRun as error:
            self._failed = {**dict(list(self._failed.items())[-FAILED_MAX:]), key: (time.monotonic(), error)}
            raise
        finally:
            build.listeners.discard(say)
            build.waiting -= 1
            if not build.waiting and self._builds.get(key) is build:
                del self._builds[key]
                build.given_up.set()
                build.result.add_done_callback(self._unpin_built)  # each who waited has a pin of its own

    def _unpin_built(self, result: "Future[Environment]") -> None:
        if not result.cancelled() and result.exception() is None:
            self.let_go(result.result())

    def hold(self, environment: Environment, attempt: str) -> None:
        """The attempt uses it, for as long as the attempt exists, whatever becomes of us."""
        self._holding[attempt] = environment.base
        (environment.base / "holders" / attempt).touch()

    def forget(self, attempt: str) -> None:
        """The attempt is gone."""
        if (base := self._holding.pop(attempt, None)) is not None:
            (base / "holders" / attempt).unlink(missing_ok=True)

    def let_go(self, environment: Environment) -> None:
        """Whoever got it has it held by an attempt, or does not want it any more."""
        with self._lock:
            self._pins[environment.base] -= 1
            if not self._pins[environment.base]:
                del self._pins[environment.base]

    def close(self) -> None:
        """Give up what is being built."""
        for build in self._builds.values():
            build.given_up.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    # -- in threads

    def _find(self, key: str) -> Environment | None:
        with self._lock:
            for base in self._directory.glob(f"{key}-*"):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(base / "ready")
                    self._pins[base] += 1
                    return Environment(base)
        return None

    def _make(self, key: str, wanted: Wanted, given_up: threading.Event, say: Say) -> Environment:
        base = self._directory / f"{key}-{secrets.token_hex(4)}"
        begun_t = time.monotonic()
        try:
            found = self._install(Environment(base), wanted, given_up, say)
        except uv.UvFailed as error:
            raise refused(wanted.source, error.detail) from None
        except OSError as error:
            raise CannotRun("ENVIRONMENT_FAILED", f"{wanted.source}: {error}", infrastructure=True) from None
        finally:
            if not (base / "ready").exists():
                shutil.rmtree(base, ignore_errors=True)
        say(f"ready after {time.monotonic() - begun_t:.1f} s")
        self.trim()
        return found

    def _install(self, made: Environment, wanted: Wanted, given_up: threading.Event, say: Say) -> Environment:
        command = uv.find_uv()
        if command is None:
            raise FileNotFoundError("this worker has no uv command; install it beside FetchML's Python")
        scratch = made.base / "scratch"
        (made.base / "holders").mkdir(parents=True)
        made.base.chmod(0o755)  # whatever our umask: tasks run as other users
        scratch.mkdir()
        deadline_t = time.monotonic() + self._build_s

        def run(*words: str, heard: Say = say) -> None:
            uv.run([command, *words], scratch, self._directory / CACHE, deadline_t, given_up, heard)

        say(f"{wanted.source}: installing what it asks for")
        run("venv", "--quiet", "--no-project", "--python", wanted.requires_python or sys.executable, str(made.top))
        if wanted.lock is not None:
            wanted = self._export(wanted.lock, scratch, run)
        if wanted.lines:
            run("pip", "install", "--python", made.python, *self._flags(wanted, scratch))
        shutil.rmtree(scratch)
        return self._complete(made)

    def _export(self, lock: tuple[bytes, bytes], scratch: Path, run: Callable[..., None]) -> Wanted:
        """A lock's requirements. uv sees nothing of the snapshot but the two files."""
        for name, data in zip(("pyproject.toml", "uv.lock"), lock, strict=True):
            (scratch / name).write_bytes(data)
        out = scratch / "exported.txt"
        flags = (
            "--frozen",
            "--no-emit-project",
            "--no-dev",
            "--no-config",
            "--offline",
            "--no-header",
            "--no-annotate",
        )
        run("export", "--quiet", *flags, "--python", sys.executable, "--output-file", str(out))
        for name in ("pyproject.toml", "uv.lock"):
            (scratch / name).unlink()  # else uv reads settings from there
        return exported(out.read_text())

    def _flags(self, wanted: Wanted, scratch: Path) -> list[str]:
        (scratch / "requirements.txt").write_text("\n".join(wanted.lines) + "\n")
        flags = ["--requirements", "requirements.txt"]
        if wanted.constraints:
            (scratch / "constraints.txt").write_text("\n".join(wanted.constraints) + "\n")
            flags += ["--constraints", "constraints.txt"]
        if not self._from_source:
            flags.append("--no-build")
        if self._compiled or wanted.compiled:
            flags.append("--compile-bytecode")
        if all("--hash" in line for line in wanted.lines):
            flags.append("--require-hashes")
        for index in wanted.indexes:
            flags += ["--extra-index-url", index]
        return flags

    def _complete(self, made: Environment) -> Environment:
        new = made.base / "ready.new"
        new.write_text(json.dumps({"bytes": _size(made.base)}))
        with self._lock:
            os.rename(new, made.base / "ready")
            self._pins[made.base] += 1
        return made

    def trim(self) -> None:
        """Remove the longest unused of those that nobody uses, until the rest is within the limit."""
        cache_bytes = _size(self._directory / CACHE)
        if cache_bytes > self._bytes_max // 2 and len(self._builds) <= 1:
            shutil.rmtree(self._directory / CACHE, ignore_errors=True)
            cache_bytes = 0
        with self._lock:
            gone = self._unlist(self._bytes_max - cache_bytes)
        for base in gone:
            shutil.rmtree(base, ignore_errors=True)

    def _unlist(self, bytes_max: int) -> list[Path]:
        """Take `ready` from those that have to go, so that nobody finds them any more."""
        found = sorted(self._directory.glob("*/ready"), key=lambda ready: ready.stat().st_mtime)
        sizes = {ready: int(json.loads(ready.read_text())["bytes"]) for ready in found}
        total, gone = sum(sizes.values()), []
        for ready in found:
            if total <= bytes_max:
                break
            if not self._pins[ready.parent] and not self._is_used(ready.parent):
                ready.unlink()
                total -= sizes[ready]
                gone.append(ready.parent)
        return gone

    def _is_used(self, base: Path) -> bool:
        """Does any of its attempts still exist? Those that do not are forgotten."""
        used = False
        for holder in list((base / "holders").iterdir()):
            if self._is_held(holder.name):
                used = True
            else:
                holder.unlink(missing_ok=True)
        return used


def key_of(wanted: Wanted) -> str:
    """The hash of what is asked for and of the Python that it is for."""
    lock = None if wanted.lock is None else [blake3(part).hexdigest() for part in wanted.lock]
    form = {**asdict(replace(wanted, lock=None, source="")), "lock": lock}
    del form["compiled"]
    python = [platform.python_implementation(), platform.python_version(), platform.machine(), sys.base_prefix]
    return str(blake3(json.dumps([form, python], sort_keys=True).encode()).hexdigest(length=20))


def _size(top: Path) -> int:
    """What it takes on the disk, links not followed."""
    total = 0
    for base, _, names in os.walk(top):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
    return total
