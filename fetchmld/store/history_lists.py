"""The lists of tasks and of events: what each is filtered by, and which rows make up a page.

It holds the filter columns of both; the rows themselves are read from the index by whoever asks, by the places found here.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fetchmld.store.history_filters import ARROW_TYPES, CODE, FEW, KEPT, WIDE, Codes, FilterTable
from fetchmld.store.view_file import NO_SLOT

PAGE_MAX: Final = 1_000
OFFSET_MAX: Final = 2**53
TASKS_DEFAULT: Final = 50
EVENTS_DEFAULT: Final = 100
LOAD_ROWS: Final = 100_000
EVENT_CHUNK_ROWS: Final = 16_384  # their filters are counted: most chunks are passed over

TASK_FILTERS: Final = (
    "submit_seq, deleted, array_id, status, user_id, node_count, reservation_id, experiment_id, plugins, slot, view_sum"
)
EVENT_FILTERS: Final = "event_type, user_id, at_us"

_TASK_KINDS: Final = {
    "submit_seq": WIDE,
    "listed": FEW,
    "status": FEW,
    "user_id": CODE,
    "node_count": CODE,
    "reservation_id": CODE,
    "experiment_id": CODE,
    "plugins": CODE,
    "slot": KEPT,
    "view_sum": KEPT,
}
_EVENT_KINDS: Final = {"event_type": FEW, "user_id": CODE, "at_us": WIDE}


class Listed(NamedTuple):
    """A task by the event that submitted it; where its view is, and the sum that it has."""

    submit_seq: int
    slot: int
    view_sum: int


class TaskList:
    """The tasks in the order in which they were submitted."""

    def __init__(self) -> None:
        self._table = FilterTable(_TASK_KINDS)
        self._statuses, self._users, self._plugins = Codes(), Codes(), Codes()
        self._reservations, self._experiments = Codes(), Codes()

    def load(self, db: duckdb.DuckDBPyConnection) -> None:
        """Take in all that the index holds."""
        wanted = f"SELECT {TASK_FILTERS} FROM tasks ORDER BY submit_seq"
        wanted = f"SELECT * REPLACE (to_json(plugins)::VARCHAR AS plugins) FROM ({wanted}) tasks"
        for batch in db.sql(wanted).to_arrow_reader(LOAD_ROWS):
            self._extend(batch, _coded(batch["plugins"], self._plugins, CODE, lambda text: tuple(orjson.loads(text))))

    def slot_of(self, submit_seq: int) -> int:
        """Where the task's view is; NO_SLOT for an unknown one."""
        place = self._table.place_of("submit_seq", submit_seq)
        return NO_SLOT if place is None else self._table.value("slot", place)

    def put(self, tasks: pa.Table, first_new: int) -> None:
        """Take in tasks as they are now, in the order of their submission, with their slots: those that were submitted
        before event `first_new` have changed, the others are new."""
        known = pc.sum(pc.less(tasks["submit_seq"], first_new)).as_py() or 0
        for row in tasks.slice(0, known).select(["submit_seq", "status", "deleted", "slot", "view_sum"]).to_pylist():
            place = self._table.place_of("submit_seq", row["submit_seq"])
            if place is not None:
                self._table.set("status", place, self._statuses.code(row["status"]))
                self._table.set("slot", place, row["slot"])
                self._table.set("view_sum", place, row["view_sum"])
                if row["deleted"]:
                    self._table.set("listed", place, 0)
        for batch in tasks.slice(known).to_batches():
            named = [self._plugins.code(tuple(plugins)) for plugins in batch["plugins"].to_pylist()]
            self._extend(batch, array(CODE, named))

    def _extend(self, batch: pa.RecordBatch, plugins: "array[int]") -> None:
        listed = pc.and_(pc.invert(batch["deleted"]), pc.equal(batch["array_id"], ""))
        columns = {
            "submit_seq": numbers(batch["submit_seq"], WIDE),
            "listed": numbers(listed.cast(pa.int8()), FEW),
            "status": _coded(batch["status"], self._statuses, FEW),
            "user_id": _coded(batch["user_id"], self._users, CODE),
            "node_count": numbers(batch["node_count"], CODE),
            "reservation_id": _coded(batch["reservation_id"], self._reservations, CODE),
            "experiment_id": _coded(batch["experiment_id"], self._experiments, CODE),
            "plugins": plugins,
            "slot": numbers(batch["slot"], KEPT),
            "view_sum": numbers(batch["view_sum"], KEPT),
        }
        self._table.extend(columns, batch.num_rows)

    def page(self, query: Mapping[str, Any]) -> tuple[list[Listed], int]:
        """(the tasks on the page, newest first; how many tasks fit) for the API's `TaskQuery`."""
        among: dict[str, Sequence[int]] = {"listed": [1]}
        for name, codes in (
            ("status", self._statuses),
            ("user_id", self._users),
            ("reservation_id", self._reservations),
            ("experiment_id", self._experiments),
        ):
            if query.get(name) is not None:
                among[name] = codes.known(query[name])
        if query.get("node_count") is not None:
            among["node_count"] = [query["node_count"]]
        if wanted := query.get("plugins"):
            among["plugins"] = self._plugins.where(lambda plugins: set(wanted) <= set(plugins))
        limit, offset = page_bounds(query)
        places, total = self._table.find(among, {}, limit, offset)
        value = self._table.value
        return [Listed(*(value(name, place) for name in Listed._fields)) for place in places], total


