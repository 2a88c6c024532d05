"""`top`: what runs and waits, live in a terminal. Needs the extra `fetchmld[top]`."""

import click

from fetchmld.cli.exits import USAGE, Failure
from fetchmld.cli.session import Session, client_command


@click.command()
@click.option("--every", "every_s", type=click.FloatRange(0.5, 3600), default=2.0, help="Seconds between looks [2].")
@click.option("--user", "user_id", help="Tasks of this user only.")
@client_command
def top(session: Session, every_s: float, user_id: str | None) -> None:
    """What runs and waits, live. Arrows move, w says why, l shows the log's end, c cancels, q leaves."""
    try:
        from fetchmld.cli.top_screen import Screen
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise Failure("`top` needs a package of its own: pip install 'fetchmld[top]'", USAGE) from None
    session.client.scheduler()  # what is wrong with the address or the key is said before the screen is taken
    Screen(session.client, every_s, user_id).run()
