"""A WebSocket client, as small as it can be: shakes hands, reads text messages for a moment, hangs up."""

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

LISTEN_S: Final = 1.5
TEXT, PING_MAX = 0x81, 4096


def listen(address: tuple[str, int], headers: dict[str, str]) -> tuple[int, list[Any]]:
    """The status of the handshake and the messages that came. Raises OSError where no answer came."""
    with socket.create_connection(address, timeout=10) as line:
        nonce = base64.b64encode(os.urandom(16)).decode()
        upgrade = {"Host": f"{address[0]}:{address[1]}", "Upgrade": "websocket", "Connection": "Upgrade"}
        asked = {**upgrade, "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": nonce, **headers}
        words = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
        line.sendall(f"GET /ws HTTP/1.1\r\n{words}\r\n".encode())
        with line.makefile("rb") as reader:
            first = reader.readline().split()
            if len(first) < 2:
                raise ConnectionError("no answer")
            while reader.readline().strip():
                pass
            return int(first[1]), list(_messages(line, reader)) if first[1] == b"101" else []


def _messages(line: socket.socket, reader: Any) -> Iterator[Any]:
    until = time.monotonic() + LISTEN_S
    try:
        while (left_s := until - time.monotonic()) > 0:
            line.settimeout(left_s)
            head = reader.read(2)
            if len(head) < 2:
                return
            size = head[1] & 127
            if size > 125:
                size = int.from_bytes(reader.read(2 if size == 126 else 8), "big")
            body = reader.read(size)
            if head[0] == TEXT and len(body) == size:
                yield json.loads(body)
    except OSError:
        return  # time is over, or the daemon is
