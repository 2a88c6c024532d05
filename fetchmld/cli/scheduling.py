"""`priority`, `drain`, `undrain` and `reserve`: what the scheduler is told beside the tasks."""

from typing import Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.session import Session, client_command
from fetchmld.cli.submit import Span


@click.command()
@click.argument("task_id", metavar="ID")
@click.argument("value", metavar="PRIORITY", type=click.IntRange(1, 10))
@client_command
def priority(session: Session, task_id: str, value: int) -> None:
    """Change the priority of a queued or running task; 10 goes first."""
    task = session.client.set_priority(session.find_id(task_id), value)
    _show(session, task, f"{task['id']} has priority {task['priority']}")


@click.command()
@click.argument("worker_id", metavar="WORKER")
@client_command
def drain(session: Session, worker_id: str) -> None:
    """Place nothing more on WORKER; what runs there runs out."""
    session.client.drain(worker_id)
    if not session.json_output:
        click.echo(worker_id if session.quiet else f"{worker_id} is draining")


@click.command()
@click.argument("worker_id", metavar="WORKER")
@client_command
def undrain(session: Session, worker_id: str) -> None:
    """Let WORKER take work again."""
    _show(session, session.client.undrain(worker_id), f"{worker_id} takes work again")


@click.command()
@click.option("--gpu", "gpu_count", type=click.IntRange(1, 1024), metavar="N", help="GPUs on each worker.")
@click.option("--gpu-type", metavar="TYPE", help="Of this type; A|B for either.")
@click.option("--node-count", type=click.IntRange(1, 4096), metavar="N", help="On so many workers [1].")
@click.option("--for", "span_s", type=Span(), metavar="TIME", help="For so long: 30m, 2h [30m].")
@click.option("--at", "starts_at", metavar="WHEN", help="From this moment on, RFC 3339 [now].")
@click.option("--release", metavar="ID", help="Give this one back.")
@client_command
def reserve(session: Session, gpu_count: int | None, release: str | None, span_s: int | None, **more: Any) -> None:
    """Keep GPUs for your tasks that name the reservation; without --gpu, list what is reserved."""
    if release is not None:
        session.client.release(release)
        if not session.json_output:
            click.echo(release if session.quiet else f"{release} is given back")
    elif gpu_count is None:
        _list(session)
    else:
        request = {"gpu_count": gpu_count, **{name: value for name, value in more.items() if value is not None}}
        if span_s is not None:
            request["expires_minutes"] = max(1, -(-span_s // 60))
        made = session.client.reserve(request)
        _show(
            session,
            made,
            f"{made['id']} until {layout.local(made['expires_at'])}: submit with --reservation {made['id']}",
        )


def _list(session: Session) -> None:
    found = session.client.reservations()
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for one in found:
            click.echo(one["id"])
    else:
        head = ("ID", "STATUS", "USER", "GPUS", "HELD", "FROM", "UNTIL")
        layout.table(head, [_row(one) for one in found])


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["id"],
        one["status"],
        one["user_id"],
        f"{one['node_count']}x{one['gpu_count']} {one.get('gpu_type', '')}".rstrip(),
        str(sum(held["gpu_count"] for held in one.get("held", []))),
        layout.local(one.get("starts_at")),
        layout.local(one.get("expires_at")),
    )


def _show(session: Session, thing: dict[str, Any], line: str) -> None:
    if session.json_output:
        session.show_json(thing)
    else:
        click.echo(thing["id"] if session.quiet else line)
