"""Blocks of events: natively they are what the specification makes of them, as columns and as rows of tasks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fetchmld.core.chain import Chain
from fetchmld.core.messages import Fact
from fetchmld.store import event_rows, task_rows
from fetchmld.store.blocks import Block, NativeBlock, PlainBlock, Row, plain, task_table
from fetchmld.store.segment import SIZE, LedgerDamaged, pack_frame
from fetchmld.store.task_rows import TaskRow
from tests.store import ledger_samples, test_arrays
from tests.store import task_facts as facts
from tests.store.task_facts import START_US

GENESIS = bytes(32)
KINDS = pytest.mark.parametrize("kind", [NativeBlock, PlainBlock])


def payload_of(chain: Chain, story: Sequence[Fact]) -> bytes:
    """As in a frame: for each event its record's bytes, the record, its hash."""
    entries = [chain.append(fact)[1:] for fact in story]
    return b"".join(SIZE.pack(len(record)) + record + digest for record, digest in entries)


def filled(block: Block, payloads: Sequence[tuple[bytes, int]], seq: int, prev: bytes | None) -> Block:
    for payload, count in payloads:
        end, prev = block.take(payload, 0, seq, count, prev)
        assert end == len(payload)
        seq += count
    return block


def block_pairs(story: Sequence[Fact], size: int) -> Iterator[tuple[Block, Block]]:
    """The native one and the plain one of each `size` facts, these in frames of two."""
    chain = Chain(0, GENESIS)
    for first in range(0, len(story), size):
        seq, prev, part = chain.next_seq, chain.head_hash, story[first : first + size]
        frames = [part[at : at + 2] for at in range(0, len(part), 2)]
        payloads = [(payload_of(chain, frame), len(frame)) for frame in frames]
        yield filled(NativeBlock(), payloads, seq, prev), filled(PlainBlock(), payloads, seq, prev)


def same_rows(story: Sequence[Fact], size: int, skip: frozenset[str] = frozenset()) -> dict[str, TaskRow]:
    """The rows that both make of the story, block by block."""
    live: tuple[dict[str, Row], dict[str, Row]] = ({}, {})
    for native, specified in block_pairs(story, size):
        assert native.missing(live[0]) == specified.missing(live[1])
        kept = dict(live[0]), dict(live[1])
        (changed, lost), (right, right_lost) = native.fold({}, live[0], skip), specified.fold({}, live[1], skip)
        assert live == kept
        assert lost == right_lost
        assert {name: plain(row) for name, row in changed.items()} == right
        assert list(changed) == list(right)
        assert [row.ended for row in changed.values()] == [row.ended for row in right.values()]
        rows = [row for row in right.values() if isinstance(row, TaskRow)]
        assert task_table(list(changed.values())).equals(task_rows.to_arrow(rows))
        live[0].update(changed)
        live[1].update(right)
    return {name: row for name, row in live[1].items() if isinstance(row, TaskRow)}


def lives() -> list[Fact]:
    """What happens to tasks, all of it, in turn."""
    stories = [
        facts.whole_life("done", plugin_configs={"mlflow": {"a": [1, {"b": "]}"}]}, "b": {}}, node_count=3),
        [facts.submit("waits", user='bé\n"x\\', job_name='a "b" \\ c'), facts.cancel_requested("waits")],
        [
            facts.submit("gone", reservation_id="r1", experiment_id="e1"),
            facts.end("gone", "cancelled", attempt=0, error="CANCELLED: by ä\x01\x1f\t"),
        ],
        [
            facts.submit("again"),
            facts.start("again"),
            requeued("again"),
            facts.start("again", attempt=2),
            requeued("again", 2),
        ],
        [*facts.whole_life("kept"), facts.deleted("kept")],
        [
            facts.submit("raised"),
            Fact("job_queued", "task.reprioritise", "raised", "ann", metadata={"priority": 9}),
            facts.start("raised"),
        ],
        [
            facts.submit("plain"),
            Fact("job_started", "task.start", "plain"),
            Fact("job_completed", "task.failed", "plain"),
        ],
        [facts.start("stranger"), facts.end("stranger-3")],
        [facts.submit("held"), Fact("job_queued", "task.hold", "held", "ann", metadata={"x": 1})],
        [facts.login("ann"), facts.experiment("e1", "one")],
    ]
    return [
        fact
        for step in zip(*(story + [facts.login("eve")] * (5 - len(story)) for story in stories), strict=True)
        for fact in step
    ]


def requeued(task_id: str, attempt: int = 1) -> Fact:
    fact = facts.requeue(task_id, attempt=attempt)
    fact.metadata["log"] = {"worker_id": "w1", "file": "segment", "offset": 3, "length": 4}
    return fact


