"""A client with next to no cost of its own: raw sockets, prepared requests, one thread.

The machine is shared by what is measured and what measures, so whatever this spends is missing there. It reads only as
much HTTP as the daemon speaks: a status line, a Content-Length, a body.
"""

import json
import selectors
import socket
from typing import Any, Final

RECEIVE_BYTES: Final = 256 * 1024
SILENCE_S: Final = 60.0


class Answered(Exception):
    """The daemon answered with something else than success."""


def prepare(method: str, target: str, key: str, body: Any = None) -> bytes:
    """The bytes of one request."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", f"X-API-Key: {key}"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


def take(buffer: bytearray) -> tuple[int, bytes] | None:
    """The first whole answer in `buffer`, removed from it: status and body; None while it is not whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[:end]).lower()
    at = head.find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    if len(buffer) < end + 4 + length:
        return None
    body = bytes(buffer[end + 4 : end + 4 + length])
    del buffer[: end + 4 + length]
    return int(head[9:12]), body


class Wire:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def ask(self, request: bytes) -> Any:
        """Send, wait, and decode the JSON of the answer. Raises `Answered` for anything but 2xx."""
        self.socket.sendall(request)
        while (answer := take(self.buffer)) is None:
            self.receive()
        return decoded(answer)

    def receive(self) -> None:
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the daemon closed the connection")
        self.buffer += data

    def close(self) -> None:
        self.socket.close()


def decoded(answer: tuple[int, bytes]) -> Any:
    status, body = answer
    if not 200 <= status < 300:
        raise Answered(f"{status} {body.decode(errors='replace')}")
    return json.loads(body) if body else None


def post_many(port: int, request: bytes, count: int, connections: int) -> list[tuple[int, bytes]]:
    """Send `request` `count` times, one at a time on each of `connections`; the answers, not yet decoded."""
    wires = [Wire(port) for _ in range(connections)]
    answers: list[tuple[int, bytes]] = []
    sent = 0
    with selectors.DefaultSelector() as ready:
        for wire in wires:
            ready.register(wire.socket, selectors.EVENT_READ, wire)
            wire.socket.sendall(request)
            sent += 1
        while len(answers) < count:
            events = ready.select(SILENCE_S)
            if not events:
                raise TimeoutError(f"no answer within {SILENCE_S:.0f} s, after {len(answers)} of {count}")
            for found, _ in events:
                wire = found.data
                wire.receive()
                while (answer := take(wire.buffer)) is not None:
                    answers.append(answer)
                    if sent < count:
                        wire.socket.sendall(request)
                        sent += 1
    for wire in wires:
        wire.close()
    return answers
