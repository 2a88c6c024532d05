"""Which packages a task's code asks for, read from its snapshot, as plain requirements and nothing else.

A script's own header (PEP 723) goes first, then `uv.lock` with its `pyproject.toml`, then `requirements.txt`, then the
dependencies in `pyproject.toml`. What uv is given is made of lines that match the grammar below: names, versions, markers,
hashes. So a file of a user's can neither have other files of the worker read, nor run code by being built from a path, nor
send the worker to an address, nor have it fill in its own variables, which may hold the index's password.
"""

import re
import shlex
import tomllib
from dataclasses import dataclass
from posixpath import dirname, join, normpath
from typing import Any, Final

from actors.task_code import TaskCode
from actors.workspace import CannotRun

FILE_BYTES_MAX: Final = 16 * 2**20
LINES_MAX: Final = 20_000
INCLUDES_MAX: Final = 32

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION: Final = r"(?:===|~=|==|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
_VERSIONS: Final = rf"{_VERSION}(?:\s*,\s*{_VERSION})*\s*,?"
_MARKER: Final = r"[A-Za-z0-9_.'\"<>=!~()\s,*+-]+"
_HASHES: Final = r"(?:\s+--hash[=\s]sha(?:256|384|512):[0-9a-f]{64,128})*"
_REQUIREMENT: Final = re.compile(
    rf"{_NAME}(?:\s*\[[A-Za-z0-9._,\s-]*\])?(?:\s*(?:{_VERSIONS}|\(\s*{_VERSIONS}\s*\)))?(?:\s*;{_MARKER})?{_HASHES}"
)
_PYTHON: Final = re.compile(_VERSIONS)
_SCRIPT: Final = re.compile(r"(?m)^# /// script\s*$\s(?P<content>(?:^#(?:| .*)$\s)+)^# ///\s*$")
_COMMENT: Final = re.compile(r"(?:^|\s)#.*$")
_MEANT_ANYWAY: Final = frozenset({"--prefer-binary"})  # wheels are preferred as it is


@dataclass(slots=True, frozen=True)
class Wanted:
    """What to install, and `source`: who says so. With `lock` (pyproject.toml, uv.lock) the lines come out of that."""

    source: str
    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    requires_python: str = ""
    lock: tuple[bytes, bytes] | None = None
    compiled: bool = False  # all of it, once: whoever uses it cannot write there, and starts sooner


def wanted_by(code: TaskCode, script: str, indexes: tuple[str, ...]) -> Wanted | None:
    """What the code asks for; None for nothing. `script`: the file that is run; `indexes`: what files may name.

    Raises `CannotRun` for what is not accepted.
    """
    header = _header(code, script)
    if header is not None:
        return _plain(script, header.get("dependencies", []), header.get("requires-python", ""))
    project, lock = code.read("pyproject.toml", FILE_BYTES_MAX), code.read("uv.lock", FILE_BYTES_MAX)
    if project is not None and lock is not None:
        return Wanted("uv.lock", requires_python=_project(project).get("requires-python", ""), lock=(project, lock))
    if code.read("requirements.txt", FILE_BYTES_MAX) is not None:
        return _from_file(code, indexes)
    if project is not None:
        table = _project(project)
        return _plain("pyproject.toml", table.get("dependencies", []), table.get("requires-python", ""))
    return None


def exported(text: str) -> Wanted:
    """The lines of a lock as uv exports them. Raises `CannotRun`."""
    reader = _Reader("uv.lock", ())
    reader.read_text(text, "uv.lock")
    return Wanted("uv.lock", tuple(reader.lines))


def refused(source: str, why: str) -> CannotRun:
    return CannotRun("ENVIRONMENT_FAILED", f"{source}: {why}")


def _header(code: TaskCode, script: str) -> dict[str, Any] | None:
    text = code.read(script, FILE_BYTES_MAX) if script.endswith(".py") else None
    found = list(_SCRIPT.finditer(_text(script, text))) if text is not None and b"# /// script" in text else []
    if not found:
        return None
    if len(found) > 1:
        raise refused(script, "has more than one script header (PEP 723)")
    lines = [line[2:] if line.startswith("# ") else line[1:] for line in found[0]["content"].splitlines(keepends=True)]
    return _toml(script, "".join(lines))


