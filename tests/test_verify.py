"""Whatever is changed on the disk is found, at the lowest event that is wrong (S13 of the guarantees)."""

import os
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from fetchmld.core.chain import event_hash
from fetchmld.store import landmarks
from fetchmld.store.blocks import Block, next_block
from fetchmld.store.event_rows import SCHEMA
from fetchmld.store.history import History
from fetchmld.store.ledger import Ledger
from fetchmld.store.segment import HEADER, SIZE
from fetchmld.store.tail import Tail
from fetchmld.verify import (
    TAMPERED,
    UNREADABLE,
    VALID,
    VALID_UNVOUCHED,
    main_code,
    offline,
)
from fetchmld.verify_index import verify_index
from fetchmld.verify_walk import SegmentResult, verify_segments
from tests.store.ledger_samples import (
    GENESIS,
    SEGMENT_BYTES,
    Entry,
    Frame,
    entries_of,
    facts,
    fill,
    frames_of,
    open_ledger,
    segment_paths,
)
from tests.store.task_facts import whole_life

BATCHES = (1, 3, 2, 8, 1, 5, 13, 1, 9, 2, 2, 30, 1)
TOTAL = sum(BATCHES)
ROUNDS = 60


class Disk:
    """A written ledger whose files can be changed and put back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.frames = frames_of(directory)
        self.entries = entries_of(directory)
        self._images = {path: path.read_bytes() for path in (*segment_paths(directory), directory / "head")}

    def image(self, path: Path) -> bytearray:
        return bytearray(self._images[path])

    def restore(self) -> None:
        for path, image in self._images.items():
            path.write_bytes(image)

    def frame_of(self, entry: Entry) -> Frame:
        return next(frame for frame in self.frames if entry in frame.entries)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    directory = tmp_path_factory.mktemp("verify") / "ledger"
    with open_ledger(directory) as ledger:
        fill(ledger, BATCHES)
        ledger._spare.close()
    return Disk(directory)


def sum_again(image: bytearray, frame: Frame) -> None:
    """Make the frame's sums right for its bytes, as whoever knows the format would."""
    payload = bytes(image[frame.start + HEADER.size : frame.end - 8])
    image[frame.start + 32 : frame.start + 36] = SIZE.pack(zlib.crc32(payload))
    image[frame.start + 36 : frame.start + 40] = SIZE.pack(zlib.crc32(image[frame.start : frame.start + 36]))


def rewrite(image: bytearray, entry: Entry, at: int) -> None:
    """Change one byte of a record and make its own hash right again."""
    image[entry.record.start + at] ^= 0x15
    image[entry.digest] = event_hash(bytes(image[entry.record]))


# Each takes the disk and a source of randomness, changes the files, and returns the lowest bad sequence number.


def flip_byte(disk: Disk, rng: random.Random) -> int:
    frame = rng.choice(disk.frames)
    at = rng.randrange(frame.start, frame.end)
    image = disk.image(frame.path)
    image[at] ^= rng.randrange(1, 256)
    frame.path.write_bytes(image)
    return frame.event_at(at)


def flip_and_sum(disk: Disk, rng: random.Random) -> int:
    entry = rng.choice(disk.entries)
    image = disk.image(entry.path)
    image[rng.randrange(entry.start, entry.end)] ^= rng.randrange(1, 256)
    sum_again(image, disk.frame_of(entry))
    entry.path.write_bytes(image)
    return entry.seq


def edit_with_hash(disk: Disk, rng: random.Random) -> int:
    """Not the last event: head vouches for that one only as long as head itself is not changed, see below."""
    entry = rng.choice(disk.entries)
    image = disk.image(entry.path)
    rewrite(image, entry, rng.randrange(48, entry.record.stop - entry.record.start))
    sum_again(image, disk.frame_of(entry))
    entry.path.write_bytes(image)
    return entry.seq


def edit_link_with_hash(disk: Disk, rng: random.Random) -> int:
    entry = rng.choice(disk.entries[:-1])
    follower = disk.entries[entry.seq + 1]
    if follower.path != entry.path:  # its link is in another file: the walk cannot look ahead
        return edit_link_with_hash(disk, rng)
    image = disk.image(entry.path)
    rewrite(image, entry, 16 + rng.randrange(32))
    sum_again(image, disk.frame_of(entry))
    entry.path.write_bytes(image)
    return entry.seq


