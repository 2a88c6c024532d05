"""Where the rows of a filtered list are: the columns that lists filter by, held in memory as numbers.

A total has to take every row into account, and numbers in memory do that for any combination of filters in a few
nanoseconds a row; DuckDB is then asked only for the rows of the page, by their place. Rows stand in the order of the
ledger, in chunks: a change touches one chunk, a range of time passes over those outside it, and where the filters are
counted beforehand (`counted`), only the chunks that hold the page are looked at.

A copy of what the index holds: filled from it when it is opened, then kept up with each batch. Knows no SQL.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

CHUNK_ROWS: Final = 65_536
FEW: Final = "b"  # a column of at most 128 different values, by their codes
CODE: Final = "i"  # any number of values, by their codes, or small numbers
WIDE: Final = "q"  # numbers that grow along the rows, or nearly, like times
KEPT: Final = "Q"  # numbers that nothing is filtered by
ARROW_TYPES: Final = {FEW: pa.int8(), CODE: pa.int32(), WIDE: pa.int64(), KEPT: pa.uint64()}
_ANY: Final = -1

Range = tuple[int | None, int | None]  # least and most, both included; None means no bound


class Codes:
    """A number for each text (or tuple of texts) that a column holds, given out in order of appearance."""

    def __init__(self, *first: Any) -> None:
        self._known: dict[Any, int] = {}
        for value in first:
            self.code(value)

    def code(self, value: Any) -> int:
        """The value's number, a new one where it has none yet."""
        return self._known.setdefault(value, len(self._known))

    def known(self, value: Any) -> list[int]:
        """The value's number alone; nothing where no row has it."""
        found = self._known.get(value)
        return [] if found is None else [found]

    def where(self, fits: Callable[[Any], bool]) -> list[int]:
        """The numbers of all values that fit."""
        return [code for value, code in self._known.items() if fits(value)]


class Chunk:
    """Up to `size` rows: a full array per column, of which the first `rows` count."""

    __slots__ = ("bounds", "columns", "rows", "views")

    def __init__(self, kinds: Mapping[str, str], size: int) -> None:
        self.rows = 0
        self.columns = {name: array(kind, bytes(array(kind).itemsize * size)) for name, kind in kinds.items()}
        self.views = {
            name: pa.Array.from_buffers(ARROW_TYPES[kind], size, [None, pa.py_buffer(self.columns[name])])
            for name, kind in kinds.items()
        }
        self.bounds: dict[str, tuple[int, int]] = {}  # least and greatest value of each wide column

    def append(self, rows: Mapping[str, Sequence[int]], first: int, count: int) -> None:
        for name, column in self.columns.items():
            added = array(column.typecode, rows[name][first : first + count])
            column[self.rows : self.rows + count] = added
            if column.typecode == WIDE:
                least, most = min(added), max(added)
                low, high = self.bounds.get(name, (least, most))
                self.bounds[name] = min(low, least), max(high, most)
        self.rows += count

    def among(self, name: str, values: Sequence[int]) -> pa.BooleanArray:
        """Which rows have one of `values` (at least one) in a column of codes."""
        column = self.views[name].slice(0, self.rows)
        if len(values) > 8:
            return pc.is_in(column, value_set=pa.array(values, column.type))
        return reduce(pc.or_, (pc.equal(column, pa.scalar(value, column.type)) for value in values))

    def within(self, name: str, least: int | None, most: int | None) -> pa.BooleanArray | bool:
        """Which rows have a wide column from `least` to `most`; False for none of them, True for all."""
        low, high = self.bounds[name]
        if (least is not None and high < least) or (most is not None and low > most):
            return False
        column = self.views[name].slice(0, self.rows)
        mask: pa.BooleanArray | bool = True
        if least is not None and low < least:
            mask = pc.greater_equal(column, least)
        if most is not None and high > most:
            below = pc.less_equal(column, most)
            mask = below if mask is True else pc.and_(mask, below)
        return mask


