"""What a daemon's processes cost: found by their data directory, told apart from Ray's own, read from /proc."""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Ray's own processes: its servers, and workers that hold no actor of ours.
_RAY: Final = re.compile(r"gcs_server|raylet|ray::IDLE|default_worker|dashboard|runtime_env|log_monitor|monitor\.py")


# In a process that Ray made ours, Python's threads carry these names; all others are Ray's library, and so is the main
# thread of an actor's process: it waits for Ray's calls, waking a hundred times a second, while the actor has its own.
_PYTHON_THREADS: Final = ("ray::", "python")


@dataclass(slots=True, frozen=True)
class Process:
    pid: int
    name: str
    is_rays: bool

    @property
    def plain_name(self) -> str:
        """`scheduler` of `ray::scheduler.a_method`, `runner` of `fetchmld.runner`."""
        rays = self.name.startswith("ray::")
        return self.name.removeprefix("ray::").partition(".")[0] if rays else self.name.rpartition(".")[2]

    def cpu_s(self) -> tuple[float, float]:
        """Processor seconds so far: in FetchML's threads, and in Ray's."""
        spent = [0.0, 0.0]
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                spent[self._is_rays_thread(thread)] += int((thread / "schedstat").read_text().split()[0]) / 1e9
        return spent[0], spent[1]

    def _is_rays_thread(self, thread: Path) -> bool:
        if self.is_rays or not (self.name.startswith("ray::") or self.name == "actors.daemon"):
            return self.is_rays
        is_main = thread.name == str(self.pid)
        if is_main:
            return self.name.startswith("ray::")
        return not (thread / "comm").read_text().startswith(_PYTHON_THREADS)

    def memory_mib(self) -> tuple[float, float]:
        """Proportional (PSS: shared pages divided among those who share them) and resident (RSS) memory."""
        found = {"Pss": 0, "Rss": 0}
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0])
        return found["Pss"] / 1024, found["Rss"] / 1024


def of_daemon(pid: int, directories: list[str]) -> list[Process]:
    """Every process that descends from `pid`, or names one of `directories` in its arguments or its environment."""
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    marks = [os.fsencode(directory) for directory in directories]
    found = [p for p in parents if p != os.getpid() and (_descends(p, pid, parents) or _mentions(p, marks))]
    return [_described(process) for process in sorted(found)]


def _descends(process: int, ancestor: int, parents: dict[int, int]) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = parents.get(process, 0)
    return False


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _mentions(process: int, marks: list[bytes]) -> bool:
    try:
        text = Path(f"/proc/{process}/cmdline").read_bytes() + Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return False
    return any(mark in text for mark in marks)


def _described(process: int) -> Process:
    words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    line = " ".join(words).strip()
    return Process(process, _short(words, line), _RAY.search(line) is not None)


def _short(words: list[str], line: str) -> str:
    if line.startswith("ray::"):
        return line[:40]
    if "fetchmld.runner" in line:
        return "fetchmld.runner"
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    script = next((word for word in words[1:] if word.endswith(".py")), words[0])
    return Path(script).name[:40] or "?"


def cpu_share(processes: list[Process], for_s: float) -> dict[int, tuple[float, float]]:
    """Shares of one core that each process took over `for_s` seconds, FetchML's and Ray's; without those that ended."""
    before = _cpu(processes)
    begun = time.monotonic()
    time.sleep(for_s)
    took_s = time.monotonic() - begun
    after = _cpu(processes)
    return {
        pid: ((after[pid][0] - before[pid][0]) / took_s, (after[pid][1] - before[pid][1]) / took_s)
        for pid in after
        if pid in before
    }


def _cpu(processes: list[Process]) -> dict[int, tuple[float, float]]:
    found: dict[int, tuple[float, float]] = {}
    for process in processes:
        try:
            found[process.pid] = process.cpu_s()
        except OSError:
            continue
    return found
