"""Snapshots of code on the head: `DIR/objects/code`. (The snapshots of the scheduler's state are `store.snapshots`.)

    blobs/<2 digits>/<hash>         content of files, each once however many snapshots and users have it
    manifests/<2 digits>/<id>       which files a snapshot has, in the one form that its id is the hash of
    users/<hash of the user id>/    held       32 bytes for each blob that this user has sent
                                    owned/<id> what is said of a snapshot of theirs

A blob is there for a user once that user has sent all of it, whoever sent it before: so nobody learns what others have, or
comes to it, by knowing a hash. Manifests are no blobs, so the id of a snapshot gives nobody the hashes in it.
"""

import contextlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from blake3 import blake3

from fetchmld.core.errors import Internal, Invalid, NotFound
from fetchmld.manifest import CodeManifest, CodeSnapshot, canonical, from_canonical, hashes_of, is_hash, total_bytes
from fetchmld.store.content import ContentStore, Incoming
from fetchmld.store.room import room
from fetchmld.store.segment import sync_directory

USERS_CACHED_MAX: Final = 32
_HASH_BYTES: Final = 32


class CodeStore:
    """All of it. Any thread may call; one process writes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = ContentStore(root / "blobs")
        self._manifests = ContentStore(root / "manifests")
        self._held: OrderedDict[str, set[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def discard_unfinished(self) -> None:
        """Remove what a crash left of uploads. For the head, before it serves."""
        self._blobs.discard_unfinished()
        self._manifests.discard_unfinished()

    # -- blobs

    def missing(self, user_id: str, hashes: list[str]) -> list[str]:
        """Those that the user has yet to send. Raises `Invalid` for what is no hash."""
        for digest in hashes:
            if not is_hash(digest):
                raise Invalid(f"{digest[:80]!r} is no BLAKE3: 64 hexadecimal digits, lower case")
        with self._lock:
            held = self._held_by(user_id)
            unsent = {digest for digest in hashes if bytes.fromhex(digest) not in held}
        return [digest for digest in hashes if digest in unsent or not self._blobs.has(digest)]

    @contextlib.contextmanager
    def receive(self) -> Iterator[Incoming]:
        """A blob that comes in pieces; `accept` it at its end. Raises `Unavailable` where the disk is full."""
        with room(), self._blobs.receive() as incoming:
            yield incoming

    def accept(self, user_id: str, digest: str, incoming: Incoming) -> None:
        """Keep the blob, durably; from now on the user has it. Raises `Invalid` where it has another hash."""
        with room():
            incoming.keep(digest)
            with self._lock:
                held = self._held_by(user_id)
                if bytes.fromhex(digest) not in held:
                    self._append_held(user_id, bytes.fromhex(digest))
                    held.add(bytes.fromhex(digest))

    def open_for(self, user_id: str, digest: str) -> BinaryIO:
        """A blob that the user has sent. Raises `NotFound`, for those of others too."""
        if not is_hash(digest) or self.missing(user_id, [digest]):
            raise NotFound(f"there is no blob {digest[:80]!r}")
        return self._blobs.open(digest)

    def open_blob(self, digest: str) -> BinaryIO:
        """A blob, whoever sent it: for workers. Raises `NotFound`."""
        return self._blobs.open(digest)

    def blob_path(self, digest: str) -> Path:
        return self._blobs.path(digest)

    def manifest_path(self, snapshot_id: str) -> Path:
        return self._manifests.path(snapshot_id)

    # -- snapshots

    def check(self, user_id: str, manifest: CodeManifest) -> str:
        """The id that it has or will have. Raises `Invalid` where the user has not sent all of it."""
        needed = sorted(hashes_of(manifest))
        if missing := self.missing(user_id, needed):
            raise Invalid(f"{len(missing)} of the blobs are not there yet, first {missing[0]}; send them first")
        for file in manifest["files"]:
            if (size := self._blobs.path(file["hash"]).stat().st_size) != file["size"]:
                raise Invalid(f"files: {file['path']!r} has {size} bytes, not {file['size']}")
        return blake3(canonical(manifest)).hexdigest()

    def keep(self, user_id: str, manifest: CodeManifest) -> CodeSnapshot:
        """Store a manifest that was checked, durably. The one that is there already, where the user has it."""
        with room():
            snapshot_id = self._manifests.put(canonical(manifest))
            found = self.find(user_id, snapshot_id)
            if found is None:
                found = _describe(snapshot_id, manifest, time.time())
                _write_new(self._user(user_id) / "owned" / snapshot_id, json.dumps(found).encode())
        return found

    def find(self, user_id: str, snapshot_id: str) -> CodeSnapshot | None:
        """One of the user's own snapshots."""
        if not is_hash(snapshot_id):
            return None
        try:
            return _read(self._user(user_id) / "owned" / snapshot_id)
        except FileNotFoundError:
            return None

    def owned(self, user_id: str) -> list[CodeSnapshot]:
        """The user's snapshots, newest first."""
        try:
            names = os.listdir(self._user(user_id) / "owned")
        except FileNotFoundError:
            return []
        found = [self.find(user_id, name) for name in names]
        return sorted((one for one in found if one), key=lambda one: one["created_at"], reverse=True)

    def manifest(self, snapshot_id: str) -> CodeManifest:
        """What is in a snapshot, whoever has it. Raises `NotFound`; `Internal` where it is damaged."""
        data = self._manifests.read(snapshot_id)
        if blake3(data).hexdigest() != snapshot_id:
            raise Internal(f"the manifest {snapshot_id} is damaged on disk")
        return from_canonical(data)

    # -- who has sent what

    def _user(self, user_id: str) -> Path:
        return self._root / "users" / blake3(user_id.encode()).hexdigest()[:32]

    def _held_by(self, user_id: str) -> set[bytes]:
        held = self._held.get(user_id)
        if held is None:
            held = self._held[user_id] = self._load_held(user_id)
            if len(self._held) > USERS_CACHED_MAX:
                self._held.popitem(last=False)
        self._held.move_to_end(user_id)
        return held

    def _load_held(self, user_id: str) -> set[bytes]:
        try:
            data = (self._user(user_id) / "held").read_bytes()
        except FileNotFoundError:
            return set()
        whole = len(data) // _HASH_BYTES * _HASH_BYTES  # a crash may have torn the last one
        return {data[at : at + _HASH_BYTES] for at in range(0, whole, _HASH_BYTES)}

    def _append_held(self, user_id: str, digest: bytes) -> None:
        """Not synced: what a crash takes back is only sent once more."""
        file = self._user(user_id) / "held"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            os.pwrite(fd, digest, size - size % _HASH_BYTES)
        finally:
            os.close(fd)


def _describe(snapshot_id: str, manifest: CodeManifest, now: float) -> CodeSnapshot:
    found = CodeSnapshot(
        id=snapshot_id,
        created_at=now,
        file_count=len(manifest["files"]),
        total_bytes=total_bytes(manifest["files"]),
    )
    if "commit" in manifest:
        found["commit"] = manifest["commit"]
        found["dirty"] = "diff" in manifest
    if "remote" in manifest:
        found["remote"] = manifest["remote"]
    return found


def _read(path: Path) -> CodeSnapshot:
    return cast(CodeSnapshot, json.loads(path.read_bytes()))


def _write_new(path: Path, data: bytes) -> None:
    """Wholly or not at all, and onto the disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{threading.get_ident()}")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    sync_directory(path.parent)
