"""The head's content store, from another machine: the same ways in, and one out, by HTTP.

Content never travels through Ray. An object is hashed, asked for if it is large, and sent only where the head has none of
that hash; the head checks the hash again, as we do what we fetch. While the head does not answer it is tried again, so that
its restart costs nothing.
"""

import http.client
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from blake3 import blake3

from fetchmld.core.errors import Invalid, NotFound
from fetchmld.store.artifacts import Changed
from fetchmld.store.content import CHUNK_BYTES, ContentStore
from fetchmld.store.head_http import HeadHttp

log = logging.getLogger(__name__)

ASKED_FROM_BYTES: Final = 2**16  # smaller ones are sent unasked
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 5.0
GIVE_UP_S: Final = 120.0  # a restart of the head takes some 12 s
_DONE: Final = frozenset({200, 204, 304, 404})
_AGAIN: Final = frozenset({408, 429, 502, 503, 504})
_OTHER_HASH: Final = 422


class Refused(OSError):
    """The head answered that another try would not change anything."""

    def __init__(self, digest: str, status: int) -> None:
        super().__init__(f"the head refused object {digest}: status {status}")
        self.status = status


class RemoteContent:
    """Puts objects into the head's store. Blocks; safe for several threads."""

    def __init__(self, head: HeadHttp) -> None:
        self._head = head

    def put(self, data: bytes) -> str:
        """Store `data`; its hash. Raises OSError where the head cannot be reached for long, or refuses."""
        digest = blake3(data).hexdigest()
        self._send(digest, len(data), lambda: data)
        return digest

    def put_file(self, source: BinaryIO) -> tuple[str, int]:
        """Store all of `source`, which must be seekable; its hash and size in bytes. Raises `Changed`; OSError as `put`."""
        digest, total = blake3(), 0
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            total += len(chunk)
        try:
            self._send(digest.hexdigest(), total, lambda: _pieces(source, total))
        except Refused as refused:
            if refused.status == _OTHER_HASH:
                raise Changed from None
            raise
        return digest.hexdigest(), total

    def fetch(self, digest: str, into: ContentStore) -> int:
        """Put the object into a store here; its size. Raises `NotFound`, or OSError as `put` does."""

        def get() -> int:
            with self._head.asked("GET", _target(digest)) as answer:
                if answer.status == 200:
                    sizes.append(_receive(answer, digest, into))
                else:
                    answer.read()
                return answer.status

        sizes: list[int] = []
        if self._until_answered(digest, get) == 404:
            raise NotFound(f"the head has no object {digest}")
        return sizes[-1]

    def _send(self, digest: str, size: int, body: Callable[[], Any]) -> None:
        def put() -> int:
            if size >= ASKED_FROM_BYTES:
                with self._head.asked("GET", _target(digest), headers={"If-None-Match": f'"{digest}"'}) as answer:
                    if answer.status != 404:
                        return answer.status
                    answer.read()
            with self._head.asked("PUT", _target(digest), body(), {"Content-Length": str(size)}) as answer:
                answer.read()
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
                    raise Refused(digest, status)
            if time.monotonic() + pause_s > deadline:
                raise OSError(f"the head did not answer about object {digest} for {GIVE_UP_S:g} s: {said}")
            log.warning("content.tried_again digest=%s reason=%s", digest, said)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)


def _target(digest: str) -> str:
    return f"/v1/objects/{digest}"


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    """So many bytes from the beginning. Raises `Changed` where they are not there any more."""
    source.seek(0)
    while size:
        piece = source.read(min(CHUNK_BYTES, size))
        if not piece:
            raise Changed
        size -= len(piece)
        yield piece


def _receive(answer: http.client.HTTPResponse, digest: str, into: ContentStore) -> int:
    with into.receive() as incoming:
        while piece := answer.read(CHUNK_BYTES):
            incoming.write(piece)
        try:
            incoming.keep(digest)
        except Invalid as error:
            raise OSError(str(error)) from None
        return incoming.size
