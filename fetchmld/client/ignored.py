"""Which paths ignore files leave out: `.gitignore` as git reads it, `.fetchmlignore` in the same syntax with the last word.

The deepest directory's file is asked first, then those above it, those above the top in its repository, and what git
reads beside them. A directory that is left out is not walked, so nothing in it comes back in, with one exception, git's
own: what git tracks belongs to the snapshot wherever it lies, unless a `.fetchmlignore` says otherwise.
"""

import enum
import os
from typing import Final

from fetchmld.client.errors import CannotSnapshot
from fetchmld.client.git import Repository
from fetchmld.client.ignore_lines import IgnoreFile

BUILT_IN: Final = IgnoreFile(b"__pycache__\n.venv\n.DS_Store\n")  # unless an ignore file takes one back in
OURS: Final = ".fetchmlignore"


class Place(enum.Enum):
    """Where a path stands."""

    IN = "in"
    OUT = "out"
    HIDDEN = "hidden"  # a directory that git ignores and that has files which it tracks: they are in, and nothing else


class Ignored:
    """What ignore files say of the paths below `top`, a real path. The directory itself was asked for: it is in."""

    def __init__(self, top: str, repository: Repository | None) -> None:
        self._tracked = repository.tracked(top) if repository is not None else set()
        self._tracked_above = {path[:at] for path in self._tracked for at, letter in enumerate(path) if letter == "/"}
        self._ours: dict[str, IgnoreFile] = {}  # by the directory that the file lies in
        self._gits: dict[str, IgnoreFile] = {}
        self._above: list[tuple[bytes, IgnoreFile]] = []  # with the way from where it stands to the top
        if repository is not None:
            self._read_above(top, repository)

    def _read_above(self, top: str, repository: Repository) -> None:
        place = top
        while place != repository.top:
            place = os.path.dirname(place)
            self._add_above(os.path.join(place, ".gitignore"), place, top)
        for file in repository.exclude_files():
            self._add_above(file, repository.top, top)

    def _add_above(self, file: str, place: str, top: str) -> None:
        if rules := _read(file):
            way = "" if place == top else os.path.relpath(top, place) + "/"
            self._above.append((os.fsencode(way), rules))

    def enter(self, directory: str, below: str) -> None:
        """Read the ignore files of a directory, which the snapshot calls `below`."""
        for name, known in ((OURS, self._ours), (".gitignore", self._gits)):
            if rules := _read(os.path.join(directory, name)):
                known[below] = rules

    def place(self, path: str, is_directory: bool, hidden: bool) -> Place:
        """Where `path` stands; `hidden`: in a directory that is `HIDDEN`."""
        ours = _ask(self._ours, path, is_directory)
        if ours is not None:
            return Place.OUT if ours else Place.IN
        if path in self._tracked:
            return Place.IN
        if hidden or self._is_ignored(path, is_directory):
            return Place.HIDDEN if is_directory and path in self._tracked_above else Place.OUT
        return Place.IN

    def unwanted(self, path: str) -> bool:
        """Does a `.fetchmlignore` leave out this file, or a directory above it? For what git has tracked."""
        parts = path.split("/")
        above = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return any(_ask(self._ours, directory, True) for directory in above) or bool(_ask(self._ours, path, False))

    def _is_ignored(self, path: str, is_directory: bool) -> bool:
        verdict = _ask(self._gits, path, is_directory)
        for way, rules in self._above if verdict is None else ():
            verdict = rules.verdict(way + os.fsencode(path), is_directory)
            if verdict is not None:
                break
        if verdict is None and not (is_directory and path in self._tracked_above):
            verdict = BUILT_IN.verdict(os.fsencode(path), is_directory)
        return bool(verdict)


def _ask(known: dict[str, IgnoreFile], path: str, is_directory: bool) -> bool | None:
    """What the deepest file that has an opinion says; None where none has."""
    place = path
    while known and place:
        place = place.rpartition("/")[0]
        if place in known:
            relative = path[len(place) + 1 :] if place else path
            verdict = known[place].verdict(os.fsencode(relative), is_directory)
            if verdict is not None:
                return verdict
    return None


def _read(file: str) -> IgnoreFile | None:
    try:
        with open(file, "rb") as opened:
            return IgnoreFile(opened.read())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        raise CannotSnapshot(f"cannot read {file}: {error.strerror}") from None
