"""Single events out of the segments, wherever they lie; what is not found there as it was hashed is not given."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetchmld.store import event_places, retention
from fetchmld.store.blocks import NativeBlock, PlainBlock
from fetchmld.store.event_places import EventPlaces
from fetchmld.store.event_rows import PLACE_EVERY, RawEvent
from fetchmld.store.segment import list_segments
from fetchmld.store.tail import Tail
from tests.store.ledger_samples import entries_of, facts, fill, open_ledger

EVENTS = 700


@pytest.fixture(params=["frames of one", "frames of many", "long events"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A ledger of many segments."""
    directory = tmp_path / "ledger"
    with open_ledger(directory) as ledger:
        if request.param == "long events":
            for fact in facts(0, EVENTS // 4):
                fact.metadata["long"] = "y" * 9_000
                ledger.append([fact])
        fill(ledger, [1] * EVENTS if request.param == "frames of one" else [61, 3, 136] * (EVENTS // 200))
    return directory


@pytest.fixture
def directory(written: Path) -> Path:
    """The same, all but the newest two segments sealed."""
    assert retention.seal_old(written, 2) > 3
    return written


def places_of(directory: Path, block: NativeBlock | PlainBlock, first: int = 0) -> tuple[EventPlaces, list[RawEvent]]:
    """What a reader of the whole has, and the events."""
    Tail(directory, first).fill(block, None, 10**6)
    places = EventPlaces(directory)
    places.add(block.places)
    expected = [event for action in (b"task.start",) for event in block.raw(action)]
    assert len(expected) == block.count
    return places, expected


@pytest.mark.parametrize("kind", [NativeBlock, PlainBlock])
def test_a_block_says_where_its_events_lie(written: Path, kind: type[NativeBlock] | type[PlainBlock]) -> None:
    block = kind()
    Tail(written).fill(block, None, 10**6)
    starts = {entry.seq: entry.start for entry in entries_of(written)}
    assert block.places == [(seq, starts[seq]) for seq in range(0, block.count, PLACE_EVERY)]


@pytest.mark.parametrize("first", [0, 5])
def test_every_event_is_found_wherever_it_lies(directory: Path, first: int) -> None:
    places, expected = places_of(directory, NativeBlock(), first)
    by_seq = {seq: event for event in expected if (seq := event[0]) >= 0}
    dice = random.Random(1)
    for wanted in (list(by_seq), *([seq] for seq in by_seq), *(dice.sample(list(by_seq), 20) for _ in range(20))):
        assert places.read(wanted) == {seq: by_seq[seq] for seq in wanted}
    assert places.read([len(expected) + first, 10**9]) == {}
    places.close()


def test_few_segments_are_open_at_a_time_and_none_that_is_gone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_places, "FILES_MAX", 2)
    places, expected = places_of(directory, NativeBlock())
    assert len(places.read(range(len(expected)))) == len(expected)
    assert len(places._files) == 2
    retention.seal_old(directory, 1)
    places.close_gone()
    assert places._files.keys() <= {path for _, path in list_segments(directory / "segments")}
    assert len(places.read(range(len(expected)))) == len(expected)
    places.close()
    assert not places._files


def test_wrong_places_and_changed_events_are_not_believed(written: Path) -> None:
    block = NativeBlock()
    places, expected = places_of(written, block)
    newest = list_segments(written / "segments")[-1]
    entries = [entry for entry in entries_of(written) if entry.seq >= newest[0]]
    assert retention.seal_old(written, 2) > 3
    seqs = range(newest[0], len(expected))
    for shift in (1, -1, 40, 10**6):
        places = EventPlaces(written)
        places.add((seq, max(0, at + shift)) for seq, at in block.places)
        found = places.read(seqs)
        assert all(found[seq] == expected[seq] for seq in found)
        places.close()
    raw = newest[1].read_bytes()
    for entry in entries:
        at = random.Random(entry.seq).randrange(entry.start, entry.end)
        newest[1].write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        places = EventPlaces(written)
        places.add(block.places)
        found = places.read(seqs)
        assert entry.seq not in found
        assert all(found[seq] == expected[seq] for seq in found)
        places.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[EventPlaces]:
    places = EventPlaces(tmp_path)
    yield places
    places.close()


def test_without_segments_nothing_is_found(empty: EventPlaces) -> None:
    assert empty.read([0, 1, 7]) == {}
