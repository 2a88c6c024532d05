"""Datasets on a worker: fetched once, verified by SHA-256 before anybody sees them, kept in `DIR/node/cache/<sha256>`.

Owns every check of a source; what is here already is in `dataset_cache`. A local source must lie under one of the roots,
whatever links say; an address on the network is checked at the very connection, so neither a name that resolves
differently the second time nor a redirect leads to a private host. What an administrator registered may be of any scheme
that fsspec knows here, with options (credentials among them) that no request and no record ever has.

Mounting makes a hard link to the cached file (a copy where links are impossible).
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from fetchmld.core.caches import dataset_key
from fetchmld.core.model import DatasetSpec
from fetchmld.store.dataset_cache import INCOMING, Dataset, DatasetCache

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 2**20
OWN_SCHEMES: Final = frozenset({"", "file", "http", "https"})  # that we open ourselves, with checks of our own
FETCHES_MAX: Final = 4  # at once; others wait
CONNECT_TIMEOUT_S: Final = 10.0
STALL_TIMEOUT_S: Final = 30.0
REDIRECTS_MAX: Final = 5
REMEMBERED_MAX: Final = 10_000
SAY_FIRST_S: Final = 1.0  # what takes less is not worth a word
SAY_EVERY_S: Final = 10.0
SAY_EVERY_SHARE: Final = 0.1

Say = Callable[[str], None]


class DatasetError(Exception):
    """A dataset cannot be had. `word` begins the task's error; `infrastructure`: another try may succeed."""

    def __init__(self, word: str, detail: str, infrastructure: bool = False) -> None:
        super().__init__(word, detail, infrastructure)
        self.word = word
        self.detail = detail
        self.infrastructure = infrastructure

    def __str__(self) -> str:
        return f"{self.word}: {self.detail}"


