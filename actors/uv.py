"""The `uv` command: where it is, what it may know of the daemon's environment, and a run of it that can be given up."""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Final

LINES_SAID: Final = 20
CHARACTERS_SAID: Final = 2_000
POLL_S: Final = 0.2

# How to reach the index, and nothing else: the job never sees any of it.
_PASSED_ON: Final = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|INDEX_STRATEGY|INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)|"
    r"INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|HTTP_TIMEOUT|HTTP_RETRIES|CONCURRENT_DOWNLOADS|KEYRING_PROVIDER|CONFIG_FILE)"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|NETRC|HOME|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy"
)
_AS_PIP_SAYS: Final = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s@]+@")


class UvFailed(Exception):
    """It ended badly, or was stopped; `detail` has its last lines."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


def find_uv() -> str | None:
    """The command: beside our Python, else where PATH has it."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def environment(cache: Path) -> dict[str, str]:
    """All that uv is told: where the index is, as the daemon's environment says it to uv or to pip, and our own rules."""
    found = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    for theirs, ours in _AS_PIP_SAYS.items():
        if theirs in os.environ:
            found.setdefault(ours, os.environ[theirs])
    return {
        **found,
        "PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin",  # our own Python first, where it will do
        "LANG": "C.UTF-8",
        "UV_CACHE_DIR": str(cache),
        "UV_LINK_MODE": "copy",  # a hard link would let who changes one environment change the next
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
    }


def run(
    words: list[str], directory: Path, cache: Path, deadline_t: float, given_up: Event, say: Callable[[str], None]
) -> None:
    """Run uv in `directory`; each line that it prints goes to `say`. Raises `UvFailed`."""
    process = subprocess.Popen(
        words,
        cwd=directory,
        env=environment(cache),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        umask=0o022,
    )
    last: list[str] = []
    try:
        for line in _lines(process, deadline_t, given_up):
            last = [*last, line][-LINES_SAID:]
            say(line)
        code = process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code != 0:
        raise UvFailed(" / ".join(last)[-CHARACTERS_SAID:] or f"uv ended with {code}")


def _lines(process: "subprocess.Popen[bytes]", deadline_t: float, given_up: Event) -> Iterator[str]:
    assert process.stdout is not None
    with process.stdout:
        fd, rest = process.stdout.fileno(), b""
        while True:
            if given_up.is_set():
                raise UvFailed("nobody waits for it any more")
            if time.monotonic() > deadline_t:
                raise UvFailed("it took longer than environment_build_s")
            if not select.select([fd], [], [], POLL_S)[0]:
                continue
            data = os.read(fd, 65536)
            *lines, rest = (rest + data).split(b"\n")
            yield from (clean(line) for line in lines if line.strip())
            if not data:
                if rest.strip():
                    yield clean(rest)
                return


def clean(line: bytes) -> str:
    """A line as it may be shown: without credentials and without what would move a terminal's cursor."""
    text = line.decode("utf-8", "replace").rstrip()
    return _CREDENTIALS.sub("", "".join(letter for letter in text if letter.isprintable()))[:500]
