"""Answers that a notebook can show: plain dictionaries and lists, with a table for IPython to display."""

import json
from collections.abc import Iterable
from typing import Any, Final

ROWS_MAX: Final = 200
CELL_CHARACTERS_MAX: Final = 400
# The list inside a page of one, and what of its rows is shown.
_PAGES: Final[dict[str, tuple[str, ...]]] = {
    "tasks": ("id", "job_name", "status", "priority", "created_at", "started_at", "ended_at", "error"),
    "events": ("sequence_num", "timestamp", "event_type", "action", "user_id", "resource", "success"),
}


class ShownDict(dict[str, Any]):
    """One thing of the API, or a page of them."""

    def _repr_html_(self) -> str:
        for name, columns in _PAGES.items():
            if isinstance(self.get(name), list):
                return _table(self[name], columns) + f"<p>{len(self[name])} of {_escaped(self.get('total'))}</p>"
        rows = "".join(f"<tr><th>{_escaped(name)}</th><td>{_cell(value)}</td></tr>" for name, value in self.items())
        return f"<table>{rows}</table>"


class ShownList(list[Any]):
    """Things of one kind."""

    def _repr_html_(self) -> str:
        if not all(isinstance(one, dict) for one in self):
            return _cell(list(self))
        return _table(self, tuple(dict.fromkeys(name for one in self[:ROWS_MAX] for name in one)))


def shown(value: Any) -> Any:
    """`value`, as it is but for how a notebook displays it."""
    if isinstance(value, dict):
        return ShownDict(value)
    return ShownList(value) if isinstance(value, list) else value


def _table(rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> str:
    head = "".join(f"<th>{_escaped(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row.get(name, ''))}</td>" for name in columns) + "</tr>"
        for row in list(rows)[:ROWS_MAX]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, str) and "\n" in value:
        return f'<pre style="text-align: left">{_escaped(value)}</pre>'
    text = value if isinstance(value, str) else json.dumps(value)
    return _escaped(text if len(text) <= CELL_CHARACTERS_MAX else text[:CELL_CHARACTERS_MAX] + "…")


def _escaped(value: Any) -> str:
    from html import escape

    return escape(str(value))
