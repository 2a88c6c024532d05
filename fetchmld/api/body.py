"""A request body: bytes to an object. What is in it is `validation`'s to check.

Strict JSON: UTF-8, no duplicate names, no NaN or Infinity, no NUL and no lone surrogate anywhere. Unparsable is
`BadRequest` (400), readable but wrong is `Invalid` (422) and names the field. Knows no particular request.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final, NoReturn, TypeVar

from aiohttp import web

from fetchmld.api.context import CONFIG
from fetchmld.core.errors import BadRequest, BodyTooLarge, Invalid

VALUES_MAX: Final = (
    5000  # in one body: each wrong one costs microseconds to describe, and the loop stands still meanwhile
)
_NAME_CHARACTERS_MAX: Final = 64
_VALUE_CHARACTERS_MAX: Final = 80
Bytes = TypeVar("Bytes", bytes, bytearray)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body of `request`. Raises BadRequest, BodyTooLarge or Invalid."""
    return parse_object(await _read(request, request.app[CONFIG].body_bytes_max))


async def read_large_object(request: web.Request, bytes_max: int) -> dict[str, Any]:
    """A JSON object of many values, which whoever asks for it bounds. Raises as `read_object` does."""
    raw = await _read(request, bytes_max)
    value = await asyncio.to_thread(_decode, raw)  # of this size it would hold up everybody else
    return await asyncio.to_thread(as_object, value, False, b"\\u" in raw)


async def read_list(request: web.Request, bytes_max: int, items_max: int) -> list[Any]:
    """The JSON list in the body of `request`; give each item to `as_object`. Raises as `read_object` does."""
    raw = await _read(request, bytes_max)
    value = await asyncio.to_thread(_decode, raw)  # of this size it would hold up everybody else
    if not isinstance(value, list):
        raise Invalid("the body must be a JSON list")
    if len(value) > items_max:
        raise Invalid(f"the body has {len(value)} items; at most {items_max} are accepted")
    return value


async def _read(request: web.Request, bytes_max: int) -> bytes:
    _check_type(request.headers.get("Content-Type"))
    if (request.content_length or 0) > bytes_max:
        raise BodyTooLarge(f"the body has {request.content_length} bytes; at most {bytes_max} are accepted")
    if request.content.is_eof():  # all of it has come
        return _bounded(request.content.read_nowait(), bytes_max)
    raw = bytearray()
    async for chunk in request.content.iter_any():
        raw += chunk
        _bounded(raw, bytes_max)
    return bytes(raw)


def _bounded(raw: Bytes, bytes_max: int) -> Bytes:
    if len(raw) > bytes_max:
        raise BodyTooLarge(f"the body has more than {bytes_max} bytes, which is the limit")
    return raw


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises BadRequest where it is not JSON, Invalid where it is something else."""
    # JSON can carry NUL and lone surrogates only as escapes
    return as_object(_decode(raw), is_large=len(raw) > VALUES_MAX, has_escapes=b"\\u" in raw)


def as_object(value: Any, is_large: bool = True, has_escapes: bool = True) -> dict[str, Any]:
    """`value`, decoded here, if it is an object as a sound request has it. Raises Invalid."""
    if not isinstance(value, dict):
        raise Invalid("the body must be a JSON object")
    if is_large:
        _refuse_crowds(value)
    if has_escapes:
        _refuse_odd_text(value)
    return value


def _decode(raw: bytes) -> Any:
    try:
        return _DECODER.decode(raw.decode("utf-8"))
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError, _NotJsonError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    except ValueError:  # Python's own limit on the digits of an integer
        raise BadRequest("the body holds a number with too many digits") from None


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
