"""The ledger's bytes, read as docs/ledger-format.md has them and by nothing else: every event, or where it breaks."""

import gzip
import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

EVENT: Final = struct.Struct(">8sQ32sqqB6HI")
FRAME: Final = struct.Struct(">8sQQIIII")
END: Final = b"FMLEND01"
HAS: Final = {"user_id": 2, "ip_address": 4, "error": 8}
SUCCESS: Final = 1


class Broken(Exception):
    """What the format does not have, and where."""


@dataclass(slots=True)
class Event:
    """One event of the record; times in microseconds, `at_us` since 1970 UTC."""

    seq: int
    prev_hash: bytes
    event_hash: bytes
    at_us: int
    clock_us: int
    event_type: str
    action: str
    resource: str
    success: bool = True
    user_id: str = ""
    ip_address: str = ""
    error: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def read(directory: Path) -> list[Event]:
    """All events of DIR/ledger, each of which follows on the one before. Raises Broken, naming the first that does not."""
    last = genesis_hash(directory)
    events: list[Event] = []
    if (directory / "pruned").exists():
        raise Broken("a pruned record cannot be checked against histories from before")
    for name, raw in segments(directory / "segments"):
        if name != len(events):
            raise Broken(f"segment {name} stands where event {len(events)} is due")
        for event in frames_of(raw, len(events)):
            if event.prev_hash != last:
                raise Broken(f"event {event.seq} does not follow on the one before")
            last = event.event_hash
            events.append(event)
    check_head(directory, events)
    return events


def genesis_hash(directory: Path) -> bytes:
    found = json.loads((directory / "genesis.json").read_text())
    installation, key = found["installation"].encode(), bytes.fromhex(found["public_key"])
    head = struct.pack(">8sqHH", b"FMLGEN01", found["created_us"], len(installation), len(key))
    return blake3(head + installation + key).digest()


def segments(directory: Path) -> list[tuple[int, bytes]]:
    found: dict[int, bytes] = {}
    for path in sorted(directory.iterdir(), reverse=True):  # `.log.gz` before `.log`, which counts where both are
        number, _, kind = path.name.partition(".")
        if kind == "log":
            found[int(number)] = path.read_bytes()
        elif kind == "log.gz":
            found[int(number)] = gzip.decompress(path.read_bytes())
    return sorted(found.items())


def frames_of(raw: bytes, due: int) -> list[Event]:
    events: list[Event] = []
    at = 0
    while raw[at : at + 8] == b"FMLFRM01":
        _, first, acknowledged, count, size, payload_sum, header_sum = FRAME.unpack_from(raw, at)
        payload = raw[at + FRAME.size : at + FRAME.size + size]
        where = f"the frame of event {due + len(events)}"
        if header_sum != zlib.crc32(raw[at : at + FRAME.size - 4]):
            raise Broken(f"{where}: its header's sum is wrong")
        if first != due + len(events) or acknowledged > first:
            raise Broken(f"{where}: it begins with event {first}, acknowledged {acknowledged}")
        if zlib.crc32(payload) != payload_sum or raw[at + FRAME.size + size :][:8] != END:
            raise Broken(f"{where}: its sum or its end is wrong")
        found = records_of(payload, first)
        if len(found) != count:
            raise Broken(f"{where}: {len(found)} events, where it says {count}")
        events += found
        at += FRAME.size + size + len(END)
    if raw[at:].strip(b"\0"):
        raise Broken(f"something stands after event {due + len(events) - 1}")
    return events


def records_of(payload: bytes, first: int) -> list[Event]:
    events: list[Event] = []
    at = 0
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 4], "big")
        record, event_hash = payload[at + 4 : at + 4 + size], payload[at + 4 + size : at + 36 + size]
        if blake3(record).digest() != event_hash:
            raise Broken(f"event {first + len(events)}: its hash is another")
        events.append(event_of(record, event_hash, first + len(events)))
        at += 36 + size
    return events


def event_of(record: bytes, event_hash: bytes, due: int) -> Event:
    tag, seq, prev_hash, at_us, clock_us, flags, *lengths = EVENT.unpack_from(record)
    if tag != b"FMLEVT01" or seq != due or EVENT.size + sum(lengths) != len(record):
        raise Broken(f"event {due}: its record is none")
    parts = []
    at = EVENT.size
    for length in lengths:
        parts.append(record[at : at + length])
        at += length
    event_type, action, resource, user_id, ip_address, error = (part.decode() for part in parts[:6])
    metadata = json.loads(parts[6]) if parts[6] else {}
    event = Event(seq, prev_hash, event_hash, at_us, clock_us, event_type, action, resource)
    event.success, event.user_id, event.ip_address, event.error = bool(flags & SUCCESS), user_id, ip_address, error
    event.metadata = metadata
    if any(bool(getattr(event, name)) != bool(flags & bit) for name, bit in HAS.items()):
        raise Broken(f"event {due}: its flags do not fit")
    return event


def check_head(directory: Path, events: list[Event]) -> None:
    """The chain reaches what was known of it at the last rotation, checkpoint or stop."""
    head = json.loads((directory / "head").read_text())
    next_seq = head["next_seq"]
    if next_seq > len(events):
        raise Broken(f"the record once reached {next_seq} events and has {len(events)}")
    if next_seq and events[next_seq - 1].event_hash.hex() != head["event_hash"]:
        raise Broken(f"event {next_seq - 1} once had another hash")
