"""What is left becomes a manifest: regular files alone, within bounds, and whatever is left out is named."""

import io
import json
import os
import socket
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from blake3 import blake3

from fetchmld.core.model import RankArtifacts
from fetchmld.store import artifacts
from fetchmld.store.artifacts import Changed, entries_of, keep_tree
from fetchmld.store.content import ContentStore


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_tree_becomes_a_manifest(tmp_path: Path) -> None:
    tree = tmp_path / "out"
    (tree / "b" / "c").mkdir(parents=True)
    (tree / "b" / "c" / "x").write_bytes(b"xx")
    (tree / "a").write_bytes(b"")
    store = ContentStore(tmp_path / "objects")
    kept = keep_tree(store, tree)
    assert kept.left_out == []
    assert kept.artifacts is not None
    assert json.loads(store.read(kept.artifacts["manifest"])) == [
        {"path": "a", "bytes": 0, "hash": blake3(b"").hexdigest()},
        {"path": "b/c/x", "bytes": 2, "hash": blake3(b"xx").hexdigest()},
    ]
    assert (kept.artifacts["file_count"], kept.artifacts["total_bytes"]) == (2, 2)
    assert keep_tree(store, tree).artifacts == kept.artifacts


def test_links_and_special_files_stay_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("s")
    tree = tmp_path / "out"
    tree.mkdir()
    (tree / "directory").symlink_to(secret)
    (tree / "file").symlink_to(secret / "key")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tree / "socket"))
    (tree / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    kept = keep_tree(ContentStore(tmp_path / "objects"), tree)
    assert kept.artifacts is None
    assert kept.left_out_count == 5
    assert kept.left_out == [
        "directory (a link)", "file (a link)", "'not-utf8-\\udcff' (its name is not UTF-8)", "pipe (a pipe)",
        "socket (a socket)",
    ]  # fmt: skip
    assert listing(tmp_path / "objects") == []


def test_bounds_are_kept_and_told(tmp_path: Path) -> None:
    tree = tmp_path / "out"
    tree.mkdir()
    for number in range(5):
        (tree / str(number)).write_bytes(b"x" * 10)
    store = ContentStore(tmp_path / "objects")
    few = keep_tree(store, tree, files_max=2)
    small = keep_tree(store, tree, bytes_max=35)
    assert few.artifacts is not None
    assert small.artifacts is not None
    assert (few.artifacts["file_count"], len(few.left_out)) == (2, 3)
    assert (small.artifacts["total_bytes"], len(small.left_out)) == (30, 2)


def test_nothing_there_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "out" / "empty").mkdir(parents=True)
    kept = keep_tree(ContentStore(tmp_path / "objects"), tmp_path / "out")
    assert (kept.artifacts, kept.left_out) == (None, [])


def test_which_files_go_beyond_a_bound_is_by_their_paths_and_only_the_first_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "NAMED_MAX", 3)
    for number in range(9, -1, -1):
        (tmp_path / "out" / f"d{number}").mkdir(parents=True)
        (tmp_path / "out" / f"d{number}" / "f").write_text(f"{number}")
    store = ContentStore(tmp_path / "objects")
    kept = keep_tree(store, tmp_path / "out", files_max=4)
    assert kept.artifacts is not None
    assert [entry["path"] for entry in json.loads(store.read(kept.artifacts["manifest"]))] == [
        "d0/f", "d1/f", "d2/f", "d3/f"
    ]  # fmt: skip
    assert (kept.left_out_count, kept.left_out[0]) == (6, "d4/f (more than 4 files, artifact_files_max)")
    assert len(kept.left_out) < 6


def test_a_file_that_changes_while_it_is_sent_is_left_out_and_said(tmp_path: Path) -> None:
    class Elsewhere(ContentStore):
        def put_file(self, source: BinaryIO) -> tuple[str, int]:
            data = source.read()
            if data == b"moving":
                raise Changed
            return super().put_file(io.BytesIO(data))

    (tmp_path / "out").mkdir()
    for name in ("moving", "still"):
        (tmp_path / "out" / name).write_text(name)
    kept = keep_tree(Elsewhere(tmp_path / "objects"), tmp_path / "out")
    assert kept.left_out == ["moving (it changed while it was read)"]
    assert kept.artifacts is not None
    assert kept.artifacts["file_count"] == 1


def test_a_store_that_fails_fails_the_whole_and_leaves_no_file_open(tmp_path: Path) -> None:
    class Full(ContentStore):
        def put_file(self, source: BinaryIO) -> tuple[str, int]:
            raise OSError(28, "full")

    (tmp_path / "out").mkdir()
    for number in range(200):
        (tmp_path / "out" / f"{number}").write_text("x")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="full"):
        keep_tree(Full(tmp_path / "objects"), tmp_path / "out")
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() < 20


def test_a_name_that_was_another_file_before_counts_for_its_owner(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    kept = keep_tree(ContentStore(tmp_path / "objects"), tmp_path / "out", owner=12345)
    assert kept.left_out == ["mine (somebody else's file)"]


def test_what_the_nodes_of_a_gang_left_is_one_list(tmp_path: Path) -> None:
    store, kept = ContentStore(tmp_path / "objects"), []
    for rank in range(3):
        (tmp_path / f"out{rank}").mkdir()
        (tmp_path / f"out{rank}" / "shard").write_text(f"{rank}")
        found = keep_tree(store, tmp_path / f"out{rank}").artifacts
        assert found is not None
        kept.append(found)
    others: list[RankArtifacts] = [{"rank": rank, "artifacts": kept[rank]} for rank in (1, 2)]
    entries = entries_of({"artifacts": kept[0], "artifacts_of_others": others}, store.read)
    assert [entry["path"] for entry in entries] == ["shard", "rank-1/shard", "rank-2/shard"]
    assert [store.read(entry["hash"]) for entry in entries] == [b"0", b"1", b"2"]
    assert [entry["path"] for entry in entries_of({"artifacts_of_others": others[:1]}, store.read)] == ["rank-1/shard"]
    assert entries_of({}, store.read) == []
