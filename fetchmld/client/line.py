"""A line to a daemon: a transport and a key, and how a call goes over it, again and again where that is safe."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from fetchmld.client.calls import Call
from fetchmld.client.errors import ApiError, Lost, TimedOut, Unreachable
from fetchmld.client.patience import PASSING, Patience
from fetchmld.client.transport import Body, Transport

T = TypeVar("T")

LOST_MAX_S: Final = 30.0  # for a request whose answer was lost; a restart of the daemon takes 5 to 12
KEY_HEADER: Final = "Idempotency-Key"


@dataclass(slots=True)
class Line:
    """`timeout_s` bounds the wait for an answer, over and above what the server was asked to wait. `retry_s`: how long
    what the daemon refuses for now (429, 503) is asked again, when it says to."""

    transport: Transport
    key: str
    timeout_s: float
    retry_s: float

    def headers(self, more: Mapping[str, str], body: Body = None) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "fetchml-client", **more}
        if self.key:
            headers["X-API-Key"] = self.key
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        return headers


async def send(line: Line, call: Call[T]) -> T:
    """Send a call and read its result.

    One that makes something goes with an Idempotency-Key, and is sent again for up to `LOST_MAX_S` where its answer
    was lost, or says that it cannot be done now: that thing is made once. Any other is sent again only where the daemon
    has refused it for the moment and says for how long, so that it was not carried out.
    """
    headers = line.headers(call.headers, call.content)
    if call.makes:
        headers.setdefault(KEY_HEADER, os.urandom(16).hex())
    patience, was_lost = Patience(LOST_MAX_S if call.makes else line.retry_s), False
    while True:
        try:
            return await send_once(line, call, headers)
        except ApiError as error:
            if not call.makes and (error.status not in PASSING or error.retry_after_s is None):
                raise
            pause_s = patience.pause_s(error)
        except (Unreachable, TimedOut) as error:
            was_lost = was_lost or isinstance(error, Lost | TimedOut)
            if not (call.makes and was_lost):
                raise
            pause_s = patience.pause_s(error)
        await line.transport.pause(pause_s)


async def send_once(line: Line, call: Call[T], headers: Mapping[str, str] | None = None) -> T:
    """Without waiting for better times; but a GET that was cut off before any answer is asked once more."""
    headers = line.headers(call.headers, call.content) if headers is None else headers
    asked = (call.method, call.target, headers, call.content, line.timeout_s + call.wait_s)
    try:
        return call.result(await line.transport.ask(*asked))
    except Lost:
        if call.method != "GET":
            raise
    return call.result(await line.transport.ask(*asked))
