"""`audit`: the record of what was done, the proof that nobody changed it, and how long it is kept."""

import datetime
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from fetchmld.cli import session as sessions
from fetchmld.cli import show as layout
from fetchmld.cli.exits import AUDIT_INVALID, INVALID, Failure
from fetchmld.cli.session import Session, client_command
from fetchmld.cli.submit import Span

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


_NOTE: Final = click.Path(dir_okay=False, path_type=Path)


class Moment(click.ParamType[datetime.datetime]):
    """A time: RFC 3339, a day (its beginning here), or how long ago: 90d, 36h."""

    name = "moment"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime.datetime:
        try:
            found = datetime.datetime.fromisoformat(value)
        except ValueError:
            span = datetime.timedelta(seconds=Span().convert(value, param, ctx))
            return datetime.datetime.now(datetime.UTC) - span
        return found.astimezone(datetime.UTC)


@click.group()
def audit() -> None:
    """Verify and read the record of what was done."""


@audit.command()
@click.option("--data-dir", "given_dir", metavar="DIR", help="Read DIR's files, without a daemon.")
@click.option("--checkpoint", "files", metavar="FILE", multiple=True, type=_NOTE, help="One that was kept elsewhere.")
@client_command
def verify(session: Session, given_dir: str | None, files: tuple[Path, ...]) -> int:
    """Check the whole hash chain. Exits 10 where it does not hold.

    Asks the daemon. With --data-dir it reads the files itself, and needs no daemon and trusts none; it then exits 0 for
    valid, 1 for tampered, 2 for valid with nothing outside that vouches for it, 3 for unreadable. A checkpoint from
    elsewhere shows a tail that was cut, a rollback, and a ledger that was rewritten with all its hashes.
    """
    if given_dir is not None:
        return _verify_files(given_dir, files)
    if files:
        raise click.UsageError("--checkpoint goes with --data-dir: the daemon compares with its sinks by itself")
    result = session.client.audit_verify()
    if session.json_output:
        session.show_json(result)
    else:
        for line in _sentences(result):
            click.echo(line)
    return 0 if result.get("valid") else AUDIT_INVALID


def _verify_files(given_dir: str, files: tuple[Path, ...]) -> int:
    from fetchmld.verify import UNREADABLE, offline

    try:
        report = offline(sessions.data_dir(given_dir), [path.read_text() for path in files])
    except (OSError, ValueError) as problem:
        click.echo(f"UNREADABLE: the checkpoint: {problem}")
        return UNREADABLE
    for line in report.lines:
        click.echo(line)
    return int(report.code)


def _sentences(result: Mapping[str, Any]) -> list[str]:
    if result.get("valid"):
        gone = f" (those before {result['first_event']} were pruned)" if "first_event" in result else ""
        return [f"valid: {result.get('total_events', 0)} events{gone}, root {result.get('chain_root_hash', '')}"]
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


def _row(event: Mapping[str, Any]) -> tuple[str, ...]:
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
        gone = f"; those before {found['first_event']} were pruned" if "first_event" in found else ""
        click.echo(f"{found['root_hash']} after {found.get('total_events', 0)} events{gone}")
        click.echo(_anchored(found))


def _anchored(found: Mapping[str, Any]) -> str:
    """Who vouches for the record."""
    failing = [f"{sink['sink']}: {sink['problem']}" for sink in found.get("sinks", []) if "problem" in sink]
    if found.get("problem"):
        failing.insert(0, f"no checkpoint is made: {found['problem']}")
    if found.get("anchored"):
        said = (
            f"anchored: {found['checkpoint_size']} events are vouched for outside, {layout.local(found['anchored_at'])}"
        )
    else:
        said = "not anchored: nobody outside vouches for it (setting audit_sinks)"
    return "; ".join([said, *failing])


@audit.command()
@client_command
def checkpoint(session: Session) -> None:
    """The newest signed checkpoint: keep it elsewhere, for `audit verify` and `audit check`."""
    click.echo(session.client.audit_checkpoint(), nl=False)