class Fetch:
    """One fetch that any number of attempts wait for; when the last of them gives up, so does it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.abandoned = threading.Event()
        self.result: Future[Dataset]
        self.done_bytes = 0
        self.total_bytes = 0  # 0 where the source does not say

    @property
    def said(self) -> str:
        """How far it is, in words."""
        if not self.total_bytes:
            return in_words(self.done_bytes)
        share = 100 * self.done_bytes // self.total_bytes
        return f"{share} % ({in_words(self.done_bytes)} of {in_words(self.total_bytes)})"


class DatasetStore:
    """The node's datasets. `get` may be called from one event loop; the work is done in threads."""

    def __init__(
        self,
        cache: DatasetCache,
        roots: tuple[Path, ...],
        bytes_max: int,
        private_hosts: bool = False,
        registered: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """`roots`: directories that local sources may lie in, and single files that may be sources. `bytes_max`: of one.

        `private_hosts`: may they come from loopback and private addresses? `registered`: sources that an administrator
        named, each with the options that its file system is to get.
        """
        self._cache = cache
        self._roots = tuple(Path(os.path.realpath(root)) for root in roots)
        self._bytes_max = bytes_max
        self._private_hosts = private_hosts
        self._registered = dict(registered or {})
        self.public_only = False  # local sources must be readable by every user: tasks are not run as ours
        self._fetches: dict[str, Fetch] = {}
        self._seen: dict[tuple[int, int, int, int, int], str] = {}  # a local file as it was, and its sum
        self._threads = ThreadPoolExecutor(FETCHES_MAX, "dataset")

    async def get(self, spec: DatasetSpec, say: Say = lambda _line: None) -> Dataset:
        """The dataset, verified, from the cache or its source; one fetch serves all who wait for it. `let_go` of it.

        `say` hears how far it is, where it takes long. Raises `DatasetError`: DATASET_NOT_FOUND, DATASET_MISMATCH or
        DATASET_UNAVAILABLE.
        """
        key = spec.get("sha256", "") + " " + spec["source"]
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = self._fetches[key] = Fetch()
            fetch.result = self._threads.submit(self._get, spec, fetch)
        fetch.waiting += 1
        teller = asyncio.create_task(_tell(fetch, spec, say))
        try:
            found = await asyncio.shield(asyncio.wrap_future(fetch.result))
            self._cache.pin(found.sha256)
            return found
        finally:
            teller.cancel()
            fetch.waiting -= 1
            if not fetch.waiting and self._fetches.get(key) is fetch:
                del self._fetches[key]
                fetch.abandoned.set()
                fetch.result.add_done_callback(self._unpin_fetched)  # each who waited has a pin of its own

    def _unpin_fetched(self, result: Future[Dataset]) -> None:
        if not result.cancelled() and result.exception() is None:
            self._cache.let_go(result.result().sha256)

    def let_go(self, dataset: Dataset) -> None:
        """It is mounted where it is needed, or not wanted any more: from now on the cache may do without it."""
        self._cache.let_go(dataset.sha256)

    def close(self) -> None:
        """Give up what is being fetched."""
        for fetch in self._fetches.values():
            fetch.abandoned.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _get(self, spec: DatasetSpec, fetch: Fetch) -> Dataset:
        try:
            return self._find_or_fetch(spec, fetch)
        except OSError as error:
            raise DatasetError("DATASET_UNAVAILABLE", f"{shown(spec['source'])}: {error}", True) from None

    def _find_or_fetch(self, spec: DatasetSpec, fetch: Fetch) -> Dataset:
        wanted, key = spec.get("sha256", ""), dataset_key(spec)
        if spec["source"] in self._registered and scheme_of(spec["source"]) not in OWN_SCHEMES:
            return self._cache.take(wanted, key) or self._fetch_registered(spec, fetch)
        local = local_path(spec["source"])
        if local is None:
            return self._cache.take(wanted, key) or self._fetch_remote(spec, fetch)
        with open(_open_local(local, self._roots, self.public_only), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            found = self._cache.take(wanted or self._seen.get(identity, ""), key)
            if found is None:
                fetch.total_bytes = status.st_size
                found = self._store(lambda: file.read(CHUNK_BYTES), spec, fetch)
            if len(self._seen) < REMEMBERED_MAX:
                self._seen[identity] = found.sha256
            return found

    def _store(self, read: Callable[[], bytes], spec: DatasetSpec, fetch: Fetch) -> Dataset:
        """Copy what `read` gives to the cache, summing it on the way; nothing stays where the sum is not the wanted one."""
        source, wanted = spec["source"], spec.get("sha256", "")
        self._cache.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=self._cache.directory, prefix=INCOMING)
        try:
            with open(fd, "wb") as file:
                sha256, total = self._copy(read, file.write, source, fetch)
                file.flush()
                os.fsync(file.fileno())
            if wanted and sha256 != wanted:
                raise DatasetError(
                    "DATASET_MISMATCH", f"{shown(source)} has the SHA-256 {sha256}; the task asked for {wanted}"
                )
            return self._cache.put(Path(name), sha256, total, dataset_key(spec))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _copy(
        self, read: Callable[[], bytes], write: Callable[[bytes], Any], source: str, fetch: Fetch
    ) -> tuple[str, int]:
        digest, total = hashlib.sha256(), 0
        while chunk := read():
            total += len(chunk)
            if total > self._bytes_max:
                raise DatasetError(
                    "DATASET_UNAVAILABLE", f"{shown(source)} is larger than dataset_bytes_max={self._bytes_max}"
                )
            if fetch.abandoned.is_set():
                raise DatasetError("DATASET_UNAVAILABLE", f"{shown(source)}: nobody waits for it any more", True)
            digest.update(chunk)
            write(chunk)
            fetch.done_bytes = total
        return digest.hexdigest(), total

    # -- the network

    def _fetch_registered(self, spec: DatasetSpec, fetch: Fetch) -> Dataset:
        """Through whatever file system of fsspec its scheme names. What that says may hold secrets: only the log hears."""
        import fsspec

        source, options = spec["source"], self._registered[spec["source"]]
        try:
            files, path = fsspec.core.url_to_fs(source, **options)
            with files.open(path, "rb") as opened:
                fetch.total_bytes = int(getattr(opened, "size", None) or 0)
                return self._store(lambda: bytes(opened.read(CHUNK_BYTES)), spec, fetch)
        except DatasetError:
            raise
        except FileNotFoundError:
            raise DatasetError("DATASET_NOT_FOUND", f"{shown(source)} does not exist") from None
        except (ImportError, ValueError) as error:
            log.error("dataset.no_file_system source=%s error=%s", shown(source), error)
            detail = f"this worker has no file system for {scheme_of(source)}:// (an fsspec package that is installed)"
            raise DatasetError("DATASET_UNAVAILABLE", f"{shown(source)}: {detail}", True) from None
        except Exception as error:  # each file system has errors of its own
            log.error("dataset.not_fetched source=%s", shown(source), exc_info=error)
            detail = f"{shown(source)}: {type(error).__name__}; the worker's log says more"
            raise DatasetError("DATASET_UNAVAILABLE", detail, True) from None

    def _fetch_remote(self, spec: DatasetSpec, fetch: Fetch) -> Dataset:
        import aiohttp
        import fsspec

        url, refused = spec["source"], list[str]()

        async def make_client(**options: Any) -> aiohttp.ClientSession:
            def make_socket(address: Any) -> socket.socket:
                family, kind, protocol, _, place = address
                if not self._private_hosts and not is_public(place[0]):
                    refused.append(place[0])
                    raise ConnectionRefusedError(f"{place[0]} is not a public address")
                return socket.socket(family, kind, protocol)

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=STALL_TIMEOUT_S)
            connector = aiohttp.TCPConnector(socket_factory=make_socket, force_close=True)
            return aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False, auto_decompress=False)

        try:
            files = fsspec.filesystem(
                "http", get_client=make_client, skip_instance_cache=True, max_redirects=REDIRECTS_MAX
            )
            options = self._registered.get(url, {})
            headers = {**options.get("headers", {}), "Accept-Encoding": "identity"}
            with files.open(url, "rb", block_size=0, size=1, headers=headers) as opened:
                fetch.total_bytes = int(opened.r.content_length or 0)
                return self._store(lambda: bytes(opened.read(CHUNK_BYTES)), spec, fetch)
        except FileNotFoundError:
            raise DatasetError("DATASET_NOT_FOUND", f"{shown(url)} does not exist (404)") from None
        except aiohttp.ClientResponseError as error:
            passing = error.status in (408, 425, 429) or error.status >= 500
            word = "DATASET_UNAVAILABLE" if passing else "DATASET_NOT_FOUND"
            raise DatasetError(word, f"{shown(url)} answered {error.status} {error.message}", passing) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlRedirectClientError, ValueError) as error:
            raise DatasetError("DATASET_NOT_FOUND", f"{shown(url)}: {type(error).__name__}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if refused:
                detail = f"{shown(url)} leads to {refused[0]}, which is not a public address (private_hosts is off)"
                raise DatasetError("DATASET_NOT_FOUND", detail) from None
            raise DatasetError("DATASET_UNAVAILABLE", f"{shown(url)}: {_said(error)}", True) from None


async def _tell(fetch: Fetch, spec: DatasetSpec, say: Say) -> None:
    """Say how far a fetch is, from time to time, until cancelled."""
    await asyncio.sleep(SAY_FIRST_S)
    said_t, said_bytes = time.monotonic(), fetch.done_bytes
    say(f"dataset {spec['name']}: fetching {shown(spec['source'])}: {fetch.said}")
    while True:
        await asyncio.sleep(SAY_FIRST_S)
        is_far = fetch.done_bytes - said_bytes >= max(1, SAY_EVERY_SHARE * fetch.total_bytes)
        if time.monotonic() - said_t >= SAY_EVERY_S and (is_far or not fetch.total_bytes):
            said_t, said_bytes = time.monotonic(), fetch.done_bytes
            say(f"dataset {spec['name']}: {fetch.said}")


def in_words(count: int) -> str:
    """So many bytes, as people say it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def scheme_of(source: str) -> str:
    """In lower case; "" for a plain path."""
    return "" if source.startswith("/") else urlsplit(source).scheme


def is_public(address: str) -> bool:
    """Whether this is an address of the public internet, also where an IPv6 form wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64 or ip in _COMPATIBLE:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return wrapped.is_global and not wrapped.is_multicast
    return ip.is_global and not ip.is_multicast


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")  # long out of use, and still taken for what it wraps


def shown(source: str) -> str:
    """The source as it may be shown: without the user and password that a URL can hold, and without its query."""
    if source.startswith("/"):
        return source
    parts = urlsplit(source)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def local_path(source: str) -> Path | None:
    """The file that a plain path or a file:// URL names; None for http(s). Raises `DatasetError` for anything else."""
    if source.startswith("/"):
        return Path(source)
    parts = urlsplit(source)
    if parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    raise DatasetError(
        "DATASET_NOT_FOUND", f"{shown(source)!r} is no absolute path, no file:// and no http(s):// address"
    )


def _open_local(path: Path, roots: tuple[Path, ...], public_only: bool) -> int:
    """A descriptor of the regular file, which lies under a root once every link is resolved."""
    real = os.path.realpath(path)
    if not any(Path(real).is_relative_to(root) and (Path(real) != root or root.is_file()) for root in roots):
        allowed = ", ".join(map(str, roots))
        raise DatasetError("DATASET_NOT_FOUND", f"{path} is not under a directory of dataset_roots ({allowed})")
    try:
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DatasetError("DATASET_NOT_FOUND", f"{path} does not exist on this worker") from None
    except PermissionError:
        raise DatasetError("DATASET_NOT_FOUND", f"{path} may not be read") from None
    problem = ""
    if public_only and not _is_public(Path(real), roots):
        problem = f"{path} may not be read by every user, and tasks are not ours here (chmod o+r; o+x above it)"
    elif os.readlink(f"/proc/self/fd/{fd}") != real:  # a directory above it was swapped for a link meanwhile
        problem = f"{path} changed while it was opened"
    elif not stat.S_ISREG(os.fstat(fd).st_mode):
        problem = f"{path} is no regular file; pack a directory into one file"
    if problem:
        os.close(fd)
        raise DatasetError("DATASET_NOT_FOUND", problem)
    return fd


def _is_public(real: Path, roots: tuple[Path, ...]) -> bool:
    """Whether each user may read what lies in a root and pass the directories between; the root itself is given."""
    if real in roots:
        return True
    between = [directory for directory in real.parents if any(root in directory.parents for root in roots)]
    return all(path.stat().st_mode & bit for path, bit in [(real, 0o004), *((one, 0o001) for one in between)])


def mount(dataset: Dataset, workspace: Path, mount_path: str) -> Path:
    """Put the dataset at `mount_path` below `workspace`, read-only. Raises ValueError for a path that leaves it."""
    parts = Path(mount_path).parts
    if not parts or mount_path.startswith("/") or ".." in parts:
        raise ValueError(f"mount_path {mount_path!r} must be a relative path inside the workspace")
    target = workspace.joinpath(*parts)
    for directory in reversed(list(_between(target.parent, workspace))):
        directory.mkdir(exist_ok=True)
        if directory.is_symlink():
            raise ValueError(f"mount_path {mount_path!r} leads through a link")
    try:
        os.link(dataset.path, target)
    except FileExistsError:
        raise ValueError(f"mount_path {mount_path!r} is taken") from None
    except OSError:  # another file system, or too many links
        shutil.copyfile(dataset.path, target)
        os.chmod(target, 0o444)
    return target


def _between(directory: Path, top: Path) -> Iterator[Path]:
    while directory != top:
        yield directory
        directory = directory.parent


def variable_of(name: str) -> str:
    """The environment variable that tells a task where its dataset `name` is."""
    return "FETCHML_DATASET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
