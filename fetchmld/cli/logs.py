"""`logs`: a task's output, whole or followed."""

import sys

import click

from fetchmld.cli.exits import INTERRUPTED
from fetchmld.cli.follow import follow_to_end
from fetchmld.cli.ids import Id
from fetchmld.cli.session import Session, client_command


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="That of the Nth run [the newest].")
@click.argument("task_id", metavar="ID", type=Id("task"))
@client_command
def logs(session: Session, task_id: str, follow: bool, attempt: int | None) -> int | None:
    """A task's output: stdout and stderr as one, byte for byte.

    Following, a broken connection is taken up where it broke. Ctrl-C leaves the task alone.
    """
    found, out = session.find_id(task_id), sys.stdout.buffer
    try:
        if follow and attempt is None:
            follow_to_end(session, found, out)
        else:
            for piece in session.client.logs(found, follow, attempt=attempt):
                out.write(piece)
                out.flush()
    except KeyboardInterrupt:
        click.echo(f"\nThe task goes on. To return: fetchmld logs -f {found}", err=True)
        return INTERRUPTED
    return None
