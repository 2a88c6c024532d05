"""The head's copy of logs: it only grows, repeats change nothing, gaps are refused, and only owners' output is read."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchmld.core.errors import BadRequest, Unavailable
from fetchmld.core.model import LogPlace
from fetchmld.runner.logs import LogPool
from fetchmld.store.shipment import Piece, live_name, pack, unpack
from fetchmld.store.shipped_logs import ShippedLogs

LIVE = live_name("t-1-0")


def test_what_comes_is_appended_and_repeats_and_gaps_change_nothing(tmp_path: Path) -> None:
    logs = ShippedLogs(tmp_path)
    assert logs.lengths("w") == {}
    assert logs.take("w", [Piece("segments/0.seg", 0, b"0123")]) == {"segments/0.seg": 4}
    assert logs.take("w", [Piece("segments/0.seg", 2, b"2345")]) == {"segments/0.seg": 6}
    assert logs.take("w", [Piece("segments/0.seg", 0, b"01")]) == {"segments/0.seg": 6}
    assert logs.take("w", [Piece("segments/0.seg", 7, b"xx")]) == {"segments/0.seg": 6}  # a gap
    assert logs.take("w", [Piece(LIVE, 1, b"xx")]) == {LIVE: 0}
    assert (tmp_path / "w/segments/0.seg").read_bytes() == b"012345"
    assert logs.lengths("w") == {"segments/0.seg": 6, LIVE: 0}
    assert logs.lengths("other") == {}


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=20))
def test_in_whatever_pieces_it_comes_what_is_there_is_the_beginning_of_it(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, int]]
) -> None:
    whole, top = bytes(range(60)), tmp_path_factory.mktemp("logs")
    logs, length = ShippedLogs(top), 0
    for offset, size in cuts:
        length = logs.take("w", [Piece("whole/t-1-0.log", offset, whole[offset : offset + size])])["whole/t-1-0.log"]
        assert (top / "w/whole/t-1-0.log").read_bytes() == whole[:length]
    assert length == (logs.lengths("w") or {"": 0}).popitem()[1]


def test_a_live_file_becomes_a_whole_one_or_goes(tmp_path: Path) -> None:
    logs = ShippedLogs(tmp_path)
    logs.take("w", [Piece(LIVE, 0, b"begin"), Piece(live_name("u-1-0"), 0, b"x")])
    became = logs.take("w", [Piece("whole/t-1-0.log", was=LIVE), Piece("whole/t-1-0.log", 5, b"ning")])
    assert became == {"whole/t-1-0.log": 9}
    assert logs.take("w", [Piece("whole/t-1-0.log", was=LIVE)]) == {"whole/t-1-0.log": 9}  # again
    assert logs.take("w", [Piece(live_name("u-1-0"), gone=True)]) == {live_name("u-1-0"): 0}
    assert logs.lengths("w") == {"whole/t-1-0.log": 9}
    assert logs.read_loose("t-1-0", 4, 100) == (b"nning", 9)


def test_a_place_of_the_record_is_read_here_once_all_of_it_is(tmp_path: Path) -> None:
    pool = LogPool(str(tmp_path / "node"), set())
    slot, fd = pool.acquire()
    os.write(fd, b"hello there")
    place: LogPlace = {"worker_id": "w", **pool.keep(slot, "t-1-0")}  # type: ignore[typeddict-item]
    content = (tmp_path / "node" / place["file"]).read_bytes()
    logs = ShippedLogs(tmp_path / "head")
    logs.take("w", [Piece(place["file"], 0, content[:-1])])
    assert logs.read(place, "t-1-", 0, 100) is None
    logs.take("w", [Piece(place["file"], 0, content)])
    assert logs.read(place, "t-1-", 0, 100) == b"hello there"
    assert logs.read(place, "t-1-", 6, 3) == b"the"
    assert logs.read(place, "t-2-", 0, 100) is None  # another's
    assert logs.read({**place, "worker_id": "v"}, "t-1-", 0, 100) is None
    assert logs.read({**place, "worker_id": "../w"}, "t-1-", 0, 100) is None


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = ShippedLogs(tmp_path)
    logs.take("w", [Piece("segments/0.seg", 0, b"01")])

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("fetchmld.store.shipped_logs.os.write", full)
        with pytest.raises(Unavailable, match="full"):
            logs.take("w", [Piece("segments/0.seg", 2, b"23")])
    assert logs.take("w", [Piece("segments/0.seg", 2, b"23")]) == {"segments/0.seg": 4}


@pytest.mark.parametrize(
    "name",
    ["", "x", "../x", "segments/../../x", "/etc/passwd", "live/a/b.log", "live/..log", "whole/.log", "segments/1.seg\n",
     "live/" + "a" * 300 + ".log", "segments/-1.seg", "whole/\0.log", "LIVE/a.log"],
)  # fmt: skip
def test_hostile_names_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    for piece in (Piece(name, 0, b"x"), Piece("live/a.log", was=name or "x"), Piece(name, gone=True)):
        with pytest.raises(BadRequest):
            list(unpack(pack([piece])))


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange_to_be_refused(data: bytes) -> None:
    try:
        pieces = list(unpack(data))
    except BadRequest:
        return
    assert sum(len(piece.data) for piece in pieces) <= len(data)


def test_a_shipment_is_read_as_it_was_packed() -> None:
    pieces = [
        Piece(LIVE, 3, b"abc"),
        Piece("whole/t-1-0.log", was=LIVE),
        Piece(LIVE, gone=True),
        Piece("segments/9.seg"),
    ]
    assert list(unpack(pack(pieces))) == pieces
    ends = {len(pack(pieces[:count])) for count in range(len(pieces))}
    for cut in set(range(len(pack(pieces)))) - ends:
        with pytest.raises(BadRequest):
            list(unpack(pack(pieces)[:cut]))