@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
def test_what_happens_to_tasks_makes_the_same_rows(size: int) -> None:
    rows = same_rows(lives(), size)
    assert {"done", "waits", "gone", "again", "kept", "raised", "plain", "held"} == rows.keys()
    assert [row.view["status"] for row in rows.values()].count("failed") == 2
    assert rows["again"].view["retry_count"] == 2
    assert len(rows["again"].view["earlier"]) == 2


@pytest.mark.parametrize("size", [1, 5, 1_000])
@pytest.mark.parametrize("how", [test_arrays.played, test_arrays.ended])
def test_arrays_and_their_elements_make_the_same_rows(size: int, how: Any) -> None:
    driver, array = how()
    rows = same_rows([*driver.record, facts.deleted(f"{array}-0"), facts.deleted(array)], size)
    assert any(name.startswith(f"{array}-") for name in rows)


def test_facts_about_tasks_that_are_passed_over_make_no_row() -> None:
    assert "done" not in same_rows(lives(), 4, frozenset({"done", "again"}))


def test_rows_read_back_are_built_upon_by_both() -> None:
    earlier = same_rows(facts.whole_life("t1"), 10)["t1"]
    ((native, specified),) = block_pairs([facts.deleted("t1"), facts.start("t2")], 2)
    for block in (native, specified):
        changed, lost = block.fold({"t1": earlier}, {})
        row = plain(changed["t1"])
        assert row is not None
        assert (row.deleted, row.view["report"], lost) == (True, earlier.view["report"], ["t2"])


# ---- odd facts ------------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=4) | st.sampled_from(["", "a", '"', "\\", "é", "\n", "{", "},", "[", ":", "a,b"])
ODD: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**10), 10**10)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


def either(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, usual, ODD)


REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "job_name": either(TEXTS),
        "node_count": either(st.integers(1, 9)),
        "reservation_id": either(TEXTS),
        "experiment_id": either(TEXTS),
        "plugin_configs": either(st.dictionaries(TEXTS, ODD, max_size=3)),
        "array": st.just({"size": 2}) | ODD,
        "env": ODD,
        "zz": ODD,
    },
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "request": either(REQUEST),
        "priority": either(st.integers(1, 10)),
        "attempt": either(st.integers(0, 3)),
        "aged": either(st.floats(0, 20) | st.integers(0, 20)),
        "assignments": either(
            st.lists(st.fixed_dictionaries({"worker_id": either(TEXTS)}, optional={"gpus": ODD}), max_size=2)
        ),
        "report": either(st.dictionaries(TEXTS, ODD, max_size=2)),
        "log": ODD,
        "elements": st.integers(0, 3),
        "other": ODD,
    },
)
ACTIONS = [
    "submit",
    "start",
    "completed",
    "failed",
    "cancelled",
    "requeue",
    "reprioritise",
    "cancel_requested",
    "deleted",
    "array_closed",
    "x",
]
FACTS = st.builds(
    lambda action, task_id, user, error, metadata, at_us: Fact(
        "job_queued", f"task.{action}", task_id, user, True, "", error, metadata, at_us
    ),
    st.sampled_from(ACTIONS),
    st.sampled_from(["a", "b", "a-0", "a-1", 'q"', "é"]),
    TEXTS,
    TEXTS,
    METADATA,
    st.integers(0, 2**53)
    | st.integers(START_US, START_US + 10**9)
    | st.sampled_from([0, 1, 99, 10**9, 2**33 * 10**6, 2**33 * 10**6 - 1]),
)


