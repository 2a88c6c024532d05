"""What lets one attempt of a task reach one plugin: a token that names both, under a key that only the head's machine has.

`fmt_<task>.<attempt>.<plugin>.<mac>`. Nothing is kept of it: the mac says that we made it, and whether the attempt still
lives is asked each time. So it ends with the attempt, and a stolen one opens one plugin for as long.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PREFIX: Final = "fmt_"
_FORM: Final = re.compile(r"fmt_([A-Za-z0-9_-]{1,64})\.([0-9]{1,6})\.([a-z][a-z0-9-]{0,30})\.([0-9a-f]{64})")


@dataclass(slots=True, frozen=True)
class TaskToken:
    """What a token says, once it is believed."""

    task_id: str
    attempt: int
    plugin: str


class Tokens:
    """Makes and believes tokens under the key in `path`, which is made where there is none."""

    def __init__(self, path: Path) -> None:
        self._key = _key(path)

    def make(self, task_id: str, attempt: int, plugin: str) -> str:
        named = f"{PREFIX}{task_id}.{attempt}.{plugin}"
        return f"{named}.{self._mac(named)}"

    def read(self, text: str) -> TaskToken | None:
        """What it says, if we made it."""
        found = _FORM.fullmatch(text)
        if found is None or not hmac.compare_digest(found[4], self._mac(text.rpartition(".")[0])):
            return None
        return TaskToken(found[1], int(found[2]), found[3])

    def _mac(self, named: str) -> str:
        return hmac.new(self._key, named.encode(), hashlib.sha256).hexdigest()


def _key(path: Path) -> bytes:
    """The key, the same for whoever asks first or second."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(fd, secrets.token_bytes(32))
        os.fsync(fd)
        os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
        new.unlink()
    return path.read_bytes()
