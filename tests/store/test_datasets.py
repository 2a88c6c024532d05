"""Datasets: verified before use, fetched once, and only from where they may come from."""

import asyncio
import hashlib
import http.server
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetchmld.config import Config, RegisteredDataset
from fetchmld.core.model import DatasetSpec
from fetchmld.store import datasets
from fetchmld.store.dataset_cache import Dataset, DatasetCache
from fetchmld.store.datasets import DatasetError, DatasetStore, is_public, mount, shown, variable_of

BODY = b"a,b\n" * 1000
SUM = hashlib.sha256(BODY).hexdigest()


def spec(source: object, sha256: str = "") -> DatasetSpec:
    found = DatasetSpec(name="d", source=str(source), mount_path="data/d")
    if sha256:
        found["sha256"] = sha256
    return found


@contextmanager
def store_in(directory: Path, bytes_max: int = 2**30, private_hosts: bool = True) -> Iterator[DatasetStore]:
    (directory / "root").mkdir(exist_ok=True)
    cache = DatasetCache(directory / "cache", 2**40)
    store = DatasetStore(cache, (directory / "root",), bytes_max, private_hosts)
    try:
        yield store
    finally:
        store.close()


def get(store: DatasetStore, wanted: DatasetSpec) -> Dataset:
    return asyncio.run(store.get(wanted))


def refused(store: DatasetStore, wanted: DatasetSpec) -> DatasetError:
    with pytest.raises(DatasetError) as found:
        get(store, wanted)
    return found.value


