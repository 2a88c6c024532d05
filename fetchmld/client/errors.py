"""What can go wrong between a client and the daemon.

ClientError
├── ApiError        the daemon answered with an error; `code` and `status` are the contract's
│   ├── BadRequest      BAD_REQUEST          the request cannot be read
│   ├── Unauthorized    UNAUTHORIZED         no key, or one that is not known
│   ├── Forbidden       FORBIDDEN            the key's role may not do this
│   ├── NotFound        NOT_FOUND            no such thing, or not for this key
│   ├── Conflict        CONFLICT             the thing's state forbids it
│   ├── Invalid         VALIDATION_ERROR     the content is wrong
│   ├── RateLimited     RATE_LIMITED         too many requests; `retry_after_s`
│   ├── Internal        INTERNAL_ERROR       the daemon's own fault
│   └── Unavailable     SERVICE_UNAVAILABLE  not now; `retry_after_s`
├── Unreachable     nobody answered at the address, or the connection broke
│   └── Lost            it broke after the request was sent: nobody knows whether it was carried out
├── TimedOut        somebody is there, but no answer came in time
└── CannotSnapshot  this directory cannot be a snapshot
"""

from typing import Any, Final


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


class BadRequest(ApiError):
    """400: the request cannot be read, or a query parameter is wrong."""


class Unauthorized(ApiError):
    """401: no key, or one that is not known, has expired or was revoked."""


class Forbidden(ApiError):
    """403: the key's role may not do this."""


class NotFound(ApiError):
    """404: no such thing, or not for this key."""


class Conflict(ApiError):
    """409: the state of the thing forbids it."""


class Invalid(ApiError):
    """422: the content of the request is wrong."""


class RateLimited(ApiError):
    """429: too many requests with this key."""


class Internal(ApiError):
    """500: the daemon's own fault; `trace_id` finds it in its log."""


class Unavailable(ApiError):
    """503: not now."""


BY_CODE: Final[dict[str, type[ApiError]]] = {
    "BAD_REQUEST": BadRequest,
    "UNAUTHORIZED": Unauthorized,
    "FORBIDDEN": Forbidden,
    "NOT_FOUND": NotFound,
    "CONFLICT": Conflict,
    "VALIDATION_ERROR": Invalid,
    "RATE_LIMITED": RateLimited,
    "INTERNAL_ERROR": Internal,
    "SERVICE_UNAVAILABLE": Unavailable,
}


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
