"""The files that a runner keeps of ended attempts' output (`runner.logs`), seen from outside: what is there, what is old.

The segment with the highest number is the runner's: it may be written to, and the next one's number follows from it.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple


class KeptFile(NamedTuple):
    name: str  # below the directory
    size: int
    written_at: float


def kept_files(directory: str, parts: tuple[str, ...] = ("segments", "whole")) -> Iterator[KeptFile]:
    """All of them, in no order."""
    for part in parts:
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{directory}/{part}") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield KeptFile(f"{part}/{entry.name}", status.st_size, status.st_mtime)


def read_kept(directory: str, file: str, offset: int, limit: int) -> bytes:
    """Up to `limit` bytes from `offset`; nothing where the file is gone."""
    try:
        with open(f"{directory}/{file}", "rb", buffering=0) as opened:
            return os.pread(opened.fileno(), limit, offset)
    except FileNotFoundError:
        return b""


def remove_kept(directory: str, may_go: Callable[[KeptFile], bool]) -> tuple[int, int]:
    """Remove what may go, but never the newest segment; how many files and bytes that were."""
    count = freed_bytes = 0
    found = list(kept_files(directory))
    newest = max((file.name for file in found if file.name.startswith("segments/")), key=_number, default="")
    for file in found:
        if file.name != newest and may_go(file):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/{file.name}")
                count, freed_bytes = count + 1, freed_bytes + file.size
    return count, freed_bytes


def _number(name: str) -> int:
    stem = name.removeprefix("segments/").removesuffix(".seg")
    return int(stem) if stem.isdigit() else -1
