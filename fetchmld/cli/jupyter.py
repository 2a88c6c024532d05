"""`jupyter start`, `jupyter ls` and `jupyter stop`."""

import time
from collections.abc import Mapping
from typing import Any, Final

import click

from fetchmld.cli import show as layout
from fetchmld.cli.exits import INTERRUPTED, TASK_FAILED, TIMED_OUT, Failure
from fetchmld.cli.ids import Id, pick
from fetchmld.cli.session import Session, client_command
from fetchmld.cli.submit import Span

POLL_S: Final = 0.5
_OVER: Final = ("stopped", "error")


@click.group()
def jupyter() -> None:
    """Start, list and stop JupyterLab servers on the workers."""


@jupyter.command()
@click.argument("name", metavar="[NAME]", default="jupyter")
@click.option("--workspace", metavar="NAME", help="The directory to be in; it stays [default].")
@click.option("--image", metavar="IMAGE", help="Run a container image's JupyterLab [the worker's own].")
@click.option("--cpu", type=click.IntRange(0, 4096), metavar="N", help="Cores kept for it [none: what is idle].")
@click.option("--memory-gb", type=click.IntRange(0, 65_536), metavar="N", help="Memory kept for it, GB.")
@click.option("--gpu", type=click.IntRange(0, 1024), metavar="N", help="GPUs.")
@click.option("--gpu-type", metavar="TYPE", help="Of this type; A|B for either.")
@click.option("--time-limit", "time_limit_s", type=Span(), metavar="TIME", help="Stop it after so long: 8h.")
@click.option("--timeout", type=Span(), metavar="TIME", help="Wait no longer than this; it goes on starting.")
@click.option("--detach", is_flag=True, help="Do not wait until it answers.")
@client_command
def start(session: Session, timeout: int | None, detach: bool, **asked: Any) -> int | None:
    """Start a server, and wait until it answers. The first one on a worker installs JupyterLab there."""
    request = {name: value for name, value in asked.items() if value is not None}
    found: Mapping[str, Any] = session.client.start_service(request)
    try:
        if not detach:
            found = _until_it_answers(session, found, timeout)
    except KeyboardInterrupt:
        click.echo(f"\nNot waiting any more; it goes on: fetchmld jupyter ls, jupyter stop {found['id']}", err=True)
        return INTERRUPTED
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        click.echo(found["id"])
    else:
        click.echo(_said(found))
    return None


def _until_it_answers(session: Session, found: Mapping[str, Any], timeout_s: int | None) -> Mapping[str, Any]:
    """The service once it runs. Says on the way what it waits for, and what is installed."""
    until, told, offset = time.monotonic() + (timeout_s or float("inf")), "", 0
    while found["status"] == "starting":
        if time.monotonic() > until:
            raise Failure(f"service {found['id']} did not answer within {timeout_s} s; it goes on starting", TIMED_OUT)
        if (reason := found.get("reason", "")) != told and reason:
            click.echo(reason, err=True)
        told = reason
        offset = _tell_progress(session, found, offset)
        time.sleep(POLL_S)
        found = session.client.service(found["id"])
    if found["status"] != "running":
        raise Failure(f"service {found['id']}: {found['status']}: {found.get('reason', '')}", TASK_FAILED)
    return found


def _tell_progress(session: Session, found: Mapping[str, Any], offset: int) -> int:
    """What its worker does before it starts it, as its log says it."""
    if "started_at" not in found or session.quiet or session.json_output:
        return offset
    said = b"".join(session.client.logs(found["id"], offset=offset))
    for line in said.decode("utf-8", "replace").splitlines():
        if line.startswith("[fetchmld] "):
            click.echo(line, err=True)
    return offset + len(said)


def _said(found: Mapping[str, Any]) -> str:
    if "url" not in found:
        return f"{found['id']} {found['status']}"
    page = f"/jupyter/{found['id']}/lab"
    return f"{found['id']} running at {found['url']}\nlog a browser in:  fetchmld ui --page {page}"


@jupyter.command()
@client_command
def ls(session: Session) -> None:
    """List servers, newest first."""
    found = session.client.services()
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for one in found:
            click.echo(one["id"])
    else:
        layout.table(("ID", "NAME", "STATUS", "USER", "WORKSPACE", "AGE", "NOTE"), [_row(one) for one in found])


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    note = one.get("url") or one.get("reason", "")
    return (
        one["id"],
        one["name"],
        one["status"],
        one["user_id"],
        one["workspace"],
        layout.age(one["created_at"]),
        note,
    )


@jupyter.command()
@click.argument("service_ids", metavar="ID...", nargs=-1, required=True, type=Id("service"))
@client_command
def stop(session: Session, service_ids: tuple[str, ...]) -> None:
    """Stop servers; what is in their workspaces stays. A stopped one leaves the list."""
    for service_id in service_ids:
        found = pick("service", service_id, session.client.services())
        session.client.stop_service(found["id"])
        if session.json_output:
            continue
        how = "has left the list" if found["status"] in _OVER else "stops"
        click.echo(found["id"] if session.quiet else f"{found['id']} {how}")
