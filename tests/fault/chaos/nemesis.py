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
EVERYWHERE: Final = ("agent", "raylet", "runner", "everything", "and start")  # what every machine has
CUTS_S: Final = (3.0, 10.0, 25.0, 110.0)  # the last is longer than the settings of these tests have patience
BACK_MAX_S: Final = 120.0


@dataclass(slots=True)
class Place:
    """A machine: what runs there, how it is started again, and how its link is cut or mended (True: cut)."""

    shell: Shell
    start: Callable[[], object]
    cut: Callable[[bool], object] = lambda _cut: None


@dataclass(slots=True)
class Nemesis:
    places: list[Place]  # the head's first
    folder: Path
    dice: random.Random
    is_back: Callable[[], bool]
    over: threading.Event = field(default_factory=threading.Event)
    done: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")

    def rage(self, until_s: float, acts_min: int) -> None:
        """Until `until_s` of the monotonic clock, but `acts_min` acts in any case."""
        ways = [*(f"kill {part}" for part in PARTS), *(f"stop {part}" for part in STOPPED)]
        ways += ["kill a job", "kill a job", "kill everything", "stop and start"]
        ways += ["cut the link", "cut the link"] if len(self.places) > 1 else []
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
        place = self.dice.choice(self.places) if what in EVERYWHERE else self.places[0]
        if way == "kill everything":
            kill_all_but_the_runner_and(place.shell, *self._jobs())
            place.start()
        elif way == "stop and start":
            place.shell.fetchmld("stop")
            place.start()
        elif way == "cut the link":
            self.places[-1].cut(True)
            self.over.wait(self.dice.choice(CUTS_S))
            self.places[-1].cut(False)
        elif way == "kill a job":
            if jobs := self._jobs():
                self._send(self.dice.choice(jobs), signal.SIGKILL)
        else:
            for pid in self._pids(place, what):
                self._send(pid, signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
                if verb == "stop":
                    self.over.wait(self.dice.uniform(0.3, 4.0))
                    self._send(pid, signal.SIGCONT)

    def _pids(self, place: Place, part: str) -> list[int]:
        lines = place.shell.processes().items()
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
