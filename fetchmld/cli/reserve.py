"""`reserve create`, `reserve ls` and `reserve release`: capacity kept for its owner's tasks."""

from collections.abc import Mapping
from typing import Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.ids import Id, pick
from fetchmld.cli.session import Session, client_command
from fetchmld.cli.submit import Span


@click.group()
def reserve() -> None:
    """Keep GPUs for your tasks that name the reservation; list reservations, or give one back."""


@reserve.command()
@click.option("--gpu", "gpu_count", type=click.IntRange(1, 1024), metavar="N", required=True, help="GPUs per worker.")
@click.option("--gpu-type", metavar="TYPE", help="Of this type; A|B for either.")
@click.option("--node-count", type=click.IntRange(1, 4096), metavar="N", help="On so many workers [1].")
@click.option("--for", "span_s", type=Span(), metavar="TIME", help="For so long: 30m, 2h [30m].")
@click.option("--at", "starts_at", metavar="WHEN", help="From this moment on, RFC 3339 [now].")
@client_command
def create(session: Session, gpu_count: int, span_s: int | None, **more: Any) -> None:
    """Keep GPUs; tasks use them by `submit --reservation ID`."""
    request = {"gpu_count": gpu_count, **{name: value for name, value in more.items() if value is not None}}
    if span_s is not None:
        request["expires_minutes"] = max(1, -(-span_s // 60))
    made = session.client.reserve(request)
    if session.json_output:
        session.show_json(made)
    elif session.quiet:
        click.echo(made["id"])
    else:
        until = layout.local(made["expires_at"])
        click.echo(f"{made['id']} until {until}: submit with --reservation {made['id']}")


@reserve.command()
@click.argument("reservation_id", metavar="ID", type=Id("reservation"))
@client_command
def release(session: Session, reservation_id: str) -> None:
    """Give a reservation back; what runs on it runs on."""
    reservation_id = str(pick("reservation", reservation_id, session.client.reservations())["id"])
    session.client.release(reservation_id)
    if not session.json_output:
        click.echo(reservation_id if session.quiet else f"{reservation_id} is given back")


@reserve.command()
@client_command
def ls(session: Session) -> None:
    """List what is reserved."""
    found = session.client.reservations()
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for one in found:
            click.echo(one["id"])
    else:
        head = ("ID", "STATUS", "USER", "GPUS", "HELD", "FROM", "UNTIL")
        layout.table(head, [_row(one) for one in found])


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        one["id"],
        one["status"],
        one["user_id"],
        f"{one['node_count']}x{one['gpu_count']} {one.get('gpu_type', '')}".rstrip(),
        str(sum(held["gpu_count"] for held in one.get("held", []))),
        layout.local(one.get("starts_at")),
        layout.local(one.get("expires_at")),
    )
