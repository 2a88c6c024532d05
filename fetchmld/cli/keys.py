"""`keys create`, `keys ls` and `keys revoke`."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import click

from fetchmld.cli import show as layout
from fetchmld.cli.ids import Id, pick
from fetchmld.cli.session import Session, client_command
from fetchmld.cli.submit import Span
from fetchmld.core.model import UserRole


@click.group()
def keys() -> None:
    """Make, list and revoke API keys. For administrators."""


@keys.command()
@click.option("--user", "user_id", metavar="NAME", required=True, help="Whose key it is.")
@click.option(
    "--role", type=click.Choice(get_args(UserRole)), default="user", show_default=True, help="What it may do."
)
@click.option(
    "--expires", "expires_s", type=Span(), metavar="TIME", help="Valid for so long: 12h, 30d [until revoked]."
)
@client_command
def create(session: Session, user_id: str, role: str, expires_s: int | None) -> None:
    """Make a key. It is shown this once; give it to its user as FETCHML_API_KEY."""
    request = {"user_id": user_id, "role": role}
    if expires_s is not None:
        request["expires_at"] = (datetime.now(UTC) + timedelta(seconds=expires_s)).isoformat()
    made = session.client.create_key(request)
    if session.json_output:
        session.show_json(made)
    elif session.quiet:
        click.echo(made["key"])
    else:
        click.echo(f"{made['key']}\nkey {made['id']} of {user_id}, role {role}; it is not shown again")


@keys.command()
@client_command
def ls(session: Session) -> None:
    """List keys, newest first."""
    found = session.client.keys()
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for one in found:
            click.echo(one["id"])
    else:
        layout.table(("ID", "USER", "ROLE", "STATUS", "MADE", "UNTIL"), [_row(one) for one in found])


@keys.command()
@click.argument("key_id", metavar="ID", type=Id("key"))
@client_command
def revoke(session: Session, key_id: str) -> None:
    """Refuse a key from now on."""
    key_id = str(pick("key", key_id, session.client.keys())["id"])
    session.client.revoke_key(key_id)
    if not session.json_output:
        click.echo(key_id if session.quiet else f"{key_id} is revoked")


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    until = layout.local(one["expires_at"]) if "expires_at" in one else ""
    return (one["id"], one["user_id"], one["role"], one["status"], layout.local(one["created_at"]), until)
