"""What git says of a directory, through the `git` command; nothing at all where there is none."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from fetchmld.manifest import bare_remote, is_commit

GIT_MAX_S: Final = 60.0
DIFF_BYTES_MAX: Final = 64 * 2**20
ARGUMENTS_MAX: Final = 1000  # paths in one command
_USERS_EXCLUDES: Final = os.path.join(os.environ.get("XDG_CONFIG_HOME") or "~/.config", "git", "ignore")


@dataclass(slots=True, frozen=True)
class Repository:
    """The repository whose working tree's top is `top`."""

    top: str

    @classmethod
    def around(cls, directory: str) -> Self | None:
        """The one that `directory`, a real path, lies in."""
        found = _git(directory, "rev-parse", "--show-toplevel")
        return cls(os.path.realpath(os.fsdecode(found.rstrip(b"\n")))) if found else None

    def commit(self) -> str:
        """What is checked out; "" before the first commit."""
        found = (_git(self.top, "rev-parse", "--verify", "--quiet", "HEAD") or b"").decode(errors="replace").strip()
        return found if is_commit(found) else ""

    def remote(self) -> str:
        """Where it came from, without credentials; "" for nowhere on a network."""
        found = _git(self.top, "remote", "get-url", "origin") or b""
        return bare_remote(found.decode(errors="replace").strip())

    def tracked(self, directory: str) -> set[str]:
        """Paths below `directory` that git tracks, whatever is ignored."""
        return set(_names(_git(directory, "ls-files", "-z", "--", ".")))

    def exclude_files(self) -> list[str]:
        """What git reads beside `.gitignore` files, the first with the say: the repository's own, then the user's."""
        own = _git(self.top, "rev-parse", "--git-path", "info/exclude") or b""
        users = _git(self.top, "config", "--type=path", "--get", "core.excludesFile") or os.fsencode(_USERS_EXCLUDES)
        found = (os.fsdecode(file.rstrip(b"\n")) for file in (own, users))
        return [os.path.join(self.top, os.path.expanduser(file)) for file in found if file]

    def changed(self, directory: str) -> list[str]:
        """Tracked paths below `directory` that are not as committed, those that are gone among them."""
        return _names(_git(directory, "diff", "HEAD", "--name-only", "--relative", "--no-renames", "-z", "--", "."))

    def diff(self, directory: str, paths: list[str]) -> bytes:
        """How `paths` differ from what is committed, as a patch. At most DIFF_BYTES_MAX; a longer one is left out."""
        out = b""
        for at in range(0, len(paths), ARGUMENTS_MAX):
            flags = ("--relative", "--no-renames", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
            out += _git(directory, "diff", "HEAD", *flags, "--", *paths[at : at + ARGUMENTS_MAX]) or b""
            if len(out) > DIFF_BYTES_MAX:
                return b""
        return out


def _names(listed: bytes | None) -> list[str]:
    return [os.fsdecode(name) for name in (listed or b"").split(b"\0") if name]


def _git(directory: str, *words: str) -> bytes | None:
    """What git printed; None where it failed, or is not installed."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1", "LC_ALL": "C"}
    command: Iterable[str] = ("git", *words)
    try:
        ran = subprocess.run(
            [*command], cwd=directory, env=environment, capture_output=True, timeout=GIT_MAX_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 else None
