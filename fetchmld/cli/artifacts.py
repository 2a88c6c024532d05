"""`artifacts`: what a task left in its output directory."""

import sys
from typing import Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.session import Session, client_command


@click.command()
@click.argument("task_id", metavar="ID")
@click.argument("path", required=False)
@client_command
def artifacts(session: Session, task_id: str, path: str | None) -> None:
    """List what a task left in its output directory; with PATH, write that file to stdout."""
    found = session.find_id(task_id)
    if path is not None:
        sys.stdout.buffer.write(session.client.artifact(found, path))
        return
    answer = session.client.artifacts(found)
    if session.json_output:
        session.show_json(answer)
        return
    entries = _entries(answer)
    if session.quiet:
        for entry in entries:
            click.echo(entry["path"])
    else:
        layout.table(("BYTES", "PATH"), [(entry.get("bytes", ""), entry["path"]) for entry in entries])


def _entries(answer: Any) -> list[dict[str, Any]]:
    return list(answer.get("artifacts", [])) if isinstance(answer, dict) else list(answer)
