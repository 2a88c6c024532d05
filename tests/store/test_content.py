"""The content store: what has a name is whole, and nothing but regular files gets in."""

import io
import os
import stat
from pathlib import Path

import pytest
from blake3 import blake3

from fetchmld.core.errors import Invalid, NotFound
from fetchmld.store import content
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


def test_what_is_stored_has_its_name_on_the_disk_and_so_have_the_directories_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[Path]()
    monkeypatch.setattr(content, "sync_directory", synced.append)
    root = tmp_path / "objects"
    store = ContentStore(root)
    shard = store.path(store.put(b"hello")).parent
    assert set(synced) == {shard, root, tmp_path}
    synced.clear()
    assert ContentStore(root).put(b"hello") == blake3(b"hello").hexdigest()
    assert set(synced) == {shard, root, tmp_path}, "whoever stored it may have been killed before it synced"


def test_a_directory_that_could_not_be_synced_is_synced_with_the_next_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ContentStore(tmp_path / "objects")
    shards = {store.path(store.put_file(io.BytesIO(bytes([n])))[0]).parent for n in range(5)}
    synced = list[Path]()

    def refuse(directory: Path) -> None:
        if len(synced) == 2:
            raise OSError("planted")
        synced.append(directory)

    with monkeypatch.context() as patched:
        patched.setattr(content, "sync_directory", refuse)
        with pytest.raises(OSError, match="planted"):
            store.put(b"the manifest")
    monkeypatch.setattr(content, "sync_directory", synced.append)
    store.put(b"another")
    assert shards <= set(synced)


def test_a_large_stretch_of_zeros_takes_no_room(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.write(b"begin")
        file.truncate(64 * 2**20)
    store = ContentStore(tmp_path / "objects")
    with source.open("rb") as file:
        digest, size = store.put_file(file)
    assert size == 64 * 2**20
    with source.open("rb") as file:
        assert blake3(file.read()).hexdigest() == digest == blake3(store.read(digest)).hexdigest()
    assert store.path(digest).stat().st_blocks * 512 < 4 * 2**20
    with store.receive() as incoming:
        incoming.write(bytes(2**20))
        incoming.keep(blake3(bytes(2**20)).hexdigest())
    assert store.read(blake3(bytes(2**20)).hexdigest()) == bytes(2**20)


# -- what nobody wants any more

LONG_AGO, NOW = 1_000_000.0, 2_000_000_000.0


def aged(store: ContentStore, data: bytes) -> str:
    digest = store.put(data)
    os.utime(store.path(digest), (LONG_AGO, LONG_AGO))
    return digest


def test_what_was_not_stored_since_a_moment_goes_and_what_was_stays(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    old, again, asked, new = aged(store, b"old"), aged(store, b"again"), aged(store, b"asked"), store.put(b"new")
    assert store.put(b"again") == again
    assert store.renew(asked)
    assert not store.renew(blake3(b"unknown").hexdigest())
    assert store.remove_old(LONG_AGO + 1) == (1, 3)
    assert [store.has(digest) for digest in (old, again, asked, new)] == [False, True, True, True]
    assert store.remove_old(LONG_AGO + 1) == (0, 0)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_object_that_is_stored_while_it_is_being_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Around the step that takes its name away, somebody stores it once more."""
    rename, store, seen = os.rename, ContentStore(tmp_path), list[str]()
    digest = aged(store, b"wanted")

    def meanwhile(source: str, target: str) -> None:
        is_removal = "gone-" in str(target) and not seen
        seen.append(str(target))
        if is_removal and moment == "before":
            store.put(b"wanted")
        rename(source, target)
        if is_removal and moment == "after":
            store.put(b"wanted")

    monkeypatch.setattr(os, "rename", meanwhile)
    store.remove_old(LONG_AGO + 1)
    assert "gone-" in seen[0]
    assert store.read(digest) == b"wanted"
    assert os.listdir(tmp_path / "incoming") == []


def test_what_a_crash_left_is_removed_and_what_it_was_about_to_remove_wrongly_is_put_back(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    wanted, unwanted = store.put(b"wanted"), aged(store, b"unwanted")
    for digest in (wanted, unwanted):
        os.rename(store.path(digest), tmp_path / "incoming" / f"gone-{digest}")
    (tmp_path / "incoming" / "tmpabc").write_bytes(b"half")
    (tmp_path / "incoming" / "tmpnew").write_bytes(b"on its way")
    os.utime(tmp_path / "incoming" / "tmpabc", (LONG_AGO, LONG_AGO))
    store.remove_old(LONG_AGO + 1)
    assert (store.has(wanted), store.has(unwanted)) == (True, False)
    assert os.listdir(tmp_path / "incoming") == ["tmpnew"]


def test_only_objects_go(tmp_path: Path) -> None:
    """Snapshots of code and logs lie beside them."""
    store = ContentStore(tmp_path)
    others = [tmp_path / "code/blobs/ab" / ("ab" * 32), tmp_path / "logs/w/segments/0.seg", tmp_path / "ab/notes"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(b"x")
        os.utime(other, (LONG_AGO, LONG_AGO))
    assert store.remove_old(NOW) == (0, 0)
    assert all(other.exists() for other in others)