def edit_number_with_hash(disk: Disk, rng: random.Random) -> int:
    entry = rng.choice(disk.entries)
    image = disk.image(entry.path)
    number = rng.choice([entry.seq + 1 + rng.randrange(9), 2**63])
    image[entry.record.start + 8 : entry.record.start + 16] = number.to_bytes(8, "big")
    image[entry.digest] = event_hash(bytes(image[entry.record]))
    sum_again(image, disk.frame_of(entry))
    entry.path.write_bytes(image)
    return entry.seq


def replace_range(path: Path, image: bytearray, start: int, end: int, data: bytes) -> None:
    """Other bytes for [start, end), of any length; the file keeps its size, or grows where it was full."""
    changed = bytes(image[:start]) + data + bytes(image[end:])
    path.write_bytes(changed.rstrip(b"\0").ljust(len(image), b"\0"))


def delete_record(disk: Disk, rng: random.Random) -> int:
    entry = rng.choice(disk.entries)
    replace_range(entry.path, disk.image(entry.path), entry.start, entry.end, b"")
    return entry.seq


def delete_frame(disk: Disk, rng: random.Random) -> int:
    frame = rng.choice(disk.frames)
    replace_range(frame.path, disk.image(frame.path), frame.start, frame.end, b"")
    return frame.first_seq


def insert_copied_frame(disk: Disk, rng: random.Random) -> int:
    frame, place = rng.choice(disk.frames), rng.choice(disk.frames)
    copy = bytes(disk.image(frame.path)[frame.start : frame.end])
    replace_range(place.path, disk.image(place.path), place.start, place.start, copy)
    if frame is place:
        return frame.entries[-1].seq + 1  # the copy passes for it, and itself stands where the next is due
    return place.first_seq


def insert_copied_record(disk: Disk, rng: random.Random) -> int:
    entry, place = rng.choice(disk.entries), rng.choice(disk.entries)
    copy = bytes(disk.image(entry.path)[entry.start : entry.end])
    replace_range(place.path, disk.image(place.path), place.start, place.start, copy)
    if entry == place and entry != disk.frame_of(entry).entries[-1]:
        return place.seq + 1  # the copy passes for it, and itself stands where the next is due
    return place.seq


def insert_forged_record(disk: Disk, rng: random.Random) -> int:
    """A record with the right number, link and hash, before the true one."""
    place = rng.choice(disk.entries)
    image = disk.image(place.path)
    forged = bytearray(image[place.start : place.end])
    forged[4 + 50] ^= 1
    forged[-32:] = event_hash(bytes(forged[4:-32]))
    replace_range(place.path, image, place.start, place.start, bytes(forged))
    return place.seq


def swap_records(disk: Disk, rng: random.Random) -> int:
    frame = rng.choice([frame for frame in disk.frames if len(frame.entries) > 1])
    one, two = sorted(rng.sample(frame.entries, 2), key=lambda entry: entry.seq)
    image = disk.image(frame.path)
    between = bytes(image[one.end : two.start])
    swapped = bytes(image[two.start : two.end]) + between + bytes(image[one.start : one.end])
    image[one.start : two.end] = swapped
    sum_again(image, frame)
    frame.path.write_bytes(image)
    return one.seq


def swap_frames(disk: Disk, rng: random.Random) -> int:
    path = rng.choice([path for path in segment_paths(disk.directory) if len(here(disk, path)) > 1])
    one, two = sorted(rng.sample(here(disk, path), 2), key=lambda frame: frame.start)
    image = disk.image(path)
    between = bytes(image[one.end : two.start])
    image[one.start : two.end] = bytes(image[two.start : two.end]) + between + bytes(image[one.start : one.end])
    path.write_bytes(image)
    return one.first_seq


def here(disk: Disk, path: Path) -> list[Frame]:
    return [frame for frame in disk.frames if frame.path == path]


def swap_segments(disk: Disk, rng: random.Random) -> int:
    one, two = sorted(rng.sample(segment_paths(disk.directory), 2))
    one.write_bytes(disk.image(two))
    two.write_bytes(disk.image(one))
    return int(one.stem)


def delete_segment(disk: Disk, rng: random.Random) -> int:
    path = rng.choice(segment_paths(disk.directory))
    path.unlink()
    return int(path.stem)


