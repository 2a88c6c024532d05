"""`config show`: every setting of the daemon, its value and where it came from."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.exits import INVALID, Failure
from fetchmld.cli.session import Session, client_command


@click.group()
def config() -> None:
    """The daemon's settings."""


@config.command()
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="A TOML file of settings.")
@client_command
def show(session: Session, file: Path | None) -> None:
    """Each setting as a start with these files and variables would have it."""
    from fetchmld.config import Config
    from fetchmld.core.errors import FetchmlError

    try:
        loaded = Config.load(file, {"data_dir": session.given_dir})
    except FetchmlError as error:
        raise Failure(str(error), INVALID) from None
    values = loaded.model_dump(mode="json")
    for dataset in values["datasets"].values():
        dataset["options"] = dict.fromkeys(dataset["options"], "***")  # credentials, most likely
    in_file = frozenset(tomllib.loads(file.read_text())) if file else frozenset()
    sources = {name: _source(name, session.given_dir, in_file) for name in values}
    if session.json_output:
        session.show_json({name: {"value": values[name], "source": sources[name]} for name in values})
        return
    texts = {name: field.description or "" for name, field in Config.model_fields.items()}
    layout.table(
        ("SETTING", "VALUE", "FROM", "WHAT IT IS"),
        [(name, _shown(values[name]), sources[name], texts[name]) for name in values],
    )


def _source(name: str, given_dir: str | None, in_file: frozenset[str]) -> str:
    if name == "data_dir" and given_dir is not None:
        return "flag"
    if f"FETCHMLD_{name.upper()}" in os.environ:
        return f"FETCHMLD_{name.upper()}"
    return "file" if name in in_file else "default"


def _shown(value: Any) -> str:
    if value is None:
        return "as found"
    return value if isinstance(value, str) else json.dumps(value)
