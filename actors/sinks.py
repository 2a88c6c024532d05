"""Where checkpoints go, so that somebody outside can vouch for the ledger: a file on another mount, a URL, syslog.

Owns the deliveries: one at a time for each sink, only the newest checkpoint, tried again with growing pauses. A sink that
is slow or away delays nothing but itself. What a sink took is known by its answer; syslog over UDP gives none.
"""

import asyncio
import base64
import contextlib
import http.client
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from actors.background import in_background
from fetchmld.store.landmarks import replace_file
from fetchmld.store.notes import read_checkpoint

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 60.0  # the newest one goes out again, so that a sink sees that we live
TIMEOUT_S: Final = 10.0
BACK_OFF_FIRST_S: Final = 1.0
BACK_OFF_MAX_S: Final = 60.0
BEHIND_MAX_S: Final = 10.0  # a sink that has not taken the newest one for so long vouches no more
_AUDIT_INFO: Final = 13 * 8 + 6  # facility "log audit", severity "informational"
_SYSLOG_PORT: Final = 514

Deliver = Callable[[str], None]


@dataclass(slots=True)
class Sink:
    """One receiver. `deliver` blocks, and raises where the note was not taken."""

    url: str
    deliver: Deliver
    vouches: bool  # is what it took out of this machine's reach, as far as can be known?
    accepted_size: int = -1
    accepted_at: float = 0.0
    problem: str = ""
    _note: str = ""
    _offered_t: float = 0.0
    _behind_since: float | None = None
    _accepted_t: float = 0.0
    _wake: asyncio.Event | None = None

    def offer(self, note: str) -> None:
        """Here is a newer checkpoint."""
        self._note, self._offered_t = note, time.monotonic()
        if self._behind_since is None:
            self._behind_since = self._offered_t
        if self._wake is not None:
            self._wake.set()

    @property
    def anchors(self) -> bool:
        """Whether it has taken the newest checkpoint, or one that was the newest a moment ago."""
        now = time.monotonic()
        late = self._behind_since is not None and now - self._behind_since > BEHIND_MAX_S
        return self.vouches and self.accepted_size >= 0 and not late and now - self._accepted_t < 2 * HEARTBEAT_S

    def status(self) -> dict[str, Any]:
        said: dict[str, Any] = {"sink": self.url, "vouches": self.vouches, "problem": self.problem}
        if self.accepted_size >= 0:
            said |= {"accepted_size": self.accepted_size, "accepted_at": self.accepted_at}
        return said

    async def run(self) -> None:
        """Deliver for as long as the task lives."""
        self._wake = asyncio.Event()
        pause = BACK_OFF_FIRST_S
        while True:
            if self._note and await self._deliver_newest():
                pause = BACK_OFF_FIRST_S
                if self._behind_since is None:
                    await self._wait(HEARTBEAT_S)
            elif self._note:
                await asyncio.sleep(pause)
                pause = min(2 * pause, BACK_OFF_MAX_S)
            else:
                await self._wait(HEARTBEAT_S)

    async def _wait(self, at_most_s: float) -> None:
        assert self._wake is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._wake.wait()
        self._wake.clear()

    async def _deliver_newest(self) -> bool:
        note = self._note
        try:
            await in_background("sink", self.deliver, note)
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != self.problem:
                log.warning("sink_failed", extra={"sink": self.url, "why": problem})
            self.problem = problem
            return False
        self.problem = ""
        self.accepted_size, self.accepted_at = read_checkpoint(note).size, time.time()
        self._accepted_t = time.monotonic()
        self._behind_since = None if self._note == note else self._offered_t
        return True


def make_sink(url: str, ledger_dir: Path) -> Sink:
    """The sink that a setting names. The configuration has checked its form."""
    parts = urlsplit(url)
    match parts.scheme:
        case "file":
            path = Path(parts.path)
            return Sink(url, lambda note: _to_file(path, note), _elsewhere(path, ledger_dir))
        case "syslog" if parts.hostname:
            return Sink(url, lambda note: _to_udp(parts, note), vouches=False)
        case "syslog":
            return Sink(url, lambda note: _to_socket(parts.path, note), vouches=True)
    return Sink(url, lambda note: _post(parts, note), vouches=True)


def kept_note(url: str) -> str:
    """The checkpoint that a file sink holds; nothing where it is another kind, or empty yet. Raises OSError."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return ""
    try:
        return Path(parts.path).read_text()
    except FileNotFoundError:
        return ""


def _elsewhere(path: Path, ledger_dir: Path) -> bool:
    """Is the file on another file system than the ledger? On the same one it goes where the ledger goes."""
    try:
        return path.parent.stat().st_dev != ledger_dir.stat().st_dev
    except OSError:
        return False


def _to_file(path: Path, note: str) -> None:
    """Replace what the file holds, but never a checkpoint of another log, or one beyond ours."""
    with contextlib.suppress(FileNotFoundError):
        held, ours = read_checkpoint(path.read_text()), read_checkpoint(note)
        if held.origin != ours.origin or held.size > ours.size:
            raise ValueError(
                f"{path} holds a checkpoint of {held.size} events of {held.origin}, ours is of {ours.size} of "
                f"{ours.origin}; verify the ledger against it, then move it away"
            )
    replace_file(path, note)


def _post(parts: SplitResult, note: str) -> None:
    """POST the note. Whatever is not 2xx, a redirect too, is a refusal."""
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, note.encode(), {"Content-Type": "text/plain; charset=utf-8"})
        status = connection.getresponse().status
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise ValueError(f"it answered {status}")


def syslog_line(note: str) -> bytes:
    """RFC 5424. The note itself in base64, as its line feeds would end the message."""
    said = read_checkpoint(note)
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    host = socket.gethostname() or "-"
    whole = base64.b64encode(note.encode()).decode()
    message = f"origin={said.origin} size={said.size} root={base64.b64encode(said.root).decode()} note={whole}"
    return f"<{_AUDIT_INFO}>1 {at} {host} fetchmld {os.getpid()} checkpoint - {message}".encode()


def _to_socket(path: str, note: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(path)
        sock.send(syslog_line(note))


def _to_udp(parts: SplitResult, note: str) -> None:
    host, port = parts.hostname or "", parts.port or _SYSLOG_PORT
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.sendto(syslog_line(note), address)
