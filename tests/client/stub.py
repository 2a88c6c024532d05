"""A daemon that says what a test tells it to, over real sockets."""

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(slots=True, frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Handler = Callable[[Asked], bytes]


def answer(status: int, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a whole response with a JSON body (bytes go as they are)."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def refused(status: int, code: str, error: str = "no", headers: dict[str, str] | None = None) -> bytes:
    return answer(status, {"error": error, "code": code, "trace_id": "t-1"}, headers)


def chunked(*pieces: bytes, whole: bool = True) -> bytes:
    """A chunked response; cut off before its end where it is not `whole`."""
    head = b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + (b"0\r\n\r\n" if whole else b"")


CLOSE = b""  # as an answer: hang up without a word


@dataclass(slots=True)
class Stub:
    """Answers by `handlers`, {"METHOD /path": bytes, a handler, or a list of them, one after the other}."""

    handlers: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    close_after: bool = False  # close each connection after its first answer, without having said so
    connections: int = 0
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            while (asked := _read(reader)) is not None:
                self.asked.append(asked)
                said = self._answer(asked)
                connection.sendall(said)
                if said == CLOSE or (not said.endswith(b"\r\n\r\n") and b"chunked" in said[:80]) or self.close_after:
                    return

    def _answer(self, asked: Asked) -> bytes:
        key = f"{asked.method} {asked.target.partition('?')[0]}"
        handler = self.handlers.get(key)
        if isinstance(handler, list):
            handler = handler.pop(0) if len(handler) > 1 else handler[0]
        if handler is None:
            return refused(404, "NOT_FOUND", f"no {key}")
        return handler if isinstance(handler, bytes) else bytes(handler(asked))


def _read(reader: Any) -> Asked | None:
    try:
        first = reader.readline().split()
        headers: dict[str, str] = {}
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
    except OSError:
        return None
    if len(first) != 3:
        return None
    body = reader.read(int(headers.get("content-length", 0)))
    return Asked(first[0].decode(), first[1].decode(), headers, body)
