"""Is Ray really closed to who has no token? Asked as a stranger would: one gRPC call without credentials.

Ray is told to want a token (`ray_commands`), and a version of it that did not listen would say nothing. So each start asks.
Machines that joined ask in the same way, with the token, whether Ray is still the one that they joined: to load its library
would be the end of them (`ray_join`).
Speaks as much of HTTP/2 (RFC 9113) and HPACK (RFC 7541) as one call takes, with the standard library alone.
"""

import socket
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final

ASK_MAX_S: Final = 5.0
FRAMES_MAX: Final = 64
FRAME_BYTES_MAX: Final = 2**14
# What a driver asks first; any of the GCS's would do.
OF_GCS: Final = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
CLUSTER_ID: Final = "/ray.rpc.NodeInfoGcsService/GetClusterId"

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 1, 4


def answers_strangers(host: str, port: int, method: str = OF_GCS, token: str = "") -> bool:
    """Does the server do what it is asked for? `token`: for those who want to see that it would. Raises OSError."""
    with socket.create_connection((host, port), ASK_MAX_S) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _call(f"{host}:{port}", method, token))
        for kind, flags, _ in _frames(connection):
            if kind == _DATA:
                return True  # a message: whoever is refused gets a status alone
            if _is_refusal(kind, flags):
                return False
    return False


def is_cluster(host: str, port: int, cluster_id: str, token: str) -> bool:
    """Is it that cluster which answers there, to who has this token? Raises OSError where nobody says."""
    with socket.create_connection((host, port), ASK_MAX_S) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _call(f"{host}:{port}", CLUSTER_ID, token))
        for kind, flags, payload in _frames(connection):
            if kind == _DATA:
                return bytes.fromhex(cluster_id) in payload
            if _is_refusal(kind, flags):
                return False
    raise ConnectionError(f"{host} port {port} hung up")


def _is_refusal(kind: int, flags: int) -> bool:
    return kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and bool(flags & _END_STREAM))


def speaks_grpc(host: str, port: int) -> bool:
    """Does what answers there begin as every such server does, with its settings? An API or another program does not."""
    try:
        with socket.create_connection((host, port), ASK_MAX_S) as connection:
            connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
            return any(kind == _SETTINGS for kind, _, _ in islice(_frames(connection), 1))
    except OSError:
        return False


def _call(authority: str, method: str, token: str) -> bytes:
    """A call with an empty message, on stream 1."""
    credentials = b"\x00" + _text("authorization") + _text(f"Bearer {token}") if token else b""
    block = (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04" + _text(method)
        + b"\x01" + _text(authority)
        + b"\x0f\x10" + _text("application/grpc")
        + b"\x00" + _text("te") + _text("trailers")
        + credentials
    )  # fmt: skip
    return _frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, bytes(5))


def _text(text: str) -> bytes:
    """A string literal, not Huffman-coded. Of 0 to 253 bytes, with a length of one or two bytes."""
    raw = text.encode("ascii")
    return (bytes((len(raw),)) if len(raw) < 127 else bytes((127, len(raw) - 127))) + raw


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _frames(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and content of what comes, until the other side closes or has said too much."""
    with connection.makefile("rb") as stream:
        for _ in range(FRAMES_MAX):
            head = stream.read(9)
            if len(head) < 9:
                return
            length = int.from_bytes(head[:3])
            if length > FRAME_BYTES_MAX or len(payload := stream.read(length)) < length:
                return
            yield head[3], head[4], payload
