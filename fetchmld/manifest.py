"""What a snapshot of code is: its list of files, which names they may have, and the id that follows from the list.

Owns the rules that the client, the API and the workers must agree on. Reads and writes no file. Nothing here has to do
with the snapshots of the scheduler's state (`store.snapshots`).
"""

import json
import re
from collections.abc import Iterable
from typing import Final, NotRequired, TypedDict
from urllib.parse import urlsplit, urlunsplit

FILES_MAX: Final = 100_000
PATH_BYTES_MAX: Final = 1024  # leaves room for the directory that it is unpacked to (PATH_MAX is 4096)
NAME_BYTES_MAX: Final = 255
DEPTH_MAX: Final = 64
REMOTE_MAX: Final = 2048

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCP_LIKE: Final = re.compile(r"(?:[^@/:]*@)?([A-Za-z0-9][A-Za-z0-9.-]*):(?!//|:)(\S+)")
_SCHEMES: Final = frozenset({"http", "https", "ssh", "git", "git+ssh", "ftps"})


class CodeFile(TypedDict):
    """One file: its path below the top, whether it may be executed, its size in bytes, the hex BLAKE3 of its content."""

    path: str
    executable: bool
    size: int
    hash: str


class CodeManifest(TypedDict):
    """A snapshot of code. `commit`, `diff` (the hash of a stored diff of what was not committed) and `remote` from git."""

    files: list[CodeFile]
    commit: NotRequired[str]
    diff: NotRequired[str]
    remote: NotRequired[str]


class CodeSnapshot(TypedDict):
    """What is said of a snapshot in lists. The last three where git knew."""

    id: str
    created_at: float
    file_count: int
    total_bytes: int
    commit: NotRequired[str]
    remote: NotRequired[str]
    dirty: NotRequired[bool]


def is_hash(text: object) -> bool:
    """64 hexadecimal digits, lower case."""
    return isinstance(text, str) and _HASH.fullmatch(text) is not None


def is_commit(text: str) -> bool:
    """A whole SHA-1 or SHA-256 of git."""
    return _COMMIT.fullmatch(text) is not None


def check_path(path: str) -> None:
    """Raises ValueError unless `path` names a file below the top and nothing else, wherever it is unpacked."""
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"path {_quoted(path)} is not valid Unicode") from None
    if not path or len(raw) > PATH_BYTES_MAX:
        raise ValueError(f"path {_quoted(path)} has {len(raw)} bytes; 1 to {PATH_BYTES_MAX} are accepted")
    if _CONTROL.search(path):
        raise ValueError(f"path {_quoted(path)} holds a control character")
    parts = path.split("/")
    if len(parts) > DEPTH_MAX:
        raise ValueError(f"path {_quoted(path)} is deeper than {DEPTH_MAX} directories")
    for part in parts:
        if part in ("", ".", ".."):
            raise ValueError(f"path {_quoted(path)} must be relative, without empty, '.' and '..' parts")
        if len(part.encode()) > NAME_BYTES_MAX:
            raise ValueError(f"path {_quoted(path)} has a part of more than {NAME_BYTES_MAX} bytes")


def check_files(files: list[CodeFile]) -> None:
    """Raises ValueError where a path is wrong, there twice, or both a file and a directory."""
    if not 1 <= len(files) <= FILES_MAX:
        raise ValueError(f"a snapshot has 1 to {FILES_MAX} files, not {len(files)}")
    names = [file["path"] for file in files]
    for name in names:
        check_path(name)
    known = set(names)
    if len(known) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"path {_quoted(twice)} is there twice")
    for name in names:
        at = name.rfind("/")
        while at > 0:
            if name[:at] in known:
                raise ValueError(f"path {_quoted(name[:at])} is both a file and a directory")
            at = name.rfind("/", 0, at)


def canonical(manifest: CodeManifest) -> bytes:
    """The one form of the manifest that its id is taken of: files by path, no spaces, only what is known."""
    files = [
        [file["path"], "x" if file["executable"] else "", file["size"], file["hash"]]
        for file in sorted(manifest["files"], key=lambda file: file["path"])
    ]
    known = {name: manifest[name] for name in ("commit", "diff", "remote") if manifest.get(name)}
    form = {"format": 1, "files": files, **known}
    return json.dumps(form, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def from_canonical(data: bytes) -> CodeManifest:
    """The manifest that `canonical` wrote."""
    form = json.loads(data)
    if form.get("format") != 1:
        raise ValueError(f"a manifest of format {form.get('format')!r}; this version reads 1")
    files = [
        CodeFile(path=path, executable=mode == "x", size=size, hash=hash_) for path, mode, size, hash_ in form["files"]
    ]
    manifest = CodeManifest(files=files)
    for name in ("commit", "diff", "remote"):
        if name in form:
            manifest[name] = form[name]
    return manifest


def hashes_of(manifest: CodeManifest) -> set[str]:
    """Every blob that the snapshot needs."""
    found = {file["hash"] for file in manifest["files"]}
    return found | {manifest["diff"]} if "diff" in manifest else found


def total_bytes(files: Iterable[CodeFile]) -> int:
    """Of all files together, as unpacked."""
    return sum(file["size"] for file in files)


def bare_remote(url: str) -> str:
    """The address of a git remote without user, password, query and fragment; "" where it is on no network."""
    url = url.strip()
    if len(url) > REMOTE_MAX or _CONTROL.search(url) or not url.isprintable():
        return ""
    if match := _SCP_LIKE.fullmatch(url):
        return f"{match[1]}:{match[2]}" if "@" not in match[2] else ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if parts.scheme not in _SCHEMES or not host:
        return ""
    place = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{place}:{port}" if port else place, parts.path, "", ""))


def _quoted(path: str) -> str:
    return repr(path if len(path) <= 100 else path[:97] + "...")
