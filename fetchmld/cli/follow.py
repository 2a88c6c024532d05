"""Following a task's output to the task's end, through retries, restarts of the daemon and broken connections."""

import time
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import click

from fetchmld.cli.session import Session
from fetchmld.cli.watch import Spinner, waiting_line
from fetchmld.client.errors import ClientError
from fetchmld.client.patience import Patience
from fetchmld.client.tasks import ENDED

POLL_FIRST_S: Final = 0.02
POLL_MAX_S: Final = 0.5
SETTLE_S: Final = 5.0  # one wait for the end after the output's


def follow_to_end(session: Session, task_id: str, out: BinaryIO) -> Mapping[str, Any]:
    """Copy every attempt's output to `out` as it is written; the Task once it has ended."""
    task = _until_started(session, task_id, 0)
    while task.get("attempt", 0):
        attempt = int(task["attempt"])
        for piece in session.client.logs(task_id, follow=True, attempt=attempt):
            out.write(piece)
            out.flush()
        task = _until_started(session, task_id, attempt)
        if task.get("attempt", 0) <= attempt:
            break
        click.echo(f"fetchmld: attempt {task['attempt']} begins", err=True)
    return task


def _until_started(session: Session, task_id: str, attempt: int) -> Mapping[str, Any]:
    """The Task once it has begun an attempt later than `attempt`, or has ended."""
    pause_s, patience = POLL_FIRST_S, Patience()
    with Spinner(f"{task_id} queued") as spinner:
        while True:
            try:
                task = session.client.task(task_id, wait_s=SETTLE_S if attempt else None)
            except ClientError as error:
                patience.again(error)
                continue
            patience.reset()
            if task.get("status") in ENDED or task.get("attempt", 0) > attempt:
                return task
            spinner.text = waiting_line(task)
            if not attempt:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, POLL_MAX_S)
