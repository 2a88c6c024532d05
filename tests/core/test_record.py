"""The native record: where it gives one at all, it is the specification's, byte for byte."""

from enum import IntEnum, StrEnum
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fetchmld._record import record
from fetchmld.core.chain import INTEGER_MAX, encode, encode_any
from fetchmld.core.messages import EventType, Fact

PREV = bytes(range(32))


class Word(StrEnum):
    A = "a"


class Number(IntEnum):
    ONE = 1


ASCII = st.text(st.characters(max_codepoint=127), max_size=30)
TEXT = (
    ASCII
    | st.text(max_size=10)
    | st.sampled_from(["x" * 5_000, "x" * 16_384, '"' * 8_200, "é", "\udc80", "\x7f", "\0"])
)
NUMBERS = (
    st.integers()
    | st.integers(INTEGER_MAX - 2, INTEGER_MAX + 2)
    | st.floats()
    | st.sampled_from(
        [
            0.0,
            -0.0,
            1e16,
            1e-7,
            1e22,
            5e-324,
            0.1,
            1e15,
            123456789.125,
            float(2**53),
            -INTEGER_MAX,
            -(2**63),
            2**63,
            2**64,
        ]
    )
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from([Word.A, Number.ONE, b"", object()]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(TEXT | st.integers() | st.sampled_from([Word.A]), inner, max_size=4)
    ),
    max_leaves=15,
)
WORDS = TEXT | st.sampled_from([Word.A])
TIMES = st.integers(-(2**63), 2**63 - 1) | st.integers() | st.booleans()
FACTS = st.builds(
    Fact,
    st.sampled_from(get_args(EventType)),
    WORDS,
    WORDS,
    WORDS,
    st.booleans() | st.integers(0, 1),
    WORDS,
    WORDS,
    st.dictionaries(TEXT, VALUES, max_size=5),
    TIMES,
    TIMES,
)
ORDINARY: dict[str, Any] = {
    "request": {"job_name": 'a\n"b" \\', "cpu": 2, "gpu_memory_gb": 0.5, "none": None, "yes": True, "no": False},
    "list": [1, [], {}, {"b": 1, "a": -INTEGER_MAX, "aa": 1e-7, "": 1e16}],
}


@settings(max_examples=1_000)
@given(FACTS, st.integers(-1, 2**64), st.binary(min_size=32, max_size=32))
def test_it_is_the_specification_or_nothing(fact: Fact, seq: int, prev_hash: bytes) -> None:
    native = record(fact, seq, prev_hash)
    if native is not None:
        assert native == encode_any(fact, seq, prev_hash)


@given(st.dictionaries(ASCII, st.recursive(NUMBERS | ASCII, lambda inner: st.dictionaries(ASCII, inner, max_size=9))))
@example(ORDINARY)
def test_metadata_of_plain_text_and_numbers(metadata: dict[str, Any]) -> None:
    fact = Fact("job_queued", "task.submit", "t1", "ada", metadata=metadata)
    native = record(fact, 7, PREV)
    if native is not None:
        assert native == encode_any(fact, 7, PREV)


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize(
    "texts", [("", "", ""), ("ada", "", "broke"), ("", "::1", ""), ("u" * 300, "::1", "e" * 9_000)]
)
@pytest.mark.parametrize("metadata", [{}, ORDINARY], ids=["none", "some"])
def test_what_is_ordinary_is_done_natively(
    success: bool, texts: tuple[str, str, str], metadata: dict[str, Any]
) -> None:
    fact = Fact("job_completed", "task.failed", "t1", texts[0], success, texts[1], texts[2], metadata, -5, 2**62)
    assert record(fact, 2**40, PREV) == encode_any(fact, 2**40, PREV) == encode(fact, 2**40, PREV)


@pytest.mark.parametrize("size", [16_380, 16_384, 16_385, 40_000])
def test_what_may_have_to_be_cut_is_left_to_the_specification(size: int) -> None:
    """The six texts' room, and the metadata's, is one text's limit: nothing within it is ever cut."""
    for fact in (
        Fact("job_queued", "a", "r" * size),
        Fact("job_queued", "a", "r", metadata={"k": "v" * size}),
        Fact("job_queued", "a", "r", metadata={"k" * size: 1}),
        Fact("job_queued", "a", "r", metadata={str(key): "v" * 90 for key in range(size // 100)}),
    ):
        assert encode(fact, 1, PREV) == encode_any(fact, 1, PREV)


def test_deep_and_wide_metadata_is_left_to_the_specification() -> None:
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"d": deep}
    wide = {f"k{number:03d}": number for number in range(300)}
    for metadata in (deep, wide, {"list": [deep]}):
        fact = Fact("job_queued", "a", "r", metadata=metadata)
        assert record(fact, 1, PREV) is None
        assert encode(fact, 1, PREV) == encode_any(fact, 1, PREV)


@pytest.mark.parametrize("prev_hash", [b"", bytes(31), bytearray(32), memoryview(bytes(32))])
def test_a_hash_of_another_kind_is_not_its_business(prev_hash: Any) -> None:
    assert record(Fact("job_queued", "a", "r"), 1, prev_hash) is None
