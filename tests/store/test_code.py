"""Snapshots of code on the head's disk: whose blobs they are, what survives a restart or a crash, what is found damaged."""

import errno
from pathlib import Path

import pytest
from blake3 import blake3

from fetchmld.core.errors import Internal, Invalid, NotFound, Unavailable
from fetchmld.manifest import CodeFile, CodeManifest
from fetchmld.store.code import CodeStore


def digest(data: bytes) -> str:
    return str(blake3(data).hexdigest())


def send(store: CodeStore, data: bytes, user: str = "ada") -> str:
    with store.receive() as incoming:
        incoming.write(data)
        store.accept(user, digest(data), incoming)
    return digest(data)


def manifest(**files: bytes) -> CodeManifest:
    entries = [CodeFile(path=p, executable=False, size=len(d), hash=digest(d)) for p, d in files.items()]
    return CodeManifest(files=entries)


def test_what_was_sent_is_there_after_a_restart_and_stored_once(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    hashes = [send(store, b"a"), send(store, b"b"), send(store, b"a"), send(store, b"a", "bob")]
    assert len(list(tmp_path.glob("blobs/??/*"))) == 2
    assert sum(file.stat().st_size for file in tmp_path.glob("users/*/held")) == 3 * 32
    again = CodeStore(tmp_path)
    assert again.missing("ada", [*hashes, digest(b"c")]) == [digest(b"c")]
    assert again.missing("bob", [digest(b"b")]) == [digest(b"b")]
    with again.open_for("ada", hashes[1]) as file:
        assert file.read() == b"b"
    for user, wanted in (("bob", hashes[1]), ("eve", hashes[0]), ("ada", "../x")):
        with pytest.raises(NotFound):
            again.open_for(user, wanted)


def test_a_torn_end_and_a_lost_blob_only_mean_to_send_again(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    first, second = send(store, b"a"), send(store, b"b")
    (held,) = tmp_path.glob("users/*/held")
    held.write_bytes(held.read_bytes()[:-5])
    store = CodeStore(tmp_path)
    assert store.missing("ada", [first, second]) == [second]
    send(store, b"b")
    assert CodeStore(tmp_path).missing("ada", [first, second]) == []
    (tmp_path / "blobs" / first[:2] / first).unlink()
    assert store.missing("ada", [first, second]) == [first]


def test_what_a_crash_left_of_an_upload_is_removed(tmp_path: Path) -> None:
    CodeStore(tmp_path).discard_unfinished()  # nothing is there yet
    store = CodeStore(tmp_path)
    kept = send(store, b"a")
    (tmp_path / "blobs" / "incoming" / "tmpx").write_bytes(b"half")
    CodeStore(tmp_path).discard_unfinished()
    assert list((tmp_path / "blobs" / "incoming").iterdir()) == []
    assert store.missing("ada", [kept]) == []


def test_a_snapshot_is_its_users_and_the_same_for_the_same_files(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    wanted = manifest(a=b"a", b=b"b")
    with pytest.raises(Invalid, match="2 of the blobs"):
        store.check("ada", wanted)
    send(store, b"a")
    send(store, b"b")
    snapshot_id = store.check("ada", wanted)
    made = store.keep("ada", wanted)
    assert (made["id"], made["file_count"], made["total_bytes"]) == (snapshot_id, 2, 2)
    again = CodeStore(tmp_path)
    assert again.keep("ada", wanted) == made
    assert again.owned("ada") == [made]
    assert again.manifest(snapshot_id) == wanted
    assert (again.find("bob", snapshot_id), again.owned("bob")) == (None, [])
    assert again.find("ada", "../../held") is None


def test_the_newest_is_first(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    made = []
    for data in (b"a", b"b", b"c"):
        send(store, data)
        made.append(store.keep("ada", manifest(x=data))["id"])
    assert [one["id"] for one in store.owned("ada")] == made[::-1]


@pytest.mark.parametrize("user", ["..", ".", "a/b", "x" * 300, "é", "", "users"])
def test_no_name_of_a_user_leads_elsewhere(tmp_path: Path, user: str) -> None:
    store = CodeStore(tmp_path / "code")
    send(store, b"a", user)
    store.keep(user, manifest(a=b"a"))
    assert [one["file_count"] for one in CodeStore(tmp_path / "code").owned(user)] == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["code"]


def test_sizes_and_hashes_are_held_against_the_blobs(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    send(store, b"a")
    wrong = manifest(a=b"a")
    wrong["files"][0]["size"] = 5
    with pytest.raises(Invalid, match="has 1 bytes, not 5"):
        store.check("ada", wrong)
    with pytest.raises(Invalid, match="no BLAKE3"):
        store.missing("ada", ["x"])


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    send(store, b"a")
    snapshot_id = store.keep("ada", manifest(a=b"a"))["id"]
    (file,) = tmp_path.glob("manifests/??/*")
    file.chmod(0o600)
    file.write_bytes(file.read_bytes().replace(b'"a"', b'"b"'))
    with pytest.raises(Internal, match=snapshot_id):
        store.manifest(snapshot_id)
    with pytest.raises(NotFound):
        store.manifest("0" * 64)


def test_a_full_disk_is_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = CodeStore(tmp_path)
    monkeypatch.setattr("fetchmld.store.content.os.fsync", full)
    with pytest.raises(Unavailable, match="disk of the head is full"):
        send(store, b"a")
    monkeypatch.undo()
    assert store.missing("ada", [digest(b"a")])
    assert not list(tmp_path.glob("blobs/incoming/*"))
    send(store, b"a")
