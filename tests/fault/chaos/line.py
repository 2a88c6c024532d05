"""One client's line to the daemon: plain HTTP on a plain socket, and a history of all that was asked and answered."""

import http.client
import json
import random
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 20.0
STREAM_S: Final = 3.0  # of silence, after which a stream is left


@dataclass(slots=True)
class Said:
    """A line of the history; the outside checker reads the same names. Times: wall clock, microseconds."""

    client: str
    user: str
    role: str
    number: int
    operation: str
    path: str
    trace: str
    begun_us: int
    ended_us: int = 0
    status: int = 0  # no answer came
    body: Any = None
    answer: Any = None
    key: str = ""
    query: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)


class Line:
    """Not for several threads."""

    def __init__(
        self, address: tuple[str, int], who: tuple[str, str, str], api_key: str, folder: Path, seed: int
    ) -> None:
        self._address, self._api_key = address, api_key
        self._client, self._user, self._role = who
        self._dice = random.Random(seed)
        self._connection: http.client.HTTPConnection | None = None
        self._file = (folder / "clients" / f"{self._client}.jsonl").open("a")
        self._number = 0

    def ask(
        self, operation: str, names: dict[str, str] | None = None, body: Any = None, key: str = "", **query: str
    ) -> Said:
        """`operation` is "METHOD /path/{name}"; `names` fill its path. A `str` body goes as it is."""
        said = self._begin(operation, names or {}, body, key, query)
        try:
            answer = self._send(said)
            said.answer = _short(said.operation, _read(answer.read()))
            said.status = answer.status
        except (OSError, http.client.HTTPException):
            self.hang_up()
        return self._end(said)

    def follow(self, operation: str, names: dict[str, str] | None = None, last: str = "", events_max: int = 20) -> Said:
        """Some events of a stream. Left when it is over, silent, or has brought `events_max`."""
        said = self._begin(operation, names or {}, None, "", {"last": last} if last else {})
        try:
            answer = self._send(said, {"Last-Event-ID": last} if last else {}, timeout_s=STREAM_S)
            said.status = answer.status
            if answer.status == 200:
                for event in _events(answer):
                    said.events.append(event)
                    if len(said.events) >= events_max:
                        break
            else:
                said.answer = _read(answer.read())
        except (OSError, http.client.HTTPException):
            pass  # what was heard was heard
        self.hang_up()  # the rest is not wanted
        return self._end(said)

    def note(self, said: Said) -> Said:
        """Put on record what was done without `ask`."""
        return self._end(said)

    def begin(self, operation: str) -> Said:
        return self._begin(operation, {}, None, "", {})

    def headers(self, said: Said) -> dict[str, str]:
        found = {"X-API-Key": self._api_key, "traceparent": f"00-{said.trace}-{'1' * 16}-01"}
        return found | ({"Idempotency-Key": said.key} if said.key else {})

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def close(self) -> None:
        self.hang_up()
        self._file.close()

    def _begin(self, operation: str, names: dict[str, str], body: Any, key: str, query: dict[str, str]) -> Said:
        self._number += 1
        trace, path = f"{self._dice.getrandbits(128) | 1:032x}", operation.split()[1].format(**names)
        who = (self._client, self._user, self._role, self._number)
        return Said(*who, operation, path, trace, wall_us(), body=body, key=key, query=query)

    def _send(
        self, said: Said, more: dict[str, str] | None = None, timeout_s: float = TIMEOUT_S
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=timeout_s)
        asked = {name: value for name, value in said.query.items() if name not in ("stranger", "last")}
        where = said.path + (f"?{urllib.parse.urlencode(asked)}" if asked else "")
        data = said.body if isinstance(said.body, str) or said.body is None else json.dumps(said.body)
        headers = self.headers(said) | ({"Content-Type": "application/json"} if data is not None else {}) | (more or {})
        self._connection.request(said.operation.split()[0], where, data, headers)
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        return self._connection.getresponse()

    def _end(self, said: Said) -> Said:
        said.ended_us = wall_us()
        self._file.write(json.dumps(asdict(said)) + "\n")
        self._file.flush()
        return said


def wall_us() -> int:
    return time.time_ns() // 1000


def _read(raw: bytes) -> Any:
    return json.loads(raw) if raw else None


_KEPT: Final = ("id", "user_id", "status", "attempt", "priority", "error", "exit_code", "name", "enabled", "mode")


def _short(operation: str, answer: Any) -> Any:
    """Of long lists what the checker looks at."""
    if operation == "GET /v1/tasks" and "tasks" in answer:
        return {**answer, "tasks": [_kept(view) for view in answer["tasks"]]}
    if operation.endswith(("/workers", "/plugins", "/services")) and isinstance(answer, list):
        return [_kept(view) for view in answer]
    return answer


def _kept(view: dict[str, Any]) -> dict[str, Any]:
    return {name: view[name] for name in _KEPT if name in view}


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Server-sent events, whole ones: an event counts once the empty line behind it is there."""
    found: dict[str, str] = {}
    while line := answer.readline():
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name in ("id", "event", "data"):
            found[name] = found.get(name, "") + value
        elif not name and not value and "data" in found:
            data = json.loads(found["data"])
            yield {"id": found.get("id", ""), "event": found.get("event", ""), "data": _state_in(data)}
            found = {}


def _state_in(data: dict[str, Any]) -> dict[str, Any]:
    return {"task": _kept(data["task"])} if "task" in data else {}
