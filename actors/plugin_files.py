"""Files that tasks leave for a plugin's sidecar while they grow: event files of TensorBoard.

`<files>/<run>/<path>`. While an attempt runs its agent appends what is new; when it has ended its artifacts have all of it,
and what is missing is taken from there. The directory is ours; the sidecar's group may read it.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from actors.plugin_memory import Open
from fetchmld.core.errors import Invalid
from fetchmld.core.model import TaskView
from fetchmld.store.content import ContentStore

PIECE_BYTES_MAX: Final = 2**20
RUN_BYTES_MAX: Final = 2**30
RUN_FILES_MAX: Final = 1_000
PATH_CHARACTERS_MAX: Final = 512


class Files:
    """Of one plugin. `bytes_max()`: of all runs together; the oldest go first."""

    def __init__(self, objects: Path, followed: str, bytes_max: Callable[[], int]) -> None:
        self._objects = ContentStore(objects)
        self._followed = followed
        self._bytes_max = bytes_max
        self._top: Path | None = None

    def use(self, directory: Path) -> None:
        """Where they lie: made by the agent, for us and the sidecar's group."""
        self._top = directory

    def sizes(self, run_id: str) -> dict[str, int]:
        """What is here of a run, by path."""
        run = self._run(run_id)
        found = [(base, file) for base, _, files in os.walk(run) for file in files]
        return {
            os.path.relpath(os.path.join(base, file), run): os.path.getsize(os.path.join(base, file))
            for base, file in found
        }

    def append(self, run_id: str, path: str, offset: int, data: bytes) -> int:
        """Put bytes at `offset`; the file's size then. Twice is the same. Raises `Invalid` beyond what a run may have."""
        sizes = self.sizes(run_id)
        if path not in sizes and len(sizes) >= RUN_FILES_MAX:
            raise Invalid(f"a run has at most {RUN_FILES_MAX} files")
        if sum(sizes.values()) - sizes.get(path, 0) + offset + len(data) > RUN_BYTES_MAX:
            raise Invalid(f"a run has at most {RUN_BYTES_MAX} bytes of files")
        if offset > sizes.get(path, 0):
            return sizes.get(path, 0)  # there would be a hole: from here on, please
        fd = self._open(run_id, path)
        try:
            os.pwrite(fd, data, offset)
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    async def complete(self, opened: Open, task: TaskView | None) -> None:
        """The attempt is over: what its artifacts have and we do not is taken from there."""
        report = task["report"] if task is not None and task["attempt"] == opened.attempt else None
        if report is not None and "artifacts" in report:
            await asyncio.to_thread(self._complete, opened.run_id, report["artifacts"]["manifest"])
        await asyncio.to_thread(self._trim)

    def _complete(self, run_id: str, manifest: str) -> None:
        try:
            entries: list[dict[str, Any]] = orjson.loads(self._objects.read(manifest))
        except FileNotFoundError:
            return  # retention was quicker
        below, sizes = f"{self._followed}/", self.sizes(run_id)
        for entry in [entry for entry in entries if entry["path"].startswith(below)][:RUN_FILES_MAX]:
            path = entry["path"].removeprefix(below)
            if sizes.get(path) != entry["bytes"] and entry["bytes"] <= RUN_BYTES_MAX:
                self._copy(run_id, path, entry["hash"])

    def _copy(self, run_id: str, path: str, digest: str) -> None:
        fd = self._open(run_id, path)
        with open(fd, "r+b") as target, self._objects.open(digest) as source:
            shutil.copyfileobj(source, target, PIECE_BYTES_MAX)
            target.truncate()

    def _open(self, run_id: str, path: str) -> int:
        target = self._run(run_id) / _safe(path)
        assert self._top is not None
        for directory in reversed([one for one in target.parents if self._top in one.parents]):
            directory.mkdir(exist_ok=True)
            os.chmod(directory, 0o2750)  # the group is the one of the directory above
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        os.fchmod(fd, 0o640)
        return fd

    def _run(self, run_id: str) -> Path:
        if self._top is None:
            raise Invalid("the agent is not there yet; try again")
        return self._top / _safe(run_id)

    def _trim(self) -> None:
        """Remove whole runs, the longest unchanged first, until the rest is within the limit."""
        if self._top is None:
            return
        runs = sorted((path.stat().st_mtime, path) for path in self._top.glob("*/*") if path.is_dir())
        sizes = {path: sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) for _, path in runs}
        total = sum(sizes.values())
        for _, path in runs:
            if total <= self._bytes_max():
                return
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]


def _safe(path: str) -> str:
    parts = path.split("/")
    if not path or len(path) > PATH_CHARACTERS_MAX or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Invalid(f"{path[:80]!r} is no path of a file below its run")
    return path
