"""`history`: one SELECT over the history's views, as a table, JSON or CSV."""

import csv
import json
import sys
from typing import Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.session import Session, client_command


@click.command()
@click.argument("sql", metavar="SQL")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values under a line of names.")
@click.option("--limit", type=click.IntRange(1), help="At most so many rows; the daemon has a limit of its own.")
@client_command
def history(session: Session, sql: str, as_csv: bool, limit: int | None) -> None:
    """Ask the history: one SELECT over the views tasks, attempts, experiments and (for auditors) events.

    SQL is DuckDB's; `-` reads it from the input. docs/history.md has the columns.
    """
    answer = session.client.history(sys.stdin.read() if sql == "-" else sql, limit)
    names = [column["name"] for column in answer["columns"]]
    if session.json_output:
        session.show_json(answer)
        return
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([names, *([_cell(value) for value in row] for row in answer["rows"])])
    elif session.quiet:
        for row in answer["rows"]:
            click.echo(_cell(row[0]))
    else:
        layout.table(names, [[_cell(value) for value in row] for row in answer["rows"]])
    if answer["truncated"]:
        click.echo(f"only the first {answer['row_count']} rows; there are more", err=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
