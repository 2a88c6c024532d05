"""What the lock files say: each package's name, version and hashes, of Python and of the console's npm packages.

Owns no judgement of them; `audit.py` and `sbom.py` read the locks through this and nothing else does.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CONSOLE: Final = ROOT / "fetchmld" / "console"
NPM_LOCK: Final = CONSOLE / "package-lock.json"
DAEMON: Final = ROOT / "requirements.lock"
ENVIRONMENTS: Final = tuple(sorted((ROOT / "fetchmld" / "environments").glob("*.lock")))  # sidecars', made on first use
WORKBENCH: Final = tuple(ROOT / f"requirements-{name}.lock" for name in ("dev", "examples", "load"))

_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(slots=True, frozen=True)
class Locked:
    """One package of a lock. `hashes`: (algorithm, hex) of every file that may be installed for it."""

    name: str
    version: str
    hashes: tuple[tuple[str, str], ...]
    licence: str = ""  # where the lock itself says it
    is_tool: bool = False  # used to build, not shipped


def python_packages(lock: Path) -> Iterator[Locked]:
    """Raises ValueError where a package has no hash, or a line is no pin."""
    for block in re.split(r"\n(?=\S)", lock.read_text().strip()):
        if block.startswith("#"):
            continue
        pin = _PIN.match(block)
        hashes = tuple(("SHA-256", found) for found in _HASH.findall(block))
        if pin is None or not hashes:
            raise ValueError(f"{lock.name}: not a pinned package with hashes: {block.splitlines()[0][:80]!r}")
        yield Locked(pin[1], pin[2], hashes)


def npm_packages(lock: Path = NPM_LOCK) -> Iterator[Locked]:
    """Raises ValueError where a package has no hash."""
    for place, entry in json.loads(lock.read_text())["packages"].items():
        if not place:
            continue  # the console itself
        algorithm, _, digest = entry.get("integrity", "").partition("-")
        if algorithm != "sha512":
            raise ValueError(f"{lock.name}: {place} has no sha512: {entry.get('integrity')!r}")
        name = place.rpartition("node_modules/")[2]
        hashes = (("SHA-512", base64.b64decode(digest).hex()),)
        yield Locked(name, entry["version"], hashes, entry.get("license", ""), bool(entry.get("dev")))
