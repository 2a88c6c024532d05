"""The client library: `Client` for programs that talk to a FetchML daemon over REST.

Plain dictionaries of the contract's shapes go in and come out. It imports nothing of the daemon, and only the standard
library, so that a command line built on it starts fast.
"""

from fetchmld.client.client import Client
from fetchmld.client.errors import ApiError, ClientError, Lost, TimedOut, Unreachable

__all__ = ["ApiError", "Client", "ClientError", "Lost", "TimedOut", "Unreachable"]
