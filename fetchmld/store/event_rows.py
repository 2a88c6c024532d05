"""Events of the ledger as rows of the index: bytes to Arrow on the way in, plain data on the way out."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
import pyarrow as pa

# An event without its texts taken apart: number, wall time, logical time, event type, action, user, resource, success,
# address, error, hash before, hash, metadata as canonical JSON.
RawEvent = tuple[int, int, int, bytes, bytes, bytes, bytes, bool, bytes, bytes, bytes, bytes, bytes]

PLACE_EVERY: Final = 8  # events, of which the place of one is kept

SCHEMA: Final = pa.schema(
    [
        ("seq", pa.uint64()),
        ("at_us", pa.int64()),
        ("clock_us", pa.int64()),
        ("event_type", pa.string()),
        ("action", pa.string()),
        ("user_id", pa.string()),
        ("resource", pa.string()),
        ("success", pa.bool_()),
        ("ip_address", pa.string()),
        ("error", pa.string()),
        ("prev_hash", pa.binary()),
        ("event_hash", pa.binary()),
        ("metadata", pa.string()),
    ]
)
COLUMNS: Final = ", ".join(SCHEMA.names)


def hashes_of(event: RawEvent) -> tuple[bytes, bytes]:
    """That of the event before, and its own."""
    *_, prev_hash, event_hash, _metadata = event
    return prev_hash, event_hash


def to_arrow(events: Sequence[RawEvent]) -> pa.RecordBatch:
    """The events as one Arrow batch with `SCHEMA`, in their order. Raises ValueError for a text that is not UTF-8."""
    columns = zip(*events, strict=True) if events else [()] * len(SCHEMA)
    return pa.record_batch([pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def texts_of(event: RawEvent) -> tuple[Any, ...]:
    """The event as a row, in the order of `SCHEMA`. Raises ValueError for a text that is not UTF-8."""
    hashes = hashes_of(event)
    return (*(part.decode() if isinstance(part, bytes) else part for part in event[:10]), *hashes, event[12].decode())


def to_view(row: Sequence[Any]) -> dict[str, Any]:
    """One row, in the order of `SCHEMA`, as the API's `EventRow`: hashes in hex, metadata as an object."""
    view = dict(zip(SCHEMA.names, row, strict=True))
    view["sequence_num"] = view.pop("seq")
    view["prev_hash"] = view["prev_hash"].hex()
    view["event_hash"] = view["event_hash"].hex()
    view["metadata"] = orjson.loads(view["metadata"])
    return view