class EventList:
    """The events. An event's place is its sequence number, less that of the first."""

    def __init__(self) -> None:
        self._first_seq = 0
        self._table = FilterTable(_EVENT_KINDS, ("event_type", "user_id"), EVENT_CHUNK_ROWS)
        self._types, self._users = Codes(), Codes()

    def load(self, db: duckdb.DuckDBPyConnection) -> None:
        """Take in all that the index holds."""
        ((self._first_seq,),) = db.execute("SELECT first_seq FROM meta").fetchall()
        for batch in db.sql(f"SELECT {EVENT_FILTERS} FROM events").to_arrow_reader(LOAD_ROWS):
            self.add(batch)

    def add(self, events: pa.RecordBatch) -> None:
        """Take in events that follow the ones known, in columns that `EVENT_FILTERS` names."""
        columns = {
            "event_type": _coded(events["event_type"], self._types, FEW),
            "user_id": _coded(events["user_id"], self._users, CODE),
            "at_us": numbers(events["at_us"], WIDE),
        }
        self._table.extend(columns, events.num_rows)

    def page(self, query: Mapping[str, Any]) -> tuple[list[int], int]:
        """(sequence numbers on the page, newest first; how many events fit) for the API's `EventQuery`."""
        among: dict[str, Sequence[int]] = {}
        if query.get("event_type") is not None:
            among["event_type"] = self._types.known(query["event_type"])
        if query.get("user_id") is not None:
            among["user_id"] = self._users.known(query["user_id"])
        least, most = query.get("from_us"), query.get("to_us")
        within = {} if least is None and most is None else {"at_us": (least, most)}
        limit, offset = page_bounds(query, EVENTS_DEFAULT)
        places, total = self._table.find(among, within, limit, offset)
        return [self._first_seq + place for place in places], total


def _coded(texts: pa.Array, codes: Codes, kind: str, meaning: Callable[[str], Any] = str) -> "array[int]":
    """A column of texts as the codes of what they mean."""
    found = texts.dictionary_encode()
    own = pa.array([codes.code(meaning(text)) for text in found.dictionary.to_pylist()], pa.int32())
    return numbers(own.take(found.indices).cast(ARROW_TYPES[kind]), kind)


def numbers(column: pa.Array, kind: str) -> "array[int]":
    """A column of numbers, none of them missing."""
    numbers = array(kind)
    first, size = column.offset * numbers.itemsize, len(column) * numbers.itemsize
    numbers.frombytes(memoryview(column.buffers()[1])[first : first + size])
    return numbers


def page_bounds(query: Mapping[str, Any], limit_default: int = TASKS_DEFAULT) -> tuple[int, int]:
    """(rows on a page at most, rows before it), within sense."""
    offset = min(max(int(query.get("offset", 0)), 0), OFFSET_MAX)
    return min(max(int(query.get("limit", limit_default)), 0), PAGE_MAX), offset
