"""The datasets of a request: defaults filled in, and everything refused that could leave its place.

Only words are checked here (schemes, paths as text, sums); whether a source exists, what it really resolves to and what
it contains is for the worker, which looks again.
"""

import os.path
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from fetchmld.config import Config
from fetchmld.core.errors import Invalid
from fetchmld.core.model import DatasetSpec

DATASETS_MAX: Final = 64
SOURCE_CHARACTERS_MAX: Final = 4096
MOUNT_CHARACTERS_MAX: Final = 1024
_PART_BYTES_MAX: Final = 255

_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")
_NOT_IN_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_NOT_IN_VARIABLE: Final = re.compile(r"[^A-Z0-9]")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_REMOTE: Final = frozenset({"http", "https"})


class Datasets:
    """Completes the datasets of requests under one configuration: its registered names and its local roots."""

    def __init__(self, config: Config) -> None:
        self._registered = config.datasets
        self._roots = tuple(os.path.normpath(root) for root in config.local_roots)

    def complete(self, names: list[str], specs: list[dict[str, Any]]) -> list[DatasetSpec]:
        """One complete spec for each of `specs`, then for each registered name. Raises Invalid naming the field."""
        if len(names) + len(specs) > DATASETS_MAX:
            raise Invalid(f"datasets: {len(names) + len(specs)} were given, at most {DATASETS_MAX} are accepted")
        found = [self._complete(f"dataset_specs.{index}", spec) for index, spec in enumerate(specs)]
        found += [self._of_name(f"datasets.{index}", name) for index, name in enumerate(names)]
        _refuse_collisions(found)
        return found

    def _of_name(self, where: str, name: str) -> DatasetSpec:
        if name not in self._registered:
            raise Invalid(f"{where}: no dataset named {name[:128]!r} is registered; an administrator can add it")
        return self._complete(where, {"name": name})

    def _complete(self, where: str, given: dict[str, Any]) -> DatasetSpec:
        source, sha256 = self._source_of(where, given)
        name = given.get("name") or _name_of(source)
        if not _NAME.fullmatch(name):
            raise Invalid(f"{where}.name: {name[:128]!r} may have 1 to 128 letters, digits, '.', '_' and '-' only")
        mount_path = given.get("mount_path", f"data/{name}")
        _check_mount_path(f"{where}.mount_path", mount_path)
        spec = DatasetSpec(name=name, source=source, mount_path=mount_path)
        if sha256:
            spec["sha256"] = sha256
        return spec

    def _source_of(self, where: str, given: dict[str, Any]) -> tuple[str, str]:
        """The source, and the sum it must have ("" = none is known), of a spec as it was given."""
        sha256 = given.get("sha256", "").lower()
        if "sha256" in given and not _SHA256.fullmatch(sha256):
            raise Invalid(f"{where}.sha256: must be 64 hexadecimal digits")
        known = self._registered.get(given.get("name", ""))
        source = given.get("source") or (known.source if known else "")
        if not source:
            raise Invalid(f"{where}.source: is required, unless name is one that an administrator registered")
        if known and known.source == source:
            return source, sha256 or known.sha256 or ""
        self._check_source(f"{where}.source", source, bool(sha256))
        return source, sha256

    def _check_source(self, where: str, source: str, has_sum: bool) -> None:
        if len(source) > SOURCE_CHARACTERS_MAX:
            raise Invalid(f"{where}: has {len(source)} characters, at most {SOURCE_CHARACTERS_MAX} are accepted")
        scheme = match.group(1).lower() if (match := _SCHEME.match(source)) else ""
        if scheme in _REMOTE:
            _check_url(where, source)
            if not has_sum:
                raise Invalid(f"{where}: an http(s) source needs its sha256")
        elif scheme in {"", "file"}:
            self._check_local(where, _local_path(where, source, scheme))
        else:
            raise Invalid(f"{where}: scheme {scheme[:32]!r} is not supported; use file, http, https or a plain path")

    def _check_local(self, where: str, path: str) -> None:
        if not path.startswith("/"):
            raise Invalid(f"{where}: a local source must be an absolute path")
        plain = os.path.normpath(path)
        if not any(_is_inside(plain, root) for root in self._roots):
            raise Invalid(f"{where}: local sources must lie in {' or '.join(self._roots)}")


def _local_path(where: str, source: str, scheme: str) -> str:
    if not scheme:
        return source
    url = _split(where, source)
    if url.netloc not in {"", "localhost"} or url.query or url.fragment:
        raise Invalid(f"{where}: a file source is written file:///absolute/path")
    path = unquote(url.path, errors="strict") if "%" in url.path else url.path
    if "\0" in path:
        raise Invalid(f"{where}: must not contain the NUL character")
    return path


def _check_url(where: str, source: str) -> None:
    url = _split(where, source)
    if not url.hostname:
        raise Invalid(f"{where}: names no host")
    if url.username is not None or url.password is not None:
        raise Invalid(f"{where}: must not hold a user name or password, since it is recorded as it is")
    if not source.isascii() or not source.isprintable() or " " in source:
        raise Invalid(f"{where}: must be plain ASCII without spaces; percent-encode the rest")


def _split(where: str, source: str) -> SplitResult:
    try:
        url = urlsplit(source)
        _ = url.port
        unquote(url.path, errors="strict")
    except ValueError as error:  # UnicodeDecodeError among them
        raise Invalid(f"{where}: is not a valid URL: {error}") from None
    return url


def _name_of(source: str) -> str:
    """The source's last part, sanitised: what stands in for a name that was not given."""
    path = urlsplit(source).path if _SCHEME.match(source) else source
    last = unquote(path).rstrip("/").rpartition("/")[2]
    return _NOT_IN_NAME.sub("_", last).strip(".")[:128] or "dataset"


def _check_mount_path(where: str, path: str) -> None:
    parts = path.split("/")
    if not path or path.startswith("/") or len(path) > MOUNT_CHARACTERS_MAX:
        raise Invalid(
            f"{where}: must be a relative path of 1 to {MOUNT_CHARACTERS_MAX} characters inside the workspace"
        )
    if "\0" in path:
        raise Invalid(f"{where}: must not contain the NUL character")
    if any(part in {"", ".", ".."} for part in parts):
        raise Invalid(f"{where}: must not have empty, '.' or '..' parts: {path[:128]!r}")
    if any(len(part.encode()) > _PART_BYTES_MAX for part in parts):
        raise Invalid(f"{where}: a part of it is longer than {_PART_BYTES_MAX} bytes")


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _refuse_collisions(specs: Iterable[DatasetSpec]) -> None:
    """No two datasets at one place, none inside another, no two under one FETCHML_DATASET_ variable."""
    mounts: list[str] = []
    variables: dict[str, str] = {}
    for spec in specs:
        mount, name = spec["mount_path"], spec["name"]
        if other := next((m for m in mounts if _is_inside(mount, m) or _is_inside(m, mount)), None):
            raise Invalid(f"dataset_specs: mount paths {other[:128]!r} and {mount[:128]!r} collide")
        variable = _NOT_IN_VARIABLE.sub("_", name.upper())
        if variable in variables:
            raise Invalid(
                f"dataset_specs: names {variables[variable]!r} and {name!r} would share FETCHML_DATASET_{variable}"
            )
        mounts.append(mount)
        variables[variable] = name
