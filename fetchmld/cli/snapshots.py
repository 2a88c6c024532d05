"""`snapshots push`, `ls` and `pull`, and the bar that shows an upload."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from fetchmld.cli import show as layout
from fetchmld.cli.exits import INVALID, Failure
from fetchmld.cli.ids import Id, pick
from fetchmld.cli.session import Session, client_command

BAR_WIDTH: Final = 30
ID_SHOWN: Final = 12


@click.group()
def snapshots() -> None:
    """Keep directories of code to run tasks in."""


@snapshots.command()
@click.argument("directory", metavar="DIR", default=".", type=click.Path(path_type=Path))
@client_command
def push(session: Session, directory: Path) -> None:
    """Send DIR [.] as a snapshot, without what .gitignore and .fetchmlignore name; only what is not there yet travels."""
    made = send(session, directory)
    if session.json_output:
        session.show_json(made)
    elif session.quiet:
        click.echo(made["id"])
    else:
        click.echo(f"{made['id']}  {made['file_count']} files, {amount(made['total_bytes'])}")


@snapshots.command()
@client_command
def ls(session: Session) -> None:
    """List your snapshots, newest first."""
    found = session.client.snapshots()
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for one in found:
            click.echo(one["id"])
    else:
        layout.table(("ID", "AGE", "FILES", "SIZE", "COMMIT", "REMOTE"), [_row(one) for one in found])


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    commit = one.get("commit", "")[:ID_SHOWN] + ("+" if one.get("dirty") else "")
    size = amount(one["total_bytes"])
    return (
        one["id"][:ID_SHOWN],
        layout.age(one["created_at"]),
        str(one["file_count"]),
        size,
        commit,
        one.get("remote", ""),
    )


@snapshots.command()
@click.argument("snapshot_id", metavar="ID", type=Id("snapshot"))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@client_command
def pull(session: Session, snapshot_id: str, directory: Path) -> None:
    """Write the files of a snapshot to DIR, which is made."""
    from fetchmld.client.errors import CannotSnapshot
    from fetchmld.client.push import pull as fetch

    try:
        found = fetch(session.client, find(session, snapshot_id), directory)
    except CannotSnapshot as error:
        raise Failure(str(error), INVALID) from None
    if session.json_output:
        session.show_json(found)
    elif not session.quiet:
        click.echo(f"{found['file_count']} files in {directory}")


def send(session: Session, directory: Path) -> Mapping[str, Any]:
    """Push with a bar on stderr, where that is a terminal."""
    from fetchmld.client.errors import CannotSnapshot
    from fetchmld.client.push import push as send_all

    try:
        with Bar() as bar:
            return send_all(session.client, directory, bar.show)
    except CannotSnapshot as error:
        raise Failure(str(error), INVALID) from None


def local_id(directory: str) -> str:
    """The id that a directory would get if it were sent."""
    from fetchmld.client.errors import CannotSnapshot
    from fetchmld.client.push import id_of, manifest_of

    try:
        return id_of(manifest_of(directory)[0])
    except CannotSnapshot as error:
        raise Failure(str(error), INVALID) from None


def find(session: Session, snapshot_id: str) -> str:
    """The whole id of the snapshot that `snapshot_id` names: itself, a unique prefix, or `last`."""
    if len(snapshot_id) == 64:
        return snapshot_id
    return str(pick("snapshot", snapshot_id, session.client.snapshots())["id"])


class Bar:
    """How much of an upload is done, on stderr; nothing where stderr is no terminal, or there is nothing to send."""

    def __init__(self) -> None:
        self._shown = False

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, done: int, total: int) -> None:
        if total and sys.stderr.isatty():
            full = BAR_WIDTH * done // total
            sys.stderr.write(f"\r\x1b[K{'█' * full}{'░' * (BAR_WIDTH - full)} {amount(done)} of {amount(total)}")
            sys.stderr.flush()
            self._shown = True


def amount(size: float) -> str:
    """Bytes in the unit that suits: 12 B, 3.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
