"""Events of the ledger as rows of the index: Arrow on the way in, plain data on the way out."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
import pyarrow as pa

from fetchmld.core.chain import Event, canonical_json

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


def to_arrow(events: Sequence[Event]) -> pa.Table:
    """The events as one Arrow table with `SCHEMA`, in their order."""
    facts = [event.fact for event in events]
    columns: tuple[list[Any], ...] = (
        [event.seq for event in events],
        [fact.at_us for fact in facts],
        [fact.clock_us for fact in facts],
        [fact.event_type for fact in facts],
        [fact.action for fact in facts],
        [fact.user_id for fact in facts],
        [fact.resource for fact in facts],
        [fact.success for fact in facts],
        [fact.ip_address for fact in facts],
        [fact.error for fact in facts],
        [event.prev_hash for event in events],
        [event.event_hash for event in events],
        [canonical_json(fact.metadata) for fact in facts],
    )
    return pa.table([pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def to_view(row: Sequence[Any]) -> dict[str, Any]:
    """One row, in the order of `SCHEMA`, as the API's `EventRow`: hashes in hex, metadata as an object."""
    view = dict(zip(SCHEMA.names, row, strict=True))
    view["sequence_num"] = view.pop("seq")
    view["prev_hash"] = view["prev_hash"].hex()
    view["event_hash"] = view["event_hash"].hex()
    view["metadata"] = orjson.loads(view["metadata"])
    return view
