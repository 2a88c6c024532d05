"""Finding the daemon of a data directory, and ending it: by pid and start time, so that nobody else is ever hit."""

import json
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from fetchmld.cli.exits import NOT_ALLOWED, TIMED_OUT, Failure
from fetchmld.cli.session import Session
from fetchmld.cli.watch import Spinner

DRAIN_POLL_S: Final = 0.5


@dataclass(slots=True, frozen=True)
class Running:
    """A live daemon: the process that `daemon.json` names, and no other that got its number since."""

    pid: int
    pidfd: int

    @classmethod
    def find(cls, data_dir: Path) -> Self | None:
        """The daemon that holds `data_dir`, or None where none is alive."""
        try:
            said = json.loads((data_dir / "daemon.json").read_bytes())
            pid, ticks = int(said["pid"]), int(said["start_ticks"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if start_ticks(pid) != ticks:
            os.close(pidfd)
            return None
        return cls(pid, pidfd)

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, and wait for the end. Raises `Failure` when it may not be stopped or takes too long."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
        except ProcessLookupError:
            return
        except PermissionError:
            raise Failure(
                f"the daemon (pid {self.pid}) belongs to another user; stop it as that user", NOT_ALLOWED
            ) from None
        with Spinner(f"stopping pid {self.pid}"):
            ended = select.select([self.pidfd], [], [], timeout_s)[0]
        if not ended:
            raise Failure(f"the daemon (pid {self.pid}) has not ended within {timeout_s:g} s of SIGTERM", TIMED_OUT)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where there is none, or only its exit status is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[19])


def drained(session: Session) -> None:
    """Return once nothing is queued or running."""
    with Spinner() as spinner:
        while True:
            now = session.client.scheduler()
            queued = now.get("batch_queue_depth", 0) + now.get("service_queue_depth", 0)
            running = now.get("tasks_running", 0)
            if not queued and not running:
                return
            spinner.text = f"waiting for {queued} queued and {running} running"
            time.sleep(DRAIN_POLL_S)
