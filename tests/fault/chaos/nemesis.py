"""Who breaks things: kills each part of the daemon by turns, and jobs, and everything; stops some for a moment.

Which, when and in what order follows from a seed. Everything it does is written down, in `nemesis.jsonl`.
"""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.e2e.conftest import Shell
from tests.e2e.test_outlives import is_runner, kill_all_but_the_runner_and

PARTS: Final = {
    "head": "ray::head",
    "scheduler": "ray::scheduler",
    "agent": "ray::agent",
    "audit": "ray::audit",
    "history": "ray::history",
    "plugin": "ray::plugin",
    "GCS": "gcs_server",
    "raylet": "raylet/raylet",
    "runner": "fetchmld.runner",
}
STOPPED: Final = ("head", "scheduler", "agent", "history", "runner", "GCS")
BACK_MAX_S: Final = 120.0


@dataclass(slots=True)
class Nemesis:
    shell: Shell
    folder: Path
    dice: random.Random
    start: Callable[[], object]  # the daemon, after it was killed as a whole
    is_back: Callable[[], bool]
    over: threading.Event = field(default_factory=threading.Event)
    done: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")

    def rage(self, until_s: float, acts_min: int) -> None:
        """Until `until_s` of the monotonic clock, but each kind of act once in any case, or `acts_min` of them."""
        ways = [*(f"kill {part}" for part in PARTS), *(f"stop {part}" for part in STOPPED)]
        ways += ["kill a job", "kill a job", "kill everything", "stop and start"]
        bag: list[str] = []
        while time.monotonic() < until_s or sum(self.done.values()) < acts_min:
            bag = bag or self.dice.sample(ways, len(ways))
            way = bag.pop()
            self._note(way)
            self._act(way)
            self.done[way] = self.done.get(way, 0) + 1
            if self.dice.random() < 0.7:
                self.await_back(way)
            self.over.wait(self.dice.uniform(0.2, 2.5))

    def await_back(self, way: str) -> None:
        begun = time.monotonic()
        while not self.is_back():
            took = time.monotonic() - begun
            assert took < BACK_MAX_S, f"not back {took:.0f} s after: {way}"
            self.over.wait(0.1)
        self.slowest = max(self.slowest, (time.monotonic() - begun, way))

    def _act(self, way: str) -> None:
        verb, _, what = way.partition(" ")
        if way == "kill everything":
            kill_all_but_the_runner_and(self.shell, *self._jobs())
            self.start()
        elif way == "stop and start":
            self.shell.fetchmld("stop")
            self.start()
        elif way == "kill a job":
            if jobs := self._jobs():
                self._send(self.dice.choice(jobs), signal.SIGKILL)
        else:
            for pid in self._pids(what):
                self._send(pid, signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
                if verb == "stop":
                    self.over.wait(self.dice.uniform(0.3, 4.0))
                    self._send(pid, signal.SIGCONT)

    def _pids(self, part: str) -> list[int]:
        lines = self.shell.processes().items()
        return [pid for pid, line in lines if (is_runner(line) if part == "runner" else PARTS[part] in line)]

    def _jobs(self) -> list[int]:
        """Processes of tasks, by what they were started with."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{self.folder}/jobs\0".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return sorted(found)

    def _send(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
            os.kill(pid, number)

    def _note(self, way: str) -> None:
        with (self.folder / "nemesis.jsonl").open("a") as file:
            file.write(json.dumps({"act": way, "wall_us": time.time_ns() // 1000}) + "\n")
