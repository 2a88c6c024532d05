"""The data directory before anything runs in it: whose it is, who holds it, and what must be there from the first start.

One daemon at a time holds it, by a lock that ends with the process however it ends.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fetchmld.config import Paths
from fetchmld.core.errors import Invalid

FORMAT: Final = 1
CONFLICT: Final = 5  # exit codes of the command line, which takes ours over
NOT_ALLOWED: Final = 4
WORKER_ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"


class Refused(Exception):
    """The daemon will not start here; says why and what to do, and with which code to end."""

    def __init__(self, sentence: str, exit_code: int = CONFLICT) -> None:
        super().__init__(sentence, exit_code)
        self.sentence = sentence
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.sentence


class DataDir:
    """One data directory. Call nothing but `held` before it is held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._paths = Paths(path)
        self.daemon_file = self._paths.daemon_file
        self.admin_key = self._paths.admin_key
        self.join_token = self._paths.join_token
        self.logs = self._paths.logs

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make or take the directory, for this process alone. Raises `Refused`."""
        self._make()
        lock = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(lock)
            self._mark()
            yield
        finally:
            os.close(lock)

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            ours = self._paths.marker.exists() or self._paths.lock.exists()
            if not ours and any(self.path.iterdir()):
                raise Refused(
                    f"{self.path} is not empty and was not made by FetchML; name an empty or new directory (--data-dir)"
                )
        except (NotADirectoryError, FileExistsError):
            raise Refused(f"{self.path} is not a directory; name another (--data-dir)") from None
        except PermissionError as error:
            raise Refused(
                f"no permission for {error.filename}; name another directory (--data-dir)", NOT_ALLOWED
            ) from None

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise Refused(
                f"the daemon with pid {holder} already runs on {self.path}; stop it first (fetchmld stop), "
                "or name another directory (--data-dir)"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _mark(self) -> None:
        try:
            said = json.loads(self._paths.marker.read_bytes())
        except FileNotFoundError:
            write_new(self._paths.marker, json.dumps({"format": FORMAT, "made_at": time.time()}) + "\n")
            return
        except ValueError:
            raise Refused(f"{self._paths.marker} is damaged; put it back from a copy of the directory") from None
        if said.get("format") != FORMAT:
            raise Refused(f"{self.path} has format {said.get('format')!r}; this version reads {FORMAT} only")

    def run_dir(self) -> Path:
        """The short directory for sockets, made anew after a reboot. Raises `Refused`."""
        try:
            return self._paths.make_run_dir()
        except Invalid as error:
            raise Refused(str(error)) from None

    def worker_id(self) -> str:
        """This node's own id: of the directory, so that it is the same after a restart or a change of address."""
        file = self._paths.node_dir / "id"
        self._paths.node_dir.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            return file.read_text().strip()
        worker_id = "w" + "".join(secrets.choice(WORKER_ID_LETTERS) for _ in range(12))
        write_new(file, f"{worker_id}\n")
        return worker_id

    def make_admin_key(self) -> None:
        """Make the administrator's key, 256 random bits, 0600, unless there is one."""
        if not self.admin_key.exists():
            write_new(self.admin_key, f"fml_{secrets.token_hex(32)}\n")

    def inner_certificate(self) -> str:
        """What our own programs know the head by over TLS, PEM; made at the first start with it."""
        from fetchmld import tls  # takes a while, and few need it

        return tls.make_inner(self._paths.inner_tls)

    def write_daemon_file(self, about: dict[str, Any]) -> None:
        """Say who the daemon is: `pid` and `start_ticks` name the process beyond doubt."""
        ticks = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19]
        write_new(self.daemon_file, json.dumps({"pid": os.getpid(), "start_ticks": int(ticks), **about}) + "\n")


def write_new(path: Path, text: str) -> None:
    """Write a file, 0600, wholly or not at all, and onto the disk."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.replace(new, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
