"""Waiting with something to look at: a spinner on stderr with the live reason, where stderr is a terminal."""

import itertools
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from fetchmld.cli.session import Session

FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME_S: Final = 0.1
ANSWER_EVERY_S: Final = 5.0  # how old the shown reason may be


class Spinner:
    """A line on stderr that turns while something is waited for; nothing where stderr is no terminal."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._turn, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _turn(self) -> None:
        for frame in itertools.cycle(FRAMES):
            sys.stderr.write(f"\r\x1b[K{frame} {self.text}")
            sys.stderr.flush()
            if self._stop.wait(FRAME_S):
                return


class Watch:
    """Waits for tasks, one deadline for all of them."""

    def __init__(self, session: Session, timeout_s: float | None = None) -> None:
        self._session = session
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def until_ended(self, task_id: str) -> Mapping[str, Any]:
        """The Task once it has ended, or as it is when the time is up."""
        left_s = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        with Spinner(f"{task_id} waiting") as spinner:

            def on_answer(task: Mapping[str, Any]) -> None:
                spinner.text = waiting_line(task)

            return self._session.client.wait(task_id, left_s, on_answer, ANSWER_EVERY_S)


def waiting_line(task: Mapping[str, Any]) -> str:
    """What a waiting user wants to know: the state, and why it is still queued."""
    reason = task.get("wait_reason") or _prepared_for(task)
    return f"{task['id']} {task.get('status')}" + (f": {reason}" if reason else "")


def _prepared_for(task: Mapping[str, Any]) -> str:
    """The last that was said of what a task needs, before it runs."""
    lines = str(task.get("output", "")).splitlines() if task.get("status") == "preparing" else []
    return lines[-1].removeprefix("[fetchmld] ") if lines else ""


def command_line(task: Mapping[str, Any]) -> str:
    """The task's program and arguments as they would be typed."""
    parts = [str(task.get("entrypoint", "")), str(task.get("args", ""))]
    return " ".join(part for part in parts if part)


def typed(words: tuple[str, ...]) -> tuple[str, str]:
    """A typed command as (entrypoint, args): both are split like a shell would when the task starts."""
    return shlex.quote(words[0]), shlex.join(words[1:])
