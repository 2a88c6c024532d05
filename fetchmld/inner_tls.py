"""How our own programs know the head over TLS, whatever certificate it shows to everybody else.

The head makes a certificate of its own at its first start. Who names `NAME` in its handshake is shown that one; joined
machines are handed it over Ray's channel, and the command line on the head's machine finds it in the data directory. So
the public certificate may be renewed, or be for a name that these do not use, and nobody goes unverified. Imports nothing
of the house: the client, the store and the daemon use it.
"""

import http.client
import socket
import ssl
from typing import Final

NAME: Final = "head.fetchml.internal"


def context(certificate: str) -> ssl.SSLContext:
    """Trusts `certificate` (PEM) and nothing else; name `NAME` as the server's in the handshake."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.load_verify_locations(cadata=certificate)
    return found


class InnerConnection(http.client.HTTPSConnection):
    """HTTPS to the head at any address of its."""

    def __init__(self, host: str, port: int | None, *, timeout: float, certificate: str) -> None:
        self._inner = context(certificate)
        super().__init__(host, port, timeout=timeout, context=self._inner)

    def connect(self) -> None:
        """Connect, and shake hands under the inner name. Raises OSError (ssl.SSLError among them)."""
        http.client.HTTPConnection.connect(self)
        plain: socket.socket = self.sock
        try:
            self.sock = self._inner.wrap_socket(plain, server_hostname=NAME)
        except BaseException:
            plain.close()
            raise
