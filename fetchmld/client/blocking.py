"""The blocking transport: HTTP/1.1 with kept connections, over the standard library alone.

`http.client` rather than a larger library because every command of the command line pays for the import: it takes a
third of urllib3's time, which alone would cost most of the 150 ms that a command may take to start.

A connection that the server has closed meanwhile is noticed before it is used again (it is readable though nothing was
asked), so that a POST is never sent twice here.
"""

import contextlib
import http.client
import select
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Final

from fetchmld.client.calls import Answer
from fetchmld.client.errors import Lost, TimedOut, Unreachable
from fetchmld.client.transport import CONNECT_TIMEOUT_S, PIECE_BYTES, Body, Place, said_of
from fetchmld.inner_tls import InnerConnection

KEPT_CONNECTIONS_MAX: Final = 8  # idle ones; more may be in use at once


class BlockingTransport:
    """A `Transport` whose coroutines never suspend. Safe to use from several threads."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    async def ask(self, method: str, target: str, headers: Mapping[str, str], body: Body, timeout_s: float) -> Answer:
        with self._errors(timeout_s):
            connection = self._take(timeout_s)
            try:
                connection.request(method, self.place.prefix + target, body=body, headers=dict(headers))
                response = connection.getresponse()
                answer = Answer(response.status, _lowered(response), response.read())
            except TimeoutError:
                connection.close()
                raise
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise Lost(self.place.address, f"the connection broke ({type(error).__name__})") from None
            except BaseException:
                connection.close()
                raise
            if response.will_close:
                connection.close()
            else:
                self._give_back(connection)
            return answer

    async def stream(self, target: str, headers: Mapping[str, str], timeout_s: float) -> AsyncGenerator[bytes | Answer]:
        with self._errors(timeout_s):
            connection = self._take(timeout_s)
            with contextlib.closing(connection):
                connection.request("GET", self.place.prefix + target, headers=dict(headers))
                response = connection.getresponse()
                if response.status >= 400:
                    yield Answer(response.status, _lowered(response), response.read())
                    return
                while piece := response.read1(PIECE_BYTES):
                    yield piece
                if response.length:
                    raise http.client.IncompleteRead(b"", response.length)

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - blocking is what it is for

    async def close(self) -> None:
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
        place = self.place
        if place.certificate:
            return InnerConnection(place.host, place.port, timeout=timeout_s, certificate=place.certificate)
        if place.tls is not None:
            return http.client.HTTPSConnection(place.host, place.port, timeout=timeout_s, context=place.tls)
        return http.client.HTTPConnection(place.host, place.port, timeout=timeout_s)

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
        address = self.place.address
        try:
            yield
        except TimeoutError:
            raise TimedOut(address, timeout_s) from None
        except http.client.HTTPException as error:
            raise Unreachable(address, f"the connection broke ({type(error).__name__})") from None
        except OSError as error:
            raise Unreachable(address, said_of(error)) from None


def _lowered(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _readable(connection: http.client.HTTPConnection) -> bool:
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
