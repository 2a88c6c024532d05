"""`audit verify`, `audit ls` and `audit root`: the record of what was done, and the proof that nobody changed it."""

from typing import Any

import click

from fetchmld.cli import session as sessions
from fetchmld.cli import show as layout
from fetchmld.cli.exits import AUDIT_INVALID
from fetchmld.cli.session import Session, client_command

EVENT_TYPES = [
    "job_queued",
    "job_started",
    "job_completed",
    "file_access",
    "auth_attempt",
    "plugin_configured",
    "scheduler_drain",
    "audit_verified",
]


@click.group()
def audit() -> None:
    """Verify and read the record of what was done."""


@audit.command()
@click.option("--data-dir", "given_dir", metavar="DIR", help="Read DIR's files, without a daemon.")
@client_command
def verify(session: Session, given_dir: str | None) -> int:
    """Check the whole hash chain. Exits 10 where it does not hold.

    Asks the daemon. With --data-dir it reads the files itself, and needs no daemon and trusts none; it then exits 0 for
    valid, 1 for tampered, 2 for valid with nothing outside that vouches for it, 3 for unreadable.
    """
    if given_dir is not None:
        return _verify_files(given_dir)
    result = session.client.audit_verify()
    if session.json_output:
        session.show_json(result)
    else:
        for line in _sentences(result):
            click.echo(line)
    return 0 if result.get("valid") else AUDIT_INVALID


def _verify_files(given_dir: str) -> int:
    from fetchmld.verify import offline

    report = offline(sessions.data_dir(given_dir))
    for line in report.lines:
        click.echo(line)
    return int(report.code)


def _sentences(result: dict[str, Any]) -> list[str]:
    if result.get("valid"):
        return [f"valid: {result.get('total_events', 0)} events, root {result.get('chain_root_hash', '')}"]
    said = [f"first bad sequence number {result['first_tampered']}"] if "first_tampered" in result else []
    if "index_first_bad" in result:
        said.append(f"the index differs from the chain at {result['index_first_bad']}")
    if result.get("problem"):
        said.append(str(result["problem"]))
    return [f"INVALID: {'; '.join(said) or 'the chain does not hold'}"]


@audit.command()
@click.option("--type", "event_type", type=click.Choice(EVENT_TYPES), help="Only this kind.")
@click.option("--user", metavar="USER", help="Only what this user did.")
@click.option("--from", "from_time", metavar="TIME", help="Not before, RFC 3339.")
@click.option("--to", "to_time", metavar="TIME", help="Not after, RFC 3339.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out this many of the newest.")
@client_command
def ls(
    session: Session,
    event_type: str | None,
    user: str | None,
    from_time: str | None,
    to_time: str | None,
    limit: int,
    offset: int,
) -> None:
    """List events, newest first."""
    page = session.client.audit_events(from_time, to_time, event_type, user, limit, offset)
    if session.json_output:
        session.show_json(page)
    elif session.quiet:
        for event in page["events"]:
            click.echo(event["sequence_num"])
    else:
        layout.table(("SEQ", "TIME", "TYPE", "ACTION", "USER", "RESOURCE", "OK"), [_row(e) for e in page["events"]])


def _row(event: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(event.get("sequence_num", "")),
        layout.local(event.get("timestamp")),
        event.get("event_type", ""),
        event.get("action", ""),
        event.get("user_id", ""),
        event.get("resource", ""),
        "yes" if event.get("success") else f"no {event.get('error', '')}".rstrip(),
    )


@audit.command()
@client_command
def root(session: Session) -> None:
    """The newest event's hash: note it elsewhere, and nobody can rewrite what came before unseen."""
    found = session.client.audit_root()
    if session.json_output:
        session.show_json(found)
    else:
        click.echo(f"{found['root_hash']} after {found.get('total_events', 0)} events")
