"""Events of the ledger, many at once, on their way into the index: as columns, and folded into the rows of tasks.

`PlainBlock` is the specification; `_rows.Block` does the same natively, asks `folded` about each fact that is out of the
ordinary, and is what readers are given. One test suite drives both. A row is a `TaskRow`, or its native form, which only
`plain` takes apart.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import pyarrow as pa

from fetchmld.core.chain import HASH_BYTES, RECORD_HEADER, RECORD_TAG
from fetchmld.store import event_rows, task_rows
from fetchmld.store.event_rows import PLACE_EVERY, RawEvent
from fetchmld.store.segment import HEADER, SIZE, LedgerDamaged, payload_intact, read_header
from fetchmld.store.tail import Tail, Taker
from fetchmld.store.task_rows import TaskRow, view_sum

try:
    from fetchmld import _rows

    _built = True
except ImportError:  # slower, and the same
    _built = False


class Row(Protocol):
    """A task as its newest fact left it."""

    @property
    def submit_seq(self) -> int: ...
    @property
    def ended(self) -> bool: ...


Rows = Mapping[str, Row]
RowOf = Callable[[str], Row | None]


class Block(Taker, Protocol):
    """Events that follow on each other, `count` of them. By the limits of a frame and of `Tail.fill` they have less than
    2 GiB of records, which is what a column can hold."""

    @property
    def count(self) -> int: ...
    @property
    def first_seq(self) -> int: ...
    @property
    def prev_hash(self) -> bytes:
        """Of the event before the first one."""

    @property
    def last_hash(self) -> bytes:
        """The newest event's own."""

    @property
    def places(self) -> list[tuple[int, int]]:
        """Number, and place in its segment, of every event whose number is a multiple of `event_rows.PLACE_EVERY`."""

    def events(self) -> pa.RecordBatch:
        """The events in the columns of `event_rows.SCHEMA`. Raises ValueError for a text that is not UTF-8."""

    def raw(self, action: bytes) -> list[RawEvent]:
        """Those of this action."""

    def missing(self, live: Rows) -> set[str]:
        """Ids of tasks that these events are about and did not submit before, and that have no row in `live`."""

    def fold(self, read: Rows, live: Rows, skip: Collection[str] = ()) -> tuple[dict[str, Row], list[str]]:
        """(the rows that these events change, as they are afterwards; ids of tasks whose facts found no row to change).

        `read` and `live` are the rows before, by id, and are left as they are. Facts about tasks of `skip` are passed
        over.
        """


def next_block(tail: Tail, to_seq: int | None, max_events: int) -> Block:
    """The next events of `tail`; see `Tail.fill`."""
    block = empty_block()
    tail.fill(block, to_seq, max_events)
    return block


def empty_block() -> Block:
    """One to be filled by `take`."""
    return NativeBlock() if _built else PlainBlock()


class PlainBlock:
    """See `Block`."""

    def __init__(self) -> None:
        self._events: list[RawEvent] = []
        self.places: list[tuple[int, int]] = []
        self.payload_bytes = 0

    @property
    def count(self) -> int:
        return len(self._events)

    @property
    def first_seq(self) -> int:
        return self._events[0][0]

    @property
    def prev_hash(self) -> bytes:
        return event_rows.hashes_of(self._events[0])[0]

    @property
    def last_hash(self) -> bytes:
        return event_rows.hashes_of(self._events[-1])[1]

    def take(
        self, payload: bytes, at: int, seq: int, count: int, prev: bytes | None, origin: int = 0
    ) -> tuple[int, bytes | None]:
        for due in range(seq, seq + count):
            start, end = at + SIZE.size, at + SIZE.size + _record_bytes(payload, at)
            event = cut(payload, start, end)
            if event is None or event[0] != due or prev not in (None, event_rows.hashes_of(event)[0]):
                raise LedgerDamaged(due, "it does not follow from the event before it")
            if due % PLACE_EVERY == 0:
                self.places.append((due, origin + at))
            self._events.append(event)
            self.payload_bytes += end - start
            at, prev = end + HASH_BYTES, event_rows.hashes_of(event)[1]
        return at, prev

    def take_frames(
        self, buffer: bytes, at: int, seq: int, end: int, prev: bytes | None, origin: int = 0
    ) -> tuple[int, int, bytes | None]:
        while seq < end:
            header = read_header(buffer, at)
            if header is None or header.first_seq != seq or not header.events or header.next_seq > end:
                break
            if not payload_intact(buffer, at, header):
                break
            _, prev = self.take(buffer, at + HEADER.size, seq, header.events, prev, origin)
            at, seq = at + header.frame_bytes, header.next_seq
        return at, seq, prev

    def events(self) -> pa.RecordBatch:
        return event_rows.to_arrow(self._events)

    def raw(self, action: bytes) -> list[RawEvent]:
        return [event for event in self._events if _about(event)[0] == action]

    def missing(self, live: Rows) -> set[str]:
        there, missing = set(live), set[str]()
        for event in self._events:
            action, task_id = _about(event)
            if action == b"task.submit":
                there.add(task_id)
            elif action in task_rows.FOLDED_ACTIONS and task_id not in there:
                missing.add(task_id)
        return missing

    def fold(self, read: Rows, live: Rows, skip: Collection[str] = ()) -> tuple[dict[str, Row], list[str]]:
        changed: dict[str, Row] = {}
        lost: list[str] = []

        def row_of(task_id: str) -> Row | None:
            return next((rows[task_id] for rows in (changed, read, live) if task_id in rows), None)

        for event in self._events:
            action, task_id = _about(event)
            if action not in task_rows.FOLDED_ACTIONS or task_id in skip:
                continue
            row = folded(event, row_of(task_id), row_of)
            if row is None:
                lost.append(task_id)
            else:
                changed[task_id] = row
        return changed, lost