@audit.command()
@click.option("--seq", type=click.IntRange(0), help="Prove that this event is in the record.")
@click.option(
    "--from", "from_size", type=click.IntRange(0), help="Prove that the record continues one of so many events."
)
@click.option("--to", "to_size", type=click.IntRange(1), help="As it was with so many events; default: as it is.")
@click.option("--checkpoint", "file", metavar="FILE", type=_NOTE, help="Against this one, which was kept elsewhere.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write it there.")
@client_command
def prove(
    session: Session,
    seq: int | None,
    from_size: int | None,
    to_size: int | None,
    file: Path | None,
    output: Path | None,
) -> None:
    """Get a proof that `audit check` accepts without a daemon: of one event (--seq), or of the record's growth (--from).

    With --checkpoint it is made for that checkpoint: the event is in its tree, or the record continues it.
    """
    size = None if file is None else _size_of(file)
    start = size if from_size is None else from_size
    if seq is not None and from_size is None:
        found: Mapping[str, Any] = session.client.audit_proof(seq, to_size if size is None else size)
    elif seq is None and start is not None:
        found = session.client.audit_consistency(start, to_size)
    else:
        raise click.UsageError("give --seq N, or --from SIZE, or --checkpoint FILE")
    text = json.dumps(found, indent=1)
    if output is None:
        click.echo(text)
    else:
        output.write_text(text + "\n")
        click.echo(f"{output}: check it with `fetchmld audit check {output} --checkpoint FILE`")


def _size_of(file: Path) -> int:
    from fetchmld.verify_merkle import read_signed

    try:
        return read_signed(file.read_text()).size
    except (OSError, ValueError) as problem:
        raise Failure(f"{file} holds no checkpoint: {problem}", INVALID) from None


@audit.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--checkpoint", "files", metavar="FILE", multiple=True, type=_NOTE, help="One that was kept elsewhere.")
@click.option("--key", metavar="KEY", default="", help="The verifier key, as it was kept elsewhere.")
def check(file: Path, files: tuple[Path, ...], key: str) -> int:
    """Check a proof from `audit prove`, without a daemon.

    Exits 0 for valid, 1 for tampered, 2 for valid with nothing from elsewhere that vouches for it, 3 for unreadable.
    """
    from fetchmld.verify import UNREADABLE
    from fetchmld.verify_proof import check_proof

    try:
        report = check_proof(file.read_text(), [path.read_text() for path in files], key)
    except (OSError, ValueError) as problem:
        click.echo(f"unreadable: {problem}")
        return UNREADABLE
    for line in report.lines:
        click.echo(line)
    return report.code


@audit.command("rotate-key")
@client_command
def rotate_key(session: Session) -> None:
    """Sign checkpoints with a new key from here on; the old one signs the first of them too, and is then removed."""
    found = session.client.rotate_audit_key()
    if session.json_output:
        session.show_json(found)
    else:
        click.echo(f"{found['verifier_key']} since event {found['sequence_num']}")


@audit.command()
@click.option("--before", type=Moment(), required=True, metavar="TIME", help="A time, a day, or an age: 90d.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@client_command
def prune(session: Session, before: datetime.datetime, dry_run: bool, yes: bool) -> None:
    """Remove the oldest part of the record for good: whole segments of it that are older than TIME.

    Their hashes stay, so what is left still verifies, and proofs of what is gone can still be checked. With it go the
    tasks that ended before. For a copy of it, copy DIR/ledger first. The setting audit_retention_days does it by itself.
    """
    text = before.isoformat().replace("+00:00", "Z")
    found = session.client.prune_audit(text, True)
    if not dry_run and found["removed_events"]:
        if not (yes or sys.stdin.isatty()):
            raise click.UsageError("say --yes: nobody is here to be asked")
        if not yes:
            click.confirm(f"{_would_go(found)}. Remove them for good?", abort=True, err=True)
        found = session.client.prune_audit(text)
    if session.json_output:
        session.show_json(found)
    elif not found["removed_events"]:
        click.echo(f"nothing goes: no whole segment is older; the record begins at event {found['first_event']}")
    else:
        click.echo(_would_go(found) + ("" if dry_run else f": removed, recorded as event {found['sequence_num']}"))


def _would_go(found: Mapping[str, Any]) -> str:
    count, until = found["removed_events"], layout.local(found.get("until"))
    last = found["first_event"] - 1
    return f"events {last - count + 1} to {last}, {found['removed_bytes'] / 2**20:.1f} MiB, the newest of {until}"
