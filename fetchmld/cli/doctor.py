"""`doctor`: can a daemon run well here? Looks at what it needs and says what is wrong, before or beside a running one."""

import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from fetchmld.cli import show as layout
from fetchmld.cli.exits import INVALID, SERVER_ERROR, Failure
from fetchmld.cli.session import Session, client_command

if TYPE_CHECKING:
    from fetchmld.config import Config

FREE_WARN_BYTES: Final = 5 * 2**30
FREE_LEAST_BYTES: Final = 512 * 2**20  # two segments, a snapshot, the index
SYNC_SLOW_MS: Final = 20.0
FILES_WANTED: Final = 4096
YEAR_LEAST: Final = 2025


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `bad`: a daemon will not run, or not keep what it promises."""

    name: str
    verdict: Literal["ok", "note", "bad"]
    value: str
    advice: str = ""


@click.command()
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML.")
@client_command
def doctor(session: Session, file: Path | None) -> int:
    """Check this machine and the data directory. Exit 0, or 1 where something is bad."""
    from fetchmld.config import Config
    from fetchmld.core.errors import FetchmlError

    try:
        config = Config.load(file, {"data_dir": session.given_dir or str(session.data_dir)})
    except FetchmlError as error:
        raise Failure(str(error), INVALID) from None
    found = findings(config, runs=bool(session.daemon))
    bad = any(finding.verdict == "bad" for finding in found)
    if session.json_output:
        session.show_json({"ok": not bad, "checks": [asdict(finding) for finding in found]})
    else:
        layout.table(("", "CHECK", "FOUND", "WHAT TO DO"), [(f.verdict, f.name, f.value, f.advice) for f in found])
    return SERVER_ERROR if bad else 0


def findings(config: "Config", runs: bool) -> list[Finding]:
    """Everything, in the order of its showing. `runs`: a daemon has this data directory now."""
    place = _existing(config.data_dir)
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _ray,
        lambda: _directory(config.data_dir, place),
        lambda: _filesystem(place),
        lambda: _space(place),
        lambda: _sync(place, config.paths.disk_sync),
        lambda: _record(config.paths.ledger_dir),
        lambda: _index(config.paths.index),
        _clock,
        _limits,
        lambda: _port(config.host, config.port, runs),
        _isolation,
        _gpu,
    ]
    return [finding for check in checks for finding in check()]


def _existing(directory: Path) -> Path:
    """The directory, or the nearest above it that is there already."""
    return next(place for place in (directory, *directory.parents) if place.is_dir())


def _python() -> Iterator[Finding]:
    right = (3, 11) <= sys.version_info < (3, 15)
    advice = "" if right else "use Python 3.11 to 3.14"
    yield Finding("python", "ok" if right else "bad", sys.version.split()[0], advice)


def _ray() -> Iterator[Finding]:
    try:
        yield Finding("ray", "ok", metadata.version("ray"))
    except metadata.PackageNotFoundError:
        yield Finding("ray", "bad", "not installed", "install FetchML with its dependencies (make env)")


def _directory(directory: Path, place: Path) -> Iterator[Finding]:
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding("data directory", "bad", str(place), "no permission to write there; name another (--data-dir)")
        return
    mode = place.stat().st_mode & 0o777
    if place == directory and mode & 0o077:
        yield Finding("data directory", "note", f"{place} ({mode:03o})", f"others can look into it: chmod 700 {place}")
    else:
        yield Finding("data directory", "ok", str(directory) + ("" if place == directory else " (will be made)"))


def _filesystem(place: Path) -> Iterator[Finding]:
    from fetchmld.store.disk_probe import MEMORY_KINDS, NETWORK_KINDS, filesystem_kind

    kind = filesystem_kind(place)
    if kind in NETWORK_KINDS:
        advice = "locks and syncs cannot be relied on over a network; use a local disk"
        yield Finding("filesystem", "bad", kind, advice)
    elif kind in MEMORY_KINDS:
        yield Finding("filesystem", "note", kind, "everything is gone after a reboot; use a disk for what matters")
    else:
        yield Finding("filesystem", "ok", kind or "unknown")


def _space(place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    verdict: Literal["ok", "note", "bad"] = "ok" if free >= FREE_WARN_BYTES else "note"
    if free < FREE_LEAST_BYTES:
        verdict = "bad"
    advice = "" if verdict == "ok" else "make room: when the disk is full, nothing new is accepted"
    yield Finding("free space", verdict, f"{free / 2**30:.1f} GiB", advice)


def _sync(place: Path, noted: Path) -> Iterator[Finding]:
    from fetchmld.store.disk_probe import kept, sync_latency

    try:
        took = sync_latency(place)
    except OSError as error:
        yield Finding("disk sync", "bad", str(error), "the record cannot be written there")
        return
    slow = took.median_ms > SYNC_SLOW_MS
    advice = "each accepted request waits for one sync; use a faster disk" if slow else ""
    value = f"median {took.median_ms:.2f} ms, p99 {took.p99_ms:.2f} ms ({took.syncs} syncs)"
    if (before := kept(noted)) is not None:
        value += f"; at the last start median {before[1].median_ms:.2f} ms, {layout.local(before[0])}"
    yield Finding("disk sync", "note" if slow else "ok", value, advice)


def _record(ledger_dir: Path) -> Iterator[Finding]:
    from fetchmld.store import boundary
    from fetchmld.store.recovery import missing_at_beginning
    from fetchmld.store.segment import LedgerDamaged

    advice = "see `fetchmld audit verify --data-dir`; restore it from a copy"
    try:
        missing = missing_at_beginning(ledger_dir)
        first = boundary.first_seq(ledger_dir)
        segments = boundary.segments_from(ledger_dir, first)
        size = sum(path.stat().st_size for _, path in segments)
    except (LedgerDamaged, OSError) as problem:
        yield Finding("record", "bad", str(problem), advice)
        return
    if missing:
        yield Finding("record", "bad", missing, advice)
    elif segments:
        gone = f"; the events before {first} were pruned" if first else ""
        yield Finding("record", "ok", f"{len(segments)} segments, {size / 2**20:.0f} MiB{gone}")


def _index(index: Path) -> Iterator[Finding]:
    """Only the newest that was set aside is kept."""
    for aside in sorted(index.parent.glob(f"{index.name}.bad-*")):
        if aside.suffix != ".wal":
            when = layout.local(_utc(aside.stat().st_ctime))
            advice = (
                "it was in doubt and was made anew from the record: logs/history.log says why; then remove the file"
            )
            yield Finding("index", "note", f"{aside.name} was set aside {when}", advice)


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at))


def _clock() -> Iterator[Finding]:
    now = time.gmtime()
    right = now.tm_year >= YEAR_LEAST
    advice = "" if right else "set the clock: the record's times would be wrong (decisions do not depend on it)"
    yield Finding("clock", "ok" if right else "note", time.strftime("%Y-%m-%dT%H:%M:%SZ", now), advice)


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= FILES_WANTED
    advice = "" if enough else f"raise it to {FILES_WANTED} (ulimit -n)"
    yield Finding("open files", "ok" if enough else "note", f"{soft}, at most {hard}", advice)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    yield Finding("processes", "ok", "no limit" if processes == resource.RLIM_INFINITY else str(processes))


def _port(host: str, port: int, runs: bool) -> Iterator[Finding]:
    if runs:
        yield Finding("port", "ok", f"{port}, the daemon of this directory is there or was")
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            yield Finding("port", "bad", f"{host}:{port}: {error.strerror}", "stop what has it, or choose another")
            return
    yield Finding("port", "ok", f"{host}:{port} is free")


def _isolation() -> Iterator[Finding]:
    if os.geteuid():
        yield Finding("isolation", "note", "single-trust", "tasks run as you: run only what you would run yourself")
    else:
        yield Finding("isolation", "ok", "a user of its own for each task", "what works is in `fetchmld workers`")


def _gpu() -> Iterator[Finding]:
    version = Path("/proc/driver/nvidia/version")
    if version.exists():
        yield Finding("GPU driver", "ok", version.read_text().splitlines()[0].removeprefix("NVRM version: "))
    else:
        yield Finding("GPU driver", "ok", "none found: this node offers no GPU unless --num-gpus declares some")
