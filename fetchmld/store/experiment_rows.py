"""Experiments as rows of the index."""

from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from fetchmld.core.chain import Event

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


def to_arrow(events: Iterable[Event]) -> pa.Table:
    """The experiments that `events` create, as one Arrow table with `SCHEMA`."""
    return pa.Table.from_pylist([_row(event) for event in events if event.fact.action == "experiment.create"], SCHEMA)


def _row(event: Event) -> dict[str, Any]:
    fact = event.fact
    return {
        "id": fact.resource,
        "name": fact.metadata.get("name", ""),
        "description": fact.metadata.get("description", ""),
        "status": "active",
        "created_us": fact.at_us,
        "user_id": fact.user_id,
        "seq": event.seq,
    }
