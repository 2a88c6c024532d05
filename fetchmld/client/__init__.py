"""The client library: `Client` and `AsyncClient` for programs that talk to a FetchML daemon over REST.

Plain dictionaries of the API's shapes go in and come out (`shapes` has their types). It imports nothing of the daemon,
and only the standard library until an `AsyncClient` is asked for, so that a command line built on it starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from fetchmld.client.client import Client
from fetchmld.client.errors import (
    ApiError,
    BadRequest,
    ClientError,
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    Lost,
    NotFound,
    RateLimited,
    TimedOut,
    Unauthorized,
    Unavailable,
    Unreachable,
)

if TYPE_CHECKING:
    from fetchmld.client.async_client import AsyncClient

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Client",
    "ClientError",
    "Conflict",
    "Forbidden",
    "Internal",
    "Invalid",
    "Lost",
    "NotFound",
    "RateLimited",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
]

_LATER: Final = {"AsyncClient": "fetchmld.client.async_client"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
