"""The walk over frames in which all is right: natively it goes exactly as far as the specification does."""

import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchmld._verify import crc32
from fetchmld._verify import pass_over as natively
from fetchmld.core.chain import event_hash, genesis_hash
from fetchmld.store.segment import HEADER, SIZE
from fetchmld.verify_frames import NO_LIMIT, plainly
from tests.store.ledger_samples import GENESIS, Entry, Frame, entries_of, fill, frames_of, open_ledger, segment_paths

BATCHES = (1, 3, 1, 1, 7, 2, 1)
TOTAL = sum(BATCHES)
ROUNDS = 150
Walk = Callable[[bytes, int, int, bytes, int, list[bytes], tuple[bytes, ...], list[int]], tuple[int, int, bytes]]
WALKS = pytest.mark.parametrize("walk", [natively, plainly])


class Segment:
    """The bytes of a ledger's one segment, and where in them everything is."""

    def __init__(self, directory: Path) -> None:
        with open_ledger(directory) as ledger:
            fill(ledger, BATCHES)
        (path,) = segment_paths(directory)
        self.image = path.read_bytes()
        self.frames: list[Frame] = frames_of(directory)
        self.entries: list[Entry] = entries_of(directory)
        self.hashes = [self.image[entry.digest] for entry in self.entries]

    def summed(self, image: bytearray) -> bytes:
        """With every frame's sums made right for what it holds now."""
        for frame in self.frames:
            image[frame.start + 32 : frame.start + 36] = SIZE.pack(
                zlib.crc32(image[frame.start + HEADER.size : frame.end - 8])
            )
            image[frame.start + 36 : frame.start + 40] = SIZE.pack(zlib.crc32(image[frame.start : frame.start + 36]))
        return bytes(image)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Segment:
    return Segment(tmp_path_factory.mktemp("frames") / "ledger")


def walked(walk: Walk, image: bytes, limit: int = NO_LIMIT) -> tuple[int, int, bytes, list[bytes]]:
    leaves: list[bytes] = []
    return (*walk(image, 0, 0, genesis_hash(GENESIS), limit, leaves, (), []), leaves)


def marked(walk: Walk, image: bytes, limit: int = NO_LIMIT) -> list[int]:
    found: list[int] = []
    walk(image, 0, 0, genesis_hash(GENESIS), limit, [], (b"task.start", b"x"), found)
    return found


def same(image: bytes, limit: int = NO_LIMIT) -> int:
    """How far both go, which is the same."""
    found = walked(natively, image, limit)
    assert found == walked(plainly, image, limit)
    assert marked(natively, image, limit) == marked(plainly, image, limit)
    assert len(found[3]) == found[1]
    return found[1]


@WALKS
def test_it_goes_over_all_that_is_right(walk: Walk, segment: Segment) -> None:
    end = segment.frames[-1].end
    assert walked(walk, segment.image) == (end, TOTAL, segment.hashes[-1], segment.hashes)
    assert walked(walk, segment.image[:end]) == (end, TOTAL, segment.hashes[-1], segment.hashes)


@WALKS
def test_it_goes_on_where_it_stopped(walk: Walk, segment: Segment) -> None:
    for frame in segment.frames:
        before = frame.first_seq and segment.hashes[frame.first_seq - 1]
        leaves = [b"earlier"]
        _, seq, root = walk(
            segment.image, frame.start, frame.first_seq, before or genesis_hash(GENESIS), NO_LIMIT, leaves, (), []
        )
        assert (seq, root) == (TOTAL, segment.hashes[-1])
        assert leaves == [b"earlier", *segment.hashes[frame.first_seq :]]


@WALKS
def test_it_passes_no_limit(walk: Walk, segment: Segment) -> None:
    starts = [frame.first_seq for frame in segment.frames] + [TOTAL]
    for limit in range(TOTAL + 2):
        assert walked(walk, segment.image, limit)[1] == max(start for start in starts if start <= limit)


def test_a_changed_byte_stops_both_before_its_frame(segment: Segment) -> None:
    for frame in segment.frames:
        for at in range(frame.start, frame.end):
            image = bytearray(segment.image)
            image[at] ^= 1 << at % 8
            assert same(bytes(image)) == frame.first_seq


def test_a_changed_byte_in_a_frame_whose_sums_were_made_right_stops_both_too(segment: Segment) -> None:
    for frame in segment.frames:
        for at in range(frame.start + HEADER.size, frame.end):
            image = bytearray(segment.image)
            image[at] ^= 1 << at % 8
            assert same(segment.summed(image)) == frame.first_seq


@pytest.mark.parametrize("field", ["tag", "number", "link", "text"])
def test_a_record_with_its_hash_rewritten_stops_both_by_what_does_not_follow(field: str, segment: Segment) -> None:
    at = {"tag": 3, "number": 12, "link": 20, "text": 90}[field]
    for entry in segment.entries:
        image = bytearray(segment.image)
        image[entry.record.start + at] ^= 0x15
        image[entry.digest] = event_hash(bytes(image[entry.record]))
        due = entry.seq + 1 if field == "text" else entry.seq  # only its successor shows that its text is another
        starts = [frame.first_seq for frame in segment.frames if frame.first_seq <= due]
        assert same(segment.summed(image)) == (starts[-1] if due < TOTAL else TOTAL)


def test_wherever_it_is_cut_both_stop_at_the_same_place(segment: Segment) -> None:
    for end in range(segment.frames[-1].end + 1):
        assert same(segment.image[:end]) == max(
            (f.first_seq + len(f.entries) for f in segment.frames if f.end <= end), default=0
        )


def test_wild_damage_stops_both_at_the_same_place(segment: Segment) -> None:
    for round_ in range(ROUNDS):
        dice = random.Random(round_)
        image = bytearray(segment.image)
        for _ in range(dice.randrange(1, 4)):
            at, end = dice.randrange(segment.frames[-1].end), dice.randrange(segment.frames[-1].end)
            size = dice.choice((1, 2, 4, 8, 40, 300))
            image[at : at + size] = dice.choice(
                (dice.randbytes(size), bytes(size), b"\xff" * size, image[end : end + size])
            )
        same(segment.summed(image) if dice.random() < 0.7 else bytes(image))


@WALKS
def test_a_hash_before_of_another_size_fits_nothing(walk: Walk, segment: Segment) -> None:
    leaves: list[bytes] = []
    assert walk(segment.image, 0, 0, b"", NO_LIMIT, leaves, (), []) == (0, 0, b"")
    assert not leaves


@WALKS
def test_the_records_of_an_action_are_marked(walk: Walk, segment: Segment) -> None:
    assert marked(walk, segment.image) == [entry.record.start for entry in segment.entries]
    found: list[int] = []
    walk(segment.image, 0, 0, genesis_hash(GENESIS), NO_LIMIT, [], (b"task.star", b"ask.start", b""), found)
    assert not found


@given(st.binary(max_size=300))
def test_its_sum_is_that_of_zip(data: bytes) -> None:
    assert crc32(data) == zlib.crc32(data)
