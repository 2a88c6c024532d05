"""What a machine that joined sends the head of its tasks' output, and the form it travels in.

A shipment is a sequence of pieces, each `u32 length of the head, head as JSON, data`. A piece is either bytes of a file
from an offset on, or says that a file of the head has another name now (`was`), or is not needed any more (`gone`). Files
are named as `runner.logs` names them, but for `live/<task>-<attempt>-<rank>.log`: output of an attempt that is not over.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from fetchmld.core.errors import BadRequest

PIECES_MAX: Final = 10_000
_LENGTH: Final = struct.Struct("<I")
_HEAD_BYTES_MAX: Final = 2048
_FILE: Final = re.compile(r"segments/[0-9]{1,12}\.seg|(?:whole|live)/[A-Za-z0-9_.-]{1,200}\.log")


@dataclass(slots=True, frozen=True)
class Piece:
    """`data` is at `offset` of `file`. `was`: until now the file had this name. `gone`: it is not needed any more."""

    file: str
    offset: int = 0
    data: bytes = b""
    was: str = ""
    gone: bool = False


def pack(pieces: Iterable[Piece]) -> bytes:
    """The shipment's bytes."""
    out = bytearray()
    for piece in pieces:
        fields = {"file": piece.file, "offset": piece.offset, "length": len(piece.data)}
        head = json.dumps({**fields, "was": piece.was, "gone": piece.gone}).encode()
        out += _LENGTH.pack(len(head)) + head + piece.data
    return bytes(out)


def unpack(shipment: bytes) -> Iterator[Piece]:
    """Its pieces. Raises `BadRequest` for anything that `pack` does not make."""
    at = 0
    for _ in range(PIECES_MAX):
        if at >= len(shipment):
            return
        try:
            piece, at = _piece(shipment, at)
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise BadRequest(f"this is no shipment of logs: {error}") from None
        yield piece
    raise BadRequest(f"a shipment has at most {PIECES_MAX} pieces")


def _piece(shipment: bytes, at: int) -> tuple[Piece, int]:
    (length,) = _LENGTH.unpack_from(shipment, at)
    begin = at + _LENGTH.size
    if length > _HEAD_BYTES_MAX:
        raise ValueError(f"a head of {length} bytes")
    head = json.loads(shipment[begin : begin + length])
    end = begin + length + int(head["length"])
    piece = Piece(head["file"], int(head["offset"]), shipment[begin + length : end], head["was"], bool(head["gone"]))
    for name in (piece.file, *filter(None, (piece.was,))):
        check_file(name)
    if end > len(shipment) or piece.offset < 0 or int(head["length"]) < 0:
        raise ValueError("a piece that is not all there")
    return piece, end


def check_file(name: str) -> None:
    """Raises ValueError for anything but the name of a log's file."""
    if not _FILE.fullmatch(name) or ".." in name:
        raise ValueError(f"{name[:200]!r} is no file of a log")


def live_name(attempt: str) -> str:
    """The file of an attempt that is not over; `attempt`: "<task>-<attempt>-<rank>"."""
    return f"live/{attempt}.log"
