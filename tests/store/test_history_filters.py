"""The filter columns beside a plain list of rows that is searched from the end."""

from array import array
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.store.history_filters import CODE, FEW, WIDE, Codes, FilterTable, Range

KINDS = {"kind": FEW, "user": CODE, "at": WIDE}
Row = tuple[int, int, int]

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 40)), max_size=40)
among = st.dictionaries(st.sampled_from(["kind", "user"]), st.lists(st.integers(0, 12), max_size=11, unique=True))
bound = st.none() | st.integers(-1, 41)
within = st.dictionaries(st.just("at"), st.tuples(bound, bound))


def table_of(batches: Sequence[Sequence[Row]], counted: tuple[str, ...]) -> FilterTable:
    table = FilterTable(KINDS, counted, chunk_rows=8)
    for batch in batches:
        columns = dict(zip(KINDS, zip(*batch, strict=True), strict=True)) if batch else dict.fromkeys(KINDS, ())
        table.extend(columns, len(batch))
    return table


def plainly(found: Sequence[Row], among: Mapping[str, Sequence[int]], within: Mapping[str, Range]) -> list[int]:
    """The places of all rows that fit, newest first."""
    fitting = []
    for place, row in enumerate(found):
        value = dict(zip(KINDS, row, strict=True))
        inside = all((a is None or value[n] >= a) and (b is None or value[n] <= b) for n, (a, b) in within.items())
        if inside and all(value[name] in wanted for name, wanted in among.items()):
            fitting.append(place)
    return fitting[::-1]


@settings(max_examples=200)
@given(st.lists(rows, max_size=4), among, within, st.integers(0, 30), st.integers(0, 60), st.booleans())
def test_it_finds_what_a_plain_search_finds(
    batches: list[list[Row]], among: dict[str, list[int]], within: dict[str, Range], limit: int, skip: int, count: bool
) -> None:
    table = table_of(batches, ("kind", "user") if count else ())
    fitting = plainly([row for batch in batches for row in batch], among, within)
    assert table.find(among, within, limit, skip) == (fitting[skip : skip + limit], len(fitting))


@given(rows, st.integers(0, 39), st.integers(0, 3))
def test_a_changed_value_is_found(found: list[Row], place: int, kind: int) -> None:
    table = table_of([found], ())
    if place < len(found):
        table.set("kind", place, kind)
        found[place] = (kind, *found[place][1:])
    assert table.find({"kind": [kind]}, {}, 100, 0)[0] == plainly(found, {"kind": [kind]}, {})


@given(st.lists(st.integers(0, 100), unique=True, max_size=40))
def test_a_row_is_found_by_a_value_that_grows(values: list[int]) -> None:
    table = FilterTable({"seq": WIDE}, chunk_rows=8)
    table.extend({"seq": array("q", sorted(values))}, len(values))
    assert [table.place_of("seq", n) for n in range(101)] == [
        sorted(values).index(n) if n in values else None for n in range(101)
    ]


def test_codes_are_given_once() -> None:
    codes = Codes("first")
    assert [codes.code(text) for text in ("a", "first", "a", ("b",))] == [1, 0, 1, 2]
    assert (codes.known("a"), codes.known("z")) == ([1], [])
    assert codes.where(lambda value: "b" in value) == [2]
