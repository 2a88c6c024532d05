"""The head's API as machines that joined use it, with the key that they all make from the join token."""

import contextlib
import hashlib
import hmac
import http.client
import threading
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from fetchmld.inner_tls import InnerConnection

TIMEOUT_S: Final = 30.0  # without progress
IDLE_MAX_S: Final = 3.0  # a connection that was not used for so long may be closed at the other end


def worker_key(join_token: str) -> str:
    """The API key of the machines that joined: whoever has the token can make it, and nobody need send it."""
    return "fml_" + hmac.new(join_token.encode(), b"fetchml worker key", hashlib.sha256).hexdigest()


class HeadHttp:
    """The head at `url`, which over https is known by `certificate` (see `inner_tls`).

    Blocks; safe for several threads. Connections are kept for a moment; `close` them in the end.
    """

    def __init__(self, url: str, key: str, certificate: str = "") -> None:
        self._url = urlsplit(url)
        self._certificate = certificate
        self._headers = {"X-API-Key": key, "Content-Type": "application/octet-stream"}
        self._lock = threading.Lock()
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []

    @contextlib.contextmanager
    def asked(
        self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, to be read inside. Raises OSError or HTTPException where there is none."""
        connection = self._take()
        try:
            connection.request(method, target, body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            yield answer
        except BaseException:
            connection.close()
            raise
        if answer.isclosed():  # read to its end
            with self._lock:
                self._idle.append((connection, time.monotonic()))
        else:
            connection.close()

    def close(self) -> None:
        """Let go of what is kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _take(self) -> http.client.HTTPConnection:
        """The one that was used last, unless that is too long ago; then all others are too old as well."""
        with self._lock:
            if self._idle and time.monotonic() - self._idle[-1][1] < IDLE_MAX_S:
                return self._idle.pop()[0]
        self.close()
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return InnerConnection(host, port, timeout=TIMEOUT_S, certificate=self._certificate)
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
