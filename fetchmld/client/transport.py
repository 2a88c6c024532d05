"""HTTP/1.1 with kept connections, over the standard library alone.

`http.client` rather than a larger library because every command of the command line pays for the import: it takes a
third of urllib3's time, which alone would cost most of the 150 ms that a command may take to start.

A connection that the server has closed meanwhile is noticed before it is used again (it is readable though nothing was
asked), so that a POST is never sent twice here; only a GET that was cut off before any answer is asked once more.
"""

import contextlib
import http.client
import select
import threading
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from fetchmld.client.calls import Answer
from fetchmld.client.errors import Lost, TimedOut, Unreachable
from fetchmld.inner_tls import InnerConnection

CONNECT_TIMEOUT_S: Final = 5.0
KEPT_CONNECTIONS_MAX: Final = 8  # idle ones; more may be in use at once
PIECE_BYTES: Final = 64 * 1024
Body = bytes | BinaryIO | None


class Transport:
    """Connections to one address; over https to a head known by `certificate` alone, where one is given.

    Safe to use from several threads.
    """

    def __init__(self, address: str, certificate: str = "") -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unreachable(address, "an address looks like http://HOST:PORT")
        self.address = address.rstrip("/")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/")
        self._is_secure = parts.scheme == "https"
        self._certificate = certificate
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: Body, timeout_s: float) -> Answer:
        """Send one request and read its whole answer; a file as body is sent with the Content-Length that `headers` have.

        Raises `Unreachable` or `TimedOut`.
        """
        with self._errors(timeout_s):
            try:
                return self._ask_once(method, target, headers, body, timeout_s)
            except Lost:
                if method != "GET":
                    raise
                return self._ask_once(method, target, headers, body, timeout_s)

    def _ask_once(self, method: str, target: str, headers: Mapping[str, str], body: Body, timeout_s: float) -> Answer:
        connection = self._take(timeout_s)
        try:
            connection.request(method, self._prefix + target, body=body, headers=dict(headers))
            response = connection.getresponse()
            answer = Answer(response.status, _lowered(response), response.read())
        except TimeoutError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Lost(self.address, f"the connection broke ({type(error).__name__})") from None
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        return answer

    def stream(self, target: str, headers: Mapping[str, str], timeout_s: float) -> Iterator[bytes | Answer]:
        """GET a body piece by piece, as it comes; an answer of 400 and above comes whole, as an `Answer`.

        Ends where the server ended it; a body that was cut off raises `Unreachable`, `timeout_s` of silence `TimedOut`.
        """
        with self._errors(timeout_s):
            connection = self._take(timeout_s)
            with contextlib.closing(connection):
                connection.request("GET", self._prefix + target, headers=dict(headers))
                response = connection.getresponse()
                if response.status >= 400:
                    yield Answer(response.status, _lowered(response), response.read())
                    return
                while piece := response.read1(PIECE_BYTES):
                    yield piece
                if response.length:
                    raise http.client.IncompleteRead(b"", response.length)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self, timeout_s: float) -> http.client.HTTPConnection:
        while (connection := self._pop()) is not None:
            if connection.sock is not None and not _readable(connection):
                connection.sock.settimeout(timeout_s)
                return connection
            connection.close()
        connection = self._new(min(CONNECT_TIMEOUT_S, timeout_s))
        connection.connect()
        connection.sock.settimeout(timeout_s)
        return connection

    def _new(self, timeout_s: float) -> http.client.HTTPConnection:
        if not self._is_secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        if not self._certificate:
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s)
        return InnerConnection(self._host, self._port, timeout=timeout_s, certificate=self._certificate)

    def _pop(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < KEPT_CONNECTIONS_MAX:
                self._idle.append(connection)
                return
        connection.close()

    @contextlib.contextmanager
    def _errors(self, timeout_s: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise TimedOut(self.address, timeout_s) from None
        except ConnectionRefusedError:
            raise Unreachable(self.address, "nothing listens there") from None
        except http.client.HTTPException as error:
            raise Unreachable(self.address, f"the connection broke ({type(error).__name__})") from None
        except OSError as error:
            raise Unreachable(self.address, error.strerror or str(error)) from None


def _lowered(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _readable(connection: http.client.HTTPConnection) -> bool:
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
