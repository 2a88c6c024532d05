"""The state as bytes and back: one JSON object of the fields' names, written and read by their types alone.

Knows how a dataclass, a set or an ordered mapping lies in JSON; knows no task and no worker, so a new field of the state
needs nothing here. What was written by the same code comes back the same, byte for byte. What an earlier version wrote
is read by name: a field that it did not have yet gets its default. A field that is no longer known is refused.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, NewType, Union, get_args, get_origin, get_type_hints, is_typeddict

import orjson
from blake3 import blake3

from fetchmld.core import arrays, lifecycle, model, state
from fetchmld.core.state import State

_Reader = Callable[[Any], Any]
_AS_THEY_ARE: Final = (str, int, float, bool, NoneType, Any)


def to_bytes(what: State) -> bytes:
    """JSON of every field. Equal states give equal bytes."""
    return orjson.dumps(what, default=_sorted_set, option=orjson.OPT_NON_STR_KEYS)


def from_bytes(raw: bytes) -> State:
    """The state that `to_bytes` wrote. Raises ValueError where these bytes are none."""
    try:
        found = _dataclass_reader(State)(orjson.loads(raw))
    except (TypeError, KeyError, AttributeError) as problem:
        raise ValueError(f"no state that this version knows: {problem}") from problem
    assert isinstance(found, State)
    return found


@cache
def fingerprint() -> str:
    """Of the code that folds facts into a state: another one may give another state of the same facts."""
    digest = blake3()
    for module in (model, lifecycle, arrays, state, sys.modules[__name__]):
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest(16)


def _sorted_set(value: Any) -> list[Any]:
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__} has no place in the state")


# ---- from JSON, by type ---------------------------------------------------------------------------------------------


def _reader(kind: Any) -> _Reader | None:
    """What makes a `kind` of its JSON; None where the JSON is it already. Raises TypeError for a type unknown here."""
    if isinstance(kind, NewType):
        return _reader(kind.__supertype__)
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _AS_THEY_ARE or origin is Literal or is_typeddict(kind):
        return None
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass_reader(kind)
    if origin in (Union, UnionType):
        return _optional_reader(inner)
    if origin in (dict, OrderedDict):
        return _mapping_reader(origin, *inner)
    if origin in (list, set, frozenset) or (origin is tuple and inner[1:] == (...,)):
        return _row_reader(origin, _reader(inner[0]))
    raise TypeError(f"store.state_form cannot read a {kind}: teach it, or use another type in the state")


def _optional_reader(kinds: tuple[Any, ...]) -> _Reader | None:
    read = [found for found in map(_reader, kinds) if found is not None]
    if not read:
        return None
    if len(read) > 1 or len(kinds) != 2 or NoneType not in kinds:
        raise TypeError(f"store.state_form cannot tell apart {kinds}")
    one = read[0]
    return lambda raw: None if raw is None else one(raw)


def _mapping_reader(make: type, key: Any, value: Any) -> _Reader | None:
    read = _reader(value)
    if key is int:
        return lambda raw: make((int(name), item if read is None else read(item)) for name, item in raw.items())
    if _reader(key) is not None:
        raise TypeError(f"store.state_form cannot read keys of {key}")
    if read is None:
        return None if make is dict else make
    return lambda raw: make(zip(raw, map(read, raw.values()), strict=True))


def _row_reader(make: type, read: _Reader | None) -> _Reader | None:
    if read is None:
        return None if make is list else make
    return lambda raw: make(map(read, raw))


@cache
def _dataclass_reader(kind: type) -> _Reader:
    hints = get_type_hints(kind)
    names = [one.name for one in fields(kind)]
    readers = [(at, found) for at, name in enumerate(names) if (found := _reader(hints[name])) is not None]
    by_name = {names[at]: found for at, found in readers}

    def read(raw: dict[str, Any]) -> Any:
        values = list(raw.values())
        if list(raw) == names:
            for at, convert in readers:
                values[at] = convert(values[at])
            return kind(*values)
        return kind(**{name: by_name[name](item) if name in by_name else item for name, item in raw.items()})

    return read
