"""What the clients, the jobs and whoever broke things wrote down, one JSON object a line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Said:
    """One request and what came of it. Times: wall clock in microseconds. `status` 0: no answer came."""

    client: str
    user: str
    role: str
    number: int
    operation: str
    path: str
    trace: str
    begun_us: int
    ended_us: int
    status: int
    body: Any = None  # of the request
    answer: Any = None
    key: str = ""  # Idempotency-Key
    query: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)  # of a stream: id, event, data

    @property
    def is_done(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_refused(self) -> bool:
        return 400 <= self.status < 500

    @property
    def target(self) -> str:
        """The id in the path of one object."""
        parts = self.path.split("/")
        return next((parts[n] for n, part in enumerate(self.operation.split("/")) if part.endswith("}")), "")

    @property
    def name(self) -> str:
        return f"{self.client}'s request {self.number} ({self.operation}, {self.status or 'no answer'})"


@dataclass(slots=True)
class Run:
    """One process of a job, as it said itself. Times: CLOCK_BOOTTIME in seconds, and the wall clock in microseconds."""

    task_id: str
    attempt: int
    rank: int
    pid: int
    began_s: float
    last_s: float
    began_us: int
    last_us: int
    gpus: str = ""
    exit_code: int | None = None  # None: it was ended, or never came so far


def said_in(directory: Path) -> list[Said]:
    """Every client's requests, each client's in the order in which it made them."""
    return [Said(**line) for path in sorted(directory.glob("clients/*.jsonl")) for line in lines_of(path)]


def runs_in(directory: Path) -> list[Run]:
    runs: dict[tuple[str, int, int, int, float], Run] = {}
    for path in sorted(directory.glob("jobs/*.jsonl")):
        for line in lines_of(path):
            key = (line["task"], line["attempt"], line["rank"], line["pid"], line["start"])
            run = runs.get(key)
            if run is None:
                times = (line["boot_s"], line["boot_s"], line["wall_us"], line["wall_us"])
                run = runs[key] = Run(line["task"], line["attempt"], line["rank"], line["pid"], *times, line["gpus"])
            run.last_s, run.last_us = max(run.last_s, line["boot_s"]), max(run.last_us, line["wall_us"])
            run.exit_code = line.get("exit", run.exit_code)
    return list(runs.values())


def lines_of(path: Path) -> list[dict[str, Any]]:
    """All whole lines: whoever was killed while it wrote left half a one."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
