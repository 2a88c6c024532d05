"""A directory as a snapshot of code: which of its files belong to it, and what git says of them.

Left out are what `.gitignore` files leave out (not what git tracks nevertheless), what `.fetchmlignore` files leave out, in
the same syntax and with the last word, and a few things that nobody means (`BUILT_IN`, `NEVER`). Links to what lies inside
count as what they lead to; links to anywhere else, and what is neither a file nor a directory, are refused by name.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3
from pathspec import GitIgnoreSpec

from fetchmld.client.errors import ClientError
from fetchmld.client.git import Repository
from fetchmld.manifest import FILES_MAX, CodeFile, CodeManifest, check_path

BUILT_IN: Final = ("__pycache__", ".venv", ".DS_Store")  # unless an ignore file takes one back in
NEVER: Final = frozenset({".git", ".hg", ".svn"})
PIECE_BYTES: Final = 2**20


class CannotSnapshot(ClientError):
    """This directory cannot be a snapshot; says which file is in the way and what to do."""


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
        for one in self._walk(self.top, "", ()):
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
        changed = [path for path in self.repository.changed(self.top) if path in known or not self._is_left_out(path)]
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

    def _is_left_out(self, path: str) -> bool:
        return os.path.lexists(os.path.join(self.top, path)) or self._ignored.leaves_out(path, is_directory=False)

    def _walk(self, directory: str, below: str, inside: tuple[str, ...]) -> Iterator[Found]:
        """`below`: what the directory is called in the snapshot; `inside`: the real directories that lead here."""
        real = os.path.realpath(directory)
        if real in inside:
            raise CannotSnapshot(f"{below!r} is a link to a directory that it lies in; name it in .fetchmlignore")
        self._ignored.enter(directory, below)
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{below}/{entry.name}" if below else entry.name
                is_directory = entry.is_dir()
                if entry.name in NEVER or self._ignored.leaves_out(path, is_directory):
                    continue
                if entry.is_symlink():
                    self._check_link(entry.path, path)
                if is_directory:
                    yield from self._walk(entry.path, path, (*inside, real))
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


class Ignored:
    """What ignore files say, as git reads them: the deepest directory's file first, and the last line that matches."""

    def __init__(self, top: str, repository: Repository | None) -> None:
        self._tracked = repository.tracked(top) if repository is not None else set()
        self._tracked_above = {path[:at] for path in self._tracked for at, letter in enumerate(path) if letter == "/"}
        self._built_in = GitIgnoreSpec.from_lines(BUILT_IN)
        self._ours: dict[str, GitIgnoreSpec] = {}  # by the directory that the file lies in
        self._gits: dict[str, GitIgnoreSpec] = {}
        self._above: list[
            tuple[str, GitIgnoreSpec]
        ] = []  # of directories above the top: (path from there to it, rules)
        if repository is not None:
            self._read_above(top, repository.top)

    def _read_above(self, top: str, repository_top: str) -> None:
        place = top
        while place != repository_top:
            place = os.path.dirname(place)
            if rules := _rules(os.path.join(place, ".gitignore")):
                self._above.append((os.path.relpath(top, place) + "/", rules))
        if rules := _rules(os.path.join(repository_top, ".git", "info", "exclude")):
            prefix = os.path.relpath(top, repository_top)
            self._above.append(("" if prefix == "." else prefix + "/", rules))

    def enter(self, directory: str, below: str) -> None:
        """Read the ignore files of a directory."""
        for name, known in ((".fetchmlignore", self._ours), (".gitignore", self._gits)):
            if rules := _rules(os.path.join(directory, name)):
                known[below] = rules

    def leaves_out(self, path: str, is_directory: bool) -> bool:
        """Is it left out? Its directories are not."""
        verdict = _ask(self._ours, path, is_directory)
        if verdict is not None:
            return verdict
        if path in self._tracked or (is_directory and path in self._tracked_above):
            return False
        verdict = _ask(self._gits, path, is_directory)
        if verdict is not None:
            return verdict
        for prefix, rules in self._above:
            verdict = _verdict(rules, prefix + path, is_directory)
            if verdict is not None:
                return verdict
        return bool(_verdict(self._built_in, path, is_directory))


def _ask(known: dict[str, GitIgnoreSpec], path: str, is_directory: bool) -> bool | None:
    """What the deepest file that has an opinion says; None where none has."""
    place = path
    while known and place:
        place = place.rpartition("/")[0]
        if place in known:
            verdict = _verdict(known[place], path[len(place) + 1 :] if place else path, is_directory)
            if verdict is not None:
                return verdict
    return None


def _verdict(rules: GitIgnoreSpec, path: str, is_directory: bool) -> bool | None:
    return rules.check_file(f"{path}/" if is_directory else path).include


def _rules(file: str) -> GitIgnoreSpec | None:
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as lines:
            return GitIgnoreSpec.from_lines(lines.read().splitlines())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CannotSnapshot(f"cannot read {file}: {error}") from None


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
