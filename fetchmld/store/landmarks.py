"""The two small files beside the segments: what the chain grew from, and how far it was once known to reach.

`genesis.json` is written last when a ledger is made, so its presence says that there was one. `head` is written at
rotation and shutdown only; between those it lags behind, and what it names must be there for ever.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from fetchmld.core.chain import Genesis
from fetchmld.store.segment import sync_directory, write_at

GENESIS_NAME: Final = "genesis.json"
HEAD_NAME: Final = "head"
_HEX_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Head:
    """Events below `next_seq` are acknowledged; `event_hash` is the last one's, or the genesis hash before event 0."""

    next_seq: int
    event_hash: bytes
    segment: int  # first sequence number of the segment that was written to
    offset: int  # where in it the next frame goes


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two frames: all events below `seq` lie before it. Where a walk along the chain may begin."""

    seq: int
    event_hash: bytes  # of event `seq - 1`
    segment: int  # first sequence number of the segment that has that event
    offset: int  # in it, behind that event's frame
    at_us: int  # times of that event
    clock_us: int


def genesis_text(genesis: Genesis) -> str:
    """The only spelling of `genesis.json`: an edit that changes no meaning shows, too."""
    return _text({**asdict(genesis), "public_key": genesis.public_key.hex()})


def read_genesis(directory: Path) -> Genesis:
    """Raises FileNotFoundError, or ValueError where the file is not as it was written."""
    text = _read(directory / GENESIS_NAME)
    fields = _fields(text, {"installation": str, "created_us": int, "public_key": str})
    genesis = Genesis(fields["installation"], fields["created_us"], bytes.fromhex(fields["public_key"]))
    if genesis_text(genesis) != text:
        raise ValueError(f"{GENESIS_NAME} is not as it was written")
    return genesis


def write_genesis(directory: Path, genesis: Genesis) -> None:
    replace_file(directory / GENESIS_NAME, genesis_text(genesis))


def head_text(head: Head) -> str:
    fields = {**asdict(head), "event_hash": head.event_hash.hex()}
    return _text({**fields, "check": blake3(_text(fields).encode()).hexdigest()})


def read_head(directory: Path) -> Head:
    """Raises FileNotFoundError, or ValueError where the file is not as it was written."""
    text = _read(directory / HEAD_NAME)
    fields = _fields(text, {"next_seq": int, "event_hash": str, "segment": int, "offset": int, "check": str})
    if not _HEX_HASH.fullmatch(fields["event_hash"]):
        raise ValueError(f"{HEAD_NAME} names no hash: {fields['event_hash']!r}")
    head = Head(fields["next_seq"], bytes.fromhex(fields["event_hash"]), fields["segment"], fields["offset"])
    if head_text(head) != text:
        raise ValueError(f"{HEAD_NAME} is not as it was written")
    return head


def write_head(directory: Path, head: Head) -> None:
    """Durable before it returns. Raises OSError, and then the old file stands."""
    replace_file(directory / HEAD_NAME, head_text(head))


def _text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, indent=1) + "\n"


def _read(path: Path) -> str:
    return path.read_bytes().decode()  # bytes: a text file would forgive another line end


def _fields(text: str, kinds: dict[str, type]) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except RecursionError as problem:
        raise ValueError(f"brackets without end: {text[:40]!r}") from problem
    if not isinstance(fields, dict) or {name: type(value) for name, value in fields.items()} != kinds:
        raise ValueError(f"expected the fields {sorted(kinds)}, found {text[:200]!r}")
    return fields


def replace_file(path: Path, text: str) -> None:
    """`path` holds `text`, durably, or what it held before. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_at(descriptor, text.encode(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(fresh, path)
    sync_directory(path.parent)
