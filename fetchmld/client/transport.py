"""What carries requests: the interface that the client's methods are written against, and where a daemon is.

Methods are coroutines, once for both clients. The blocking transport's never suspend, so they end in their first step
and need no event loop; the asynchronous one's are awaited.
"""

import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import BinaryIO, Final, Protocol
from urllib.parse import urlsplit

from fetchmld.client.calls import Answer
from fetchmld.client.errors import Unreachable
from fetchmld.inner_tls import context

CONNECT_TIMEOUT_S: Final = 5.0
PIECE_BYTES: Final = 64 * 1024
Body = bytes | BinaryIO | None


class Place:
    """A daemon's address, taken apart. `ca_file` (PEM) vouches for an https one, beside what this machine trusts; or it is
    known by `certificate` alone, the one that a head has for programs on its own machine.

    Raises `Unreachable` for what is no address, and for a `ca_file` that cannot be read.
    """

    def __init__(self, address: str, ca_file: str | None = None, certificate: str = "") -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unreachable(address, "an address looks like http://HOST:PORT or https://HOST:PORT")
        self.address = address.rstrip("/")
        self.is_secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.is_secure else 80)
        self.prefix = parts.path.rstrip("/")
        self.certificate = certificate if self.is_secure else ""
        self.tls = _tls(address, ca_file, certificate) if self.is_secure else None


def _tls(address: str, ca_file: str | None, certificate: str) -> ssl.SSLContext:
    if certificate:
        return context(certificate)
    found = ssl.create_default_context()
    if ca_file is not None:
        try:
            found.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Unreachable(address, f"cannot read the CA file {ca_file}: {error.strerror or error}") from None
    return found


def said_of(error: OSError) -> str:
    """Why a connection failed, in words that help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); FETCHML_CA_FILE names a CA file that vouches"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it speaks no TLS; try http:// instead of https://"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    return error.strerror or str(error)


class Transport(Protocol):
    """Connections to one place. An answer of whatever status is an answer; everything else raises `ClientError`."""

    place: Place

    async def ask(self, method: str, target: str, headers: Mapping[str, str], body: Body, timeout_s: float) -> Answer:
        """Send one request and read its whole answer; a file as body is sent with the Content-Length of `headers`.

        Raises `Unreachable` (`Lost` where it broke after the request was sent) or `TimedOut`.
        """
        ...

    def stream(self, target: str, headers: Mapping[str, str], timeout_s: float) -> AsyncGenerator[bytes | Answer]:
        """GET a body piece by piece, as it comes; an answer of 400 and above comes whole, as an `Answer`.

        Ends where the server ended it; a body that was cut off raises `Unreachable`, `timeout_s` of silence `TimedOut`.
        """
        ...

    async def pause(self, seconds: float) -> None: ...

    async def close(self) -> None: ...
