"""Experiments as rows of the index."""

from typing import Any, Final

import orjson
import pyarrow as pa

from fetchmld.store.blocks import Block
from fetchmld.store.event_rows import RawEvent

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("description", pa.string()),
        ("status", pa.string()),
        ("created_us", pa.int64()),
        ("user_id", pa.string()),
        ("seq", pa.uint64()),
    ]
)


def to_arrow(block: Block) -> pa.Table:
    """The experiments that its events create, as one Arrow table with `SCHEMA`."""
    return pa.Table.from_pylist([_row(event) for event in block.raw(b"experiment.create")], SCHEMA)


def _row(event: RawEvent) -> dict[str, Any]:
    seq, at_us, _, _, _, user_id, resource, *_, metadata = event
    described = orjson.loads(metadata)
    return {
        "id": resource.decode(),
        "name": described.get("name", ""),
        "description": described.get("description", ""),
        "status": "active",
        "created_us": at_us,
        "user_id": user_id.decode(),
        "seq": seq,
    }
