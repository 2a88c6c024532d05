"""The code that a task runs in, on its worker: which files its snapshot has, and where their content is read from."""

import asyncio
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from actors.workspace import CannotRun
from fetchmld.core.errors import FetchmlError
from fetchmld.core.messages import Fact, LaunchOrder
from fetchmld.core.model import UserId
from fetchmld.manifest import CodeFile, CodeManifest, total_bytes
from fetchmld.unpacking import Damaged, Open, unpack


@dataclass(slots=True, frozen=True)
class TaskCode:
    """A snapshot that is at hand."""

    snapshot_id: str
    files: list[CodeFile]
    open_blob: Open

    def unpack(self, work: str) -> None:
        """Write all of it to the task's directory, as copies of its own. Raises `CannotRun`, or OSError for the disk."""
        try:
            unpack(self.files, work, self.open_blob)
        except (ValueError, Damaged, FetchmlError) as error:
            raise unavailable(self.snapshot_id, str(error)) from None

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """A small file of it; None where there is none. Raises `CannotRun`."""
        for file in self.files:
            if file["path"] == path:
                return self._read(file, bytes_max)
        return None

    def _read(self, file: CodeFile, bytes_max: int) -> bytes:
        if file["size"] > bytes_max:
            raise CannotRun(
                "ENVIRONMENT_FAILED", f"{file['path']} has {file['size']} bytes; at most {bytes_max} are read"
            )
        try:
            with self.open_blob(file["hash"]) as blob:
                return blob.read(bytes_max)
        except FetchmlError as error:
            raise unavailable(self.snapshot_id, str(error)) from None


class CodeSource(Protocol):
    """The head's own store, or the way to it from another machine."""

    def manifest(self, snapshot_id: str) -> CodeManifest: ...

    def open_blob(self, digest: str) -> BinaryIO: ...


async def code_of(store: CodeSource, snapshot_id: str) -> TaskCode:
    """The snapshot, from the head's store. Raises `CannotRun`."""
    try:
        manifest = await asyncio.to_thread(store.manifest, snapshot_id)
    except (FetchmlError, OSError, ValueError) as error:
        raise unavailable(snapshot_id, str(error)) from None
    return TaskCode(snapshot_id, manifest["files"], store.open_blob)


def unavailable(snapshot_id: str, why: str) -> CannotRun:
    return CannotRun("SNAPSHOT_UNAVAILABLE", f"snapshot {snapshot_id}: {why}", infrastructure=True)


def read_fact(
    order: LaunchOrder, worker_id: str, snapshot_id: str, error: CannotRun | None, code: TaskCode | None
) -> Fact:
    """That a task's worker read its snapshot, or could not."""
    about = {"task_id": order["task_id"], "attempt": order["attempt"], "worker_id": worker_id}
    files = {} if code is None else {"files": len(code.files), "bytes": total_bytes(code.files)}
    said = "" if error is None else f"{error.word}: {error.detail}"
    fact = Fact("file_access", "snapshot.read", snapshot_id, UserId(order["user_id"]), error is None, error=said)
    fact.metadata = {**about, **files}
    return fact
