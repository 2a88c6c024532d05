"""The runner's journal: what was started and how it ended, in JSON lines. Standard library only.

    {"j": "intent", "key", "slot", "boot", "uid", "cell", "ooms"}  before the start, should we die in between
    {"j": "start", "key", "pid", "asked_t", "boot", ...}         before the start is reported; the page cache is enough
    {"j": "exit", "key", ...}                                    synced before the end is reported
    {"j": "forget", "key"}                                       the head has the end on record

A line is one of these, or a list of those that were written together. A killed runner loses nothing of it; a power
failure may lose starts, which is right, as the processes are gone as well.
"""

import json
import os
from dataclasses import dataclass, field
from typing import Any, Final

from fetchmld.runner.frames import encode_line

COMPACT_BYTES: Final = 4 * 2**20
COMPACT_RETRY_S: Final = 60.0

Record = dict[str, Any]


@dataclass(slots=True)
class Entry:
    """What the journal knows of one attempt that is not forgotten."""

    slot: int
    boot: str = ""  # of the machine, when the start was intended; "" of a journal that is older than this field
    uid: int = -1
    cell: int = -1
    ooms: int = 0  # processes killed for memory in the cell before
    start: Record | None = None
    exit: Record | None = None


@dataclass(slots=True)
class Journal:
    """Append-only, compacted when opened and by `compact`. Call `sync` before telling anybody of an exit."""

    path: str
    entries: dict[str, Entry] = field(default_factory=dict)
    fd: int = -1
    size_bytes: int = 0
    compacted_bytes: int = 0
    compact_at_t: float = 0.0  # not before this time, after one that failed

    @classmethod
    def open(cls, path: str) -> "Journal":
        """Read what is there (a torn last line is dropped), rewrite it compact, and be ready to append.

        Where there is no room for that it goes on with the file as it is: a runner is needed on a full disk, too.
        """
        journal = cls(path)
        for record in _read(path):
            journal.apply(record)
        try:
            journal.compact()
        except OSError:
            journal._go_on()
        return journal

    def _go_on(self) -> None:
        """Append to the file that is there, behind its last whole line. Raises OSError."""
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size_bytes = os.pread(self.fd, os.fstat(self.fd).st_size, 0).rfind(b"\n") + 1
        os.ftruncate(self.fd, self.size_bytes)

    def apply(self, record: Record) -> None:
        """Keep `entries` in step with one record."""
        key = record["key"]
        match record["j"]:
            case "intent":
                owner = record.get("uid", -1), record.get("cell", -1), record.get("ooms", 0)
                self.entries[key] = Entry(record["slot"], record.get("boot", ""), *owner)
            case "start":
                self.entries.setdefault(key, Entry(record["slot"], record["boot"])).start = record
            case "exit":
                self.entries.setdefault(key, Entry(-1)).exit = record
            case "forget":
                self.entries.pop(key, None)

    def append(self, records: list[Record]) -> None:
        """Write `records` behind the others, in one write; durable against our own death, not yet a power failure.

        Raises OSError (a full disk) with nothing written and nothing remembered.
        """
        data = encode_line(records if len(records) > 1 else records[0]).encode("ascii") if records else b""
        try:
            _write_all(self.fd, data)
        except OSError:
            os.ftruncate(self.fd, self.size_bytes)  # no torn line in the middle
            raise
        self.size_bytes += len(data)
        for record in records:
            self.apply(record)

    def sync(self) -> None:
        os.fdatasync(self.fd)

    def compact_where_large(self, now: float) -> str:
        """Compact where most of it is about forgotten attempts; why that could not be done, to be tried again later."""
        if now < self.compact_at_t or self.size_bytes <= max(COMPACT_BYTES, 4 * self.compacted_bytes):
            return ""
        try:
            self.compact()
        except OSError as error:
            self.compact_at_t = now + COMPACT_RETRY_S
            return str(error)
        return ""

    def compact(self) -> None:
        """Replace the file by one that holds only what is not forgotten. Raises OSError; it goes on as it is then."""
        new_path = f"{self.path}.new"
        fd = os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = "".join(encode_line(record) for record in self._records()).encode("ascii")
        try:
            _write_all(fd, data)
            os.fdatasync(fd)
            os.rename(new_path, self.path)
        except OSError:
            os.close(fd)
            raise
        self.close()
        self.fd, self.size_bytes, self.compacted_bytes = fd, len(data), len(data)
        _sync_directory(os.path.dirname(self.path))  # what is synced later is of no use under no name

    def _records(self) -> list[Record]:
        records: list[Record] = []
        for key, entry in self.entries.items():
            owner = {"uid": entry.uid, "cell": entry.cell, "ooms": entry.ooms}
            records.append({"j": "intent", "key": key, "slot": entry.slot, "boot": entry.boot, **owner})
            records += [record for record in (entry.start, entry.exit) if record is not None]
        return records

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _read(path: str) -> list[Record]:
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    records: list[Record] = []
    for line in lines[:-1]:  # behind the last newline there is nothing, or a torn line
        records += _parse(line)
    return records


def _parse(line: bytes) -> list[Record]:
    """Its records; none of a damaged line: the attempts' processes themselves are then looked for by their marks."""
    try:
        found = json.loads(line)
    except ValueError:
        return []
    return [
        record
        for record in (found if isinstance(found, list) else [found])
        if isinstance(record, dict) and isinstance(record.get("key"), str) and "j" in record
    ]


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
