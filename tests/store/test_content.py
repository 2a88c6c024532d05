"""The content store: what has a name is whole, and nothing but regular files gets in."""

import io
import json
import os
import stat
from pathlib import Path

import pytest
from blake3 import blake3

from fetchmld.core.errors import Invalid, NotFound
from fetchmld.store.content import ContentStore


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_bytes_come_back_under_their_hash(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "objects")
    digest = store.put(b"hello")
    assert digest == blake3(b"hello").hexdigest()
    assert store.read(digest) == b"hello"
    assert store.put_file(io.BytesIO(b"hello")) == (digest, 5)
    assert listing(tmp_path / "objects") == [f"{digest[:2]}/{digest}"]
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o400


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "0" * 63, "g" * 64, "A" * 64, "0" * 64 + "\n"])
def test_a_name_that_is_no_hash_is_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(Invalid):
        ContentStore(tmp_path).read(digest)


def test_an_unknown_object_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        ContentStore(tmp_path).open("0" * 64)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        ContentStore(tmp_path / "objects").put_file(Broken())
    assert listing(tmp_path / "objects") == []


def test_a_tree_becomes_a_manifest(tmp_path: Path) -> None:
    tree = tmp_path / "out"
    (tree / "b" / "c").mkdir(parents=True)
    (tree / "b" / "c" / "x").write_bytes(b"xx")
    (tree / "a").write_bytes(b"")
    store = ContentStore(tmp_path / "objects")
    kept = store.put_tree(tree)
    assert kept.left_out == []
    assert kept.artifacts is not None
    assert json.loads(store.read(kept.artifacts["manifest"])) == [
        {"path": "a", "bytes": 0, "hash": blake3(b"").hexdigest()},
        {"path": "b/c/x", "bytes": 2, "hash": blake3(b"xx").hexdigest()},
    ]
    assert (kept.artifacts["file_count"], kept.artifacts["total_bytes"]) == (2, 2)
    assert store.put_tree(tree).artifacts == kept.artifacts


def test_links_and_special_files_stay_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("s")
    tree = tmp_path / "out"
    tree.mkdir()
    (tree / "directory").symlink_to(secret)
    (tree / "file").symlink_to(secret / "key")
    os.mkfifo(tree / "pipe")
    (tree / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    kept = ContentStore(tmp_path / "objects").put_tree(tree)
    assert kept.artifacts is None
    assert len(kept.left_out) >= 3
    assert listing(tmp_path / "objects") == []


def test_bounds_are_kept_and_told(tmp_path: Path) -> None:
    tree = tmp_path / "out"
    tree.mkdir()
    for number in range(5):
        (tree / str(number)).write_bytes(b"x" * 10)
    store = ContentStore(tmp_path / "objects")
    few = store.put_tree(tree, files_max=2)
    small = store.put_tree(tree, bytes_max=35)
    assert few.artifacts is not None
    assert small.artifacts is not None
    assert (few.artifacts["file_count"], len(few.left_out)) == (2, 3)
    assert (small.artifacts["total_bytes"], len(small.left_out)) == (30, 2)


def test_nothing_there_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "out" / "empty").mkdir(parents=True)
    kept = ContentStore(tmp_path / "objects").put_tree(tmp_path / "out")
    assert (kept.artifacts, kept.left_out) == (None, [])
