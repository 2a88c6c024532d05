"""How long a start takes on a long record: `python load/ledger/recovery.py [--events N] [--live N] [--daemon]`.

Beside it, in the same run: reading the bytes that must be read, and the start that has no snapshot. With `--daemon` a whole
daemon runs on that record, its head and scheduler are killed when the newest snapshot is as old as they get, and the
stopwatch runs until a task is accepted again.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from record import write_record
from running import running

from fetchmld.core.scheduler import Policy, Scheduler
from fetchmld.store import snapshots
from fetchmld.store.ledger import Ledger
from fetchmld.store.segment import list_segments

EVERY: Final = 50_000  # the setting snapshot_events: the most that a start has to fold
READY_MAX_S: Final = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=10_000)
    parser.add_argument("--dir", type=Path, help="Where to work; a temporary directory by default.")
    parser.add_argument("--daemon", action="store_true", help="Kill a real daemon's head and scheduler as well.")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="fetchml-recovery-", dir=given.dir))
    try:
        oldest = measure(directory / "ledger", given.events, given.live)
        if given.daemon:
            measure_daemon(directory, oldest)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def measure(ledger_dir: Path, events: int, live: int) -> tuple[str, bytes]:
    """Name and content of a snapshot that is as old as snapshots get."""
    write_record(ledger_dir, events, live)
    segments = [path for _, path in list_segments(ledger_dir / "segments")]
    size = sum(path.stat().st_size for path in segments)
    print(f"{events} events, {live} live tasks, {len(segments)} segments, {size / 2**20:.0f} MiB")
    limit = timed("read the bytes of all segments (the limit of a start without a snapshot)", lambda: _read(segments))
    timed("start without a snapshot", lambda: start(ledger_dir), limit)
    timed("make a snapshot without an earlier one (beside the daemon)", lambda: _maker(ledger_dir, events - EVERY - 1))
    found = snapshots.newest(ledger_dir)
    assert found is not None
    behind = [path for first, path in list_segments(ledger_dir / "segments") if first >= found.mark.segment]
    oldest = found.path.name, found.path.read_bytes()
    print(f"snapshot at {found.mark.seq}: {found.path.stat().st_size / 2**20:.1f} MiB; {EVERY} events behind it")
    limit = timed("read the snapshot's bytes and those behind it (the limit)", lambda: _read([found.path, *behind]))
    timed("start from the snapshot", lambda: start(ledger_dir), limit)
    timed("make the next snapshot (beside the daemon)", lambda: _maker(ledger_dir, events - 1))
    timed("start from a snapshot at the very end", lambda: start(ledger_dir))
    return oldest


def start(ledger_dir: Path) -> None:
    """What the scheduler actor does between its birth and its first answer, in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import recovery; recovery.recover(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(ledger_dir)], check=True, stdout=subprocess.PIPE, text=True)
    print(f"    {done.stdout.strip()}")


def recover(ledger_dir: str) -> None:
    import gc

    gc.disable()
    begun = time.monotonic()
    base = snapshots.newest(Path(ledger_dir))
    parsed = time.monotonic()
    ledger = Ledger.open(Path(ledger_dir), since=base.mark if base else None)
    opened = time.monotonic()
    core = Scheduler(Policy(), state=base.state() if base else None)
    core.replay((event.fact for event in ledger.read(base.mark.seq if base else 0)), 1e9)
    done = time.monotonic()
    steps = {"find snapshot": parsed - begun, "walk": opened - parsed, "state and replay": done - opened}
    print(", ".join(f"{name} {took:.3f} s" for name, took in steps.items()), f"({len(core.state.tasks)} live)")
    ledger.abandon()


def timed(what: str, work: Callable[[], object], limit_s: float = 0.0) -> float:
    begun = time.monotonic()
    work()
    took_s = time.monotonic() - begun
    ratio = f"  {took_s / limit_s:.1f} times the limit" if limit_s else ""
    print(f"{took_s:8.3f} s  {what}{ratio}", flush=True)
    return took_s


def _read(paths: list[Path]) -> None:
    for path in paths:
        path.read_bytes()


def _maker(ledger_dir: Path, to_seq: int) -> None:
    """As the daemon does. `to_seq` is the last of its batch, and batches are 2,000 here."""
    command = [sys.executable, "-m", "fetchmld.store.snapshot_maker", str(ledger_dir), str(to_seq)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# ---- a whole daemon ---------------------------------------------------------------------------------------------------


def measure_daemon(directory: Path, oldest: tuple[str, bytes]) -> None:
    begun = time.monotonic()
    with running(directory) as daemon:
        print(f"{time.monotonic() - begun:8.3f} s  start of the whole daemon", flush=True)
        for _ in range(3):
            snapshots.remove_all(directory / "ledger")
            (directory / "ledger" / snapshots.SNAPSHOTS / oldest[0]).write_bytes(oldest[1])
            kill(directory)
            timed("death of head and scheduler to a task accepted", lambda: accepted(*daemon))
            time.sleep(5.0)


def kill(directory: Path) -> None:
    """kill -9 of this directory's head and scheduler actors, found by their title and their run directory."""
    mark = (directory / "run_dir").read_text().strip().encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title, about = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if title.startswith((b"ray::head", b"ray::scheduler")) and mark in about + title:
            os.kill(int(process.name), signal.SIGKILL)


def accepted(port: int, key: str) -> dict[str, Any]:
    body = json.dumps({"job_name": "after", "cpu": 4096, "entrypoint": "/bin/true"}).encode()
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    deadline = time.monotonic() + READY_MAX_S
    while True:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/tasks", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


if __name__ == "__main__":
    main()
