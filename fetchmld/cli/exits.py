"""Exit codes, and the one place that turns an error into one.

0 done · 1 server error · 2 usage · 3 not found · 4 not allowed · 5 invalid or conflict · 6 unreachable or 503 ·
7 rate-limited · 8 time-out · 10 audit invalid · 100 task failed · 101 not finished · 103 cancelled · 130 Ctrl-C
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import click

from fetchmld.client.errors import ApiError, ClientError, TimedOut, Unreachable

SERVER_ERROR: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
NOT_ALLOWED: Final = 4
INVALID: Final = 5
UNREACHABLE: Final = 6
RATE_LIMITED: Final = 7
TIMED_OUT: Final = 8
AUDIT_INVALID: Final = 10
TASK_FAILED: Final = 100
NOT_FINISHED: Final = 101
CANCELLED: Final = 103
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

_BY_STATUS: Final = {
    400: INVALID,
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    409: INVALID,
    413: INVALID,
    422: INVALID,
    429: RATE_LIMITED,
    503: UNREACHABLE,
}


class Failure(click.ClickException):
    """A failed command: one sentence on stderr, or with --json an ErrorResponse, and its exit code."""

    def __init__(self, message: str, code: int, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = body
        context = click.get_current_context(silent=True)
        self.json_output = bool(context and getattr(context.obj, "json_output", False))

    def show(self, file: Any = None) -> None:
        if self.json_output:
            body = self.body or {"error": self.message, "code": _code_word(self.code), "trace_id": ""}
            click.echo(json.dumps(body), err=True)
        else:
            click.echo(f"fetchmld: {self.message}", err=True)


def failure(error: ClientError) -> Failure:
    """The `Failure` that says `error` to the user."""
    if isinstance(error, ApiError):
        return Failure(_say(error), _BY_STATUS.get(error.status, SERVER_ERROR), error.body)
    if isinstance(error, Unreachable):
        return Failure(
            f"{error}. Is it running? Start one with `fetchmld start --head`, or set FETCHML_ADDRESS to where it is.",
            UNREACHABLE,
        )
    if isinstance(error, TimedOut):
        return Failure(f"{error}. Try again, or look at `fetchmld status`.", TIMED_OUT)
    return Failure(str(error), SERVER_ERROR)


def task_exit(task: Mapping[str, Any]) -> int:
    """The exit code that says how `task` stands."""
    if task.get("status") == "completed":
        return 0
    if task.get("status") != "failed":
        return NOT_FINISHED
    return CANCELLED if task.get("reason") == "cancelled" else TASK_FAILED


def _say(error: ApiError) -> str:
    if error.status == 401:
        return (
            f"{error}. Set FETCHML_API_KEY, or name the data directory that has the key: `fetchmld --data-dir DIR ...`."
        )
    if error.status == 429 and error.retry_after_s:
        return f"{error}. Try again in {error.retry_after_s} s."
    if error.status >= 500 and error.trace_id:
        return f"{error} (trace {error.trace_id})"
    return str(error)


def _code_word(exit_code: int) -> str:
    words = {
        NOT_FOUND: "NOT_FOUND",
        NOT_ALLOWED: "FORBIDDEN",
        INVALID: "VALIDATION_ERROR",
        RATE_LIMITED: "RATE_LIMITED",
    }
    return words.get(exit_code, "SERVICE_UNAVAILABLE" if exit_code in (UNREACHABLE, TIMED_OUT) else "INTERNAL_ERROR")