class Site:
    """An HTTP server on loopback: what it serves, and what it was asked for."""

    def __init__(self, pages: dict[str, tuple[int, dict[str, str], bytes]], address: str = "127.0.0.1") -> None:
        self.heard: list[dict[str, str]] = []
        self.go_on: threading.Event | None = None  # what the second half of each body waits for
        self.asked: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.heard.append(dict(self.headers))
                status, headers, body = pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                if site.go_on is not None:
                    site.go_on.wait(20)
                self.wfile.write(body[len(body) // 2 :])

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "Site":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# ---- local sources


@pytest.mark.parametrize("prefix", ["", "file://", "file://localhost"])
def test_a_local_file_is_summed_and_cached(tmp_path: Path, prefix: str) -> None:
    with store_in(tmp_path) as store:
        source = tmp_path / "root" / "d"
        source.write_bytes(BODY)
        found = get(store, spec(f"{prefix}{source}", SUM))
        assert found == Dataset(tmp_path / "cache" / SUM, SUM, len(BODY), cached=False)
        assert found.path.read_bytes() == BODY
        assert get(store, spec(source, SUM)).cached
        assert get(store, spec(source)).sha256 == SUM


def test_a_changed_source_without_a_sum_is_read_again(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        source = tmp_path / "root" / "d"
        source.write_bytes(b"one")
        first = get(store, spec(source))
        assert get(store, spec(source)).cached
        source.write_bytes(b"two!")
        assert get(store, spec(source)).sha256 != first.sha256


def test_a_wrong_sum_is_told_and_nothing_stays(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        (tmp_path / "root" / "d").write_bytes(BODY)
        error = refused(store, spec(tmp_path / "root" / "d", "0" * 64))
        assert (error.word, error.infrastructure) == ("DATASET_MISMATCH", False)
        assert SUM in error.detail
        assert os.listdir(tmp_path / "cache") == []


def test_only_regular_files_under_a_root(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        root = tmp_path / "root"
        (tmp_path / "outside").write_text("x")
        (root / "link").symlink_to(tmp_path / "outside")
        (root / "up").symlink_to(tmp_path)
        (root / "directory").mkdir()
        os.mkfifo(root / "pipe")
        hostile = [
            tmp_path / "outside",
            root / ".." / "outside",
            root / "link",
            root / "up" / "outside",
            root / "directory",
            root / "pipe",
            root / "missing",
            root,
            f"{root}-sibling/x",
            "/proc/self/environ",
            "relative",
            "file://other.host/etc/passwd",
            "ftp://h/x",
            "s3://bucket/x",
            "data:,x",
            f"file://{root}/%2e%2e/outside",
        ]
        for source in hostile:
            error = refused(store, spec(source))
            assert (error.word, error.infrastructure) == ("DATASET_NOT_FOUND", False), source


def test_a_link_within_the_roots_is_followed(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        (tmp_path / "root" / "d").write_bytes(BODY)
        (tmp_path / "root" / "latest").symlink_to("d")
        assert get(store, spec(tmp_path / "root" / "latest")).sha256 == SUM


# ---- the network


def test_an_address_is_fetched_once_for_all_who_wait(tmp_path: Path) -> None:
    with Site({"/d": (200, {}, BODY)}) as site, store_in(tmp_path) as store:

        async def together() -> list[Dataset]:
            return await asyncio.gather(*(store.get(spec(f"{site.url}/d", SUM)) for _ in range(20)))

        assert {found.sha256 for found in asyncio.run(together())} == {SUM}
        assert get(store, spec(f"{site.url}/d", SUM)).cached
        assert site.asked == ["/d"]


def test_a_redirect_is_followed_and_counted(tmp_path: Path) -> None:
    pages: dict[str, tuple[int, dict[str, str], bytes]] = {
        "/d": (302, {"Location": "/e"}, b""),
        "/e": (200, {}, BODY),
        "/loop": (302, {"Location": "/loop"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
    }
    with Site(pages) as site, store_in(tmp_path) as store:
        assert get(store, spec(f"{site.url}/d", SUM)).sha256 == SUM
        assert refused(store, spec(f"{site.url}/loop", "0" * 64)).word == "DATASET_NOT_FOUND"
        assert 2 <= site.asked.count("/loop") <= 10
        assert refused(store, spec(f"{site.url}/file", "0" * 64)).word == "DATASET_NOT_FOUND"


@pytest.mark.parametrize(
    ("page", "word", "infrastructure"),
    [
        ((404, {}, b""), "DATASET_NOT_FOUND", False),
        ((403, {}, b""), "DATASET_NOT_FOUND", False),
        ((500, {}, b""), "DATASET_UNAVAILABLE", True),
        ((429, {}, b""), "DATASET_UNAVAILABLE", True),
        ((200, {"Content-Length": "99999"}, BODY), "DATASET_UNAVAILABLE", True),
        ((200, {}, BODY + b"x"), "DATASET_MISMATCH", False),
    ],
)
def test_what_a_server_may_answer(
    tmp_path: Path, page: tuple[int, dict[str, str], bytes], word: str, infrastructure: bool
) -> None:
    with Site({"/d": page}) as site, store_in(tmp_path) as store:
        error = refused(store, spec(f"{site.url}/d", SUM))
        assert (error.word, error.infrastructure) == (word, infrastructure)


def test_nobody_there(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        error = refused(store, spec("http://127.0.0.1:9/d", SUM))
        assert (error.word, error.infrastructure) == ("DATASET_UNAVAILABLE", True)


def test_too_large_is_cut_off(tmp_path: Path) -> None:
    with Site({"/d": (200, {}, BODY)}) as site, store_in(tmp_path, bytes_max=100) as store:
        assert refused(store, spec(f"{site.url}/d", SUM)).word == "DATASET_UNAVAILABLE"
        assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "127.1"]
)
def test_private_hosts_are_refused_whatever_their_name(tmp_path: Path, host: str) -> None:
    with Site({"/d": (200, {}, BODY)}) as site, store_in(tmp_path, private_hosts=False) as store:
        refused(store, spec(f"{site.url.replace('127.0.0.1', host)}/d", SUM))
        assert site.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("172.16.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("::127.0.0.1", False),
        ("::10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("ff0e::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_what_takes_long_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "SAY_FIRST_S", 0.01)
    monkeypatch.setattr(datasets, "SAY_EVERY_S", 0.0)
    monkeypatch.setattr(datasets, "CHUNK_BYTES", 1000)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "50 %" in line and site.go_on is not None:
            site.go_on.set()

    with Site({"/d": (200, {}, BODY)}) as site, store_in(tmp_path) as store:
        site.go_on = threading.Event()
        found = asyncio.run(store.get(spec(f"{site.url}/d", SUM), say))
        assert found.total_bytes == len(BODY)
        assert any(line.startswith(f"dataset d: fetching {site.url}/d: ") for line in said)
        assert any("50 % (2.0 kB of 4.0 kB)" in line for line in said)
        said.clear()
        assert asyncio.run(store.get(spec(f"{site.url}/d", SUM), say)).cached
        assert said == []


def test_a_registered_source_may_be_of_any_scheme_and_has_its_options_from_the_administrator(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/set/d.csv", BODY)
    source = "memory://set/d.csv"
    cache = DatasetCache(tmp_path / "cache", 2**40)
    store = DatasetStore(cache, (), 2**30, False, {source: {"skip_instance_cache": True}, "nosuch://x/y": {}})
    try:
        assert get(store, spec(source, SUM)).sha256 == SUM
        assert get(store, spec(source, SUM)).cached
        assert refused(store, spec(source, "0" * 64)).word == "DATASET_MISMATCH"
        assert refused(store, spec("memory://set/other.csv", SUM)).word == "DATASET_NOT_FOUND"  # not registered
        memory.rm("/set/d.csv")
        assert refused(store, spec(source, "1" * 64)).word == "DATASET_NOT_FOUND"
        unknown = refused(store, spec("nosuch://x/y", "2" * 64))
        assert (unknown.word, unknown.infrastructure) == ("DATASET_UNAVAILABLE", True)
        assert "nosuch://" in unknown.detail
    finally:
        store.close()


def test_a_registered_address_gets_its_headers_and_nobody_else_does(tmp_path: Path) -> None:
    with Site({"/d": (200, {}, BODY), "/e": (200, {}, BODY)}) as site:
        registered = {f"{site.url}/d": {"headers": {"Authorization": "Bearer canary"}}}
        store = DatasetStore(DatasetCache(tmp_path / "cache", 2**40), (), 2**30, True, registered)
        try:
            assert get(store, spec(f"{site.url}/d", SUM)).sha256 == SUM
            assert refused(store, spec(f"{site.url}/e", "0" * 64)).word == "DATASET_MISMATCH"
        finally:
            store.close()
        assert [headers.get("Authorization") for headers in site.heard] == ["Bearer canary", None]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Site({"/d": (200, {}, BODY)}) as site, store_in(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            error = refused(store, spec(f"{site.url}/d", SUM))
        assert (error.word, error.infrastructure) == ("DATASET_UNAVAILABLE", True)
        assert "No space left" in error.detail
        assert os.listdir(tmp_path / "cache") == []
        assert get(store, spec(f"{site.url}/d", SUM)).sha256 == SUM


# ---- the cache and the mount


def cached(store: DatasetStore, directory: Path) -> Dataset:
    (directory / "root" / "d").write_bytes(BODY)
    return get(store, spec(directory / "root" / "d", SUM))


def test_a_cached_file_that_somebody_wrote_to_is_not_used_again(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        found = cached(store, tmp_path)
        (tmp_path / "work").mkdir()
        mounted = mount(found, tmp_path / "work", "data/d")
        os.chmod(mounted, 0o644)
        mounted.write_bytes(b"poison")
        again = cached(store, tmp_path)
        assert (again.cached, again.path.read_bytes()) == (False, BODY)
        os.utime(again.path)  # touched, but the same
        assert cached(store, tmp_path).cached


def test_a_mount_is_read_only_and_inside(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        found = cached(store, tmp_path)
        work = tmp_path / "work"
        work.mkdir()
        target = mount(found, work, "data/./deep/d")
        assert target == work / "data" / "deep" / "d"
        assert target.read_bytes() == BODY
        assert stat.S_IMODE(target.stat().st_mode) == 0o444
        (work / "link").symlink_to(tmp_path)
        for path in ("../d", "/etc/d", "", ".", "a/../../d", "link/d", "data/deep/d"):
            with pytest.raises(ValueError, match="mount_path"):
                mount(found, work, path)
        assert sorted(os.listdir(tmp_path)) == ["cache", "root", "work"]


def test_the_last_who_gives_up_ends_the_fetch(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        source = tmp_path / "root" / "d"
        with source.open("wb") as file:
            file.truncate(2**32)  # a hole: no room, and long to read

        async def give_up() -> None:
            waiting = [asyncio.create_task(store.get(spec(source))) for _ in range(2)]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        asyncio.run(give_up())
        store.close()
        assert not (tmp_path / "cache").exists() or os.listdir(tmp_path / "cache") == []


def test_names_in_the_environment_and_in_the_record() -> None:
    assert variable_of("my-set.v2") == "FETCHML_DATASET_MY_SET_V2"
    assert shown("https://user:secret@h.example:8/p/x?token=secret#f") == "https://h.example:8/p/x"
    assert shown("/plain/path") == "/plain/path"


def test_a_registered_file_may_lie_outside_the_roots(tmp_path: Path) -> None:
    named, neighbour = tmp_path / "named.csv", tmp_path / "neighbour.csv"
    for file in (named, neighbour):
        file.write_bytes(BODY)
    config = Config(data_dir=tmp_path / "dir", datasets={"d": RegisteredDataset(source=f"file://{named}")})
    store = DatasetStore(DatasetCache(tmp_path / "cache", 2**40), config.source_roots, 2**30)
    try:
        assert get(store, spec(named)).sha256 == SUM
        assert refused(store, spec(neighbour)).word == "DATASET_NOT_FOUND"
    finally:
        store.close()