class FilterTable:
    """The rows' columns. A place is a row's number, counted from 0 in the order of the ledger.

    `kinds`: each column's kind. `counted`: columns that never change, whose values are few in any chunk; how many rows
    of a chunk have which of them is kept, so that filters on them alone need no look at the rows. `chunk_rows`: the
    fewer, the less there is to look through around each row, and the more chunks there are to pass over.
    """

    def __init__(self, kinds: Mapping[str, str], counted: tuple[str, ...] = (), chunk_rows: int = CHUNK_ROWS) -> None:
        self._kinds = kinds
        self._chunk_rows = chunk_rows
        self._counted = counted
        self._counts: dict[tuple[int, ...], array[int]] = {}  # per combination of values, or of any: rows in each chunk
        self._chunks: list[Chunk] = []
        self.rows = 0

    def extend(self, columns: Mapping[str, Sequence[int]], count: int) -> None:
        """Add `count` rows behind the others."""
        done = 0
        while done < count:
            if not self._chunks or self._chunks[-1].rows == self._chunk_rows:
                self._chunks.append(Chunk(self._kinds, self._chunk_rows))
            chunk = self._chunks[-1]
            part = min(count - done, self._chunk_rows - chunk.rows)
            chunk.append(columns, done, part)
            if self._counted:
                self._count(Counter(zip(*(columns[name][done : done + part] for name in self._counted), strict=True)))
            done += part
        self.rows += count

    def value(self, name: str, place: int) -> int:
        return self._chunks[place // self._chunk_rows].columns[name][place % self._chunk_rows]

    def set(self, name: str, place: int, value: int) -> None:
        """Change a row's value in a column of codes that is not counted."""
        self._chunks[place // self._chunk_rows].columns[name][place % self._chunk_rows] = value

    def place_of(self, name: str, value: int) -> int | None:
        """The row with this value of a wide column that grows from row to row; None where there is none."""
        number = bisect_left(self._chunks, value, key=lambda chunk: chunk.bounds[name][1])
        if number == len(self._chunks):
            return None
        chunk = self._chunks[number]
        at = bisect_left(chunk.columns[name], value, 0, chunk.rows)
        return number * self._chunk_rows + at if chunk.columns[name][at] == value else None

    def find(
        self, among: Mapping[str, Sequence[int]], within: Mapping[str, Range], limit: int, offset: int
    ) -> tuple[list[int], int]:
        """(places, total): how many rows fit, and which those are from `offset` on, newest first, at most `limit`.

        A row fits where each column in `among` has one of the values given there, and each in `within` lies in its range.
        """
        places: list[int] = []
        total = 0
        if not all(among.values()):
            return places, total
        for number in range(len(self._chunks) - 1, -1, -1):
            chunk, skip = self._chunks[number], max(offset - total, 0)
            inside = _within_all(chunk, within)
            counted = self._known_count(number, among) if inside is True else None
            if inside is False or (counted is not None and (counted <= skip or len(places) >= limit)):
                total += counted or 0
                continue
            mask = _among_all(chunk, among, inside)
            count = chunk.rows if mask is True else mask.true_count
            if count > skip and len(places) < limit:
                places += _newest(mask, chunk.rows, skip, limit - len(places), number * self._chunk_rows)
            total += count
        return places, total

    def _count(self, found: Counter[tuple[int, ...]]) -> None:
        """Add rows of the newest chunk to the counts, also where one of the columns may be anything."""
        last = len(self._chunks) - 1
        for values, count in found.items():
            for key in _keys(values):
                counts = self._counts.setdefault(key, array("i"))
                if len(counts) <= last:
                    counts.extend([0] * (last + 1 - len(counts)))
                counts[last] += count

    def _known_count(self, number: int, among: Mapping[str, Sequence[int]]) -> int | None:
        """How many rows of a chunk fit, where that was counted."""
        if not among:
            return self._chunks[number].rows
        if not among.keys() <= set(self._counted) or any(len(values) != 1 for values in among.values()):
            return None
        counts = self._counts.get(tuple(among[name][0] if name in among else _ANY for name in self._counted), ())
        return counts[number] if number < len(counts) else 0


def _keys(values: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The values themselves, and each way to let some of them be anything, but not all."""
    keys: list[tuple[int, ...]] = [()]
    for value in values:
        keys = [(*key, part) for key in keys for part in (value, _ANY)]
    return keys[:-1]


def _within_all(chunk: Chunk, within: Mapping[str, Range]) -> pa.BooleanArray | bool:
    mask: pa.BooleanArray | bool = True
    for name, (least, most) in within.items():
        found = chunk.within(name, least, most)
        if found is False:
            return False
        if found is not True:
            mask = found if mask is True else pc.and_(mask, found)
    return mask


def _among_all(chunk: Chunk, among: Mapping[str, Sequence[int]], mask: pa.BooleanArray | bool) -> Any:
    """`mask` without the rows that do not fit."""
    for name, values in among.items():
        found = chunk.among(name, values)
        mask = found if mask is True else pc.and_(mask, found)
        if not mask.true_count:
            break
    return mask


def _newest(mask: Any, rows: int, skip: int, limit: int, base: int) -> list[int]:
    """The places of the chunk's rows that fit, from the end, without the first `skip`."""
    if mask is True:
        newest = base + rows - 1 - skip
        return list(range(newest, max(newest - limit, base - 1), -1))
    fitting = pc.indices_nonzero(mask)
    end = len(fitting) - skip
    return [base + at for at in reversed(fitting.slice(max(end - limit, 0), min(limit, end)).to_pylist())]
