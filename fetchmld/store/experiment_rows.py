"""What the facts say about experiments, folded into the rows that the index keeps of them."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

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
        ("commit_id", pa.string()),
        ("created_us", pa.int64()),
        ("user_id", pa.string()),
        ("seq", pa.uint64()),
        ("last_seq", pa.uint64()),
    ]
)
COLUMNS: Final = ", ".join(SCHEMA.names)
_CREATE: Final = b"experiment.create"
_UPDATE: Final = b"experiment.update"
_CHANGEABLE: Final = ("name", "description", "status", "commit_id")


class ExperimentRow(NamedTuple):
    """An experiment as its newest fact left it, in the order of `SCHEMA`."""

    id: str
    name: str
    description: str
    status: str
    commit_id: str
    created_us: int
    user_id: str
    seq: int  # of the event that created it
    last_seq: int


def facts_of(block: Block) -> list[RawEvent]:
    """Those of its events that are about experiments, in their order."""
    return sorted([*block.raw(_CREATE), *block.raw(_UPDATE)], key=lambda event: event[0])


def ids_of(facts: Iterable[RawEvent]) -> list[str]:
    """Which experiments the facts are about."""
    return [resource.decode() for _, _, _, _, _, _, resource, *_ in facts]


def fold(rows: Mapping[str, ExperimentRow], facts: Iterable[RawEvent]) -> dict[str, ExperimentRow]:
    """The rows that `facts` make or change, from what they were in `rows`. A change of an unknown one changes nothing."""
    changed: dict[str, ExperimentRow] = {}
    for event in facts:
        seq, at_us, _, _, action, user_id, resource, *_, metadata = event
        experiment_id, said = resource.decode(), orjson.loads(metadata)
        before = changed.get(experiment_id) or rows.get(experiment_id)
        if action == _CREATE:
            changed[experiment_id] = _created(experiment_id, seq, at_us, user_id.decode(), said)
        elif before is not None:
            new = {name: said[name] for name in _CHANGEABLE if name in said}
            changed[experiment_id] = before._replace(**new, last_seq=seq)
    return changed


def _created(experiment_id: str, seq: int, at_us: int, user_id: str, said: dict[str, Any]) -> ExperimentRow:
    texts = (said.get("name", ""), said.get("description", ""), "active", said.get("commit_id", ""))
    return ExperimentRow(experiment_id, *texts, at_us, user_id, seq, seq)


def to_arrow(rows: Iterable[ExperimentRow]) -> pa.Table:
    """The rows as one Arrow table with `SCHEMA`, in the order in which they were created."""
    ordered = sorted(rows, key=lambda row: row.seq)
    return pa.Table.from_pylist([row._asdict() for row in ordered], SCHEMA)
