"""Writes `fetchmld/client/shapes.py` from the served schemas: `python -m tests.client.shape_writer > FILE`.

The client may not import the API, and nobody is to copy seventy schemas by hand; a test holds the file to this.
"""

import keyword
from typing import Any, Final

from fetchmld.api.schemas import CHAIN_ROOT, SCHEMAS, Schema

HEAD: Final = '''"""The JSON of the API as types: what goes in and what comes out, as plain dictionaries.

Times are RFC 3339 text. A field without a value is absent, so read with `.get` what may be missing. Written from the
served schemas by `python -m tests.client.shape_writer`; do not edit.
"""

from __future__ import annotations

from typing import Any, Literal, Required, TypedDict
'''
_PLAIN: Final = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}


def written() -> str:
    """The whole file, to be formatted."""
    shapes: dict[str, list[tuple[str, str]]] = {}
    for name, schema in {**SCHEMAS, "ChainRoot": CHAIN_ROOT}.items():
        _add(shapes, name, schema)
    return "\n\n".join([HEAD, *(_class(name, fields) for name, fields in shapes.items())])


def _add(shapes: dict[str, list[tuple[str, str]]], name: str, schema: Schema) -> None:
    required = set(schema.get("required", ()))
    fields = []
    for field, what in schema["properties"].items():
        kind = _type(shapes, what, name + "".join(word.capitalize() for word in field.split("_")))
        fields.append((field, f"Required[{kind}]" if field in required else kind))
    shapes[name] = fields


def _type(shapes: dict[str, list[tuple[str, str]]], schema: Schema, name: str) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return "Literal[" + ", ".join(f'"{value}"' for value in schema["enum"]) + "]"
    if "oneOf" in schema:
        return " | ".join(dict.fromkeys(_type(shapes, one, name) for one in schema["oneOf"]))
    kind = schema.get("type")
    if kind == "array":
        return f"list[{_type(shapes, schema['items'], name)}]"
    if kind == "object" and "properties" in schema:
        _add(shapes, name, schema)
        return name
    if kind == "object":
        return f"dict[str, {_values(shapes, schema.get('additionalProperties', True), name)}]"
    return _PLAIN.get(str(kind), "Any")


def _values(shapes: dict[str, list[tuple[str, str]]], values: Any, name: str) -> str:
    return "Any" if isinstance(values, bool) else _type(shapes, values, name)


def _class(name: str, fields: list[tuple[str, str]]) -> str:
    if any(keyword.iskeyword(field) for field, _ in fields):
        lines = [f"        {field!r}: {kind!r},".replace("'", '"') for field, kind in _unquoted(fields)]
        return "\n".join(
            [f"{name} = TypedDict(", f'    "{name}",', "    {", *lines, "    },", "    total=False,", ")", ""]
        )
    lines = [f"    {field}: {kind}" for field, kind in fields]
    return "\n".join([f"class {name}(TypedDict, total=False):", *lines, ""])


def _unquoted(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Types that stand in quotes themselves cannot hold any."""
    return [(field, "str" if '"' in kind else kind) for field, kind in fields]


if __name__ == "__main__":
    print(written(), end="")
