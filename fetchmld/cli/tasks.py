"""`ls`, `show`, `wait` and `cancel`: tasks that are there already."""

import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from fetchmld.cli import show as layout
from fetchmld.cli.arrays import place, progress
from fetchmld.cli.exits import INTERRUPTED, NOT_FINISHED, task_exit
from fetchmld.cli.ids import Id
from fetchmld.cli.session import Session, client_command
from fetchmld.cli.watch import Watch, command_line
from fetchmld.client.errors import ApiError

STATUSES = ["queued", "preparing", "running", "collecting", "completed", "failed"]


@click.command()
@click.option("--status", type=click.Choice(STATUSES), help="Only those in this state.")
@click.option("--user", metavar="USER", help="Only this user's.")
@click.option("--array", "array_id", metavar="ID", type=Id("task"), help="The elements of this array.")
@click.option(
    "--experiment",
    "experiment_id",
    metavar="ID",
    type=Id("experiment"),
    help="Those of this experiment: its id, a prefix, or its name.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out this many of the newest.")
@click.option("--at", metavar="TIME", help="As they were at this moment, RFC 3339: 2026-01-31T12:00:00Z.")
@client_command
def ls(
    session: Session,
    status: str | None,
    user: str | None,
    array_id: str | None,
    experiment_id: str | None,
    limit: int,
    offset: int,
    at: str | None,
) -> None:
    """List tasks, newest first; an array is one line."""
    array_id = session.find_id(array_id) if array_id else None
    experiment_id = _experiment(session, experiment_id) if experiment_id else None
    filters = {"status": status, "user_id": user, "at": at, "array_id": array_id, "experiment_id": experiment_id}
    page = session.client.tasks(limit=limit, offset=offset, **filters)
    if session.json_output:
        session.show_json(page)
    elif session.quiet:
        for task in page["tasks"]:
            click.echo(task["id"])
    else:
        layout.table(HEAD, [row(task) for task in page["tasks"]])
        more = page.get("total", 0) - offset - len(page["tasks"])
        if more > 0:
            _say_more(more, filters, offset + limit)


def _experiment(session: Session, experiment_id: str) -> str:
    from fetchmld.cli import experiments

    return str(experiments.find(session, experiment_id)["id"])


def _say_more(more: int, filters: dict[str, str | None], offset: int) -> None:
    flags = {"user_id": "user", "array_id": "array", "experiment_id": "experiment"}
    given = "".join(f" --{flags.get(name, name)} {value}" for name, value in filters.items() if value)
    click.echo(f"and {more} more: fetchmld ls{given} --offset {offset}", err=True)


HEAD: Final = ("ID", "NAME", "STATUS", "PRIO", "AGE", "RAN", "NOTE")


def row(task: Mapping[str, Any]) -> tuple[str, ...]:
    """One task's cells under HEAD."""
    return (
        task["id"],
        task.get("job_name", ""),
        state(task),
        str(task.get("priority", "")),
        layout.age(task.get("created_at")),
        layout.took(task.get("started_at"), task.get("ended_at")),
        task.get("error") or progress(task) or task.get("wait_reason") or "",
    )


def state(task: Mapping[str, Any]) -> str:
    """The task's status in the words of this page: a cancelled one is not shown as a failure."""
    return "cancelled" if task.get("reason") == "cancelled" else str(task.get("status", ""))


@click.command()
@click.argument("task_id", metavar="ID", type=Id("task"))
@click.option("--at", metavar="TIME", help="As it was at this moment, RFC 3339.")
@client_command
def show(session: Session, task_id: str, at: str | None) -> None:
    """Everything about one task: ID is an id, a unique prefix of one, or `last`."""
    task = session.find(task_id) if at is None else _as_it_was(session, task_id, at)
    if session.json_output:
        session.show_json(task)
    elif session.quiet:
        click.echo(task["id"])
    else:
        layout.fields(_fields(task))


def _as_it_was(session: Session, task_id: str, at: str) -> Mapping[str, Any]:
    """A task that is not listed any more can be named by its whole id."""
    try:
        return session.client.task(task_id, at=at)
    except ApiError as error:
        if error.status != 404:
            raise
    return session.client.task(session.find_id(task_id), at=at)


