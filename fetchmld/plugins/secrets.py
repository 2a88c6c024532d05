"""Secrets among a plugin's settings: the record names each by a random id, the value lies in a file of its own.

`DIR/secrets/<id>`, 0600, durable before the fact that names it. Whoever is shown settings sees MASK; MASK sent back means
"as it was".
"""

import contextlib
import os
import re
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from fetchmld.core.errors import Invalid

MASK: Final = "********"
SECRET_CHARACTERS_MAX: Final = 4096
_KEY: Final = "secret"
_ID: Final = re.compile(r"[0-9a-f]{24}")


class Secrets:
    """The values, one file each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def hide(self, settings: Mapping[str, Any], names: Collection[str], before: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as they may be recorded. Durable when this returns. Raises `Invalid` for a mask of nothing."""
        for name in settings.keys() - set(names):
            if is_hidden(settings[name]):
                raise Invalid(f"settings.{name}: is no secret, and cannot name one")
        return {name: self._hidden(name, value, before) if name in names else value for name, value in settings.items()}

    def _hidden(self, name: str, value: Any, before: Mapping[str, Any]) -> Any:
        if value in ("", None):
            return value
        if value == MASK:
            if not is_hidden(before.get(name)):
                raise Invalid(f"settings.{name}: {MASK} means the value that is set, and none is")
            return before[name]
        if not isinstance(value, str) or len(value) > SECRET_CHARACTERS_MAX:
            raise Invalid(f"settings.{name}: must be text of at most {SECRET_CHARACTERS_MAX} characters")
        if is_hidden(before.get(name)) and self._value(before[name]) == value:
            return before[name]
        return {_KEY: self._keep(value)}

    def _keep(self, value: str) -> str:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret_id = secrets.token_hex(12)
        fd = os.open(self._directory / secret_id, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return secret_id

    def reveal(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with their values, for the plugin alone. Raises `Invalid` where a value is lost."""
        return {name: self._value(value, name) if is_hidden(value) else value for name, value in settings.items()}

    def _value(self, hidden: Mapping[str, str], name: str = "") -> str:
        try:
            return (self._directory / hidden[_KEY]).read_text(encoding="utf-8")
        except OSError:
            if not name:
                return ""
            raise Invalid(f"settings.{name}: its value is lost; set it again") from None

    def forget_all_but(self, used: Collection[str]) -> None:
        """Remove values that no configuration names any more."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                if _ID.fullmatch(path.name) and path.name not in used:
                    path.unlink(missing_ok=True)


def is_hidden(value: Any) -> bool:
    """Is it the name of a secret?"""
    return isinstance(value, dict) and set(value) == {_KEY} and isinstance(value[_KEY], str)


def ids_in(settings: Mapping[str, Any]) -> set[str]:
    """The secrets that the settings name."""
    return {value[_KEY] for value in settings.values() if is_hidden(value)}


def masked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they may be shown."""
    return {name: MASK if is_hidden(value) else value for name, value in settings.items()}
