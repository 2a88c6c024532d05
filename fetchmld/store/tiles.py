"""The tree's tiles on disk, `DIR/ledger/tiles/`, and the log of checkpoints beside them, `DIR/ledger/checkpoints.log`.

Owns both. A full tile is written once, under another name first; tiles can be made anew from the segments, so nothing
waits for their sync. A checkpoint is durable when `append` returns: whoever was shown one can hold us to it.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from fetchmld.core.merkle import HASH_BYTES, TILE_WIDTH, Tile, tile_path
from fetchmld.store.notes import read_checkpoint
from fetchmld.store.segment import sync_directory, write_at

TILES: Final = "tiles"
CHECKPOINTS: Final = "checkpoints.log"
CHECKPOINTS_MAX: Final = 2_000  # beyond, every second one of the older ones goes: a later one says all that it said
_PART_MAX: Final = TILE_WIDTH


class TileStore:
    """The tiles in one directory. Not safe for two writers."""

    def __init__(self, ledger_dir: Path) -> None:
        self._directory = ledger_dir / TILES
        self._edge: dict[int, Path] = {}  # per level, the partial tile that was written last

    def read(self, level: int, index: int, least: int) -> bytes:
        """At least the first `least` hashes of a tile, from the full one or a partial one. Raises OSError, ValueError."""
        path = self._directory / tile_path(level, index)
        try:
            hashes = path.read_bytes()
        except FileNotFoundError:
            hashes = self._read_partial(path, least)
        if len(hashes) < least * HASH_BYTES or len(hashes) % HASH_BYTES:
            raise ValueError(f"the tile {path} has {len(hashes)} bytes and should have {least} hashes at least")
        return hashes

    def _read_partial(self, path: Path, least: int) -> bytes:
        parts = path.with_name(path.name + ".p")
        widths = sorted(int(name) for name in os.listdir(parts) if name.isdecimal())
        for width in widths:
            if least <= width < _PART_MAX:
                return (parts / str(width)).read_bytes()
        raise FileNotFoundError(f"no tile {path} with {least} hashes")

    def sync(self, first: int, stop: int) -> None:
        """Make the lowest tiles of these indices durable, names and all: they are the last to know. Raises OSError."""
        directories = {self._directory, self._directory / "0"}
        for index in range(first, stop):
            path = self._directory / tile_path(0, index)
            _sync(path)
            directories.update(parent for parent in path.parents if self._directory in parent.parents)
        for directory in directories:
            sync_directory(directory)

    def write_full(self, tiles: Iterable[Tile]) -> None:
        """Raises OSError; writing the same ones again is right then."""
        for tile in tiles:
            path = self._directory / tile_path(tile.level, tile.index)
            _write(path, tile.hashes)
            self._drop_parts(path.with_name(path.name + ".p"))

    def write_edge(self, tiles: Iterable[Tile]) -> None:
        """The partial tiles that belong to a checkpoint. They stay until the tile is full. Raises OSError."""
        for tile in tiles:
            path = self._directory / tile_path(tile.level, tile.index, tile.width)
            if self._edge.get(tile.level) != path:
                _write(path, tile.hashes)
                self._edge[tile.level] = path

    def _drop_parts(self, parts: Path) -> None:
        if parts.is_dir():
            for part in parts.iterdir():
                part.unlink(missing_ok=True)
            parts.rmdir()


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.write_bytes(data)
    os.replace(fresh, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- the log of checkpoints -----------------------------------------------------------------------------------------


class CheckpointLog:
    """`checkpoints.log`: notes one after the other, an empty line after each. The newest is kept in mind."""

    def __init__(self, ledger_dir: Path) -> None:
        """Opens or makes it, and cuts a last note that was not written to its end. Raises OSError."""
        self._path = ledger_dir / CHECKPOINTS
        if not self._path.exists():
            self._path.touch(mode=0o600)
        sync_directory(ledger_dir)  # also where it was there: whoever made it may have been killed before
        whole, self.torn_bytes = split_notes(self._path.read_bytes())
        if self.torn_bytes:
            os.truncate(self._path, self._path.stat().st_size - self.torn_bytes)
        self.count = len(whole)
        self.newest = whole[-1] if whole else ""
        self._begun = -1  # where a note begins that may be there in part

    def append(self, note: str) -> None:
        """Durable when it returns. Raises OSError; what may have been written of it is cut again, by the next call at the
        latest."""
        descriptor = os.open(self._path, os.O_WRONLY)
        try:
            if self._begun >= 0:
                os.ftruncate(descriptor, self._begun)
            self._begun = os.lseek(descriptor, 0, os.SEEK_END)
            write_at(descriptor, f"{note}\n".encode(), self._begun)
            os.fdatasync(descriptor)
            self._begun = -1
        finally:
            if self._begun >= 0:
                with suppress(OSError):
                    os.ftruncate(descriptor, self._begun)
            os.close(descriptor)
        self.newest, self.count = note, self.count + 1
        if self.count > CHECKPOINTS_MAX:
            self._thin()

    def find(self, size: int) -> str:
        """The checkpoint of this tree size, or nothing."""
        for note in split_notes(self._path.read_bytes())[0]:
            with suppress(ValueError):
                if read_checkpoint(note).size == size:
                    return note
        return ""

    def _thin(self) -> None:
        """Keep the newest quarter, every second one of the rest, and each that two keys signed."""
        notes, _ = split_notes(self._path.read_bytes())
        recent = len(notes) * 3 // 4
        kept = [note for at, note in enumerate(notes) if at >= recent or at % 2 or note.count("\n\u2014 ") > 1]
        fresh = self._path.with_name(CHECKPOINTS + ".new")
        with open(fresh, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("".join(f"{note}\n" for note in kept).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)
        sync_directory(self._path.parent)
        self.count = len(kept)


def split_notes(raw: bytes) -> tuple[list[str], int]:
    """(whole notes, bytes of an unfinished one at the end). What is no note is left as it is, for whoever reads it."""
    notes: list[str] = []
    at = 0
    while True:
        text_end = raw.find(b"\n\n", at)
        end = raw.find(b"\n\n", text_end + 2) if text_end >= 0 else -1
        if end < 0:
            return notes, len(raw) - at
        notes.append(raw[at : end + 1].decode("utf-8", "replace"))
        at = end + 2


def signed_size(ledger_dir: Path) -> int:
    """Of so many events the newest whole checkpoint was signed; 0 where none can be read. Raises OSError."""
    try:
        note = newest_note(ledger_dir)
        return read_checkpoint(note).size if note else 0
    except ValueError:
        return 0


def newest_note(ledger_dir: Path) -> str:
    """The newest whole checkpoint, empty where there is none. Raises OSError."""
    try:
        notes, _ = split_notes((ledger_dir / CHECKPOINTS).read_bytes())
    except FileNotFoundError:
        return ""
    return notes[-1] if notes else ""
