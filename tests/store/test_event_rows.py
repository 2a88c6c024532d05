"""Events as rows: the metadata's text is the ledger's, letter for letter."""

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from fetchmld.core.chain import canonical_json
from fetchmld.store.event_rows import metadata_text

numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(st.none() | st.booleans() | numbers | texts, lambda v: st.lists(v) | st.dictionaries(texts, v))


@given(st.dictionaries(texts, values, max_size=5))
@example({"a": 1e16})
@example({"a": 1e-5})
@example({"a": [0.00001, -0.00001]})
@example({"a": 9999999999999998.0, "b": -0.0, "c": 0.0001, "d": 5e-324, "e": 1.7976931348623157e308})
@example({'\x7f\x00\b\f\n\r\t"\\/': "\u2028\U0001f600", "é": "\x1f"})
def test_the_fast_way_spells_like_the_chain(metadata: dict[str, object]) -> None:
    read_back = orjson.loads(canonical_json(metadata))
    assert metadata_text(read_back) == canonical_json(metadata)
