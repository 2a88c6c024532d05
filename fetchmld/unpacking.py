"""Writes the files of a snapshot of code below a directory: regular files and directories, nothing else.

Every step goes through the descriptor of the directory before it and follows no link, so that nothing outside is touched
whatever the names are and whatever somebody else does in the directory meanwhile. Files are copies: whoever gets them may
change them, and the content they were made of is not theirs to reach. Nothing of FetchML unpacks archives.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import BinaryIO, Final

from blake3 import blake3

from fetchmld.manifest import CodeFile, check_path

PIECE_BYTES: Final = 2**20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Open = Callable[[str], BinaryIO]


class Damaged(Exception):
    """What is stored under a hash is something else."""


def unpack(files: Iterable[CodeFile], directory: str, open_blob: Open) -> None:
    """Write `files` below `directory`, which is there. Raises ValueError for a bad path, FileExistsError, `Damaged`.

    `open_blob` gives the content that has the hash, to be closed by us; each is checked on the way.
    """
    with _Directories(directory) as directories:
        for file in sorted(files, key=lambda file: file["path"]):
            check_path(file["path"])
            *parents, name = file["path"].split("/")
            fd = os.open(name, _FILE, 0o600, dir_fd=directories.enter(parents))
            with open(fd, "wb", buffering=0) as target, open_blob(file["hash"]) as source:
                _copy(file, source, target)
                os.fchmod(fd, 0o755 if file["executable"] else 0o644)


class _Directories:
    """The way from the top to the directory that was last entered, as open descriptors."""

    def __init__(self, top: str) -> None:
        self._fds = [os.open(top, _DIRECTORY)]
        self._names: list[str] = []

    def __enter__(self) -> "_Directories":
        return self

    def __exit__(self, *_exc: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def enter(self, names: list[str]) -> int:
        """The directory's descriptor; it is made where it is not there yet. Stays open until the next call."""
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(names, self._names, strict=False)))
        while len(self._names) > shared:
            self._names.pop()
            os.close(self._fds.pop())
        for name in names[shared:]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=self._fds[-1])
            self._fds.append(os.open(name, _DIRECTORY, dir_fd=self._fds[-1]))
            self._names.append(name)
        return self._fds[-1]


def _copy(file: CodeFile, source: BinaryIO, target: BinaryIO) -> None:
    digest, size = blake3(), 0
    while piece := source.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
        view = memoryview(piece)
        while view:
            view = view[target.write(view) :]
    if size != file["size"] or digest.hexdigest() != file["hash"]:
        raise Damaged(f"what is stored for {file['path']!r} ({file['hash']}) is damaged: {size} bytes of another sum")
