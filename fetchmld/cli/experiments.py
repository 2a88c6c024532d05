"""`experiments create`, `ls`, `show` and `archive`: named groups of tasks, and what these left as metrics."""

from collections.abc import Mapping
from typing import Any, Final

import click

from fetchmld.cli import show as layout
from fetchmld.cli.ids import Id, pick
from fetchmld.cli.session import Session, client_command

ROWS_DEFAULT: Final = 100


@click.group()
def experiments() -> None:
    """Group tasks, compare what they left as metrics.json, and put groups away."""


@experiments.command()
@click.argument("name")
@click.option("--description", metavar="TEXT", help="What it is about.")
@click.option("--commit", "commit_id", metavar="COMMIT", help="The commit of the code that it is about, in hex.")
@client_command
def create(session: Session, name: str, description: str | None, commit_id: str | None) -> None:
    """Create an experiment; tasks join it with `submit --experiment ID`."""
    made = session.client.create_experiment(name, description, commit_id)
    _show_one(session, made, f"{made['id']} {made['name']}")


@experiments.command()
@click.option("--status", type=click.Choice(["active", "archived"]), help="Only these [both].")
@client_command
def ls(session: Session, status: str | None) -> None:
    """List experiments, newest first."""
    found = session.client.experiments(status)
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for one in found:
            click.echo(one["id"])
    else:
        rows = [(one["id"], one.get("status", ""), layout.age(one.get("created_at")), one["name"]) for one in found]
        layout.table(("ID", "STATUS", "AGE", "NAME"), rows)


@experiments.command()
@click.argument("experiment_id", metavar="ID", type=Id("experiment"))
@click.option("--limit", type=click.IntRange(1, 1000), default=ROWS_DEFAULT, show_default=True, help="Tasks shown.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out this many of the newest.")
@client_command
def show(session: Session, experiment_id: str, limit: int, offset: int) -> None:
    """An experiment and its tasks, with their params and metrics, newest first. --json: the table of metrics."""
    found = find(session, experiment_id)
    if session.quiet and not session.json_output:
        click.echo(found["id"])
        return
    table = session.client.experiment_metrics(found["id"], limit, offset)
    if session.json_output:
        session.show_json(table)
        return
    names = ("id", "name", "description", "status", "commit_id", "user_id")
    layout.fields([*((name, found.get(name)) for name in names), ("created", layout.local(found.get("created_at")))])
    if table["tasks"]:
        click.echo()
        head = ("TASK", "NAME", "STATUS", *table["params"], *table["metrics"])
        layout.table(head, [_row(task, table["params"], table["metrics"]) for task in table["tasks"]])
    more = table["total"] - offset - len(table["tasks"])
    if more > 0:
        click.echo(f"and {more} more: fetchmld experiments show {found['id']} --offset {offset + limit}", err=True)


def _row(task: Mapping[str, Any], params: list[str], metrics: list[str]) -> list[str]:
    values = [_value(task["params"].get(name)) for name in params] + [
        _value(task["metrics"].get(name)) for name in metrics
    ]
    return [task["task_id"], task["job_name"], task["status"], *values]


def _value(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@experiments.command()
@click.argument("experiment_ids", metavar="ID...", nargs=-1, required=True, type=Id("experiment"))
@click.option("--undo", is_flag=True, help="Bring them back.")
@client_command
def archive(session: Session, experiment_ids: tuple[str, ...], undo: bool) -> None:
    """Put experiments away: they take no more tasks. Nothing of them is removed."""
    for experiment_id in experiment_ids:
        found = find(session, experiment_id)
        changed = session.client.update_experiment(found["id"], {"status": "active" if undo else "archived"})
        _show_one(session, changed, f"{changed['id']} is {changed['status']}")


def find(session: Session, experiment_id: str) -> Mapping[str, Any]:
    """The experiment that `experiment_id` names: its id, a unique prefix of it, its name, or `last`."""
    return pick("experiment", experiment_id, session.client.experiments(), ("id", "name"))


def _show_one(session: Session, experiment: Mapping[str, Any], line: str) -> None:
    if session.json_output:
        session.show_json(experiment)
    else:
        click.echo(experiment["id"] if session.quiet else line)
