"""Snapshots of code: which blobs are missing, make one, list, read."""

import asyncio
from typing import Any, Final

from aiohttp import web

from fetchmld.api import wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_large_object, read_list
from fetchmld.api.context import CALLER, CONFIG, HEAD
from fetchmld.core.errors import Invalid
from fetchmld.manifest import (
    FILES_MAX,
    REMOTE_MAX,
    CodeFile,
    CodeManifest,
    bare_remote,
    check_files,
    is_commit,
    is_hash,
    total_bytes,
)

DIFF_BYTES_MAX: Final = 8 * 2**20
MANIFEST_BYTES_MAX: Final = 64 * 2**20
_FILE_FIELDS: Final = {"path", "executable", "size", "hash"}
_FIELDS: Final = {"files", "commit", "diff", "remote"}
_SIZE_MAX: Final = 2**53


async def diff(request: web.Request) -> web.Response:
    """POST /v1/snapshots/diff: of a list of hashes, those that the caller has yet to send."""
    hashes = await read_list(request, DIFF_BYTES_MAX, FILES_MAX)
    for at, digest in enumerate(hashes):
        if not is_hash(digest):
            raise Invalid(f"hash {at}: {str(digest)[:80]!r} is no BLAKE3: 64 hexadecimal digits, lower case")
    return reply({"missing": await request.app[HEAD].code.missing(request[CALLER], hashes)})


async def create(request: web.Request) -> web.Response:
    """POST /v1/snapshots: 201 once it is on record and on disk, whether it was there before or not."""
    body = await read_large_object(request, MANIFEST_BYTES_MAX)
    manifest = await asyncio.to_thread(manifest_of, body, request.app[CONFIG].snapshot_bytes_max)
    made = await request.app[HEAD].code.keep(request[CALLER], manifest)
    return reply(wire.snapshot(made), 201, {"Location": f"/v1/snapshots/{made['id']}"})


async def list_(request: web.Request) -> web.Response:
    """GET /v1/snapshots: the caller's own, newest first."""
    return reply([wire.snapshot(one) for one in await request.app[HEAD].code.owned(request[CALLER])])


async def read(request: web.Request) -> web.Response:
    """GET /v1/snapshots/{snapshotId}: one of the caller's own, with its files."""
    found, manifest = await request.app[HEAD].code.read(request[CALLER], request.match_info["snapshotId"])
    return reply(wire.snapshot(found, manifest))


def manifest_of(body: dict[str, Any], bytes_max: int) -> CodeManifest:
    """The manifest that `body` describes. Raises Invalid naming what is wrong."""
    if unknown := body.keys() - _FIELDS:
        raise Invalid(f"{min(unknown)[:64]}: is not a field of this request")
    given = body.get("files")
    if not isinstance(given, list) or not 1 <= len(given) <= FILES_MAX:
        raise Invalid(f"files: must be a list of 1 to {FILES_MAX} files")
    manifest = CodeManifest(files=[_file(at, one) for at, one in enumerate(given)])
    try:
        check_files(manifest["files"])
    except ValueError as error:
        raise Invalid(f"files: {error}") from None
    if (total := total_bytes(manifest["files"])) > bytes_max:
        raise Invalid(f"files: {total} bytes in all; at most snapshot_bytes_max={bytes_max} are taken")
    return _add_git(manifest, body)


def _file(at: int, given: Any) -> CodeFile:
    if not isinstance(given, dict) or given.keys() - _FILE_FIELDS or not {"path", "size", "hash"} <= given.keys():
        raise Invalid(f"files.{at}: must be an object of path, size, hash and executable")
    path, size, digest, executable = given["path"], given["size"], given["hash"], given.get("executable", False)
    if not isinstance(path, str):
        raise Invalid(f"files.{at}.path: must be a string")
    if type(size) is not int or not 0 <= size <= _SIZE_MAX:
        raise Invalid(f"files.{at}.size: must be a whole number of bytes")
    if not is_hash(digest):
        raise Invalid(f"files.{at}.hash: must be 64 hexadecimal digits, lower case")
    if not isinstance(executable, bool):
        raise Invalid(f"files.{at}.executable: must be true or false")
    return CodeFile(path=path, executable=executable, size=size, hash=digest)


def _add_git(manifest: CodeManifest, body: dict[str, Any]) -> CodeManifest:
    """With what is said of git. The client takes credentials out of the remote; here it is done once more."""
    commit, diff_hash, remote = body.get("commit"), body.get("diff"), body.get("remote")
    if commit is not None:
        if not isinstance(commit, str) or not is_commit(commit):
            raise Invalid("commit: must be a whole commit id of git, 40 or 64 hexadecimal digits")
        manifest["commit"] = commit
    if diff_hash is not None:
        if not is_hash(diff_hash):
            raise Invalid("diff: must be the hash of a blob, 64 hexadecimal digits, lower case")
        manifest["diff"] = diff_hash
    if remote is not None:
        if not isinstance(remote, str) or len(remote) > REMOTE_MAX:
            raise Invalid(f"remote: must be a string of at most {REMOTE_MAX} characters")
        if bare := bare_remote(remote):
            manifest["remote"] = bare
    return manifest
