"""The canonical bytes of an event: exact, strict, and chained."""

import json
import math
from typing import Any, get_args

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from fetchmld.core.chain import (
    FIELD_BYTES_MAX,
    HASH_BYTES,
    INTEGER_MAX,
    METADATA_BYTES_MAX,
    Chain,
    Genesis,
    Malformed,
    decode,
    encode,
    event_hash,
    genesis_hash,
    unpack,
)
from fetchmld.core.messages import EventType, Fact

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
TIMES = st.integers(-(2**63), 2**63 - 1)
FACTS = st.builds(
    Fact,
    st.sampled_from(get_args(EventType)),
    TEXT,
    TEXT,
    TEXT,
    st.booleans(),
    TEXT,
    TEXT,
    st.dictionaries(TEXT, VALUES, max_size=5),
    TIMES,
    TIMES,
)
PREV = bytes(range(32))
SAMPLE = Fact("job_queued", "task.submit", "task:t1", "alice", True, "127.0.0.1", "", {"task_id": "t1", "cpu": 2}, 5, 7)


@given(FACTS, st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))
def test_every_event_comes_back_as_it_went_in(fact: Fact, seq: int, prev_hash: bytes) -> None:
    record = encode(fact, seq, prev_hash)
    assert decode(record) == (seq, prev_hash, fact)
    assert unpack(b"xx" + record + b"yy", 2, len(record)) == (seq, prev_hash, fact)
    assert encode(fact, seq, prev_hash) == record


@given(FACTS, st.data())
def test_a_changed_byte_is_refused_or_is_another_event(fact: Fact, data: st.DataObject) -> None:
    record = bytearray(encode(fact, 3, PREV))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    changed = bytes(record)
    try:
        seq, prev_hash, other = decode(changed)
    except Malformed:
        return
    assert (seq, prev_hash, other) != (3, PREV, fact)
    assert encode(other, seq, prev_hash) == changed


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_canonical(raw: bytes) -> None:
    for candidate in (raw, encode(SAMPLE, 0, PREV)[:81] + raw):
        try:
            seq, prev_hash, fact = decode(memoryview(candidate))
        except Malformed:
            continue
        assert encode(fact, seq, prev_hash) == candidate


def test_a_record_cut_anywhere_is_refused() -> None:
    record = encode(SAMPLE, 0, PREV)
    for length in range(len(record)):
        with pytest.raises(Malformed):
            decode(record[:length])
    with pytest.raises(Malformed):
        decode(record + b"\0")


