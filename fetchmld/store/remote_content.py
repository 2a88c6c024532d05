"""The head's content store, from another machine: the same ways in, and one out, by HTTP.

Content never travels through Ray. An object is hashed, asked for, and sent only where the head has none of that hash; the
head checks the hash again, as we do what we fetch. While the head does not answer it is tried again, so that its restart
costs nothing.
"""

import contextlib
import hashlib
import hmac
import http.client
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

from blake3 import blake3

from fetchmld.core.errors import Invalid, NotFound
from fetchmld.inner_tls import InnerConnection
from fetchmld.store.content import BYTES_MAX, CHUNK_BYTES, FILES_MAX, ContentStore, Kept, put_tree

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 30.0  # without progress
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 5.0
GIVE_UP_S: Final = 120.0  # a restart of the head takes some 12 s
_DONE: Final = frozenset({200, 204, 304, 404})
_AGAIN: Final = frozenset({408, 429, 502, 503, 504})


def worker_key(join_token: str) -> str:
    """The API key of the machines that joined: whoever has the token can make it, and nobody need send it."""
    return "fml_" + hmac.new(join_token.encode(), b"fetchml worker key", hashlib.sha256).hexdigest()


class RemoteContent:
    """Puts objects into the store of the head at `url`, which over https is known by `certificate` (see `inner_tls`).

    Blocks; safe for several threads.
    """

    def __init__(self, url: str, key: str, certificate: str = "") -> None:
        self._url = urlsplit(url)
        self._certificate = certificate
        self._headers = {"X-API-Key": key, "Content-Type": "application/octet-stream"}

    def put(self, data: bytes) -> str:
        """Store `data`; its hash. Raises OSError where the head cannot be reached for long, or refuses."""
        digest = blake3(data).hexdigest()
        self._send(digest, len(data), lambda: data)
        return digest

    def put_file(self, source: BinaryIO) -> tuple[str, int]:
        """Store all of `source`, which must be seekable; its hash and size in bytes. Raises OSError as `put`."""
        digest, total = blake3(), 0
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            total += len(chunk)

        def body() -> BinaryIO:
            source.seek(0)
            return source

        self._send(digest.hexdigest(), total, body)
        return digest.hexdigest(), total

    def put_tree(
        self, directory: Path, files_max: int = FILES_MAX, bytes_max: int = BYTES_MAX, owner: int = -1
    ) -> Kept:
        """As `ContentStore.put_tree`."""
        return put_tree(self, directory, files_max, bytes_max, owner)

    def fetch(self, digest: str, into: ContentStore) -> int:
        """Put the object into a store here; its size. Raises `NotFound`, or OSError as `put` does."""

        def get() -> int:
            with self._asked("GET", digest) as answer:
                if answer.status == 200:
                    sizes.append(_receive(answer, digest, into))
                return answer.status

        sizes: list[int] = []
        if self._until_answered(digest, get) == 404:
            raise NotFound(f"the head has no object {digest}")
        return sizes[-1]

    def _send(self, digest: str, size: int, body: Callable[[], Any]) -> None:
        def put() -> int:
            with self._asked("GET", digest, headers={"If-None-Match": f'"{digest}"'}) as answer:
                if answer.status != 404:
                    return answer.status
            with self._asked("PUT", digest, body(), {"Content-Length": str(size)}) as answer:
                return answer.status

        self._until_answered(digest, put)

    def _until_answered(self, digest: str, ask: Callable[[], int]) -> int:
        """The first status that another try would not change."""
        deadline, pause_s = time.monotonic() + GIVE_UP_S, RETRY_FIRST_S
        while True:
            try:
                status = ask()
            except (OSError, http.client.HTTPException) as error:
                said = f"{type(error).__name__}: {error}"
            else:
                if status in _DONE:
                    return status
                said = f"status {status}"
                if status not in _AGAIN:
                    raise OSError(f"the head refused object {digest}: {said}")
            if time.monotonic() + pause_s > deadline:
                raise OSError(f"the head did not answer about object {digest} for {GIVE_UP_S:g} s: {said}")
            log.warning("content.tried_again digest=%s reason=%s", digest, said)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    @contextlib.contextmanager
    def _asked(
        self, method: str, digest: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection()
        try:
            connection.request(method, f"/v1/objects/{digest}", body, {**self._headers, **(headers or {})})
            yield connection.getresponse()
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return InnerConnection(host, port, timeout=TIMEOUT_S, certificate=self._certificate)
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)


def _receive(answer: http.client.HTTPResponse, digest: str, into: ContentStore) -> int:
    with into.receive() as incoming:
        while piece := answer.read(CHUNK_BYTES):
            incoming.write(piece)
        try:
            incoming.keep(digest)
        except Invalid as error:
            raise OSError(str(error)) from None
        return incoming.size
