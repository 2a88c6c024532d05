"""Which plugins there are, and whether settings are right for them.

Found through the entry points `fetchmld.plugins`, ours among them. One that cannot be loaded is listed with its reason and
cannot be enabled; the others do not notice.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

from pydantic import ValidationError

from fetchmld.core.errors import Invalid
from fetchmld.core.model import PluginConfig
from fetchmld.plugins.protocol import Plugin, RemoteCapable, Settings, Tracker

GROUP: Final = "fetchmld.plugins"
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
_NEEDED: Final = ("name", "version", "settings", "requirements", "health_path", "keeps_prefix", "listens", "command")


@dataclass(slots=True, frozen=True)
class Entry:
    """One of them. `plugin` is None where it could not be loaded, and `problem` says why."""

    name: str
    plugin: Plugin | None
    problem: str = ""

    @property
    def tracker(self) -> Tracker | None:
        return self.plugin if isinstance(self.plugin, Tracker) else None


@cache
def catalog() -> Mapping[str, Entry]:
    """All plugins that are installed, by name, in the order of their names."""
    return load(entry_points(group=GROUP))


def load(points: Iterable[EntryPoint]) -> Mapping[str, Entry]:
    """What the entry points name."""
    return {point.name: _load(point) for point in sorted(points, key=lambda point: point.name)}


def _load(point: EntryPoint) -> Entry:
    if not NAME.fullmatch(point.name):
        return Entry(point.name, None, "its name is not lower-case letters, digits and hyphens")
    try:
        found = point.load()
    except Exception as error:  # noqa: BLE001 - whatever a stranger's module raises
        return Entry(point.name, None, f"cannot be loaded: {type(error).__name__}: {error}")
    if missing := [name for name in _NEEDED if not hasattr(found, name)]:
        return Entry(point.name, None, f"is no plugin: it has no {', '.join(missing)}")
    if found.name != point.name:
        return Entry(point.name, None, f"calls itself {found.name!r}")
    return Entry(point.name, cast(Plugin, found))


def checked(plugin: Plugin, settings: Mapping[str, Any]) -> Settings:
    """The settings as the plugin's own type. Raises `Invalid` naming the field."""
    return valid(plugin.settings, settings, "settings")


def valid(kind: type[Settings], given: Mapping[str, Any], where: str) -> Settings:
    """`given` as a `kind`. Raises `Invalid` naming the field below `where`; a value is not repeated, it may be secret."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join([where, *(str(part) for part in first["loc"])])
        raise Invalid(f"{path}: {first['msg']}") from None


def check_config(plugin: Plugin, config: PluginConfig, settings: Mapping[str, Any]) -> None:
    """`settings` are the config's own with secrets filled in. Raises `Invalid` for what the plugin cannot do.

    Also of one that is not to run: a mistyped password would stay on record as it is.
    """
    found = checked(plugin, settings)
    if config["enabled"] and config["mode"] == "remote":
        if not isinstance(plugin, RemoteCapable):
            raise Invalid(f"mode: {plugin.name} runs as a sidecar only")
        try:
            plugin.remote(found)
        except ValueError as error:
            raise Invalid(f"settings.{error}") from None


def extras(kind: type[Settings], mark: str) -> frozenset[str]:
    """The settings that are marked `mark`: hot, or secret."""
    marked = ((name, field.json_schema_extra) for name, field in kind.model_fields.items())
    return frozenset(name for name, extra in marked if isinstance(extra, dict) and extra.get(mark))


def is_hot(plugin: Plugin, old: PluginConfig, new: PluginConfig) -> bool:
    """Can what runs with `old` go on as it is with `new`?"""
    if (old["enabled"], old["mode"]) != (new["enabled"], new["mode"]):
        return False
    before, after = old["settings"], new["settings"]
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return changed <= extras(plugin.settings, "hot")


def requires_restart(plugin: Plugin) -> bool:
    """Has it any setting whose change needs one?"""
    return bool(plugin.settings.model_fields.keys() - extras(plugin.settings, "hot"))
