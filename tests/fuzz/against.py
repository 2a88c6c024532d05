"""schemathesis against a daemon: the served document, all checks, links followed. `make fuzz` runs it for long.

Who ran it reads the counts off its last lines; what failed is in its output, with the command that repeats it.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.fuzz.hooks import OWN_KEY

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = Path(__file__).with_name("schemathesis.toml")
# Under which the daemon has to be started: what is tried here is its answers, not its limits.
SETTINGS: Final = {
    "FETCHMLD_RATE_PER_S": "0",
    "FETCHMLD_LOGIN_FAILURES_PER_MINUTE": "1000000",
    "FETCHMLD_STREAM_MAX_S": "0.2",
}


@dataclass(slots=True, frozen=True)
class Outcome:
    cases: int
    operations: int
    failures: int
    said: str


def run(address: str, key: str, examples: int, bound_s: float, *words: str) -> Outcome:
    """So many examples of each operation. Raises subprocess.TimeoutExpired where that takes longer than `bound_s`."""
    own = _read(f"{address}/v1/sessions", key)["key_id"]
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{address}/openapi.json"]
    ran = subprocess.run(
        [
            *command,
            "-H",
            f"X-API-Key: {key}",
            "--max-examples",
            str(examples),
            "--continue-on-failure",
            *words,
        ],
        env={**os.environ, OWN_KEY: own, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=bound_s,
        check=False,
    )
    said = ran.stdout + ran.stderr
    return Outcome(
        cases=_number(r"(\d+) generated", said),
        operations=_number(r"Tested: (\d+)", said),
        failures=0 if ran.returncode == 0 else max(1, _number(r"(\d+) unique failures", said)),
        said=said,
    )


def _read(url: str, key: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"X-API-Key": key}), timeout=30) as answer:
        return json.load(answer)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0