def cut_tail(disk: Disk, rng: random.Random) -> int:
    """Zeros from some byte of some frame to the end of everything."""
    frame = rng.choice(disk.frames)
    at = rng.randrange(frame.start, frame.end)
    frame.path.write_bytes(disk.image(frame.path)[:at].ljust(SEGMENT_BYTES, b"\0"))
    for path in segment_paths(disk.directory):
        if path > frame.path:
            path.unlink()
    return frame.event_at(at)


def cut_file(disk: Disk, rng: random.Random) -> int:
    entry = rng.choice(disk.entries)
    os.truncate(entry.path, rng.randrange(entry.start, entry.end))
    return entry.seq


def write_after_the_end(disk: Disk, rng: random.Random) -> int:
    path = rng.choice(segment_paths(disk.directory))
    frame = here(disk, path)[-1]
    image = disk.image(path)
    if frame.end == len(image):
        return write_after_the_end(disk, rng)
    image[rng.randrange(frame.end, len(image))] = 1
    path.write_bytes(image)
    return frame.entries[-1].seq + 1


def rewrite_to_the_end(disk: Disk, rng: random.Random) -> int:
    """An event and every link after it, all sums right: only head, which names the last event's hash, tells."""
    first = rng.choice(disk.entries)
    images: dict[Path, bytearray] = {}
    link = b""
    for entry in disk.entries[first.seq :]:
        image = images.setdefault(entry.path, disk.image(entry.path))
        if link:
            image[entry.record.start + 16 : entry.record.start + 48] = link
        else:
            image[entry.record.start + 60] ^= 1
        link = event_hash(bytes(image[entry.record]))
        image[entry.digest] = link
    for frame in disk.frames:
        if frame.path in images:
            sum_again(images[frame.path], frame)
    for path, image in images.items():
        path.write_bytes(image)
    return TOTAL - 1


TAMPERINGS: list[Callable[[Disk, random.Random], int]] = [
    flip_byte,
    flip_and_sum,
    edit_with_hash,
    edit_link_with_hash,
    edit_number_with_hash,
    delete_record,
    delete_frame,
    insert_copied_frame,
    insert_copied_record,
    insert_forged_record,
    swap_records,
    swap_frames,
    swap_segments,
    delete_segment,
    cut_tail,
    cut_file,
    write_after_the_end,
    rewrite_to_the_end,
]


def test_an_untouched_ledger_is_valid(disk: Disk) -> None:
    result = verify_segments(disk.directory)
    assert (result.valid, result.total_events, result.first_bad, result.problem) == (True, TOTAL, -1, "")
    assert result.root_hash == bytes(disk.image(disk.entries[-1].path)[disk.entries[-1].digest])
    assert len(segment_paths(disk.directory)) >= 3


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_every_tampering_is_found_at_the_right_event(disk: Disk, tamper: Callable[[Disk, random.Random], int]) -> None:
    rng = random.Random(tamper.__name__)
    for round_number in range(ROUNDS):
        try:
            first_bad = tamper(disk, rng)
            result = verify_segments(disk.directory)
        finally:
            disk.restore()
        assert result.first_bad == first_bad, (round_number, result)
        assert result.total_events <= first_bad
        assert result.problem
    assert verify_segments(disk.directory).valid


def test_every_byte_of_the_small_files_counts(disk: Disk) -> None:
    for name, first_bad in (("head", TOTAL), ("genesis.json", 0)):
        path = disk.directory / name
        image = path.read_bytes()
        changes = [image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :] for at in range(len(image))]
        for changed in (*changes, b"", image + b" ", image[:-1]):
            path.write_bytes(changed)
            assert verify_segments(disk.directory).first_bad == first_bad
        path.unlink()
        assert verify_segments(disk.directory).first_bad == first_bad
        path.write_bytes(image)


def test_a_head_that_names_another_event_is_believed(disk: Disk) -> None:
    head = landmarks.read_head(disk.directory)
    landmarks.write_head(disk.directory, landmarks.Head(17, b"\1" * 32, 0, 0))
    assert verify_segments(disk.directory).first_bad == 16
    landmarks.write_head(disk.directory, head)


