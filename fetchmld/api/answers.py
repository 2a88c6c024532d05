"""How an answer looks on the wire: JSON bodies, and the one shape of every error.

Knows status codes, headers and the ErrorResponse; knows nothing of requests, roles or tasks.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web

from fetchmld.chance import random_bytes
from fetchmld.core.errors import FetchmlError

JSON_TYPE: Final = "application/json"
ERROR_CHARACTERS_MAX: Final = 1000

SECURITY_HEADERS: Final[dict[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Server": "fetchmld",  # what it is made of is nobody's business
}
_EXTRA_HEADERS: Final[dict[int, dict[str, str]]] = {
    401: {"WWW-Authenticate": 'ApiKey realm="fetchml"'},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "5"},
}
_CODE_BY_STATUS: Final[dict[int, str]] = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    422: "VALIDATION_ERROR",
    429: "RATE_LIMITED",
    501: "SERVICE_UNAVAILABLE",
    503: "SERVICE_UNAVAILABLE",
}
_HTTP_MESSAGES: Final[dict[int, str]] = {
    404: "there is no such route; /openapi.json lists all",
    405: "this route does not have this method; the Allow header lists those it has",
    413: "the request body is larger than this server accepts",
    426: "this is a WebSocket; send an Upgrade: websocket handshake",
    416: "the range begins behind the end of the file; Content-Range says how long it is",
    417: "the Expect header asks for something other than 100-continue",
}
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id_of(traceparent: str | None) -> str:
    """The trace id of a W3C `traceparent` header (32 hex digits), or a fresh random UUID where there is no valid one."""
    if traceparent is not None and (match := _TRACEPARENT.fullmatch(traceparent)):
        return match.group(1)
    digits = random_bytes(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"  # RFC 9562, version 4


def reply(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`data` as a JSON answer. It holds only what JSON can carry, strings without lone surrogates."""
    return web.Response(body=orjson.dumps(data), status=status, headers=headers, content_type=JSON_TYPE)


def refusal(
    status: int, code: str, message: str, trace_id: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An ErrorResponse. `message` may quote what a client sent: it is cut, and what UTF-8 cannot carry is replaced."""
    body = _error_body(message, code, trace_id)
    all_headers = {"X-Trace-Id": trace_id, **SECURITY_HEADERS, **_EXTRA_HEADERS.get(status, {}), **(headers or {})}
    return web.Response(body=orjson.dumps(body), status=status, headers=all_headers, content_type=JSON_TYPE)


def refusal_of(error: FetchmlError, trace_id: str) -> web.Response:
    """The answer to one of our own errors; of our own faults (500) no detail leaves the house."""
    message = "something went wrong on our side; quote the trace_id" if error.status == 500 else error.message
    later = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else None
    return refusal(error.status, error.code, message, trace_id, later)


def whole_refusal(error: FetchmlError, trace_id: str) -> bytes:
    """The answer to one of our own errors where there is no request to answer: all of its bytes, closing."""
    body = orjson.dumps(_error_body(error.message, error.code, trace_id))
    headers = {
        "Content-Type": f"{JSON_TYPE}; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Trace-Id": trace_id,
        **SECURITY_HEADERS,
        **({"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}),
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


def error_body(error: FetchmlError, trace_id: str) -> dict[str, str]:
    """The ErrorResponse of a caller's own fault, as a part of an answer."""
    return _error_body(error.message, error.code, trace_id)


def _error_body(message: str, code: str, trace_id: str) -> dict[str, str]:
    return {"error": _printable(message), "code": code, "trace_id": trace_id}


def refusal_of_http(error: web.HTTPException, trace_id: str) -> web.Response:
    """The answer to an error that aiohttp raised: its status and its Allow or Upgrade header, our shape."""
    code = _CODE_BY_STATUS.get(error.status, "BAD_REQUEST" if error.status < 500 else "INTERNAL_ERROR")
    message = _HTTP_MESSAGES.get(error.status, error.reason)
    kept = {name: error.headers[name] for name in ("Allow", "Upgrade", "Content-Range") if name in error.headers}
    return refusal(error.status, code, message, trace_id, kept)


def _printable(message: str) -> str:
    cut = message if len(message) <= ERROR_CHARACTERS_MAX else message[: ERROR_CHARACTERS_MAX - 3] + "..."
    return cut.encode("utf-8", "replace").decode("utf-8")
