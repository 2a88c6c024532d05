"""A request body: bytes to an object. What is in it is `validation`'s to check.

Strict JSON: UTF-8, no duplicate names, no NaN or Infinity, no NUL and no lone surrogate anywhere. Unparsable is
`BadRequest` (400), readable but wrong is `Invalid` (422) and names the field. Knows no particular request.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from aiohttp import web

from fetchmld.api.context import CONFIG
from fetchmld.core.errors import BadRequest, BodyTooLarge, Invalid

VALUES_MAX: Final = (
    5000  # in one body: each wrong one costs microseconds to describe, and the loop stands still meanwhile
)
_NAME_CHARACTERS_MAX: Final = 64
_VALUE_CHARACTERS_MAX: Final = 80


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body of `request`. Raises BadRequest, BodyTooLarge or Invalid."""
    _check_type(request.headers.get("Content-Type"))
    limit_bytes = request.app[CONFIG].body_bytes_max
    if (request.content_length or 0) > limit_bytes:
        raise BodyTooLarge(f"the body has {request.content_length} bytes; at most {limit_bytes} are accepted")
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(f"the body has more than {limit_bytes} bytes, which is the limit") from None
    return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises BadRequest where it is not JSON, Invalid where it is something else."""
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError, _NotJsonError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    except ValueError:  # Python's own limit on the digits of an integer
        raise BadRequest("the body holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise Invalid("the body must be a JSON object")
    if len(raw) > VALUES_MAX:
        _refuse_crowds(value)
    if b"\\u" in raw:  # JSON can carry NUL and lone surrogates only as escapes
        _refuse_odd_text(value)
    return value


def _check_type(content_type: str | None) -> None:
    if content_type is None or content_type == "application/json":
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest(f"Content-Type {kind[:_VALUE_CHARACTERS_MAX]!r} is not supported; send application/json")


class _NotJsonError(ValueError):
    """What Python's parser would let pass."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1) if len(names) < 1000 else "a name"
        raise _NotJsonError(f"{twice[:_NAME_CHARACTERS_MAX]!r} appears twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _NotJsonError(f"{name} is not a JSON number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _refuse_crowds(value: dict[str, Any]) -> None:
    """Refuse more values than any sound request has, before each of them is looked at."""
    count, stack = 0, list[Any]((value,))
    while stack:
        item = stack.pop()
        count += len(item)
        if count > VALUES_MAX:
            raise Invalid(f"the body holds more than {VALUES_MAX} values")
        inner = item.values() if isinstance(item, dict) else item
        stack.extend(one for one in inner if isinstance(one, dict | list))


def _refuse_odd_text(value: dict[str, Any]) -> None:
    for path, text in _texts(value, ""):
        if "\0" in text:
            raise Invalid(f"{path or 'a name'}: must not contain the NUL character")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise Invalid(f"{path or 'a name'}: must be valid Unicode, but has a lone surrogate")


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every string in `value`, names included, with the top-level field it is in. No recursion: depth is the client's."""
    stack: list[tuple[str, Any]] = [(path, value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, str):
            yield where, item
        elif isinstance(item, dict):
            for name, inner in item.items():
                yield where, name
                stack.append((where or name[:_NAME_CHARACTERS_MAX], inner))
        elif isinstance(item, list):
            stack.extend((where, inner) for inner in item)
