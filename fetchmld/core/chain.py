"""The canonical bytes of one audit event, and the hash chain over them.

Owns what a record looks like and how one is tied to the next; `docs/ledger-format.md` is the same for a reader without
this code. Knows nothing of files, batches or acknowledgement: that is `store.segment` and `store.ledger`.

A record names its own place (sequence number) and its predecessor (`prev_hash`), so moving, dropping or editing one
breaks the link to the next. The encoding is canonical: one event has exactly one record, and `decode` refuses every
other spelling, so equal hashes mean equal events and the other way round.
"""

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from json import encoder as _json
from typing import Any, Final, cast, get_args

from blake3 import blake3

from fetchmld.core.messages import EventType, Fact

try:
    from fetchmld._record import record as _native_record
except ImportError:  # not built: slower, and the same bytes

    def _native_record(fact: Fact, seq: int, prev_hash: bytes) -> bytes | None:
        return None


HASH_BYTES: Final = 32
FIELD_BYTES_MAX: Final = 16 * 1024  # of one text that a client can influence, in UTF-8
METADATA_BYTES_MAX: Final = 4 * 1024 * 1024
METADATA_DEPTH_MAX: Final = 64
INTEGER_MAX: Final = 2**53  # beyond it a JSON reader that uses doubles sees another number

RECORD_TAG: Final = b"FMLEVT01"
_GENESIS_TAG: Final = b"FMLGEN01"
# tag, sequence number, prev_hash, at_us, clock_us, flags, bytes of each of the six texts, bytes of the metadata
RECORD_HEADER: Final = struct.Struct(">8sQ32sqqB6HI")
_GENESIS: Final = struct.Struct(">8sqHH")
_SUCCESS, _HAS_USER, _HAS_ADDRESS, _HAS_ERROR, _HAS_METADATA = 1, 2, 4, 8, 16
_EVENT_TYPES: Final = frozenset(get_args(EventType))
_SAFE_KINDS: Final = frozenset({str, bool, float, type(None)})  # a float that is no number, the encoder refuses itself


class Malformed(ValueError):
    """These bytes are not the record of any event."""


