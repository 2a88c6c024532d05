"""`ui`: an address that logs a browser in."""

from urllib.parse import quote

import click

from fetchmld.cli.session import Session, client_command


@click.command()
@click.option("--page", metavar="PATH", default="/", help="Where it leads, such as /jupyter/ID/lab [the first page].")
@click.option("--open", "wants_browser", is_flag=True, help="Open this machine's browser there.")
@client_command
def ui(session: Session, page: str, wants_browser: bool) -> None:
    """Print an address for a browser: good once, within a minute, and of no use to whoever sees it later."""
    made = session.client.create_ticket()
    url = made["url"] if page == "/" else f"{made['url']}?to={quote(page)}"
    if session.json_output:
        session.show_json({**made, "url": url})
    else:
        click.echo(url)
    if wants_browser:
        click.launch(url)
