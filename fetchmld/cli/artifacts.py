"""`artifacts`: what a task left in its output directory."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.ids import Id
from fetchmld.cli.session import Session, client_command
from fetchmld.client.errors import CannotSnapshot


@click.command()
@click.argument("task_id", metavar="ID", type=Id("task"))
@click.argument("path", required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it there; go on with FILE.part."
)
@client_command
def artifacts(session: Session, task_id: str, path: str | None, output: Path | None) -> None:
    """List what a task left in its output directory; with PATH, write that file to stdout, or to FILE.

    With -o what is there of FILE.part is not fetched again, and the whole is checked before it is called FILE.
    """
    found = session.find_id(task_id)
    if path is not None and output is not None:
        _fetch(session, found, path, output)
        return
    if path is not None:
        for piece in session.client.artifact_pieces(found, path):
            sys.stdout.buffer.write(piece)
        return
    if output is not None:
        raise click.UsageError("-o needs the PATH of one file; without -o all are listed")
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


def _fetch(session: Session, task_id: str, path: str, output: Path) -> None:
    from fetchmld.client.code import hash_file

    entry = next((one for one in _entries(session.client.artifacts(task_id)) if one["path"] == path), None)
    part = output.with_name(f"{output.name}.part")
    have = part.stat().st_size if part.exists() else 0
    if entry is None:
        for _ in session.client.artifact_pieces(task_id, path):  # it says what is wrong
            return
        return
    if have > int(entry["bytes"]):
        have = 0  # of some other file
    try:
        with open(part, "r+b" if have else "wb") as file:
            file.seek(have)
            for piece in session.client.artifact_pieces(task_id, path, have):
                file.write(piece)
        if hash_file(str(part))[0] != entry["hash"]:
            part.unlink()
            raise click.ClickException(f"what came is not {path} as it was left; {part} is removed, try again")
        os.replace(part, output)
    except CannotSnapshot as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot write {part}: {error.strerror or error}") from None


def _entries(answer: Any) -> list[dict[str, Any]]:
    return list(answer.get("artifacts", [])) if isinstance(answer, dict) else list(answer)
