"""`why`: what a waiting task waits for."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.ids import Id
from fetchmld.cli.session import Session, client_command


@click.command()
@click.argument("task_id", metavar="ID", type=Id("task"))
@client_command
def why(session: Session, task_id: str) -> None:
    """Why a task is not running, who holds what it lacks, and when it starts."""
    found = session.client.explain(session.find_id(task_id))
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        click.echo(found["reason"])
    else:
        layout.fields(_fields(found))


def _fields(said: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    planned = said.get("planned", {})
    yield "task", f"{said['task_id']} ({said['status']})"
    yield "because", said["reason"]
    yield "starts", said.get("estimate")
    yield "planned for", layout.local(planned.get("at"))
    yield "on", ", ".join(planned.get("workers", []))
    yield "by", planned.get("basis")
    yield "ahead of it", said.get("position", "")
    yield "never passed by who comes after", layout.local(said.get("no_later_arrival_passes_after"))
    for holder in said.get("held_by", []):
        until = layout.local(holder.get("until")) or "nobody knows when"
        yield "held by", f"{holder['kind']} {holder.get('id', 'of somebody else')} until {until}"
    smaller = [f"{name}={value}" for name, value in said.get("smaller_request", {}).items()]
    yield "would start now with", ", ".join(smaller)
