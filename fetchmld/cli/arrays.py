"""What the command line says of arrays: `--array SPEC` and `--param`, and how one stands."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import click

_SPEC: Final = re.compile(r"(?:(\d{1,6})|(\d{1,6})-(\d{1,6}))(?:%(\d{1,6}))?", re.ASCII)
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class ArraySpec(click.ParamType[dict[str, int]]):
    """`N`, or `0-LAST`; with `%K` at most K at a time."""

    name = "array"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        match = _SPEC.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not N, 0-LAST, N%K or 0-LAST%K", param, ctx)
        count, first, last, most = match.groups()
        if first is not None and int(first) != 0:
            self.fail(f"{value!r}: the elements of an array are counted from 0: 0-{last}", param, ctx)
        spec = {"size": int(count) if count is not None else int(last) + 1}
        if most is not None:
            spec["max_parallel"] = int(most)
        return spec


class Param(click.ParamType[tuple[str, list[Any]]]):
    """`NAME=V1,V2,...`: numbers, true and false are taken as such, all else is text."""

    name = "param"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[Any]]:
        name, given, values = str(value).partition("=")
        if not given or not name:
            self.fail(f"{value!r} is not NAME=V1,V2,...", param, ctx)
        return name, [_typed(text) for text in values.split(",")]


def _typed(text: str) -> Any:
    return json.loads(text) if text in ("true", "false") or _NUMBER.fullmatch(text) else text


def array_field(spec: dict[str, int] | None, params: tuple[tuple[str, list[Any]], ...]) -> dict[str, Any]:
    """The request's `array`; empty where nothing was asked for."""
    names = [name for name, _ in params]
    if twice := {name for name in names if names.count(name) > 1}:
        raise click.UsageError(f"--param {min(twice)}: is given twice; write its values as one list")
    return {**(spec or {}), **({"params": dict(params)} if params else {})}


def progress(task: Mapping[str, Any]) -> str:
    """How an array stands: `3 of 10 completed, 2 running, 5 queued`; "" for any other task."""
    array = task.get("array")
    if not array:
        return ""
    rest = [f"{array[name]} {name}" for name in ("failed", "cancelled", "running", "queued") if array.get(name)]
    return ", ".join([f"{array['completed']} of {array['size']} completed", *rest])


def place(task: Mapping[str, Any]) -> str:
    """Which element of which array a task is, and its params; "" for any other."""
    if "array_id" not in task:
        return ""
    params = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in _params(task)]
    return " ".join([f"{task['array_index']} of array {task['array_id']}", *params])


def _params(task: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(task.get("params", {}).items())
