"""Sending and fetching snapshots, against a daemon that a test can break."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from blake3 import blake3

from fetchmld.client import patience
from fetchmld.client.errors import ApiError, CannotSnapshot, Unreachable
from fetchmld.client.push import id_of, manifest_of, pull, push


@dataclass
class Daemon:
    """Keeps what it is sent. `breaks_after`: so many blobs, then nobody answers; `refuses`: the status of each blob."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: list[dict[str, Any]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    breaks_after: int = 1000
    refuses: int = 0
    away: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def diff_blobs(self, hashes: list[str], /) -> dict[str, Any]:
        return {"missing": [one for one in hashes if one not in self.blobs]}

    def put_blob(self, digest: str, content: BinaryIO, size: int, /) -> None:
        with self.lock:
            if self.refuses:
                raise ApiError(self.refuses, {"error": "no", "code": "X", "trace_id": "t"})
            if self.away:
                self.away -= 1
                raise Unreachable("http://x", "broken")
            if len(self.sent) >= self.breaks_after:
                raise ApiError(500, {"error": "broken", "code": "INTERNAL_ERROR", "trace_id": "t"})
            data = content.read()
            assert len(data) == size
            self.sent.append(digest)
            self.blobs[digest] = data

    def create_snapshot(self, manifest: Mapping[str, Any], /) -> dict[str, Any]:
        self.manifests.append(dict(manifest))
        return {"id": id_of(manifest)}  # type: ignore[arg-type]

    def snapshot(self, snapshot_id: str, /) -> dict[str, Any]:
        return {"id": snapshot_id, "file_count": 1, **self.manifests[-1]}

    def blob(self, digest: str, /) -> Iterator[bytes]:
        yield from (self.blobs[digest][:2], self.blobs[digest][2:])


@pytest.fixture
def top(tmp_path: Path) -> Path:
    directory = tmp_path / "top"
    (directory / "sub").mkdir(parents=True)
    for number in range(20):
        (directory / "sub" / f"{number}.py").write_text(f"x = {number}\n")
    (directory / "run.sh").write_text("echo\n")
    (directory / "run.sh").chmod(0o700)
    return directory


def test_a_push_that_broke_off_sends_the_rest(top: Path) -> None:
    daemon = Daemon(breaks_after=7)
    with pytest.raises(ApiError, match="broken"):
        push(daemon, top)
    assert (len(daemon.sent), daemon.manifests) == (7, [])
    daemon.breaks_after = 1000
    told: list[tuple[int, int]] = []
    made = push(daemon, top, lambda done, total: told.append((done, total)))
    assert len(daemon.sent) == len(set(daemon.sent)) == 21
    assert made["id"] == id_of(manifest_of(top)[0])
    assert told[0] == (0, told[-1][1])
    assert told[-1][0] == told[-1][1]
    push(daemon, top)
    assert len(daemon.sent) == 21


def test_a_daemon_that_is_away_for_a_moment_is_waited_for(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_FIRST_S", 0.001)
    daemon = Daemon(away=5)
    push(daemon, top)
    assert len(daemon.sent) == 21


def test_a_file_that_changed_or_went_is_named(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotSnapshot, match=r"'sub/.*changed while|'run.sh' changed"):
        push(Daemon(refuses=422), top)
    daemon = Daemon()

    def gone(hashes: list[str]) -> dict[str, Any]:
        (top / "run.sh").unlink()
        return {"missing": hashes}

    monkeypatch.setattr(daemon, "diff_blobs", gone)
    with pytest.raises(CannotSnapshot, match="'run.sh' went away"):
        push(daemon, top)


def test_what_is_fetched_is_what_was_sent(top: Path, tmp_path: Path) -> None:
    daemon = Daemon()
    made = push(daemon, top)
    pull(daemon, made["id"], tmp_path / "new" / "back")
    back = tmp_path / "new" / "back"
    assert sorted(p.relative_to(back) for p in back.rglob("*")) == sorted(p.relative_to(top) for p in top.rglob("*"))
    assert (back / "run.sh").stat().st_mode & 0o111
    assert id_of(manifest_of(back)[0]) == made["id"]
    with pytest.raises(CannotSnapshot, match="is not empty"):
        pull(daemon, made["id"], back)


@pytest.mark.parametrize("path", ["../out", "/tmp/out", "a/../../out", "a\0b"])
def test_a_hostile_daemon_writes_nothing_elsewhere(tmp_path: Path, path: str) -> None:
    data = b"bad"
    digest = blake3(data).hexdigest()
    daemon = Daemon(blobs={digest: data}, manifests=[{"files": [{"path": path, "size": 3, "hash": digest}]}])
    with pytest.raises(CannotSnapshot, match="path"):
        pull(daemon, "0" * 64, tmp_path / "a" / "b")
    assert not [found for found in tmp_path.rglob("*") if found.is_file()]


def test_damaged_content_is_found_by_who_fetches_it(top: Path, tmp_path: Path) -> None:
    daemon = Daemon()
    made = push(daemon, top)
    daemon.blobs = dict.fromkeys(daemon.blobs, b"other")
    with pytest.raises(CannotSnapshot, match="damaged"):
        pull(daemon, made["id"], tmp_path / "back")
