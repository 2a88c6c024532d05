"""What stands before and behind every handler: keys, roles, trace ids, and the one shape of every error."""

import asyncio
import json
import logging
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientConnectionError

from fetchmld.api import logins
from fetchmld.api.answers import trace_id_of
from fetchmld.api.app import OPERATIONS
from fetchmld.api.guard import Operation
from fetchmld.core.errors import BY_NAME, Internal
from tests.api.served import KEYS, Api, assert_is_error, with_api

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")
TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"


def concrete(operation: Operation) -> str:
    """The operation's path with ids that nothing has."""
    path = operation.path.replace("{path:.+}", "no/such/file").replace("{rest:.*}", "/page")
    return path.replace("{", "").replace("}", "")


def test_every_route_answers_every_method_in_our_shape(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        methods: dict[str, set[str]] = {}
        for op in [one for one in OPERATIONS if one.is_described]:
            methods.setdefault(concrete(op), set()).add(op.method)
            if op.is_open and op.method == "GET":
                methods[concrete(op)].add("HEAD")
        for path, served in methods.items():
            for method in set(METHODS) - {"HEAD"}:
                response = await api.raw(method, path, key=KEYS["admin"])
                if method in served:
                    assert response.status != 405, (method, path)
                else:
                    assert response.status == 405, (method, path)
                    assert set(response.headers["Allow"].split(",")) == served
                response.release()

    with_api(tmp_path, test)


def test_a_head_is_the_get_without_its_body(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for path in ("/health", "/livez", "/openapi.json", "/docs", "/docs/start.js"):
            head, get = await api.raw("HEAD", path, key=None), await api.raw("GET", path, key=None)
            assert (head.status, head.headers["Content-Type"]) == (get.status, get.headers["Content-Type"])
            assert (await head.read(), len(await get.read()) > 0) == (b"", True)
        async with api.client.head("/v1/tasks", headers={"X-API-Key": KEYS["user"]}) as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET,POST")

    with_api(tmp_path, test)


def test_a_path_that_is_not_there_is_404_with_a_key(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for path in ("/nowhere", "/v1/tasks/", "/v1/tasks/t1/nothing", "/V1/tasks"):
            status, error = await api.call("GET", path)
            assert (status, error["code"]) == (404, "NOT_FOUND"), path

    with_api(tmp_path, test)


# -- keys and their record


def test_an_expired_key_is_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.add_key("fml_old", "old", "user", expires_at=time.time() - 1)
        api.head.add_key("fml_young", "young", "user", expires_at=time.time() + 60)
        assert (await api.call("GET", "/v1/queue", key="fml_old"))[0] == 401
        assert (await api.call("GET", "/v1/queue", key="fml_young"))[0] == 200

    with_api(tmp_path, test)


def test_each_failure_is_on_record_without_the_key(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await api.call("GET", "/v1/queue?key=hunter2", key="fml_hunter2")
        await api.call("DELETE", "/v1/tasks/t1", key=None)
        first, second = api.head.facts_of("auth.failure")
        assert (first.event_type, first.success, first.ip_address) == ("auth_attempt", False, "127.0.0.1")
        assert first.metadata["path"] == "/v1/queue"
        assert second.metadata["method"] == "DELETE"
        assert "hunter2" not in repr(api.head.facts)

    with_api(tmp_path, test)


def test_the_first_success_of_a_key_and_hour_is_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(api: Api) -> None:
        for _ in range(3):
            await api.call("GET", "/v1/queue")
        await api.call("GET", "/v1/queue", key=KEYS["admin"])
        assert [fact.user_id for fact in api.head.facts_of("auth.success")] == ["user", "admin"]
        later = time.time() + 3600
        monkeypatch.setattr("fetchmld.api.logins.time.time", lambda: later)
        await api.call("GET", "/v1/queue")
        assert [fact.user_id for fact in api.head.facts_of("auth.success")] == ["user", "admin", "user"]

    with_api(tmp_path, test)


def test_what_is_remembered_of_logins_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(api: Api) -> None:
        monkeypatch.setattr(logins, "LOGINS_REMEMBERED_MAX", 2)
        for name in ("user", "admin", "other", "user"):
            await api.call("GET", "/v1/queue", key=KEYS[name])
        assert len(api.head.facts_of("auth.success")) == 4

    with_api(tmp_path, test)


def test_an_odd_key_is_only_unknown(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for key in (b"\xff\xfe", b"x" * 8000, b"caf\xc3\xa9"):
            raw = b"GET /v1/queue HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: " + key + b"\r\n\r\n"
            status, _ = await raw_answer(api, raw)
            assert status == 401

    with_api(tmp_path, test)


# -- trace ids


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        (f"00-{TRACE_ID}-b7ad6b7169203331-01", True),
        (f"cc-{TRACE_ID}-b7ad6b7169203331-01", True),
        (f"ff-{TRACE_ID}-b7ad6b7169203331-01", False),
        (f"00-{TRACE_ID.upper()}-b7ad6b7169203331-01", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE_ID}-{'0' * 16}-01", False),
        (f"00-{TRACE_ID}-b7ad6b7169203331", False),
        (f"00-{TRACE_ID}-b7ad6b7169203331-01\n", False),
        ("", False),
        (None, False),
    ],
)
def test_trace_ids(given: str | None, is_kept: bool) -> None:
    found = trace_id_of(given)
    assert (found == TRACE_ID) == is_kept
    assert is_kept or found != trace_id_of(given)


def test_the_trace_id_is_in_the_error_and_the_header(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
        for path in ("/v1/queue", "/v1/tasks/t999", "/nowhere"):
            response = await api.raw("GET", path, headers=headers)
            assert response.headers["X-Trace-Id"] == TRACE_ID

    with_api(tmp_path, test)


# -- errors


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_each_of_our_errors_has_its_status_and_code(tmp_path: Path, name: str) -> None:
    async def test(api: Api) -> None:
        api.head.broken = BY_NAME[name]("what was wrong: \ud800 " + "x" * 5000)
        status, error = await api.call("GET", "/v1/queue")
        assert (status, error["code"]) == (BY_NAME[name].status, BY_NAME[name].code)
        assert len(error["error"]) <= 1000
        assert error["error"].startswith("what was wrong") == (status != 500)

    with_api(tmp_path, test)


@pytest.mark.parametrize("error", [KeyError("secret"), Internal("secret"), TimeoutError("secret")])
def test_our_own_faults_are_logged_and_say_nothing_outside(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(api: Api) -> None:
        api.head.broken = error
        status, answer = await api.call("GET", "/v1/queue?token=hidden")
        assert (status, answer["code"]) == (500, "INTERNAL_ERROR")
        assert "secret" not in json.dumps(answer)
        assert f"trace_id={answer['trace_id']}" in caplog.text
        assert "secret" in caplog.text
        assert "hidden" not in caplog.text

    with caplog.at_level(logging.ERROR):
        with_api(tmp_path, test)


# -- bytes that are not what they should be


async def raw_answer(api: Api, sent: bytes) -> tuple[int, dict[str, str]]:
    """What the server answers to `sent` as it is, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port())
    try:
        writer.write(sent)
        await writer.drain()
        got = await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"application/json" in head, got
    trace_id = next(line[12:] for line in head.decode().splitlines() if line.lower().startswith("x-trace-id: "))
    answer = json.loads(body)
    assert_is_error(answer, trace_id)
    return int(head.split()[1]), answer


_KEYED: Final = b"Host: localhost\r\nConnection: close\r\nX-API-Key: " + KEYS["user"].encode() + b"\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nbroken header\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\n" + _KEYED + b"Content-Length: x\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\n" + _KEYED + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\n" + _KEYED + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/tasks HTTP/1.1\r\n" + _KEYED + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_what_is_not_http_is_a_400_in_our_shape(tmp_path: Path, sent: bytes) -> None:
    async def test(api: Api) -> None:
        status, answer = await raw_answer(api, sent)
        assert (status, answer["code"]) == (400, "BAD_REQUEST")
        assert (await api.call("GET", "/v1/queue"))[0] == 200

    with_api(tmp_path, test)


def test_an_odd_expectation_is_417_in_our_shape(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for path in (b"/v1/tasks", b"/nowhere", b"/health"):
            sent = b"GET " + path + b" HTTP/1.1\r\n" + _KEYED + b"Expect: miracles\r\n\r\n"
            assert (await raw_answer(api, sent))[0] == 417

    with_api(tmp_path, test)


def test_a_body_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        bomb = zlib.compress(b" " * 50_000_000)
        headers = {"Content-Type": "application/json", "Content-Encoding": "deflate"}
        assert len(bomb) < 2**20
        assert (await api.call("POST", "/v1/tasks", data=bomb, headers=headers))[0] == 413

    with_api(tmp_path, test)


def test_a_client_that_hangs_up_is_no_fault_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def never_ending() -> AsyncIterator[bytes]:
        yield b'{"job_name":'
        raise RuntimeError("the client breaks")

    async def test(api: Api) -> None:
        with pytest.raises(ClientConnectionError, match="breaks"):
            await api.call("POST", "/v1/tasks", data=never_ending(), headers={"Content-Type": "application/json"})
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port())
        writer.write(b"POST /v1/tasks HTTP/1.1\r\n" + _KEYED + b"Content-Length: 100\r\n\r\n{")
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        assert (await api.call("GET", "/v1/queue"))[0] == 200

    with caplog.at_level(logging.ERROR):
        with_api(tmp_path, test)
    assert not caplog.records