def test_up_to_an_event_is_checked_and_nothing_beyond(disk: Disk) -> None:
    last = disk.entries[40]
    image = disk.image(last.path)
    image[last.record.start + 70] ^= 1
    last.path.write_bytes(image)
    for upto in range(40):
        result = verify_segments(disk.directory, upto)
        assert (result.valid, result.total_events) == (True, upto + 1)
        entry = disk.entries[upto]
        assert result.root_hash == bytes(disk.image(entry.path)[entry.digest])
    assert verify_segments(disk.directory, 40).first_bad == 40
    disk.restore()
    assert verify_segments(disk.directory, TOTAL).first_bad == TOTAL
    assert verify_segments(disk.directory, -1).total_events == 0


def test_a_torn_tail_is_named_and_after_recovery_all_is_valid(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    fill(ledger, (3, 5))
    ledger.abandon()
    frame = frames_of(tmp_path)[-1]
    with frame.path.open("r+b") as file:
        file.seek(frame.end - 40)
        file.write(bytes(40))
    assert verify_segments(tmp_path).first_bad in range(3, 8)
    with open_ledger(tmp_path) as ledger:
        assert (ledger.next_seq, ledger.recovery.torn_seq) == (3, 3)
    assert verify_segments(tmp_path).total_events == 3


# ---- the index ------------------------------------------------------------------------------------------------------


def make_index(path: Path, block: Block, next_seq: int) -> None:
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE TABLE meta (next_seq UBIGINT, last_hash BLOB, first_seq UBIGINT)")
        db.execute("INSERT INTO meta VALUES (?, ?, 0)", [next_seq, block.last_hash])
        db.register("arriving", pa.Table.from_batches([block.events()]))
        db.execute("CREATE TABLE events AS SELECT * FROM arriving")


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("indexed")
    with open_ledger(directory / "ledger") as ledger:
        fill(ledger, BATCHES)
        block = next_block(Tail(ledger.directory), None, TOTAL)
    make_index(directory / "index.duckdb", block, TOTAL)
    return directory


@pytest.fixture
def indexed(pattern: Path, tmp_path: Path) -> Path:
    """A directory with a ledger and an index over all of it."""
    return Path(shutil.copytree(pattern, tmp_path / "data"))


def test_an_index_that_says_the_same_is_valid(indexed: Path) -> None:
    result = verify_index(indexed / "ledger", indexed / "index.duckdb")
    assert (result.valid, result.first_bad, result.checked, result.behind) == (True, -1, TOTAL, 0)


def test_an_index_may_be_behind(indexed: Path) -> None:
    with open_ledger(indexed / "ledger") as ledger:
        fill(ledger, (4,))
    result = verify_index(indexed / "ledger", indexed / "index.duckdb")
    assert (result.valid, result.checked, result.behind) == (True, TOTAL, 4)


CHANGES: dict[str, tuple[str, int]] = {
    "missing": ("DELETE FROM events WHERE seq = 20", 20),
    "first missing": ("DELETE FROM events WHERE seq = 0", 0),
    "last missing": (f"DELETE FROM events WHERE seq = {TOTAL - 1}", TOTAL - 1),
    "all missing": ("DELETE FROM events", 0),
    "doubled": ("INSERT INTO events SELECT * FROM events WHERE seq = 21", 21),
    "extra": (f"INSERT INTO events SELECT * REPLACE ({TOTAL} AS seq) FROM events WHERE seq = 3", TOTAL),
    "extra far away": ("INSERT INTO events SELECT * REPLACE (99999 AS seq) FROM events WHERE seq = 3", 99999),
    "renumbered": ("UPDATE events SET seq = 30 WHERE seq = 12", 12),
    "unnumbered": ("UPDATE events SET seq = NULL WHERE seq = 12", 12),
    "swapped": ("UPDATE events SET seq = CASE seq WHEN 7 THEN 8 ELSE 7 END WHERE seq IN (7, 8)", 7),
    "meta behind": ("UPDATE meta SET next_seq = 30", 30),
    "meta ahead": (f"UPDATE meta SET next_seq = {TOTAL + 1}", TOTAL),
    "meta's hash": ("UPDATE meta SET last_hash = '\\x00'::BLOB", TOTAL - 1),
    "meta gone": ("DELETE FROM meta", 0),
    "meta's beginning": ("UPDATE meta SET first_seq = 7", 0),
    "no table": ("DROP TABLE events", 0),
    **{
        f"edited {column}": (f"UPDATE events SET {column} = {value} WHERE seq = 23", 23)
        for column, value in {
            "at_us": "at_us + 1",
            "clock_us": "0",
            "event_type": "'file_access'",
            "action": "'task.end'",
            "user_id": "'mallory'",
            "resource": "upper(resource)",
            "success": "NOT success",
            "ip_address": "NULL",
            "error": "'none'",
            "prev_hash": "event_hash",
            "event_hash": "prev_hash",
            "metadata": "metadata || ' '",
        }.items()
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_index_is_found_at_the_right_row(indexed: Path, change: str) -> None:
    sql, first_bad = CHANGES[change]
    with duckdb.connect(str(indexed / "index.duckdb")) as db:
        db.execute(sql)
    result = verify_index(indexed / "ledger", indexed / "index.duckdb")
    assert (result.valid, result.first_bad) == (False, first_bad), result
    assert result.problem


def test_every_column_of_the_index_is_compared() -> None:
    edited = {change.removeprefix("edited ") for change in CHANGES if change.startswith("edited ")}
    assert edited == set(SCHEMA.names) - {"seq"}


def test_derived_tables_are_compared_by_whoever_derives_them(indexed: Path) -> None:
    def check(db: Any, ledger_dir: Path) -> tuple[int, str]:
        assert db.execute("SELECT count(*) FROM events").fetchone() == (TOTAL,)
        return 5, f"a task in {ledger_dir.name}"

    result = verify_index(indexed / "ledger", indexed / "index.duckdb", check)
    assert (result.valid, result.first_bad, result.problem) == (False, 5, "a task in ledger")


def test_a_file_that_is_no_index_cannot_be_opened(indexed: Path) -> None:
    (indexed / "index.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(OSError, match="cannot be opened"):
        verify_index(indexed / "ledger", indexed / "index.duckdb")
    assert offline(indexed).code == UNREADABLE


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_codes_say_what_was_found() -> None:
    good, bad = SegmentResult(1, -1, "", b""), SegmentResult(0, 0, "x", b"")
    assert [main_code(good, None), main_code(good, None, vouched=True), main_code(bad, None, vouched=True)] == [
        VALID_UNVOUCHED,
        VALID,
        TAMPERED,
    ]


def test_offline_says_what_it_found(tmp_path: Path) -> None:
    assert offline(tmp_path).code == UNREADABLE
    with Ledger.open(tmp_path / "ledger", segment_bytes=SEGMENT_BYTES, genesis=GENESIS) as ledger:
        ledger.append(facts(0, 5))
        root = ledger.root_hash.hex()
    report = offline(tmp_path)
    assert report.code == VALID_UNVOUCHED
    assert report.lines[0] == f"valid: 5 events, root {root}"
    shutil.rmtree(tmp_path / "ledger" / "segments")
    (tmp_path / "ledger" / "segments").mkdir()
    report = offline(tmp_path)
    assert report.code == TAMPERED
    assert "sequence number 0" in report.lines[0]


def test_offline_compares_the_index_too(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger", segment_bytes=SEGMENT_BYTES) as ledger:
        ledger.append([fact for number in range(9) for fact in whole_life(f"t{number}")])
        with closing(History(tmp_path / "index.duckdb", tmp_path / "ledger")) as history:
            history.catch_up(ledger.next_seq - 1)
            report = offline(tmp_path)  # as while a daemon runs
    assert report.code == VALID_UNVOUCHED
    assert report.lines[1].startswith("index not compared")
    assert offline(tmp_path).lines[1] == f"index: {ledger.next_seq} rows agree with the ledger"
    assert offline(tmp_path).code == VALID_UNVOUCHED
    for sql in (
        "UPDATE tasks SET status = 'failed' WHERE id = 't4'",
        "UPDATE events SET user_id = 'eve' WHERE seq = 5",
    ):
        with duckdb.connect(str(tmp_path / "index.duckdb")) as db:
            db.execute(sql)
        report = offline(tmp_path)
        assert report.code == TAMPERED
        assert report.lines[1].startswith("INVALID index")
    assert report.index is not None
    assert report.index.first_bad == 5


def test_it_needs_no_database_where_there_is_none(tmp_path: Path) -> None:
    open_ledger(tmp_path / "ledger").close()
    script = (
        "import pathlib, sys; from fetchmld.verify import offline; "
        f"print(offline(pathlib.Path({str(tmp_path)!r})).code, 'duckdb' in sys.modules, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["2", "False", "False"]
