"""The runner's wire format: frames of `u32 length, JSON list of messages`, little-endian. Standard library only.

The other side of it is the agent; `channel` is not used here because the runner must stay small and start fast.
"""

import json
import struct
from collections.abc import Callable
from typing import Any, Final

FRAME_BYTES_MAX: Final = 64 * 2**20

_LENGTH = struct.Struct("<I")
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode

Message = dict[str, Any]


class FrameError(ValueError):
    """The other side sent what no program of ours sends."""


def dumps(messages: list[Message]) -> bytes:
    return _encode(messages).encode("ascii")


def encode(messages: list[Message], write: Callable[[list[Message]], bytes] = dumps) -> bytes:
    """One frame that holds all of `messages`. `write` may be any writer of JSON."""
    body = write(messages)
    return _LENGTH.pack(len(body)) + body


def encode_line(records: Message | list[Message]) -> str:
    """One JSON line, as the journal has them."""
    return _encode(records) + "\n"


class Decoder:
    """Turns received bytes into messages, whatever the pieces they come in."""

    def __init__(self, read: Callable[[bytes], Any] = json.loads) -> None:
        """`read` may be any reader of JSON that raises ValueError."""
        self._read = read
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes. Raises `FrameError` on bytes that are no frame of ours."""
        self._received += data
        messages: list[Message] = []
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > FRAME_BYTES_MAX:
                raise FrameError(f"a frame of {length} bytes; the bound is {FRAME_BYTES_MAX}")
            end = _LENGTH.size + length
            if len(self._received) < end:
                break
            messages += self._decode(bytes(self._received[_LENGTH.size : end]))
            del self._received[:end]
        return messages

    def _decode(self, body: bytes) -> list[Message]:
        try:
            messages = self._read(body)
        except ValueError as error:
            raise FrameError(f"not JSON: {error}") from None
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise FrameError("a frame must hold a list of objects")
        return messages
