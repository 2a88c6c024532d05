"""Browser sessions and the one-time tickets that open them: random values, of which only the SHA-256 is kept.

A session stands for an API key, by the key's hash: whether that key is still good is asked at each use, so a revoked key
ends its sessions. Sessions are kept in a file (0600), so that a restart of ours logs nobody out; tickets live a minute and
are not. Bounded in all directions; the oldest goes first. `now` is epoch seconds.
"""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from fetchmld.store.segment import sync_directory

SESSIONS_MAX: Final = 10_000
TICKETS_MAX: Final = 1_000
PER_KEY_MAX: Final = 20  # sessions, and tickets, of one key
TICKET_S: Final = 60.0
RANDOM_BYTES: Final = 32

# Where it counts: on the API and the console, or on the pages of services alone.
Reach = Literal["console", "services"]


@dataclass(slots=True, frozen=True)
class Session:
    """`key_sha256`: the API key that it stands for."""

    key_sha256: str
    reach: Reach
    expires_at: float


class SessionStore:
    """All of them. What changes sessions is called by one thread at a time; anybody may look meanwhile."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sessions: dict[str, Session] = {}  # by the hash of the session's own value, oldest first
        self._tickets: dict[str, Session] = {}

    def load(self) -> None:
        """Take up what was written before. A file that cannot be read logs everybody out, and nothing more."""
        try:
            found = json.loads(self._file.read_text())
            self._sessions = {name: Session(**fields) for name, fields in found["sessions"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._sessions = {}

    def issue(self, key_sha256: str, reach: Reach, now: float) -> tuple[str, float]:
        """A ticket, and when it expires."""
        return _add(self._tickets, Session(key_sha256, reach, now + TICKET_S), TICKETS_MAX, now), now + TICKET_S

    def redeem(self, ticket: str, now: float) -> Session | None:
        """What the ticket is good for, this once."""
        found = self._tickets.pop(_sha256(ticket), None)
        return found if found is not None and now < found.expires_at else None

    def begin(self, key_sha256: str, reach: Reach, expires_at: float, now: float) -> str:
        """A new session, durable; its value is known to nobody but who gets it here. Raises OSError."""
        sessions = dict(self._sessions)
        value = _add(sessions, Session(key_sha256, reach, expires_at), SESSIONS_MAX, now)
        self._save(sessions)
        return value

    def find(self, value: str, reach: Reach, now: float) -> Session | None:
        found = self._sessions.get(_sha256(value))
        return found if found is not None and found.reach == reach and now < found.expires_at else None

    def end(self, value: str) -> None:
        """Log out. Nothing happens where there is no such session. Raises OSError."""
        name = _sha256(value)
        if name in self._sessions:
            self._save({other: one for other, one in self._sessions.items() if other != name})

    def end_all(self, key_sha256: str) -> None:
        """End every session of this key. Raises OSError."""
        self._save({name: one for name, one in self._sessions.items() if one.key_sha256 != key_sha256})

    def _save(self, sessions: dict[str, Session]) -> None:
        """These are the sessions now, once the file says so."""
        new = self._file.with_suffix(".new")
        text = json.dumps({"sessions": {name: asdict(one) for name, one in sessions.items()}})
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._file)
        self._sessions = sessions
        sync_directory(self._file.parent)  # else who logged out could be back after a loss of power


def _add(kept: dict[str, Session], session: Session, most: int, now: float) -> str:
    """Under a new random value; whatever is over, or beyond a bound, goes."""
    for name in [name for name, one in kept.items() if one.expires_at <= now]:
        del kept[name]
    same = [name for name, one in kept.items() if (one.key_sha256, one.reach) == (session.key_sha256, session.reach)]
    for name in same[: max(0, len(same) - PER_KEY_MAX + 1)]:
        del kept[name]
    while len(kept) >= most:
        del kept[next(iter(kept))]
    value = secrets.token_urlsafe(RANDOM_BYTES)
    kept[_sha256(value)] = session
    return value


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
