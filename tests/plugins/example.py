"""The example plugin as an installed package would bring it: by the entry point in its own pyproject.toml."""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

from fetchmld.plugins import catalog

DIRECTORY = Path(__file__).parents[2] / "examples" / "plugin"


def points() -> list[EntryPoint]:
    table = tomllib.loads((DIRECTORY / "pyproject.toml").read_text())["project"]["entry-points"][catalog.GROUP]
    return [EntryPoint(name, value, catalog.GROUP) for name, value in table.items()]


@contextmanager
def installed() -> Iterator[None]:
    """As if it were: it can be imported, and the catalogue has it beside ours."""
    sys.path.insert(0, str(DIRECTORY))
    setattr(catalog, "entry_points", lambda *, group: [*metadata.entry_points(group=group), *points()])  # noqa: B010
    catalog.catalog.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(DIRECTORY))
        setattr(catalog, "entry_points", metadata.entry_points)  # noqa: B010
        catalog.catalog.cache_clear()
