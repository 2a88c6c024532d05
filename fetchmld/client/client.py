"""The blocking client."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fetchmld.client.blocking import BlockingTransport
from fetchmld.client.line import Line
from fetchmld.client.methods import Blocking
from fetchmld.client.table import Methods
from fetchmld.client.transport import Place

if TYPE_CHECKING:
    from fetchmld.client.shapes import Snapshot

ADDRESS_DEFAULT: Final = "http://127.0.0.1:9101"
TIMEOUT_S: Final = 30.0
RETRY_S: Final = 30.0


def given_place(address: str | None, ca_file: str | None, certificate: str) -> Place:
    """Where the daemon is, by what was given, else the environment, else on this machine."""
    found = address or os.environ.get("FETCHML_ADDRESS") or ADDRESS_DEFAULT
    return Place(found, ca_file or os.environ.get("FETCHML_CA_FILE") or None, certificate)


def given_key(api_key: str | None) -> str:
    return api_key or os.environ.get("FETCHML_API_KEY") or ""


class Client(Methods, Blocking):
    """A daemon, as one blocking caller sees it. Safe to use from several threads.

    `address` is the daemon's URL (else `FETCHML_ADDRESS`, else loopback), `api_key` its key (else `FETCHML_API_KEY`),
    `ca_file` who vouches for an https address, beside what this machine trusts (else `FETCHML_CA_FILE`); or it is
    known by `certificate` alone (PEM), the one that a head has for programs on its own machine (`daemon.json`). `timeout_s`
    bounds the wait for an answer, not counting what the server was asked to wait; for up to `retry_s` what the daemon
    refuses for now is asked again when it says to. Raises `ApiError` (one class per code), `Unreachable`, `TimedOut`.
    """

    def __init__(
        self,
        address: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        *,
        retry_s: float = RETRY_S,
        ca_file: str | None = None,
        certificate: str = "",
    ) -> None:
        place = given_place(address, ca_file, certificate)
        self.address = place.address
        self.line = Line(BlockingTransport(place), given_key(api_key), timeout_s, retry_s)

    def push(
        self, directory: str | Path, on_progress: Callable[[int, int], object] = lambda _done, _all: None
    ) -> "Snapshot":
        """Make a snapshot of a directory, sending only what is not there yet; its `id` goes into a request's `snapshot_id`.

        `on_progress` is told how many bytes of how many have been sent. Raises `client.errors.CannotSnapshot` as well.
        """
        from fetchmld.client.push import push

        return push(self, directory, on_progress)

    def pull(self, snapshot_id: str, directory: str | Path) -> "Snapshot":
        """Write a snapshot's files below a directory that is new or empty; the Snapshot."""
        from fetchmld.client.push import pull

        return pull(self, snapshot_id, directory)

    def close(self) -> None:
        self.run(self.line.transport.close())

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<fetchmld.Client of {self.address}>"
