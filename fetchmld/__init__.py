"""FetchML: a self-hosted scheduler for machine-learning work, with a provable record of everything it did.

For programs: `Client`, `AsyncClient`, and `connect()` inside a Ray program of the same cluster. All are imported on first
use, because every command of the command line imports this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fetchmld.client import ApiError, AsyncClient, Client, ClientError
    from fetchmld.gateway import connect

__all__ = ["ApiError", "AsyncClient", "Client", "ClientError", "__version__", "connect"]
__version__ = "0.1.0"

_WHERE: Final = {
    "ApiError": "fetchmld.client",
    "AsyncClient": "fetchmld.client",
    "Client": "fetchmld.client",
    "ClientError": "fetchmld.client",
    "connect": "fetchmld.gateway",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
