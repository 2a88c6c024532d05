"""The worker's cache of datasets: what stays, what goes, and what a restart finds."""

import hashlib
import os
from pathlib import Path

import pytest

from fetchmld.store.dataset_cache import CACHED_MTIME_NS, INCOMING, KEYS_MAX, Dataset, DatasetCache

MANY = 2**40


def sum_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def put(cache: DatasetCache, body: bytes, key: str = "k") -> Dataset:
    """Put `body` in, and let go of it."""
    found = put_held(cache, body, key)
    cache.let_go(found.sha256)
    return found


def put_held(cache: DatasetCache, body: bytes, key: str = "k") -> Dataset:
    cache.directory.mkdir(exist_ok=True)
    file = cache.directory / f"{INCOMING}x"
    file.write_bytes(body)
    return cache.put(file, sum_of(body), len(body), key)


def here(cache: DatasetCache) -> set[bytes]:
    return {(cache.directory / name).read_bytes() for name in os.listdir(cache.directory)}


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "cache", 10)
    for body in (b"aaaa", b"bbbb"):
        put(cache, body)
    assert cache.take(sum_of(b"aaaa"), "k") is not None
    cache.let_go(sum_of(b"aaaa"))
    put(cache, b"cccc")
    assert here(cache) == {b"aaaa", b"cccc"}
    assert (cache.total_bytes, cache.take(sum_of(b"bbbb"), "k")) == (8, None)


def test_what_somebody_is_about_to_link_stays(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "cache", 5)
    one = put_held(cache, b"aaaa")
    cache.pin(one.sha256)
    put(cache, b"bbbb")
    assert here(cache) == {b"aaaa"}, "the other one nobody wants"
    cache.let_go(one.sha256)
    put(cache, b"cccc")
    assert here(cache) == {b"aaaa"}
    cache.let_go(one.sha256)
    put(cache, b"dddd")
    assert here(cache) == {b"dddd"}


def test_what_an_attempt_has_linked_stays_also_for_the_next_agent(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "cache", 5)
    found = put(cache, b"aaaa")
    os.link(found.path, tmp_path / "mounted")
    put(cache, b"bbbb")
    assert here(cache) == {b"aaaa"}
    again = DatasetCache(tmp_path / "cache", 0)
    assert here(again) == {b"aaaa"}
    os.unlink(tmp_path / "mounted")
    again.trim()
    assert (here(again), again.total_bytes) == (set(), 0)


def test_one_that_is_larger_than_the_limit_is_there_while_it_is_needed(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "cache", 3)
    found = put_held(cache, b"aaaa")
    assert found.path.read_bytes() == b"aaaa"
    cache.let_go(found.sha256)
    assert here(cache) == set()


def test_a_restart_finds_them_in_their_order_and_clears_what_was_begun(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "cache", MANY)
    for number, body in enumerate((b"bbbb", b"aaaa", b"cccc")):
        found = put(cache, body)
        os.utime(found.path, ns=(10**18 + number, CACHED_MTIME_NS))
    (cache.directory / f"{INCOMING}half").write_bytes(b"aa")
    again = DatasetCache(tmp_path / "cache", 8)
    assert here(again) == {b"aaaa", b"cccc"}
    assert list(again.held(9)) == [sum_of(body)[:16] for body in (b"aaaa", b"cccc")]
    assert again.total_bytes == 8


def test_names_of_no_sum_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("not ours")
    (tmp_path / ("a" * 64)).symlink_to(tmp_path / "README")
    assert DatasetCache(tmp_path, 0).held(9) == {}
    assert sorted(os.listdir(tmp_path)) == ["README", "a" * 64]


def test_one_that_was_written_to_is_dropped_and_one_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "cache", MANY)
    bad, gone, touched = (put(cache, body) for body in (b"aaaa", b"bbbb", b"cccc"))
    os.chmod(bad.path, 0o644)
    bad.path.write_bytes(b"xxxx")
    gone.path.unlink()
    os.utime(touched.path)
    assert cache.take(bad.sha256, "k") is None
    assert cache.take(gone.sha256, "k") is None
    assert cache.take(touched.sha256, "k") == Dataset(touched.path, touched.sha256, 4, cached=True)
    assert touched.path.stat().st_mtime_ns == CACHED_MTIME_NS
    assert (cache.total_bytes, os.listdir(cache.directory)) == (4, [touched.sha256])


def test_the_same_file_once_more_counts_once(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "cache", MANY)
    put(cache, b"aaaa", "one")
    put(cache, b"aaaa", "two")
    assert cache.total_bytes == 4
    assert cache.held(9) == {sum_of(b"aaaa")[:16]: 4, "one": 4, "two": 4}


def test_so_many_keys_are_told_the_newest_files_first(tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "cache", MANY)
    for body in (b"a", b"b", b"c"):
        put(cache, body, f"key-{body.decode()}")
    assert list(cache.held(4)) == ["key-b", sum_of(b"b")[:16], "key-c", sum_of(b"c")[:16]]
    for number in range(2 * KEYS_MAX):
        put(cache, b"c", str(number))
    assert len(cache.held(100)) == 4 + KEYS_MAX


@pytest.mark.parametrize("name", ["0" * 64, "../cache", ""])
def test_what_is_not_here_is_not_found(tmp_path: Path, name: str) -> None:
    assert DatasetCache(tmp_path / "cache", MANY).take(name, "k") is None
