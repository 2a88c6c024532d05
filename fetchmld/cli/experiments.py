"""`experiments create` and `experiments ls`."""

import click

from fetchmld.cli import show as layout
from fetchmld.cli.session import Session, client_command


@click.group()
def experiments() -> None:
    """Create and list experiments."""


@experiments.command()
@click.argument("name")
@click.option("--description", metavar="TEXT", help="What it is about.")
@client_command
def create(session: Session, name: str, description: str | None) -> None:
    """Create an experiment; tasks join it with `submit --experiment ID`."""
    made = session.client.create_experiment(name, description)
    if session.json_output:
        session.show_json(made)
    else:
        click.echo(made["id"] if session.quiet else f"{made['id']} {made['name']}")


@experiments.command()
@client_command
def ls(session: Session) -> None:
    """List experiments, newest first."""
    found = session.client.experiments()
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for one in found:
            click.echo(one["id"])
    else:
        rows = [(one["id"], one.get("status", ""), layout.age(one.get("created_at")), one["name"]) for one in found]
        layout.table(("ID", "STATUS", "AGE", "NAME"), rows)
