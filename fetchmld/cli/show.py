"""How things look to people: tables, ages, amounts. Plain text, so that no command pays for a layout library."""

import datetime
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

COLOURS: Final = {
    "completed": "green",
    "failed": "red",
    "running": "cyan",
    "preparing": "cyan",
    "collecting": "cyan",
    "active": "green",
    "suspect": "yellow",
    "draining": "yellow",
    "offline": "red",
    "starting": "cyan",
    "stopping": "yellow",
    "error": "red",
    "quarantined": "red",
    "occupied": "yellow",
}
GAP: Final = "  "


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under `head`, columns as wide as they need; on a terminal the last one is cut to fit."""
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *lines]) for i in range(len(head))]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - sum(widths[:-1]) - len(GAP) * (len(head) - 1)
        widths[-1] = max(8, min(widths[-1], room))
    click.secho(_line(head, widths), bold=True)
    for line in lines:
        click.echo(_line(line, widths, colour=True))


def _line(cells: Sequence[str], widths: Sequence[int], colour: bool = False) -> str:
    padded = [_cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True)]
    padded[-1] = padded[-1].rstrip()
    if colour:
        padded = [_coloured(cell) for cell in padded]
    return GAP.join(padded)


def _cut(text: str, width: int) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= width else text[: width - 1] + "…"


def _coloured(cell: str) -> str:
    colour = COLOURS.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value` lines, leaving out what has no value."""
    given = [(name, str(value)) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        first, *rest = value.splitlines() or [""]
        click.echo(f"{name.ljust(width)}{GAP}{_coloured(first)}")
        for line in rest:
            click.echo(" " * (width + len(GAP)) + line)


def seconds(value: float) -> str:
    """A span in the one or two units that matter: 0.42s, 12s, 3m05s, 2h10m, 4d03h."""
    if value < 10:
        return f"{max(0.0, value):.2f}s"
    whole = round(value)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller_size:02d}{smaller}"
    return f"{whole}s"


def parse_time(text: str | None) -> datetime.datetime | None:
    """A time as the API writes it (RFC 3339), or None."""
    return datetime.datetime.fromisoformat(text) if text else None


def age(text: str | None) -> str:
    """How long ago `text` was."""
    then = parse_time(text)
    return "" if then is None else seconds((datetime.datetime.now(datetime.UTC) - then).total_seconds())


def took(start: str | None, end: str | None) -> str:
    """From `start` to `end`, or to now where there is no end yet."""
    begun, ended = parse_time(start), parse_time(end)
    if begun is None:
        return ""
    return seconds(((ended or datetime.datetime.now(datetime.UTC)) - begun).total_seconds())


def local(text: str | None) -> str:
    """A time of the API in this machine's zone, to the second."""
    then = parse_time(text)
    return "" if then is None else then.astimezone().strftime("%Y-%m-%d %H:%M:%S")
