"""What a plugin's actor has to know again after its own death and can ask nobody: one small file, replaced as a whole.

Losing it costs a restart of the sidecar and runs that stay open in the plugin's own eyes; nothing of ours.
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fetchmld.core.model import PluginConfig


@dataclass(slots=True)
class Started:
    """A sidecar that was started: with which configuration, and where it listens."""

    revision: int
    config: PluginConfig
    endpoint: str


@dataclass(slots=True)
class Open:
    """An attempt that was given something, and is not known to be over."""

    task_id: str
    attempt: int
    run_id: str


@dataclass(slots=True)
class Memory:
    """Call `save` after a change."""

    path: Path
    last_number: int = 0
    sidecars: dict[int, Started] = field(default_factory=dict)
    open: dict[str, Open] = field(default_factory=dict)  # by task and attempt

    @classmethod
    def load(cls, path: Path) -> "Memory":
        memory = cls(path)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found: dict[str, Any] = json.loads(path.read_bytes())
            memory.last_number = int(found["last_number"])
            memory.sidecars = {int(number): Started(**one) for number, one in found["sidecars"].items()}
            memory.open = {key: Open(**one) for key, one in found["open"].items()}
        return memory

    def save(self) -> None:
        data = {
            "last_number": self.last_number,
            "sidecars": {str(number): asdict(one) for number, one in self.sidecars.items()},
            "open": {key: asdict(one) for key, one in self.open.items()},
        }
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            json.dump(data, file)
        new.replace(self.path)