def with_metadata(text: bytes) -> bytes:
    """SAMPLE's record with other bytes for its metadata."""
    record = encode(SAMPLE, 0, PREV)
    old = json.dumps(SAMPLE.metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return record[:77] + len(text).to_bytes(4, "big") + record[81 : -len(old)] + text


@pytest.mark.parametrize(
    "text",
    [
        b'{"task_id":"t1","cpu":2}',
        b'{"cpu": 2,"task_id":"t1"}',
        b'{"cpu":2,"cpu":2}',
        b'{"cpu":2.0e0}',
        b'{"cpu":-0}',
        b'{"cpu":9007199254740993}',
        b'{"cpu":NaN}',
        b'{"cpu":1e999}',
        b'{"cpu":"\\u0061"}',
        b'{"cpu":"\\ud800"}',
        b'{"cpu":"\xff"}',
        b"[1]",
        b"{}",
        b"",
        b'{"cpu":2',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        '{"cpu":2}'.encode("utf-16-le"),
    ],
)
def test_another_spelling_of_the_metadata_is_refused(text: bytes) -> None:
    assert decode(with_metadata(b'{"cpu":2}'))[2].metadata == {"cpu": 2}
    with pytest.raises(Malformed):
        decode(with_metadata(text))


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"a": {"b": math.nan}}, "metadata.a.b"),
        ({"a": [0, math.inf]}, r"metadata.a\[1\]"),
        ({"a": 2**53 + 1}, "metadata.a"),
        ({"a": -(2**60)}, "metadata.a"),
        ({"a": [[2**70]]}, "metadata.a"),
        ({"a": {1: "x"}}, "metadata.a: the key 1"),
        ({1: "x"}, "key 1"),
        ({"a": {1: "x", "b": 2}}, "key 1"),
        ({"a": b"raw"}, "metadata.a: a bytes"),
        ({"a": {"s": {1, 2}}}, "metadata.a.s: a set"),
    ],
)
def test_what_json_cannot_carry_is_refused_by_its_key(metadata: dict[Any, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        encode(Fact("job_queued", "a", "r", metadata=metadata), 0, PREV)


def test_metadata_nested_without_end_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for metadata in (endless, {"deep": deep}):
        with pytest.raises(ValueError, match="nested deeper than 64"):
            encode(Fact("job_queued", "a", "r", metadata=metadata), 0, PREV)


def test_metadata_without_bound_is_refused() -> None:
    metadata = {str(number): "x" * 16_000 for number in range(METADATA_BYTES_MAX // 16_000 + 1)}
    with pytest.raises(ValueError, match="bytes of JSON, at most"):
        encode(Fact("job_queued", "a", "r", metadata=metadata), 0, PREV)


@pytest.mark.parametrize(
    ("fact", "seq", "prev_hash"),
    [
        (Fact("job_queued", "a", "r", at_us=2**63), 0, PREV),
        (Fact("job_queued", "a", "r", clock_us=0.5), 0, PREV),  # type: ignore[arg-type]
        (Fact("job_queued", "a", "r"), -1, PREV),
        (Fact("job_queued", "a", "r"), 2**64, PREV),
        (Fact("job_queued", "a", "r"), 0, PREV[:31]),
        (Fact("party", "a", "r"), 0, PREV),  # type: ignore[arg-type]
    ],
)
def test_what_the_record_has_no_room_for_is_refused(fact: Fact, seq: int, prev_hash: bytes) -> None:
    with pytest.raises(ValueError, match="event"):
        encode(fact, seq, prev_hash)


@pytest.mark.parametrize("char", ["x", "\u00e9", "\u20ac", "\U0001f600"])
def test_long_text_is_cut_and_says_so(char: str) -> None:
    exact = "x" * FIELD_BYTES_MAX
    long = char * FIELD_BYTES_MAX + "!"
    mark = f" [cut: {len(long.encode())} bytes, blake3 {blake3(long.encode()).hexdigest()}]"
    fact = Fact("job_completed", "task.failed", exact, error=long, metadata={"deep": [{"output": long}], long: 1})
    record = encode(fact, 0, PREV)
    _, _, found = decode(record)
    assert found.resource == exact
    for cut in (found.error, found.metadata["deep"][0]["output"], max(found.metadata, key=len)):
        assert cut.endswith(mark)
        assert FIELD_BYTES_MAX - 4 < len(cut.encode()) <= FIELD_BYTES_MAX
        assert long.startswith(cut.removesuffix(mark))


def test_a_file_name_that_is_no_unicode_is_shown_escaped() -> None:
    fact = Fact("file_access", "dataset.read", "data/\udcff", metadata={"path": "data/\udcff"})
    _, _, found = decode(encode(fact, 0, PREV))
    assert found.resource == found.metadata["path"] == "data/\\udcff"


def test_the_bytes_never_change() -> None:
    """A record of version 1, and its hash, as any verifier must see them."""
    record = encode(SAMPLE, 258, PREV)
    assert record == (
        b"FMLEVT01"
        + (258).to_bytes(8, "big")
        + PREV
        + (5).to_bytes(8, "big")
        + (7).to_bytes(8, "big")
        + bytes([1 + 2 + 4 + 16])
        + b"\0\x0a\0\x0b\0\x07\0\x05\0\x09\0\x00"
        + b"\0\0\0\x18"
        + b"job_queuedtask.submittask:t1alice127.0.0.1"
        + b'{"cpu":2,"task_id":"t1"}'
    )
    assert event_hash(record) == blake3(record).digest()


def test_the_chain_links_each_event_to_the_one_before() -> None:
    genesis = Genesis("8d2f6b0e-0000-4000-8000-000000000000", 1_700_000_000_000_000, b"key")
    chain = Chain(0, genesis_hash(genesis))
    expected = genesis_hash(genesis)
    for number in range(5):
        seq, record, digest = chain.append(SAMPLE)
        assert (seq, digest) == (number, event_hash(record))
        assert decode(record)[:2] == (number, expected)
        expected = digest
    assert (chain.next_seq, chain.head_hash) == (5, expected)
    with pytest.raises(ValueError, match="key"):
        chain.append(Fact("job_queued", "a", "r", metadata={"key": math.nan}))
    assert (chain.next_seq, chain.head_hash) == (5, expected)


def test_two_installations_never_share_a_chain() -> None:
    one = Genesis("a", 1, b"k")
    others = [Genesis("b", 1, b"k"), Genesis("a", 2, b"k"), Genesis("a", 1, b""), Genesis("ak", 1, b"")]
    hashes = {genesis_hash(genesis) for genesis in (one, *others)}
    assert len(hashes) == 5
    assert all(len(digest) == HASH_BYTES for digest in hashes)