def _about(event: RawEvent) -> tuple[bytes, str]:
    """Its action, and what it was done to."""
    _, _, _, _, action, _, resource, *_ = event
    return action, resource.decode()


def _record_bytes(payload: bytes, at: int) -> int:
    return int.from_bytes(payload[at : at + SIZE.size], "big")


def cut(payload: bytes, start: int, end: int) -> RawEvent | None:
    """The record at `payload[start:end]`, with its hash behind it, cut at the borders of its fields and no more."""
    if end - start < RECORD_HEADER.size or len(payload) < end + HASH_BYTES:
        return None
    tag, seq, prev_hash, at_us, clock_us, flags, *sizes = RECORD_HEADER.unpack_from(payload, start)
    at, parts = start + RECORD_HEADER.size, []
    for size in sizes:
        parts.append(payload[at : at + size])
        at += size
    if tag != RECORD_TAG or at != end:
        return None
    kind, action, resource, user_id, ip_address, error, metadata = parts
    texts = (kind, action, user_id, resource, flags & 1 == 1, ip_address, error)
    return (seq, at_us, clock_us, *texts, prev_hash, payload[end : end + HASH_BYTES], metadata or b"{}")


def folded(event: RawEvent, row: Row | None, row_of: RowOf) -> TaskRow | None:
    """The row of the event's task after it; `row_of` knows the others, of which an array's is needed for its elements."""
    seq, at_us, _, _, action, user_id, resource, _, _, error, _, _, metadata = event
    fact = task_rows.fact_of(at_us, action.decode(), user_id.decode(), resource.decode(), error.decode(), metadata)
    array_id = task_rows.array_named_by(fact.resource)
    return task_rows.fold(plain(row), seq, fact, plain(row_of(array_id)) if array_id else None)


def plain(row: Row | None) -> TaskRow | None:
    """The row, as the specification has it."""
    if row is None or isinstance(row, TaskRow):
        return row
    return TaskRow.read(*cast("_rows.Row", row).kept())


def task_table(rows: Sequence[Row]) -> pa.Table:
    """The rows in the columns of `task_rows.SCHEMA`. Raises ValueError for a text that is not UTF-8."""
    if _built:
        try:
            return _native_table(list(rows))
        except (ArithmeticError, AttributeError, TypeError, ValueError):
            pass  # something in them is so odd that the specification has to say what becomes of it
    return task_rows.to_arrow([row for row in map(plain, rows) if row is not None])


_UNSUMMED: Final = task_rows.SCHEMA.remove(task_rows.SCHEMA.get_field_index("view_sum"))
_SUM: Final = task_rows.SCHEMA.field("view_sum")


def views_of(tasks: pa.Table) -> list[bytes]:
    """The column of views in a table of tasks."""
    found: list[bytes] = tasks["view"].cast(pa.binary()).to_pylist()
    return found


def _native_table(rows: list[Row]) -> pa.Table:
    batches, done = [], 0
    while done < len(rows):
        buffers, behind = _rows.task_columns(rows, done)
        batches.append(_batch(_UNSUMMED, behind - done, buffers))
        done = behind
    table = pa.Table.from_batches(batches, _UNSUMMED)
    return table.append_column(_SUM, pa.array(map(view_sum, views_of(table)), _SUM.type))


def _batch(schema: pa.Schema, rows: int, columns: list[tuple[bytes, ...]]) -> pa.RecordBatch:
    """What the native buffers hold. Raises ValueError for a text that is not UTF-8."""
    arrays = [_array(field.type, rows, buffers) for field, buffers in zip(schema, columns, strict=True)]
    batch = pa.record_batch(arrays, schema=schema)
    batch.validate(full=True)
    return batch


def _array(kind: pa.DataType, rows: int, buffers: tuple[bytes, ...]) -> pa.Array:
    own: list[Any] = [None, *(pa.py_buffer(part) for part in buffers[: 1 if pa.types.is_list(kind) else None])]
    if not pa.types.is_list(kind):
        return pa.Array.from_buffers(kind, rows, own)
    child = _array(kind.value_type, len(buffers[1]) // 4 - 1, buffers[1:])
    return pa.Array.from_buffers(kind, rows, own, children=[child])


if _built:

    class NativeBlock(_rows.Block):
        """See `Block`."""

        def events(self) -> pa.RecordBatch:
            return _batch(event_rows.SCHEMA, self.count, self.columns())

        def missing(self, live: Rows) -> set[str]:
            return self.unknown(live, task_rows.FOLDED_ACTIONS)

        def fold(self, read: Rows, live: Rows, skip: Collection[str] = ()) -> tuple[dict[str, Row], list[str]]:
            return self.folded(read, live, skip, task_rows.FOLDED_ACTIONS, folded)
