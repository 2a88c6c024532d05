"""What can go wrong between a client and the daemon.

ClientError
├── ApiError       the daemon answered with an error; `code` and `status` are the contract's
├── Unreachable    nobody answered at the address, or the connection broke
│   └── Lost       it broke after the request was sent: nobody knows whether it was carried out
├── TimedOut       somebody is there, but no answer came in time
└── CannotSnapshot this directory cannot be a snapshot
"""

from typing import Any


class ClientError(Exception):
    """Base of every error that the client raises by itself."""


class CannotSnapshot(ClientError):
    """This directory cannot be a snapshot; says which file is in the way and what to do."""


class ApiError(ClientError):
    """The daemon's ErrorResponse. `retry_after_s` is what a 429 or 503 asked to wait, else None."""

    def __init__(self, status: int, body: dict[str, Any], retry_after_s: int | None = None) -> None:
        super().__init__(status, body, retry_after_s)
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s

    @property
    def code(self) -> str:
        return str(self.body.get("code", ""))

    @property
    def trace_id(self) -> str:
        return str(self.body.get("trace_id", ""))

    def __str__(self) -> str:
        return str(self.body.get("error") or f"the daemon answered {self.status}")


class Unreachable(ClientError):
    """Nobody answered at `address`."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why

    def __str__(self) -> str:
        return f"cannot reach a daemon at {self.address}: {self.why}"


class Lost(Unreachable):
    """The connection to `address` broke while the answer was awaited."""


class TimedOut(ClientError):
    """No answer from `address` within `timeout_s`."""

    def __init__(self, address: str, timeout_s: float) -> None:
        super().__init__(address, timeout_s)
        self.address = address
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"no answer from {self.address} within {self.timeout_s:g} s"
