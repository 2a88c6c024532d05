"""Sending a directory as a snapshot of code, and fetching one back. Only what the daemon does not have is sent."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol, cast

from fetchmld.client.code import Code, Found
from fetchmld.client.errors import ApiError, CannotSnapshot, ClientError
from fetchmld.client.patience import Patience
from fetchmld.manifest import CodeFile, CodeManifest, canonical
from fetchmld.unpacking import Damaged, unpack

DIFF_MAX: Final = 10_000  # hashes asked for at once
UPLOADS_MAX: Final = 6  # at once
if TYPE_CHECKING:
    from fetchmld.client.shapes import Snapshot

OnProgress = Callable[[int, int], object]


class Daemon(Protocol):
    """What is asked of a client."""

    def diff_blobs(self, hashes: list[str], /) -> dict[str, list[str]]: ...
    def put_blob(self, digest: str, content: BinaryIO, size: int, /) -> None: ...
    def create_snapshot(self, manifest: Mapping[str, Any], /) -> Any: ...
    def snapshot(self, snapshot_id: str, /) -> Any: ...
    def blob(self, digest: str, /) -> Iterator[bytes]: ...


def manifest_of(directory: str | Path) -> tuple[CodeManifest, dict[str, Found | bytes]]:
    """The snapshot that `directory` is now, and where each blob of it is found. Sends nothing."""
    code = Code(directory)
    files = code.files()
    return code.manifest(files, code.diff(files))


def id_of(manifest: CodeManifest) -> str:
    """The id that the daemon gives it."""
    from blake3 import blake3

    return str(blake3(canonical(manifest)).hexdigest())


def push(daemon: Daemon, directory: str | Path, on_progress: OnProgress = lambda _done, _all: None) -> "Snapshot":
    """Make a snapshot of `directory`; the Snapshot. What was sent before, also by a push that broke off, is not sent again.

    `on_progress` is told how many bytes of how many have been sent. Raises `CannotSnapshot`, `ApiError`, `Unreachable`.
    """
    manifest, sources = manifest_of(directory)
    hashes = list(sources)
    missing = [
        digest
        for at in range(0, len(hashes), DIFF_MAX)
        for digest in daemon.diff_blobs(hashes[at : at + DIFF_MAX])["missing"]
    ]
    _send(daemon, {digest: sources[digest] for digest in missing}, on_progress)
    return cast("Snapshot", daemon.create_snapshot({**manifest}))


def _send(daemon: Daemon, sources: dict[str, Found | bytes], on_progress: OnProgress) -> None:
    total = sum(_size(source) for source in sources.values())
    sent = 0
    on_progress(0, total)
    pool = ThreadPoolExecutor(UPLOADS_MAX, "upload")
    try:
        for size in pool.map(lambda one: _send_one(daemon, *one), sources.items()):
            sent += size
            on_progress(sent, total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _send_one(daemon: Daemon, digest: str, source: Found | bytes) -> int:
    """Again and again while the daemon is away for a moment; nothing of a part counts, so each time all of it."""
    patience = Patience()
    while True:
        try:
            with _open(source) as content:
                daemon.put_blob(digest, content, size := os.fstat(content.fileno()).st_size)
            return size
        except ApiError as error:
            if error.status == 422 and isinstance(source, Found):
                raise CannotSnapshot(f"{source.path!r} changed while it was sent; push again") from None
            patience.again(error)
        except CannotSnapshot:
            raise
        except ClientError as error:
            patience.again(error)


@contextlib.contextmanager
def _open(source: Found | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        with tempfile.TemporaryFile() as file:
            file.write(source)
            file.seek(0)
            yield file
        return
    try:
        with open(source.source, "rb") as opened:
            yield opened
    except FileNotFoundError:
        raise CannotSnapshot(f"{source.path!r} went away while it was sent; push again") from None


def _size(source: Found | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.size


def pull(daemon: Daemon, snapshot_id: str, directory: str | Path) -> "Snapshot":
    """Write a snapshot's files below `directory`, which is made, or is empty. The Snapshot."""
    target = Path(directory).expanduser()
    try:
        if target.exists() and any(target.iterdir()):
            raise CannotSnapshot(f"{target} is not empty; name a new directory")
        found = daemon.snapshot(snapshot_id)
        files = [cast(CodeFile, {"executable": False, **file}) for file in found["files"]]
        target.mkdir(parents=True, exist_ok=True)
        unpack(files, str(target), lambda digest: _fetched(daemon, digest))
    except (ValueError, Damaged) as error:
        raise CannotSnapshot(f"snapshot {snapshot_id}: {error}") from None
    except OSError as error:
        raise CannotSnapshot(f"cannot write to {target}: {error.strerror or error}") from None
    return cast("Snapshot", found)


def _fetched(daemon: Daemon, digest: str) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever gets it closes it
    for piece in daemon.blob(digest):
        file.write(piece)
    file.seek(0)
    return file
