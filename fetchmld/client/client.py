"""The blocking client: sends the endpoint table's calls, waits for tasks, follows logs across broken connections."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from fetchmld.client.calls import Answer, Call, Json, api_error, path, read_bytes, read_nothing
from fetchmld.client.endpoints import WAIT_MAX_S, Endpoints, get_artifact
from fetchmld.client.errors import ApiError, Lost, TimedOut, Unreachable
from fetchmld.client.patience import Patience
from fetchmld.client.transport import Transport

T = TypeVar("T")

ADDRESS_DEFAULT: Final = "http://127.0.0.1:9101"
TIMEOUT_S: Final = 30.0
LOST_MAX_S: Final = 30.0  # for a request whose answer was lost; a restart of the daemon takes 5 to 12
KEY_HEADER: Final = "Idempotency-Key"
SILENCE_S: Final = 60.0  # without a byte of a followed log, after which the connection is not trusted any more
SYNCED_BYTES_PER_S: Final = 10e6  # what a slow disk takes: an upload is answered once it is on the disk
RANGE_NOT_THERE: Final = 416
ENDED: Final = frozenset({"completed", "failed"})


class Client(Endpoints):
    """A daemon, as one blocking caller sees it. Safe to use from several threads.

    `address` is the daemon's URL (else `FETCHML_ADDRESS`, else loopback), `api_key` its key (else `FETCHML_API_KEY`).
    `timeout_s` bounds the wait for an answer, not counting what the server was asked to wait. `certificate` is the one that
    a head has for programs on its own machine (PEM, in its `daemon.json`); else the system's certificates decide whom to
    trust. Raises `ApiError`, `Unreachable` or `TimedOut`.
    """

    def __init__(
        self,
        address: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        certificate: str = "",
    ) -> None:
        self._transport = Transport(address or os.environ.get("FETCHML_ADDRESS") or ADDRESS_DEFAULT, certificate)
        self._key = api_key or os.environ.get("FETCHML_API_KEY") or ""
        self.timeout_s = timeout_s

    @property
    def address(self) -> str:
        return self._transport.address

    def send(self, call: Call[T], /) -> T:
        """Send one call of the table and read its result.

        One that makes something goes with an Idempotency-Key, and is sent again for up to `LOST_MAX_S` where its answer
        was lost, or says that it cannot be done now: that thing is made once.
        """
        body = None if call.body is None else json.dumps(call.body).encode()
        headers = self._headers(call.headers, body)
        if not call.makes:
            return self._send_once(call, headers, body)
        headers.setdefault(KEY_HEADER, os.urandom(16).hex())
        return self._send_until_answered(call, headers, body)

    def _send_once(self, call: Call[T], headers: Mapping[str, str], body: bytes | None) -> T:
        return call.result(self._transport.ask(call.method, call.target, headers, body, self.timeout_s + call.wait_s))

    def _send_until_answered(self, call: Call[T], headers: Mapping[str, str], body: bytes | None) -> T:
        patience, was_lost = Patience(LOST_MAX_S), False
        while True:
            try:
                return self._send_once(call, headers, body)
            except ApiError as error:
                patience.again(error)
            except (Unreachable, TimedOut) as error:
                was_lost = was_lost or isinstance(error, Lost | TimedOut)
                if not was_lost:
                    raise
                patience.again(error)

    def _headers(self, more: Mapping[str, str], body: bytes | None = None) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "fetchml-client", **more}
        if self._key:
            headers["X-API-Key"] = self._key
        if body is not None:
            headers["Content-Type"] = "application/json"
        return headers

    def wait(
        self,
        task_id: str,
        timeout_s: float | None = None,
        on_answer: Callable[[Json], Any] | None = None,
        answer_every_s: float = WAIT_MAX_S,
    ) -> Json:
        """The Task once it has ended, or as it is after `timeout_s`. Outlives restarts of the daemon.

        `on_answer` is called with the Task each time the daemon has answered, which is every `answer_every_s` at least.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        patience = Patience()
        while True:
            left_s = answer_every_s if deadline is None else min(answer_every_s, max(0.0, deadline - time.monotonic()))
            try:
                task = self.task(task_id, wait_s=round(left_s, 3))
            except (Unreachable, TimedOut, ApiError) as error:
                patience.again(error)
                continue
            patience.reset()
            if on_answer is not None:
                on_answer(task)
            if task.get("status") in ENDED or (deadline is not None and time.monotonic() >= deadline):
                return task

    def follow(self, task_id: str, offset: int = 0, attempt: int | None = None, follow: bool = True) -> Iterator[bytes]:
        """The output of one attempt (None: the newest) from byte `offset` on, exactly as written, until it has ended.

        A connection that breaks is taken up again at the byte where it broke, also after a restart of the daemon. With
        `follow` off, only what is there now.
        """
        where = path("/v1/tasks/{}/logs", task_id)
        patience = Patience()
        while True:
            call = Call("GET", where, read_bytes, query={"offset": offset, "attempt": attempt, "follow": follow})
            try:
                for piece in self._transport.stream(call.target, self._headers({"Accept": "*/*"}), SILENCE_S):
                    if isinstance(piece, Answer):
                        raise api_error(piece)
                    patience.reset()
                    offset += len(piece)
                    yield piece
                return
            except TimedOut:
                continue  # a quiet task and a dead connection look the same: ask again, from where we are
            except (Unreachable, ApiError) as error:
                patience.again(error)

    def artifact_pieces(self, task_id: str, name: str, offset: int = 0) -> Iterator[bytes]:
        """One file that the task left, from byte `offset` on; a connection that breaks is taken up where it broke."""
        target, patience = get_artifact(task_id, name).target, Patience()
        while True:
            headers = self._headers({"Accept": "*/*", **({"Range": f"bytes={offset}-"} if offset else {})})
            try:
                for piece in self._transport.stream(target, headers, self.timeout_s):
                    if isinstance(piece, Answer):
                        raise api_error(piece)
                    patience.reset()
                    offset += len(piece)
                    yield piece
                return
            except (Unreachable, TimedOut, ApiError) as error:
                if isinstance(error, ApiError) and error.status == RANGE_NOT_THERE:
                    return  # all of it has come
                patience.again(error)

    def push(self, directory: str | Path, on_progress: Callable[[int, int], object] = lambda _done, _all: None) -> Json:
        """Make a snapshot of a directory, sending only what is not there yet; its `id` goes into a request's `snapshot_id`.

        `on_progress` is told how many bytes of how many have been sent. Raises `client.errors.CannotSnapshot` as well.
        """
        from fetchmld.client.push import push

        return push(self, directory, on_progress)

    def pull(self, snapshot_id: str, directory: str | Path) -> Json:
        """Write a snapshot's files below a directory that is new or empty; the Snapshot."""
        from fetchmld.client.push import pull

        return pull(self, snapshot_id, directory)

    def put_blob(self, digest: str, content: BinaryIO, size: int) -> None:
        """Send the next `size` bytes of `content`, whose BLAKE3 is `digest`."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        timeout_s = self.timeout_s + size / SYNCED_BYTES_PER_S
        target = path("/v1/blobs/{}", digest)
        answer = self._transport.ask("PUT", target, self._headers(headers), content, timeout_s)
        Call("PUT", target, read_nothing).result(answer)

    def blob(self, digest: str) -> Iterator[bytes]:
        """The content of a blob that the caller sent, piece by piece."""
        target = path("/v1/blobs/{}", digest)
        for piece in self._transport.stream(target, self._headers({"Accept": "*/*"}), self.timeout_s):
            if isinstance(piece, Answer):
                raise api_error(piece)
            yield piece

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