def or_refused(make: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # neither knows what to do with it


@settings(max_examples=400, deadline=None)
@given(st.lists(FACTS, min_size=1, max_size=8), st.integers(1, 8))
@example(
    [facts.submit("a"), Fact("job_started", "task.start", "a", metadata={"assignments": [{"worker_id": "w"}, "x"]})], 8
)
def test_odd_facts_make_the_same_rows_or_are_refused_by_both(story: list[Fact], size: int) -> None:
    live: tuple[dict[str, Row], dict[str, Row]] = ({}, {})
    for native, specified in block_pairs(story, size):
        folds = or_refused(native.fold, {}, live[0]), or_refused(specified.fold, {}, live[1])
        assert (folds[0] is None) == (folds[1] is None)
        if folds[0] is None:
            return
        (changed, lost), (right, right_lost) = folds
        assert lost == right_lost
        assert {name: plain(row) for name, row in changed.items()} == right
        made = or_refused(task_table, list(changed.values()))
        should = or_refused(task_rows.to_arrow, list(right.values()))
        assert (made is None) == (should is None)
        if made is None:
            return
        assert made.equals(should)
        live[0].update(changed)
        live[1].update(right)


# ---- columns, and what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 1_000])
def test_events_make_the_same_columns(size: int) -> None:
    story = [*ledger_samples.facts(0, 40), *lives()]
    for native, specified in block_pairs(story, size):
        assert native.events().equals(specified.events())
        assert native.events().schema.equals(event_rows.SCHEMA)
        assert (native.count, native.payload_bytes) == (specified.count, specified.payload_bytes)
        assert (native.first_seq, native.prev_hash) == (specified.first_seq, specified.prev_hash)
        assert native.last_hash == specified.last_hash
        assert native.raw(b"experiment.create") == specified.raw(b"experiment.create")


@KINDS
def test_no_events_make_empty_columns(kind: type[Block]) -> None:
    assert kind().events().num_rows == 0
    assert kind().fold({}, {}) == ({}, [])
    assert task_table([]).equals(task_rows.to_arrow([]))


@KINDS
def test_what_does_not_follow_is_refused_by_its_number(kind: type[Block]) -> None:
    payload = payload_of(Chain(5, GENESIS), ledger_samples.facts(5, 3))
    filled(kind(), [(payload, 3)], 5, None)
    with pytest.raises(LedgerDamaged) as refused:
        kind().take(payload, 0, 5, 3, b"\1" * 32)
    assert refused.value.first_bad == 5
    with pytest.raises(LedgerDamaged) as refused:
        kind().take(payload, 0, 4, 3, GENESIS)
    assert refused.value.first_bad == 4


def test_every_changed_byte_is_refused_by_both_or_by_neither() -> None:
    payload = payload_of(Chain(0, GENESIS), ledger_samples.facts(0, 3))
    for at in range(len(payload)):
        damaged = bytearray(payload)
        damaged[at] ^= 0x15
        outcomes = []
        for kind in (NativeBlock, PlainBlock):
            try:
                block: Block = kind()
                end, prev = block.take(bytes(damaged), 0, 0, 3, GENESIS)
                outcomes.append((end, prev, or_refused(lambda events: events().to_pylist(), block.events)))
            except LedgerDamaged as damage:
                outcomes.append((damage.first_bad, None, None))
        assert outcomes[0] == outcomes[1], at


@KINDS
def test_a_payload_that_ends_early_is_refused(kind: type[Block]) -> None:
    payload = payload_of(Chain(0, GENESIS), ledger_samples.facts(0, 2))
    for end in range(len(payload)):
        with pytest.raises(LedgerDamaged):
            kind().take(payload[:end], 0, 0, 2, GENESIS)


def frames(*sizes: int) -> bytes:
    """A segment's frames of so many events each, and zeros behind."""
    chain, parts = Chain(0, GENESIS), []
    for size in sizes:
        first = chain.next_seq
        parts.append(pack_frame(first, first, [chain.append(fact)[1:] for fact in ledger_samples.facts(first, size)]))
    return b"".join(parts) + bytes(64)


def taken(kind: type[Block], buffer: bytes, end: int = 2**63) -> tuple[Any, ...]:
    block = kind()
    try:
        return (*block.take_frames(buffer, 0, 0, end, GENESIS), block.count, or_refused(block.events))
    except LedgerDamaged as damage:
        return damage.first_bad, damage.why


def test_whole_frames_are_taken_by_both_as_far_as_they_go() -> None:
    buffer = frames(1, 3, 1, 2)
    assert taken(NativeBlock, buffer) == taken(PlainBlock, buffer)
    assert taken(NativeBlock, buffer)[1] == 7
    for end in range(9):
        assert taken(NativeBlock, buffer, end) == taken(PlainBlock, buffer, end)
        assert taken(NativeBlock, buffer, end)[1] == max(first for first in (0, 1, 4, 5, 7) if first <= end)
    for cut in range(len(buffer)):
        assert taken(NativeBlock, buffer[:cut]) == taken(PlainBlock, buffer[:cut])


def test_a_changed_byte_ends_them_for_both_at_the_same_frame() -> None:
    buffer = frames(1, 3, 2)
    for at in range(len(buffer) - 64):
        damaged = bytearray(buffer)
        damaged[at] ^= 0x15
        assert taken(NativeBlock, bytes(damaged)) == taken(PlainBlock, bytes(damaged)), at


@KINDS
def test_a_frame_that_does_not_follow_is_refused(kind: type[Block]) -> None:
    block = kind()
    with pytest.raises(LedgerDamaged) as refused:
        block.take_frames(frames(2), 0, 0, 9, b"\1" * 32)
    assert refused.value.first_bad == 0


@KINDS
def test_a_text_that_is_not_utf_8_is_refused(kind: type[Block]) -> None:
    payload = bytearray(payload_of(Chain(0, GENESIS), [facts.login("ann")]))
    payload[payload.index(b"ann")] = 0xFF
    block = kind()
    block.take(bytes(payload), 0, 0, 1, GENESIS)
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        block.events()