def _fields(task: Mapping[str, Any]) -> list[tuple[str, Any]]:
    known = {
        "id": task["id"],
        "name": task.get("job_name"),
        "status": state(task),
        "error": task.get("error"),
        "elements": progress(task),
        "element": place(task),
        "waits for": task.get("wait_reason"),
        "user": task.get("user_id"),
        "command": command_line(task),
        "priority": _priority(task),
        "asks for": _resources(task),
        "worker": task.get("worker_id"),
        "created": layout.local(task.get("created_at")),
        "started": layout.local(task.get("started_at")),
        "ended": layout.local(task.get("ended_at")),
        "ran": layout.took(task.get("started_at"), task.get("ended_at")),
        "retries": f"{task['retry_count']} of {task.get('max_retries', 0)}" if task.get("retry_count") else "",
        "left": _left(task),
        "note": task.get("detail"),
        "output": str(task.get("output", "")).rstrip(),
    }
    return list(known.items())


def _left(task: Mapping[str, Any]) -> str:
    kept = task.get("artifacts")
    return f"{kept['file_count']} files, {kept['total_bytes']} bytes (fetchmld artifacts {task['id']})" if kept else ""


def _priority(task: Mapping[str, Any]) -> str:
    aged = task.get("priority_aged")
    return f"{task.get('priority', '')}" + (f" (aged to {aged:.2f})" if aged is not None else "")


def _resources(task: Mapping[str, Any]) -> str:
    parts = [f"{task.get('cpu', 1)} cpu"]
    if task.get("memory_gb"):
        parts.append(f"{task['memory_gb']} GB")
    if task.get("gpu"):
        parts.append(f"{task['gpu']} gpu {task.get('gpu_type', '')}".rstrip())
    return ", ".join(parts)


@click.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True, type=Id("task"))
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Give up after this long (exit 101).")
@client_command
def wait(session: Session, task_ids: tuple[str, ...], timeout: float | None) -> int:
    """Wait until every ID has ended. Exits 0 if all completed, 100 if one failed, 103 if one was cancelled."""
    found = [session.find_id(task_id) for task_id in task_ids]
    watch = Watch(session, timeout)
    try:
        tasks = [watch.until_ended(task_id) for task_id in found]
    except KeyboardInterrupt:
        click.echo(f"\nNot waiting any more; to return: fetchmld wait {' '.join(found)}", err=True)
        return INTERRUPTED
    _show_ends(session, tasks)
    codes = [task_exit(task) for task in tasks]
    return next((code for code in (NOT_FINISHED, 100, 103) if code in codes), 0)


def _show_ends(session: Session, tasks: list[Mapping[str, Any]]) -> None:
    if session.json_output:
        session.show_json(tasks[0] if len(tasks) == 1 else tasks)
        return
    for task in tasks:
        click.echo(task["id"] if session.quiet else ended_line(task))


def ended_line(task: Mapping[str, Any]) -> str:
    """One line that says how a task stands: its id, state, run time and error."""
    ran = layout.took(task.get("started_at"), task.get("ended_at"))
    line = f"{task['id']} {state(task)}" + (f" after {ran}" if ran else "")
    return line + (f": {task['error']}" if task.get("error") else "")


@click.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True, type=Id("task"))
@client_command
def cancel(session: Session, task_ids: tuple[str, ...]) -> None:
    """Cancel tasks; running ones get SIGTERM, then SIGKILL after the grace period. An ended one leaves the list."""
    for task_id in task_ids:
        found = session.find(task_id)
        session.client.cancel(found["id"])
        if session.json_output:
            continue
        ended = found.get("status") in ("completed", "failed")
        click.echo(found["id"] if session.quiet else _cancelled_line(found, ended), file=sys.stdout)


def _cancelled_line(task: Mapping[str, Any], ended: bool) -> str:
    return f"{task['id']} had ended; removed from the list" if ended else f"{task['id']} is being cancelled"
