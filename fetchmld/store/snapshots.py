"""State snapshots: `DIR/ledger/snapshots/<sequence number>.state`, the fold's result before that event.

A snapshot is disposable: it only spares a start the facts before it. So it is believed only where everything fits: its
own hashes, the code that made it, and the chain, whose event before it must lie where it says with the hash it names.
Otherwise it is passed over, with the reason, and an older one or the whole record is read; of a record that was pruned,
all from its boundary on, where the state is kept for good (`boundary`).

    first line   JSON: where in the chain, which segments lie before, hash of the body, `check` over the line itself
    then         the body, as `state_form` writes it
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson
from blake3 import blake3

from fetchmld.core.chain import HASH_BYTES
from fetchmld.core.state import State
from fetchmld.store import boundary, state_form
from fetchmld.store.landmarks import Mark
from fetchmld.store.sealed import open_segment
from fetchmld.store.segment import TRAILER, sync_directory, write_at

SNAPSHOTS: Final = "snapshots"
KEPT: Final = 2
FORMAT: Final = 1
_NAME: Final = re.compile(r"\d{20}\.state")
_LINE_BYTES_MAX: Final = 16 * 1024 * 1024
_STEP_BYTES: Final = 4 * 1024 * 1024  # synced in steps, so that the writer's own syncs never wait behind all of it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that was found right."""

    mark: Mark
    path: Path
    earlier: tuple[int, ...]  # the segments before the mark's own, by first sequence number
    body: bytes

    def state(self) -> State:
        """A fresh copy of the state, for whoever folds on from it."""
        return state_form.from_bytes(self.body)


class NoSnapshot(ValueError):
    """This file is of no use; says why."""


def write(ledger_dir: Path, mark: Mark, state: State) -> Path:
    """Write the state before event `mark.seq`, durably, and remove all but the newest two. Raises OSError."""
    directory = ledger_dir / SNAPSHOTS
    directory.mkdir(mode=0o700, exist_ok=True)
    body = state_form.to_bytes(state)
    there = boundary.segments_from(ledger_dir, boundary.first_seq(ledger_dir))
    earlier = [first for first, _ in there if first < mark.segment]
    path = directory / f"{mark.seq:020d}.state"
    fresh = path.with_suffix(f".new{os.getpid()}")
    try:
        _write_synced(fresh, _first_line(mark, earlier, body) + body)
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(directory)
    _remove_old(directory)
    return path


def newest(ledger_dir: Path) -> Snapshot | None:
    """The newest snapshot that fits the chain, the code and itself; None where none does. Says why it passed some over.

    Of a record that was pruned it is the state at the boundary where there is none. Raises LedgerDamaged where that is
    damaged, OSError.
    """
    for _, path in reversed(listed(ledger_dir)):
        try:
            return read(ledger_dir, path)
        except (NoSnapshot, OSError) as problem:
            log.warning("snapshot_passed_over", extra={"path": str(path), "why": str(problem)})
    pruned = boundary.load(ledger_dir)
    if pruned is None:
        return None
    return Snapshot(pruned.boundary.mark, ledger_dir / boundary.PRUNED, (), pruned.state)


def read(ledger_dir: Path, path: Path) -> Snapshot:
    """The snapshot in `path`. Raises NoSnapshot, OSError."""
    raw = path.read_bytes()
    end = raw.find(b"\n") + 1
    mark, earlier, schema, body_hash = _parsed(raw[:end])
    body = raw[end:]
    if blake3(body).hexdigest() != body_hash or path.name != f"{mark.seq:020d}.state":
        raise NoSnapshot("its bytes are not what was written")
    if schema != state_form.fingerprint():
        raise NoSnapshot("another version of FetchML wrote it")
    _check_place(ledger_dir, mark, earlier)
    return Snapshot(mark, path, earlier, body)


def marks(ledger_dir: Path) -> list[Mark]:
    """Where the snapshots stand. They were made of acknowledged events only: a chain that misses one has lost events."""
    found = []
    for _, path in listed(ledger_dir):
        with suppress(NoSnapshot, OSError), path.open("rb") as file:
            found.append(_parsed(file.readline(_LINE_BYTES_MAX))[0])
    return found


def listed(ledger_dir: Path) -> list[tuple[int, Path]]:
    """(sequence number, path) of every snapshot, oldest first, right or wrong."""
    with suppress(FileNotFoundError):
        names = sorted(os.listdir(ledger_dir / SNAPSHOTS))
        return [(int(name[:20]), ledger_dir / SNAPSHOTS / name) for name in names if _NAME.fullmatch(name)]
    return []


def remove_all(ledger_dir: Path) -> None:
    for _, path in listed(ledger_dir):
        path.unlink(missing_ok=True)


def _first_line(mark: Mark, earlier: list[int], body: bytes) -> bytes:
    fields = {
        "format": FORMAT,
        "schema": state_form.fingerprint(),
        **asdict(mark),
        "event_hash": mark.event_hash.hex(),
        "earlier": earlier,
        "body": blake3(body).hexdigest(),
    }
    return orjson.dumps({**fields, "check": _check(fields)}) + b"\n"


def _check(fields: dict[str, object]) -> str:
    return blake3(orjson.dumps(fields)).hexdigest()


def _parsed(line: bytes) -> tuple[Mark, tuple[int, ...], str, str]:
    """(mark, earlier segments, fingerprint, hash of the body) of a first line. Raises NoSnapshot."""
    try:
        fields = orjson.loads(line)
        check = fields.pop("check")
        if check != _check(fields) or fields["format"] != FORMAT:
            raise NoSnapshot("its first line is not what was written, or of another format")
        numbers = [fields[name] for name in ("segment", "offset", "at_us", "clock_us")]
        mark = Mark(fields["seq"], bytes.fromhex(fields["event_hash"]), *numbers)
        return mark, tuple(fields["earlier"]), fields["schema"], fields["body"]
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise problem if isinstance(problem, NoSnapshot) else NoSnapshot(f"no first line: {problem}") from problem


def _check_place(ledger_dir: Path, mark: Mark, earlier: tuple[int, ...]) -> None:
    """The event before the mark must lie where the mark says, with its hash, and no segment before it may be gone,
    but for those that were pruned."""
    begins = boundary.first_seq(ledger_dir)
    there = dict(boundary.segments_from(ledger_dir, begins))
    if any(first not in there for first in earlier if first >= begins) or mark.segment not in there:
        raise NoSnapshot("a segment before it is gone")
    file = open_segment(there[mark.segment])
    try:
        found = file.pread(HASH_BYTES + len(TRAILER), mark.offset - len(TRAILER) - HASH_BYTES)
    finally:
        file.close()
    if found != mark.event_hash + TRAILER:
        raise NoSnapshot(f"the chain has another event {mark.seq - 1} there")


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for start in range(0, len(data), _STEP_BYTES):
            write_at(descriptor, data[start : start + _STEP_BYTES], start)
            os.fdatasync(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_old(directory: Path) -> None:
    """All but the newest, and what makers left that did not come to their end."""
    for _, path in listed(directory.parent)[:-KEPT]:
        path.unlink(missing_ok=True)
    for path in _left_over(directory):
        path.unlink(missing_ok=True)


def _left_over(directory: Path) -> Iterator[Path]:
    for path in directory.glob("*.new*"):
        if not Path(f"/proc/{path.suffix.removeprefix('.new')}").exists():
            yield path
