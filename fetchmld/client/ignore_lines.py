"""The lines of an ignore file, matched as git matches them (gitignore(5); git's dir.c and wildmatch.c are the rule).

A line is held against one path and never against the directories above it: what lies in an ignored directory is nobody's
question, because nobody walks there. Everything is bytes, as in git: `?` is one byte.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SPECIAL: Final = frozenset(b"*?[\\")
_CLASSES: Final = {
    b"alnum": b"[0-9A-Za-z]", b"alpha": b"[A-Za-z]", b"blank": b"[ \t]", b"cntrl": b"[\x00-\x1f\x7f]", b"digit": b"[0-9]",
    b"graph": b"[!-~]", b"lower": b"[a-z]", b"print": b"[ -~]", b"punct": rb"[!-/:-@\[-`{-~]", b"space": b"[ \t-\r]",
    b"upper": b"[A-Z]", b"xdigit": b"[0-9A-Fa-f]",
}  # fmt: skip


class _Never(Exception):
    """A pattern that git can read, and that matches nothing."""


@dataclass(slots=True, frozen=True)
class Line:
    """One pattern: what it says (`takes_in`: it began with !), and of which paths."""

    pattern: re.Pattern[bytes]
    takes_in: bool
    directories_only: bool
    names_only: bool  # it has no slash: the last part of a path is what it speaks of

    def matches(self, path: bytes, is_directory: bool) -> bool:
        """`path` is relative to the directory of the ignore file."""
        if self.directories_only and not is_directory:
            return False
        subject = path.rpartition(b"/")[2] if self.names_only else path
        return self.pattern.fullmatch(subject) is not None


class IgnoreFile:
    """All lines of one file; the last one that matches has the say."""

    def __init__(self, data: bytes) -> None:
        self._lines = tuple(reversed([line for text in _texts(data) if (line := _read(text)) is not None]))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def verdict(self, path: bytes, is_directory: bool) -> bool | None:
        """Is it ignored? None where no line speaks of it. `path` is relative to the file's directory."""
        for line in self._lines:
            if line.matches(path, is_directory):
                return not line.takes_in
        return None


def _texts(data: bytes) -> Iterator[bytes]:
    for text in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if text and not text.startswith(b"#"):
            yield _without_trailing_spaces(text.removesuffix(b"\r").partition(b"\0")[0])


def _without_trailing_spaces(text: bytes) -> bytes:
    """Spaces at the end are none of the pattern's, but for one that a backslash keeps."""
    at, end = 0, -1
    while at < len(text):
        if text[at] == ord(" "):
            end = at if end < 0 else end
        else:
            end = -1
            at += text[at] == ord("\\")
            if at >= len(text):  # a backslash is the last of it
                return text
        at += 1
    return text if end < 0 else text[:end]


def _read(text: bytes) -> Line | None:
    """None for a line that matches nothing."""
    takes_in = text.startswith(b"!")
    pattern = text[takes_in:]
    directories_only = pattern.endswith(b"/")
    pattern = pattern[: len(pattern) - directories_only]
    names_only = b"/" not in pattern
    literal = pattern if names_only else pattern.removeprefix(b"/")
    try:
        regex = _as_regex(literal, not names_only)
    except _Never:
        return None
    return Line(re.compile(regex, re.DOTALL), takes_in, directories_only, names_only)


def _as_regex(pattern: bytes, is_path: bool) -> bytes:
    """What `wildmatch` would accept; `is_path`: only `**` passes a slash. Raises `_Never`."""
    begin = next((at for at, byte in enumerate(pattern) if byte in _SPECIAL), len(pattern))
    out, at = bytearray(re.escape(pattern[:begin])), begin
    while at < len(pattern):
        match pattern[at : at + 1]:
            case b"*":
                piece, at = _stars(pattern, at, begin, is_path)
            case b"?":
                piece, at = (b"[^/]" if is_path else b"."), at + 1
            case b"[":
                piece, at = _set(pattern, at, is_path)
            case b"\\":
                if at + 1 == len(pattern):
                    raise _Never
                piece, at = re.escape(pattern[at + 1 : at + 2]), at + 2
            case plain:
                piece, at = re.escape(plain), at + 1
        out += piece
    return bytes(out)


def _stars(pattern: bytes, at: int, begin: int, is_path: bool) -> tuple[bytes, int]:
    """`begin`: where git's matcher sets in, behind what holds no wildcard: two stars there stand at a beginning."""
    end = at
    while pattern[end : end + 1] == b"*":
        end += 1
    if not is_path:
        return b".*", end
    at_part = at == begin or pattern[at - 1 : at] == b"/"
    rest = pattern[end:]
    if end - at < 2 or not at_part or not (rest == b"" or rest.startswith((b"/", b"\\/"))):
        return b"[^/]*", end
    if rest.startswith(b"/"):  # any number of directories, none among them
        return b"(?:.*/)?", end + 1
    return b".*", end


def _set(pattern: bytes, at: int, is_path: bool) -> tuple[bytes, int]:
    """A bracket expression, as the set of bytes that it has."""
    at += 1
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    members, previous, first = set[int](), -1, True
    while first or pattern[at : at + 1] != b"]":
        first = False
        if at >= len(pattern):
            raise _Never
        byte = pattern[at]
        if byte == ord("-") and previous > 0 and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at, byte = _escaped(pattern, at + 1)
            members |= set(range(previous, byte + 1))
            byte = -1
        elif byte == ord("[") and pattern[at + 1 : at + 2] == b":" and (close := pattern.find(b"]", at + 2)) != -1:
            name = pattern[at + 2 : close]
            if name.endswith(b":"):
                if name[:-1] not in _CLASSES:
                    raise _Never
                members |= {one for one in range(256) if re.match(_CLASSES[name[:-1]], bytes([one]))}
                at, byte = close, -1
            else:
                members.add(byte)
        elif byte == ord("[") and pattern[at + 1 : at + 2] == b":":
            raise _Never
        else:
            at, byte = _escaped(pattern, at)
            members.add(byte)
        previous = byte
        at += 1
    members = set(range(256)) - members if negated else members
    members -= {ord("/")} if is_path else set()
    if not members:
        raise _Never
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(members)) + b"]", at + 1


def _escaped(pattern: bytes, at: int) -> tuple[int, int]:
    """Where the member's last byte is, and the member: the byte behind a backslash is what it is."""
    if pattern[at : at + 1] == b"\\":
        at += 1
    if at >= len(pattern):
        raise _Never
    return at, pattern[at]
