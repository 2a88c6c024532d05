"""Events of the ledger as rows of the index: bytes to Arrow on the way in, plain data on the way out."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
import pyarrow as pa

from fetchmld.store.tail import RawEvent

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

ACTION: Final = SCHEMA.names.index("action")  # places in a `RawEvent`, which has the same columns
PREV_HASH: Final = SCHEMA.names.index("prev_hash")
EVENT_HASH: Final = SCHEMA.names.index("event_hash")


def to_arrow(events: Sequence[RawEvent]) -> pa.Table:
    """The events as one Arrow table with `SCHEMA`, in their order. Raises ValueError for a text that is not UTF-8."""
    columns = zip(*events, strict=True) if events else [()] * len(SCHEMA)
    return pa.table([pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def to_view(row: Sequence[Any]) -> dict[str, Any]:
    """One row, in the order of `SCHEMA`, as the API's `EventRow`: hashes in hex, metadata as an object."""
    view = dict(zip(SCHEMA.names, row, strict=True))
    view["sequence_num"] = view.pop("seq")
    view["prev_hash"] = view["prev_hash"].hex()
    view["event_hash"] = view["event_hash"].hex()
    view["metadata"] = orjson.loads(view["metadata"])
    return view
