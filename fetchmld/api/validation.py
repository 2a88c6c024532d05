"""A decoded body held against its type, and the words for what is wrong with it. Knows no particular request."""

import json
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from fetchmld.core.errors import Invalid

PROBLEMS_SHOWN_MAX: Final = 5
_NAME_CHARACTERS_MAX: Final = 64
_VALUE_CHARACTERS_MAX: Final = 80
# Values of these fields may hold secrets: an error names the field and keeps the value to itself.
_PRIVATE_FIELDS: Final = frozenset({"env", "metadata", "args", "entrypoint", "source", "key", "ticket"})

_PHRASES: Final[dict[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "int_type": "must be an integer",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_unicode": "must be valid Unicode",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}


def validate(adapter: TypeAdapter[Any], value: dict[str, Any]) -> Any:
    """`value` as `adapter` has it. Raises Invalid naming the wrong fields (the first few) and what is allowed."""
    try:
        return adapter.validator.validate_python(value)  # the adapter's own method costs more than it here
    except ValidationError as error:
        raise Invalid(_describe(error)) from None


def _describe(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    said = [_problem(dict(problem)) for problem in problems[:PROBLEMS_SHOWN_MAX]]
    if len(problems) > PROBLEMS_SHOWN_MAX:
        said.append(f"and {len(problems) - PROBLEMS_SHOWN_MAX} more")
    return "; ".join(said)


def _problem(problem: dict[str, Any]) -> str:
    location = [part for part in problem["loc"] if part != "[key]"]
    where = ".".join(str(part)[:_NAME_CHARACTERS_MAX] for part in location) or "the body"
    phrase = _PHRASES.get(problem["type"])
    said = phrase.format(**problem.get("ctx", {})) if phrase else problem["msg"]
    shown = "" if _PRIVATE_FIELDS.intersection(location) else _shown(problem)
    return f"{where}: {said}{shown}"


def _shown(problem: dict[str, Any]) -> str:
    value = problem["input"]
    if problem["type"] in {"missing", "extra_forbidden", "value_error"} or not isinstance(value, str | int | float):
        return ""
    text = json.dumps(value)
    return f", not {text if len(text) <= _VALUE_CHARACTERS_MAX else text[:_VALUE_CHARACTERS_MAX] + '...'}"
