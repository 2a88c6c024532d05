"""`priority`, `drain`, `undrain` and `release-gpu`: what the scheduler is told about what is there already."""

from collections.abc import Mapping
from typing import Any

import click

from fetchmld.cli.ids import Id, pick
from fetchmld.cli.session import Session, client_command


@click.command()
@click.argument("task_id", metavar="ID", type=Id("task"))
@click.argument("value", metavar="PRIORITY", type=click.IntRange(1, 10))
@client_command
def priority(session: Session, task_id: str, value: int) -> None:
    """Change the priority of a queued or running task; 10 goes first."""
    task = session.client.set_priority(session.find_id(task_id), value)
    _show(session, task, f"{task['id']} has priority {task['priority']}")


@click.command()
@click.argument("worker_id", metavar="WORKER", type=Id("worker"))
@client_command
def drain(session: Session, worker_id: str) -> None:
    """Place nothing more on WORKER; what runs there runs out."""
    worker_id = _worker(session, worker_id)
    session.client.drain(worker_id)
    if not session.json_output:
        click.echo(worker_id if session.quiet else f"{worker_id} is draining")


@click.command()
@click.argument("worker_id", metavar="WORKER", type=Id("worker"))
@client_command
def undrain(session: Session, worker_id: str) -> None:
    """Let WORKER take work again."""
    worker_id = _worker(session, worker_id)
    _show(session, session.client.undrain(worker_id), f"{worker_id} takes work again")


@click.command("release-gpu")
@click.argument("worker_id", metavar="WORKER", type=Id("worker"))
@click.argument("index", metavar="INDEX", type=click.IntRange(0))
@client_command
def release_gpu(session: Session, worker_id: str, index: int) -> None:
    """Use the GPU INDEX of WORKER again, which failed and is in quarantine. A new fault puts it there again."""
    worker_id = _worker(session, worker_id)
    _show(session, session.client.release_gpu(worker_id, index), f"GPU {index} of {worker_id} is in use again")


def _worker(session: Session, given: str) -> str:
    return str(pick("worker", given, session.client.workers(), ("id", "hostname"))["id"])


def _show(session: Session, thing: Mapping[str, Any], line: str) -> None:
    if session.json_output:
        session.show_json(thing)
    else:
        click.echo(thing["id"] if session.quiet else line)
