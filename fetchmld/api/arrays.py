"""The `array` of POST /v1/tasks: its bounds, and what its size and its params say of each other."""

from math import prod
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from fetchmld.core.chain import FIELD_BYTES_MAX, INTEGER_MAX
from fetchmld.core.errors import Invalid
from fetchmld.core.model import ARRAY_SIZE_MAX, ArrayParam, ArrayRequest

PARAMS_MAX: Final = 64
PARAM_VALUE_BYTES_MAX: Final = 4096


def _short(text: str) -> str:
    if len(text.encode()) > min(PARAM_VALUE_BYTES_MAX, FIELD_BYTES_MAX):
        raise ValueError(f"has {len(text.encode())} bytes, at most {PARAM_VALUE_BYTES_MAX} are accepted")
    if "\0" in text:
        raise ValueError("has a NUL character, which no environment variable can carry")
    return text


def _fraction(value: Any) -> Any:
    """Whole numbers have their own bounds, and would lose digits here."""
    if isinstance(value, int):
        raise ValueError(f"must be a text, true, false, or a number of at most {INTEGER_MAX} in size")
    return value


_Count = Annotated[int, Field(ge=1, le=ARRAY_SIZE_MAX)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
_Text = Annotated[str, AfterValidator(_short)]
_Whole = Annotated[int, Field(ge=-INTEGER_MAX, le=INTEGER_MAX)]  # what every reader of the record reads exactly
_Real = Annotated[float, BeforeValidator(_fraction), Field(allow_inf_nan=False)]
_Values = Annotated[list[bool | _Whole | _Real | _Text], Field(min_length=1, max_length=ARRAY_SIZE_MAX)]


@with_config(ConfigDict(extra="forbid", strict=True))
class GivenArray(TypedDict, total=False):
    """The field as it is sent."""

    size: _Count
    max_parallel: _Count
    params: Annotated[dict[_Name, _Values], Field(max_length=PARAMS_MAX)]


def array_request(given: GivenArray) -> ArrayRequest:
    """The array that `given` describes, its size filled in. Raises Invalid where size and params do not go together."""
    params = given.get("params", {})
    _refuse_twins(params)
    asked = ArrayRequest(size=_size(given, [len(values) for values in params.values()]))
    if "max_parallel" in given:
        asked["max_parallel"] = given["max_parallel"]
    if params:
        asked["params"] = [ArrayParam(name=name, values=list(values)) for name, values in params.items()]
    return asked


def _size(given: GivenArray, lengths: list[int]) -> int:
    grid = prod(lengths)
    if "size" not in given and not lengths:
        raise Invalid("array: needs its size, or params that give it")
    size = given.get("size", grid)
    if size > ARRAY_SIZE_MAX:
        raise Invalid(f"array.params: give {size} combinations, an array has at most {ARRAY_SIZE_MAX} elements")
    if lengths and size != grid and any(length != size for length in lengths):
        shown = " x ".join(map(str, lengths))
        raise Invalid(
            f"array.params: lists of {shown} values make {grid} combinations, and array.size is {size}: each list has"
            " to have as many values as there are elements, or the combinations have to be as many"
        )
    return size


def _refuse_twins(params: dict[str, list[Any]]) -> None:
    """The variables of two params must not have one name."""
    seen: dict[str, str] = {}
    for name in params:
        other = seen.setdefault(name.upper(), name)
        if other != name:
            raise Invalid(f"array.params: {other!r} and {name!r} would both be FETCHML_PARAM_{name.upper()}")
