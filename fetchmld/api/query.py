"""Query parameters: text to checked values. A bad value is BadRequest (400); a parameter that we do not know is ignored.

Owns the spelling and the bounds of every parameter; knows no handler.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, get_args

from multidict import MultiMapping

from fetchmld.core.errors import BadRequest
from fetchmld.core.model import PluginMode

PAGE_MAX: Final = 1000
OFFSET_MAX: Final = 10**15
NOBODY: Final = " "  # the name of nothing and nobody
TEXT_CHARACTERS_MAX: Final = 256
WAIT_S_MAX: Final = 60.0

_DIGITS: Final = re.compile(r"[0-9]{1,16}")
_SECONDS: Final = re.compile(r"[0-9]{1,2}(\.[0-9]{1,9})?")
_FLAGS: Final[dict[str, bool]] = {"true": True, "1": True, "false": False, "0": False}
_PLUGIN_PATH: Final = re.compile(r"plugin_configs\[([^\[\]]+)\](?:\[([^\[\]]*)\])?((?:\[[^\[\]]*\])*)")
_PLUGIN_MODES: Final = get_args(PluginMode)
# RFC 3339; a blank stands for the plus sign that form decoding ate.
_INSTANT: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]{1,30}))?"
    r"(?:([Zz])|([+\- ])([0-9]{2}:[0-9]{2}))"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Choice = TypeVar("Choice", bound=str)
Query = MultiMapping[str]


def whole(query: Query, name: str, default: int, least: int, most: int) -> int:
    """An integer parameter in decimal digits, from `least` to `most`."""
    given = _single(query, name)
    if given is None:
        return default
    if not _DIGITS.fullmatch(given) or not least <= int(given) <= most:
        raise BadRequest(f"{name}={_cut(given)}: must be a whole number from {least} to {most}")
    return int(given)


def needed_whole(query: Query, name: str, least: int, most: int) -> int:
    """As `whole`, for a parameter that must be there."""
    if name not in query:
        raise BadRequest(f"{name} is missing: must be a whole number from {least} to {most}")
    return whole(query, name, least, least, most)


def clamped(query: Query, name: str, default: int, least: int, most: int) -> int:
    """As `whole`, where more than `most` means as much as `most`."""
    given = _single(query, name)
    if given is not None and len(given) > 15 and given.isascii() and given.isdecimal():
        return most
    return min(most, whole(query, name, default, least, OFFSET_MAX))


def page(query: Query, default: int) -> tuple[int, int]:
    """`limit` and `offset`. There is nothing beyond any offset that could be too large."""
    return whole(query, "limit", default, 1, PAGE_MAX), clamped(query, "offset", 0, 0, OFFSET_MAX)


def choice(query: Query, name: str, allowed: tuple[Choice, ...]) -> Choice | None:
    """One of `allowed`, or None where the parameter is absent."""
    given = _single(query, name)
    if given is None:
        return None
    for value in allowed:
        if value == given:
            return value
    raise BadRequest(f"{name}={_cut(given)}: must be one of {', '.join(allowed)}")


def text(query: Query, name: str) -> str | None:
    """A text to filter by, or None where the parameter is absent or empty. What no name can be, nothing has."""
    given = _single(query, name)
    if not given:
        return None
    return _plausible(given)


def _plausible(name: str) -> str:
    return name if 0 < len(name) <= TEXT_CHARACTERS_MAX and name.isprintable() else NOBODY


def flag(query: Query, name: str, default: bool) -> bool:
    """true, false, 1, 0."""
    given = _single(query, name)
    if given is None:
        return default
    if given not in _FLAGS:
        raise BadRequest(f"{name}={_cut(given)}: must be true or false")
    return _FLAGS[given]


def seconds(query: Query, name: str) -> float:
    """A number of seconds from 0 to 60; 0 where the parameter is absent."""
    given = _single(query, name)
    if given is None:
        return 0.0
    if not _SECONDS.fullmatch(given) or float(given) > WAIT_S_MAX:
        raise BadRequest(f"{name}={_cut(given)}: must be a number of seconds from 0 to {WAIT_S_MAX:.0f}")
    return float(given)


def instant_us(query: Query, name: str) -> int | None:
    """An RFC 3339 time in UTC microseconds; digits beyond the microsecond are cut off."""
    given = _single(query, name)
    if given is None:
        return None
    try:
        return _parse_instant_us(given)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"{name}={_cut(given)}: must be a time as RFC 3339 has it, like 2026-01-31T12:00:00Z"
        ) from None


def plugins(query: Query) -> tuple[str, ...] | None:
    """The plugins named by `plugin_configs`, given as JSON text or as deepObject; None where there are none.

    What else their configurations say is no filter, but has to be right.
    """
    names: set[str] = set()
    if (given := _single(query, "plugin_configs")) is not None:
        names.update(_names_of_json(given))
    for name, value in query.items():
        if match := _PLUGIN_PATH.fullmatch(name):
            plugin, field, deeper = match.groups()
            names.add(plugin)
            _check_plugin_field(plugin, field, _as_json(field, value, bool(deeper)))
    return tuple(sorted({_plausible(name) for name in names})) or None


def _as_json(field: str | None, value: str, is_deeper: bool) -> Any:
    """A parameter's `value` of a configuration's `field`: deepObjects are all texts, and an empty one may be an object."""
    if is_deeper or (field == "settings" and not value):
        return {}
    return _FLAGS.get(value, value) if field == "enabled" else value


def _check_plugin_field(plugin: str, field: str | None, value: Any) -> None:
    allowed, said = {
        "mode": (isinstance(value, str) and value in _PLUGIN_MODES, f"one of {', '.join(_PLUGIN_MODES)}"),
        "enabled": (isinstance(value, bool), "true or false"),
        "image": (isinstance(value, str), "a text"),
        "settings": (isinstance(value, dict), "an object"),
    }.get(field or "", (True, ""))
    if not allowed:
        raise BadRequest(f"plugin_configs[{_cut(plugin)}][{field}]={_cut(str(value))}: must be {said}")


def _single(query: Query, name: str) -> str | None:
    if name not in query:
        return None
    given = query.getall(name)
    if len(given) > 1:
        raise BadRequest(f"{name}: is given {len(given)} times; once is enough")
    return given[0]


def _names_of_json(given: str) -> list[str]:
    try:
        value: Any = json.loads(given)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(config, dict) for config in value.values()):
        raise BadRequest("plugin_configs: must be a JSON object of plugin names and their configurations")
    for plugin, config in value.items():
        for field, inner in config.items():
            _check_plugin_field(plugin, field, inner)
    return list(value)


def _parse_instant_us(given: str) -> int:
    match = _INSTANT.fullmatch(given)
    if match is None:
        raise ValueError(given)
    day, minute, second, fraction, _zulu, sign, zone = match.groups()
    leap = second == "60"
    offset = "+00:00" if zone is None else f"{'-' if sign == '-' else '+'}{zone}"
    moment = datetime.fromisoformat(f"{day}T{minute}:{'59' if leap else second}{offset}")
    whole_us = (moment - _EPOCH) // timedelta(microseconds=1)
    return whole_us + leap * 1_000_000 + int(((fraction or "") + "000000")[:6])


def _cut(given: str) -> str:
    return repr(given if len(given) <= 64 else given[:64] + "...")
