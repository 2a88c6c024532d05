"""The index's file: opening it, writing to it in transactions, and moving it aside when it is in doubt.

Knows DuckDB and its complaints; knows nothing of events or tasks.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from fetchmld.core.errors import FetchmlError, Internal, Unavailable

SCHEMA_VERSION: Final = 7  # another one in the file: it is made anew
MEMORY_LIMIT: Final = "1GB"
ASKER_MEMORY: Final = "256MB"  # for what one query of people's sorts, groups and joins
SPILL_MAX: Final = "2GB"  # of disk, for what does not fit in memory
CHECKPOINT_BYTES: Final = "128MB"  # of write-ahead log, before it is folded into the file

_SCHEMA_SQL: Final = Path(__file__).with_name("history.sql")


class IndexDoubt(Internal):
    """The index is damaged, or does not belong to these segments. It has to be made anew."""


class IndexFile:
    """The open file. `db` belongs to the thread that writes, `checker` to the one that compares, `asker` to people's SQL.

    Raises `IndexDoubt` where the file cannot be used, `Unavailable` while another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with doubting(path):
            self.db = _connect(path)
            self.checker = self.db.cursor()
            self.asker = self.db.cursor()
            self.asker.execute(f"SET operator_memory_limit = '{ASKER_MEMORY}'")
            self.db.execute("SET lock_configuration = true")
            if not self.db.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'meta'").fetchall():
                self._create()

    def _create(self) -> None:
        with self.transaction():
            self.db.execute(_SCHEMA_SQL.read_text())
            self.db.execute("INSERT INTO meta VALUES (?, ''::BLOB, 0, ''::BLOB, 0, 0)", [SCHEMA_VERSION])
        os.chmod(self.path, 0o600)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self.db.begin()
        try:
            yield
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self.db.rollback()
            raise
        self.db.commit()

    @contextlib.contextmanager
    def arriving(self, rows: pa.Table) -> Iterator[None]:
        """`rows` can be selected from under the name `arriving`."""
        self.db.register("arriving", rows)
        try:
            yield
        finally:
            self.db.unregister("arriving")

    def insert(self, table: str, rows: pa.Table) -> None:
        with self.arriving(rows):
            self.db.execute(f"INSERT INTO {table} BY NAME SELECT * FROM arriving")

    def close(self) -> None:
        """Folds the write-ahead log into the file."""
        for connection in (self.asker, self.checker, self.db):
            with contextlib.suppress(duckdb.Error):
                connection.close()


@contextlib.contextmanager
def doubting(path: Path) -> Iterator[None]:
    """DuckDB's complaints as ours: what may pass is `Unavailable`, all else is a doubt about the file."""
    try:
        yield
    except duckdb.Error as error:
        raise _ours(error, path) from error


def move_aside(path: Path) -> None:
    """Rename the file and its log to `<name>.bad-<n>`, n counting up; of earlier ones none is kept."""
    kept = {old: _bad_number(path, old) for old in path.parent.glob(f"{path.name}.bad-*")}
    number = max(kept.values(), default=0) + 1
    for suffix in ("", ".wal"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{path}.bad-{number}{suffix}")
    for old in kept:
        old.unlink()


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": "1",
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": f"{path}.tmp",
        "max_temp_directory_size": SPILL_MAX,
        "checkpoint_threshold": CHECKPOINT_BYTES,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",  # no Python variable is ever taken for a table
    }
    db = duckdb.connect(str(path), config=config)
    db.execute("SET enable_external_access = false")
    return db


def _ours(error: duckdb.Error, path: Path) -> FetchmlError:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if "Could not set lock" in text:
        return Unavailable(f"another process has {path} open: {text}; close it there")
    if "No space left" in text or isinstance(error, duckdb.OutOfMemoryException | duckdb.InterruptException):
        return Unavailable(f"the index cannot work now: {text}")
    return IndexDoubt(text)


def _bad_number(path: Path, old: Path) -> int:
    match = re.match(r"\.bad-(\d+)", old.name[len(path.name) :])
    return int(match[1]) if match else 0
