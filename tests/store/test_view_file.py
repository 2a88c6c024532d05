"""The copy of the views: what is read is what was put there last, or nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fetchmld.store.task_rows import view_sum
from fetchmld.store.view_file import NO_SLOT, UNIT_BYTES, ViewFile

views = st.integers(1, 2_000).map(lambda size: (b"%d " % size).ljust(size, b"v"))
batches = st.lists(st.dictionaries(st.integers(0, 9), st.tuples(views, st.booleans()), max_size=6), max_size=8)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ViewFile]:
    file = ViewFile(tmp_path / "index.views")
    yield file
    file.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(batches)
def test_each_view_is_what_was_put_there_last(file: ViewFile, batches: list[dict[int, tuple[bytes, bool]]]) -> None:
    file.clear()
    slots: dict[int, int] = {}
    newest: dict[int, bytes] = {}
    for batch in batches:
        found, final = [view for view, _ in batch.values()], [ends for _, ends in batch.values()]
        slots.update(zip(batch, file.put(found, [slots.get(key, NO_SLOT) for key in batch], final), strict=True))
        newest.update(zip(batch, found, strict=True))
        for key, view in newest.items():
            assert file.get(slots[key], view_sum(view)) == view


def test_what_has_another_sum_is_not_given_and_can_be_put_back(file: ViewFile, tmp_path: Path) -> None:
    slots = file.put([b"one", b"two" * 50], [NO_SLOT] * 2, [True, False])
    path = tmp_path / "index.views"
    assert file.get(slots[0], view_sum(b"two" * 50)) is None
    assert file.get(NO_SLOT, view_sum(b"one")) is None
    path.write_bytes(path.read_bytes().replace(b"one", b"ane"))
    assert file.get(slots[0], view_sum(b"one")) is None
    file.mend(slots[0], b"one")
    assert file.get(slots[0], view_sum(b"one")) == b"one"
    file.mend(slots[0], b"x" * (UNIT_BYTES + 1))
    assert file.get(slots[1], view_sum(b"two" * 50)) == b"two" * 50, "a longer one has reached into the next slot"


def test_an_opened_file_goes_on_behind_what_is_there(file: ViewFile, tmp_path: Path) -> None:
    slots = file.put([b"one", b"two"], [NO_SLOT] * 2, [True, True])
    other = ViewFile(tmp_path / "index.views")
    slots += other.put([b"three"], [NO_SLOT], [True])
    assert [other.get(slot, view_sum(view)) for slot, view in zip(slots, (b"one", b"two", b"three"), strict=True)] == [
        b"one",
        b"two",
        b"three",
    ]
    other.clear()
    other.reach(slots[-1])
    (fresh,) = other.put([b"four"], [NO_SLOT], [True])
    assert fresh not in slots
    other.close()


def test_the_disk_below_a_slot_is_given_back(file: ViewFile, tmp_path: Path) -> None:
    view = b"v" * 4_000
    slots = file.put([view] * 500, [NO_SLOT] * 500, [True] * 500)
    before = (tmp_path / "index.views").stat().st_blocks
    file.free_before(slots[400])
    assert (tmp_path / "index.views").stat().st_blocks < before / 2
    assert file.get(slots[399], view_sum(view)) is None
    assert file.get(slots[400], view_sum(view)) == view
    file.free_before(None)
    assert file.get(slots[400], view_sum(view)) is None


def test_a_view_beyond_all_sense_has_no_slot(file: ViewFile) -> None:
    assert file.put([b"v" * (2**20 * UNIT_BYTES)], [NO_SLOT], [True]) == [NO_SLOT]