def _project(data: bytes) -> dict[str, Any]:
    table = _toml("pyproject.toml", _text("pyproject.toml", data)).get("project", {})
    if not isinstance(table, dict):
        raise refused("pyproject.toml", "project must be a table")
    return table


def _plain(source: str, dependencies: Any, requires_python: Any) -> Wanted | None:
    if not isinstance(dependencies, list) or not all(isinstance(one, str) for one in dependencies):
        raise refused(source, "dependencies must be a list of strings")
    if not isinstance(requires_python, str) or (requires_python and not _PYTHON.fullmatch(requires_python.strip())):
        raise refused(source, f"requires-python {str(requires_python)[:80]!r} is no list of versions like '>=3.11'")
    if not dependencies and not requires_python:
        return None
    return Wanted(
        source, tuple(_requirement(source, one) for one in dependencies), requires_python=requires_python.strip()
    )


def _from_file(code: TaskCode, indexes: tuple[str, ...]) -> Wanted:
    reader = _Reader("requirements.txt", indexes, code)
    reader.read_file("requirements.txt")
    return Wanted("requirements.txt", tuple(reader.lines), tuple(reader.constraints), tuple(reader.indexes))


class _Reader:
    """Requirement files of a snapshot, with those that they include."""

    def __init__(self, source: str, allowed: tuple[str, ...], code: TaskCode | None = None) -> None:
        self.lines: list[str] = []
        self.constraints: list[str] = []
        self.indexes: list[str] = []
        self._source = source
        self._allowed = allowed
        self._code = code
        self._seen: set[str] = set()

    def read_file(self, path: str, constrains: bool = False) -> None:
        data = self._code.read(path, FILE_BYTES_MAX) if self._code is not None else None
        if data is None:
            raise refused(self._source, f"there is no file {path!r} in the snapshot")
        self._seen.add(path)
        if len(self._seen) > INCLUDES_MAX:
            raise refused(self._source, f"more than {INCLUDES_MAX} files include each other")
        self.read_text(_text(path, data), path, constrains)

    def read_text(self, text: str, path: str, constrains: bool = False) -> None:
        for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
            bare = _COMMENT.sub("", line).strip()
            if bare.startswith("-"):
                self._option(bare, path)
            elif bare:
                (self.constraints if constrains else self.lines).append(_requirement(path, bare))
        if len(self.lines) + len(self.constraints) > LINES_MAX:
            raise refused(self._source, f"more than {LINES_MAX} requirements")

    def _option(self, line: str, path: str) -> None:
        try:
            words = shlex.split(re.sub(r"^(--[a-z-]+)=|^(-[a-zA-Z])(?=\S)", r"\1\2 ", line))
        except ValueError:
            raise refused(path, f"cannot read the line {line[:80]!r}") from None
        match words:
            case ["-r" | "--requirement" | "-c" | "--constraint" as option, included]:
                self._include(included, path, constrains=option in ("-c", "--constraint"))
            case ["-i" | "--index-url" | "--extra-index-url", index]:
                if not any(_lies_under(index, one) for one in self._allowed):
                    raise refused(path, "names an index that is not among environment_indexes of the daemon's settings")
                self.indexes.append(index)
            case [option] if option in _MEANT_ANYWAY:
                return
            case _:
                raise refused(path, f"the option {words[0][:40] if words else ''!r} is not accepted here")

    def _include(self, included: str, path: str, constrains: bool) -> None:
        target = normpath(join(dirname(path), included))
        if self._code is None or target.startswith(("/", "..")):
            raise refused(path, f"includes {included[:80]!r}, which is not in the snapshot")
        if target not in self._seen:
            self.read_file(target, constrains)


def _lies_under(index: str, allowed: str) -> bool:
    return index.rstrip("/") == allowed.rstrip("/") or (
        index.startswith(allowed.rstrip("/") + "/") and not set("@?#$\\ ") & set(index) and ".." not in index
    )


def _requirement(source: str, text: str) -> str:
    bare = " ".join(text.split())
    if not _REQUIREMENT.fullmatch(bare):
        hint = "; paths, addresses and variables are not accepted" if re.search(r"[@/$]|^\.", bare) else ""
        raise refused(source, f"{bare[:120]!r} is no requirement of the form NAME[EXTRAS]>=VERSION{hint}")
    return bare


def _text(source: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise refused(source, "is not UTF-8") from None


def _toml(source: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise refused(source, f"is no TOML: {error}") from None