@dataclass(slots=True)
class Event:
    """A fact with its place in the chain."""

    seq: int
    prev_hash: bytes
    event_hash: bytes
    fact: Fact


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a chain grows from. It names the installation, so that no two installations share a chain."""

    installation: str  # a uuid
    created_us: int
    public_key: bytes  # of the key that signs checkpoints; empty while there is none


def genesis_hash(genesis: Genesis) -> bytes:
    """The `prev_hash` of event 0."""
    name = genesis.installation.encode()
    head = _GENESIS.pack(_GENESIS_TAG, genesis.created_us, len(name), len(genesis.public_key))
    return event_hash(head + name + genesis.public_key)


def event_hash(record: bytes | memoryview) -> bytes:
    """BLAKE3 of the whole record, 32 bytes."""
    return blake3(record).digest()


class Chain:
    """The end of a chain: where the next fact goes, and the hash that it will name."""

    __slots__ = ("head_hash", "next_seq")

    def __init__(self, next_seq: int, head_hash: bytes) -> None:
        self.next_seq = next_seq
        self.head_hash = head_hash

    def append(self, fact: Fact) -> tuple[int, bytes, bytes]:
        """Give `fact` the next place: (sequence number, record, hash). Raises as `encode`, changing nothing."""
        seq = self.next_seq
        record = encode(fact, seq, self.head_hash)
        self.head_hash = digest = blake3(record).digest()
        self.next_seq = seq + 1
        return seq, record, digest


def encode(fact: Fact, seq: int, prev_hash: bytes) -> bytes:
    """The one record of `fact` at `seq` after the event with `prev_hash`.

    Texts longer than 16 KiB are cut and end in a mark with their length and hash. Raises ValueError, naming the field
    or the metadata key, for what the format cannot carry exactly.
    """
    if len(prev_hash) != HASH_BYTES or fact.event_type not in _EVENT_TYPES:
        raise ValueError(f"event {seq}: event_type {fact.event_type!r} or prev_hash {prev_hash!r} is none of ours")
    return _native_record(fact, seq, prev_hash) or encode_any(fact, seq, prev_hash)


def encode_any(fact: Fact, seq: int, prev_hash: bytes) -> bytes:
    """The specification of `encode`, for facts of every kind; `_record.pyx` does the ordinary ones, faster."""
    texts = (fact.event_type, fact.action, fact.resource, fact.user_id, fact.ip_address, fact.error)
    joined = "".join(texts)
    if joined.isascii() and len(joined) <= FIELD_BYTES_MAX:
        body = joined.encode()
        sizes: tuple[int, ...] = tuple(map(len, texts))
    else:
        cut = [_within_limit(text) for text in texts]
        body = b"".join(cut)
        sizes = tuple(map(len, cut))
    metadata = _metadata_bytes(fact.metadata) if fact.metadata else b""
    flags = (
        (_SUCCESS if fact.success else 0)
        | (_HAS_USER if fact.user_id else 0)
        | (_HAS_ADDRESS if fact.ip_address else 0)
        | (_HAS_ERROR if fact.error else 0)
        | (_HAS_METADATA if metadata else 0)
    )
    try:
        head = RECORD_HEADER.pack(RECORD_TAG, seq, prev_hash, fact.at_us, fact.clock_us, flags, *sizes, len(metadata))
    except struct.error as problem:
        raise ValueError(
            f"event {seq}: sequence number, at_us {fact.at_us!r} or clock_us {fact.clock_us!r} is no 64-bit integer"
        ) from problem
    return head + body + metadata


def decode(record: bytes | memoryview) -> tuple[int, bytes, Fact]:
    """(sequence number, prev_hash, fact) of a record. Raises Malformed for all bytes that `encode` does not make."""
    raw = bytes(record)
    seq, prev_hash, fact = unpack(raw, 0, len(raw))
    try:
        canonical = encode(fact, seq, prev_hash) == raw
    except ValueError as problem:
        raise Malformed(f"record of event {seq}: {problem}") from problem
    if not canonical:
        raise Malformed(f"record of event {seq} is not written in the canonical form")
    return seq, prev_hash, fact


def unpack(buffer: bytes, start: int, size: int, loads: Callable[[bytes], Any] = json.loads) -> tuple[int, bytes, Fact]:
    """As `decode`, for the record at `buffer[start : start + size]`, but trusting that `encode` made it.

    For readers that have checked the bytes against a sum or a hash; four times faster. Raises Malformed where the
    bytes cannot be read at all. `loads` may be any reader of JSON.
    """
    if size < RECORD_HEADER.size or len(buffer) < start + size:
        raise Malformed(f"a record of {size} bytes: {RECORD_HEADER.size} are the least")
    tag, seq, prev_hash, at_us, clock_us, flags, a, b, c, d, e, f, meta = RECORD_HEADER.unpack_from(buffer, start)
    texts_at = start + RECORD_HEADER.size
    meta_at = texts_at + a + b + c + d + e + f
    if tag != RECORD_TAG or meta_at + meta != start + size:
        raise Malformed(f"record of event {seq}: its tag {tag!r} or its lengths do not fit its {size} bytes")
    try:
        kind, action, resource, user_id, ip_address, error = _split_texts(buffer[texts_at:meta_at], a, b, c, d, e, f)
        metadata = loads(buffer[meta_at : meta_at + meta]) if meta else {}
    except (ValueError, RecursionError) as problem:
        raise Malformed(f"record of event {seq}: {problem}") from problem
    if type(metadata) is not dict:
        raise Malformed(f"record of event {seq}: its metadata is no JSON object")
    success = flags & _SUCCESS == _SUCCESS
    fact = Fact(cast(EventType, kind), action, resource, user_id, success, ip_address, error, metadata, at_us, clock_us)
    return seq, prev_hash, fact


def _split_texts(raw: bytes, a: int, b: int, c: int, d: int, e: int, f: int) -> tuple[str, str, str, str, str, str]:
    b += a
    c += b
    d += c
    e += d
    f += e
    if raw.isascii():  # then bytes are characters, and one decoding does for all six
        text = raw.decode("ascii")
        return text[:a], text[a:b], text[b:c], text[c:d], text[d:e], text[e:f]
    return (
        raw[:a].decode(),
        raw[a:b].decode(),
        raw[b:c].decode(),
        raw[c:d].decode(),
        raw[d:e].decode(),
        raw[e:f].decode(),
    )


def _within_limit(text: str) -> bytes:
    """`text` in UTF-8, cut to the limit with a mark that says so. What is no Unicode (lone surrogates) is escaped.

    The mark carries the hash of the whole, under which a content store may keep it.
    """
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= FIELD_BYTES_MAX:
        return raw
    mark = f" [cut: {len(raw)} bytes, blake3 {event_hash(raw).hex()}]".encode()
    kept = raw[: FIELD_BYTES_MAX - len(mark)].decode("utf-8", "ignore")
    return kept.encode() + mark


# ---- metadata: canonical JSON ---------------------------------------------------------------------------------------


def _refuse(value: object) -> Any:
    raise TypeError(f"a {type(value).__name__} is no JSON")


def _make_encoder() -> Callable[[Any], str]:
    """The standard library's encoder, made once: JSONEncoder.encode makes its C half anew on each call."""
    make = getattr(_json, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
    native = make(None, _refuse, _json.encode_basestring, None, ":", ",", True, False, False)
    return lambda value: "".join(native(value, 0))


canonical_json: Final = _make_encoder()  # of what has been checked: exact numbers, keys of text


def _metadata_bytes(metadata: dict[str, Any]) -> bytes:
    """Canonical JSON. Most metadata is plain and short and passes at once; the rest is walked key by key."""
    try:
        if _plain((metadata,), METADATA_DEPTH_MAX):
            raw = canonical_json(metadata).encode()
            if len(raw) <= FIELD_BYTES_MAX:
                return raw
    except (TypeError, ValueError):
        pass  # the walk finds out which key it is
    raw = canonical_json(_exact(metadata, "metadata", METADATA_DEPTH_MAX)).encode()
    if len(raw) > METADATA_BYTES_MAX:
        raise ValueError(f"metadata: {len(raw)} bytes of JSON, at most {METADATA_BYTES_MAX} fit in an event")
    return raw


def _plain(values: Iterable[Any], depth: int) -> bool:
    """Whether the encoder alone gets these right: exact numbers, keys of text (it would turn 1 into "1"), no depth."""
    for value in values:
        kind = type(value)
        if kind in _SAFE_KINDS:
            continue
        if kind is int:
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                return False
        elif kind is dict and depth:
            "".join(value)  # a TypeError where a key is no text
            if not _plain(value.values(), depth - 1):
                return False
        elif not (kind is list and depth and _plain(value, depth - 1)):
            return False
    return True


def _exact(value: Any, path: str, depth: int) -> Any:
    """`value` with its texts within the limit. Raises ValueError, naming the key, for what JSON cannot carry."""
    if depth < 0:
        raise ValueError(f"{path}: nested deeper than {METADATA_DEPTH_MAX}")
    if isinstance(value, str):
        return _within_limit(value).decode()
    if isinstance(value, dict):
        return {_exact_key(key, path): _exact(item, f"{path}.{key}", depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value)]
    if isinstance(value, int | float) and not abs(value) <= INTEGER_MAX and not _exact_float(value):
        raise ValueError(f"{path}: {value!r} is a number that JSON cannot carry exactly; send it as text")
    if value is not None and not isinstance(value, int | float):
        raise ValueError(f"{path}: a {type(value).__name__} is no JSON value")
    return value


def _exact_float(value: float) -> bool:
    return isinstance(value, float) and abs(value) < float("inf")


def _exact_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise ValueError(f"{path}: the key {key!r} is no text")
    return _within_limit(key).decode()
