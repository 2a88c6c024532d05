"""One request, described without sending it. The endpoint table (`endpoints`) is written once in these terms."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from fetchmld.client.errors import BY_CODE, ApiError
from fetchmld.client.shown import shown

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(slots=True, frozen=True)
class Answer:
    """A response, read to its end. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_json(answer: Answer) -> Any:
    return shown(json.loads(answer.body))


def read_nothing(_answer: Answer) -> None:
    return None


def read_bytes(answer: Answer) -> bytes:
    return answer.body


@dataclass(slots=True, frozen=True)
class Call(Generic[T]):
    """What to ask. `path` is quoted already; query values that are None are left out; `body` is sent as JSON.

    `wait_s` is how long the server may hold the answer back on purpose, over and above the client's own time limit.
    `makes`: it makes something new, and the server knows it again by its Idempotency-Key.
    """

    method: str
    path: str
    read: Callable[[Answer], T]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | list[Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    makes: bool = False

    @property
    def content(self) -> bytes | None:
        """The body as it is sent."""
        return None if self.body is None else json.dumps(self.body).encode()

    @property
    def target(self) -> str:
        """Path and query, as the request line has them."""
        given = {name: _plain(value) for name, value in self.query.items() if value is not None}
        return f"{self.path}?{urlencode(given)}" if given else self.path

    def result(self, answer: Answer) -> T:
        """The answer's meaning. Raises `ApiError` for a status of 400 and above."""
        if answer.status >= 400:
            raise api_error(answer)
        return self.read(answer)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def path(template: str, *parts: str) -> str:
    """`template` with each `{}` replaced by one part, quoted so that it stays one segment (or several for `*`)."""
    return template.format(*(quote(part, safe="") for part in parts))


def api_error(answer: Answer) -> ApiError:
    """The ErrorResponse of `answer`; where something between us and the daemon answered, one is made up from it."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = None
    if not isinstance(body, dict) or "error" not in body:
        text = answer.body[:200].decode(errors="replace").strip()
        body = {"error": f"unexpected answer {answer.status}: {text or 'empty'}", "code": "", "trace_id": ""}
    after = answer.headers.get("retry-after", "")
    kind = BY_CODE.get(str(body.get("code")), ApiError)
    return kind(answer.status, body, int(after) if after.isdigit() else None)
