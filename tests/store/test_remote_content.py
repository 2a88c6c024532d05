"""The head's store from another machine, over real HTTP: sent once, checked, and tried again while the head is away."""

import asyncio
import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from fetchmld.core.errors import NotFound
from fetchmld.store import remote_code, remote_content
from fetchmld.store.artifacts import Changed, keep_tree
from fetchmld.store.content import ContentStore
from fetchmld.store.head_http import HeadHttp, worker_key
from fetchmld.store.remote_code import RemoteCode
from fetchmld.store.remote_content import RemoteContent
from tests.api.served import KEYS, Api, with_api


def in_thread(tmp_path: Path, work: Callable[[Api, RemoteContent], Any]) -> None:
    async def test(api: Api) -> None:
        with contextlib.closing(HeadHttp(str(api.client.make_url("/")), KEYS["worker"])) as head:
            await asyncio.to_thread(work, api, RemoteContent(head))

    with_api(tmp_path, test)


def test_a_tree_is_the_same_as_when_it_is_kept_here(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "big").write_bytes(bytes(range(256)) * 10_000)
    (tree / "empty").touch()

    def work(api: Api, remote: RemoteContent) -> None:
        kept, here = keep_tree(remote, tree), keep_tree(ContentStore(tmp_path / "objects"), tree)
        assert kept.artifacts == here.artifacts
        assert kept.artifacts is not None
        assert api.head.store.has(kept.artifacts["manifest"])

    in_thread(tmp_path, work)


def test_what_the_head_has_is_not_sent_again(tmp_path: Path) -> None:
    def work(api: Api, remote: RemoteContent) -> None:
        digest = api.head.store.put(b"once")
        path = api.head.store.path(digest)
        before = path.stat().st_ino
        assert remote.put(b"once") == digest
        assert path.stat().st_ino == before

    in_thread(tmp_path, work)


def test_what_is_fetched_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_content, "GIVE_UP_S", 0.0)  # it may come whole at the next try

    def work(api: Api, remote: RemoteContent) -> None:
        content, here = bytes(range(256)) * 10_000, ContentStore(tmp_path / "cache")
        digest = api.head.store.put(content)
        assert remote.fetch(digest, here) == len(content)
        assert here.read(digest) == content
        with pytest.raises(NotFound, match="no object"):
            remote.fetch(blake3(b"other").hexdigest(), here)
        path = api.head.store.path(blake3(b"whole").hexdigest())
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"spoilt")
        with pytest.raises(OSError, match="did the file change"):
            remote.fetch(path.name, here)
        assert not here.has(path.name)

    in_thread(tmp_path, work)


def test_code_is_kept_for_the_next_task_until_there_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_code, "CACHE_BYTES_MAX", 5)

    def work(api: Api, remote: RemoteContent) -> None:
        code = RemoteCode(remote, tmp_path / "code")
        digests = [api.head.store.put(content) for content in (b"one", b"three", b"six")]
        opened = code.open_blob(digests[0])  # and kept open while it goes
        assert content(code, digests[1]) == b"three"
        assert sorted(path.name for path in (tmp_path / "code").glob("??/*")) == sorted(digests[:2])
        assert content(RemoteCode(remote, tmp_path / "code"), digests[2]) == b"six"
        assert [path.name for path in (tmp_path / "code").glob("??/*")] == [digests[2]]
        with opened:
            assert opened.read() == b"one"

    in_thread(tmp_path, work)


def content(code: RemoteCode, digest: str) -> bytes:
    with code.open_blob(digest) as file:
        return file.read()


def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    def work(api: Api, _remote: RemoteContent) -> None:
        stranger = HeadHttp(str(api.client.make_url("/")), "fml_wrong")
        with contextlib.closing(stranger), pytest.raises(OSError, match="status 401"):
            RemoteContent(stranger).put(b"x")

    in_thread(tmp_path, work)


def test_a_file_that_changes_between_its_sum_and_its_sending_is_found(tmp_path: Path) -> None:
    class Moving(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            self.truncate(self.size)
            return super().seek(offset, whence) if self.other is None else self._becomes(self.other)

        size = 100
        other: bytes | None = None

        def _becomes(self, other: bytes) -> int:
            super().seek(0)
            self.write(other)
            return super().seek(0)

    def work(api: Api, remote: RemoteContent) -> None:
        for other, size in ((None, 50), (b"y" * 100, 100)):
            source = Moving(b"x" * 100)
            source.size, source.other = size, other
            with pytest.raises(Changed):
                remote.put_file(source)
        assert not list(tmp_path.glob("objects/??/*"))

    in_thread(tmp_path, work)


def test_what_is_code_already_is_sent_as_an_artifact_nevertheless(tmp_path: Path) -> None:
    """The head's own stores are apart: an artifact must not go with a snapshot, nor be looked for among them."""
    data = b"z" * 100_000

    def work(api: Api, remote: RemoteContent) -> None:
        digest = blake3(data).hexdigest()
        blob = api.head.objects._places[1](digest)
        blob.parent.mkdir(parents=True)
        blob.write_bytes(data)
        assert remote.put(data) == digest
        assert api.head.store.read(digest) == data

    in_thread(tmp_path, work)


def test_a_head_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(remote_content, "RETRY_FIRST_S", 0.01)

    def work(api: Api, remote: RemoteContent) -> None:
        def come_back(seconds: float) -> None:
            waits.append(seconds)
            remote._head._url = right

        right = remote._head._url
        remote._head._url = right._replace(netloc="127.0.0.1:1")
        monkeypatch.setattr("time.sleep", come_back)
        digest, size = remote.put_file(io.BytesIO(b"late"))
        assert (api.head.store.read(digest), size) == (b"late", 4)
        assert waits == [0.01]
        remote._head.close()
        remote._head._url = right._replace(netloc="127.0.0.1:1")
        monkeypatch.setattr(remote_content, "GIVE_UP_S", 0.0)
        with pytest.raises(OSError, match="did not answer about"):
            remote.put(b"never")

    in_thread(tmp_path, work)


def test_the_key_follows_from_the_token_and_does_not_show_it() -> None:
    token = "ab" * 32
    assert worker_key(token) == worker_key(token) != worker_key(token[:-1] + "c")
    assert token not in worker_key(token)
    assert worker_key(token).startswith("fml_")
