"""A directory as a snapshot of code: which of its files belong to it, and what git says of them.

What ignore files leave out is `client.ignored`'s to say; version control's own directories (`NEVER`) never belong to it.
Links to what lies inside count as what they lead to; links to anywhere else, and what is neither a file nor a directory,
are refused by name.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from fetchmld.client.errors import CannotSnapshot
from fetchmld.client.git import Repository
from fetchmld.client.ignored import Ignored, Place
from fetchmld.manifest import FILES_MAX, CodeFile, CodeManifest, check_path

NEVER: Final = frozenset({".git", ".hg", ".svn"})
PIECE_BYTES: Final = 2**20


@dataclass(slots=True, frozen=True)
class Found:
    """A file that belongs to the snapshot: its path in it, and where it is read from."""

    path: str
    source: str
    size: int
    executable: bool


class Code:
    """A directory that is to be a snapshot. Raises `CannotSnapshot`."""

    def __init__(self, directory: str | Path) -> None:
        self.top = os.path.realpath(Path(directory).expanduser())
        if not os.path.isdir(self.top):
            raise CannotSnapshot(f"{directory} is no directory")
        self.repository = Repository.around(self.top)
        self._ignored = Ignored(self.top, self.repository)

    def files(self) -> list[Found]:
        """All that belong to it, by path."""
        found = []
        for one in self._walk(self.top, "", (), hidden=False):
            found.append(one)
            if len(found) > FILES_MAX:
                raise CannotSnapshot(
                    f"{self.top} has more than {FILES_MAX} files; leave out what the task does not need (.fetchmlignore)"
                )
        if not found:
            raise CannotSnapshot(f"{self.top} has no files, or all of them are ignored")
        return sorted(found, key=lambda one: one.path)

    def diff(self, files: list[Found]) -> bytes:
        """What was not committed, of files that belong to the snapshot or are gone; empty where git knows of nothing."""
        if self.repository is None:
            return b""
        known = {one.path for one in files}
        changed = [path for path in self.repository.changed(self.top) if path in known or self._is_gone(path)]
        return self.repository.diff(self.top, changed)

    def manifest(self, files: list[Found], diff: bytes) -> tuple[CodeManifest, dict[str, Found | bytes]]:
        """The snapshot, and where the content of each blob of it is. Reads every file once."""
        entries, sources = [], dict[str, Found | bytes]()
        for one in files:
            digest, size = hash_file(one.source)
            entries.append(CodeFile(path=one.path, executable=one.executable, size=size, hash=digest))
            sources[digest] = one
        manifest = CodeManifest(files=entries)
        if self.repository is not None and (commit := self.repository.commit()):
            manifest["commit"] = commit
            if remote := self.repository.remote():
                manifest["remote"] = remote
            if diff:
                manifest["diff"] = blake3(diff).hexdigest()
                sources.setdefault(manifest["diff"], diff)
        return manifest, sources

    def _is_gone(self, path: str) -> bool:
        """Is it of the snapshot, though it is there no more?"""
        return not os.path.lexists(os.path.join(self.top, path)) and not self._ignored.unwanted(path)

    def _walk(self, directory: str, below: str, inside: tuple[str, ...], hidden: bool) -> Iterator[Found]:
        """`below`: what the directory is called in the snapshot; `inside`: the real directories that lead here.

        `hidden`: git ignores the directory, and only what it tracks there nevertheless is wanted.
        """
        real = os.path.realpath(directory)
        if real in inside:
            raise CannotSnapshot(f"{below!r} is a link to a directory that it lies in; name it in .fetchmlignore")
        self._ignored.enter(directory, below)
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{below}/{entry.name}" if below else entry.name
                is_directory = entry.is_dir()
                place = Place.OUT if entry.name in NEVER else self._ignored.place(path, is_directory, hidden)
                if place is Place.OUT:
                    continue
                if entry.is_symlink():
                    self._check_link(entry.path, path)
                if is_directory:
                    yield from self._walk(entry.path, path, (*inside, real), place is Place.HIDDEN)
                else:
                    yield self._file(entry.path, path)

    def _check_link(self, source: str, path: str) -> None:
        target = os.path.realpath(source)
        if not os.path.exists(target):
            raise CannotSnapshot(f"{path!r} is a link to {os.readlink(source)!r}, which is not there")
        if target != self.top and not target.startswith(self.top + os.sep):
            raise CannotSnapshot(
                f"{path!r} is a link to {target}, outside of {self.top}; copy it in, or name it in .fetchmlignore"
            )

    def _file(self, source: str, path: str) -> Found:
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):
            raise CannotSnapshot(f"{path!r} is neither a file nor a directory; name it in .fetchmlignore")
        try:
            check_path(path)
        except ValueError as error:
            raise CannotSnapshot(f"{error}; rename it, or name it in .fetchmlignore") from None
        return Found(path, source, status.st_size, bool(status.st_mode & 0o111))


def hash_file(source: str) -> tuple[str, int]:
    """The hex BLAKE3 and the size of a file, read in pieces."""
    digest, size = blake3(), 0
    try:
        with open(source, "rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise CannotSnapshot(f"cannot read {source}: {error.strerror}") from None
    return digest.hexdigest(), size
