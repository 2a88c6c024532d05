"""The short way: the same answers as aiohttp's way, in the order of the requests, whatever comes in between."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fetchmld.api import protocol
from fetchmld.api.context import CONNECTIONS
from fetchmld.api.protocol import ApiProtocol
from tests.api.served import KEYS, Api, with_api

KEYED = f"Host: localhost\r\nX-API-Key: {KEYS['user']}\r\n"


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The routes of those that went the short way."""
    paths: list[str] = []
    go = ApiProtocol._go

    async def counted(self: ApiProtocol, stop: Any, names: dict[str, str]) -> None:
        paths.append(f"{stop.route.method} {stop.route.resource.canonical}")
        await go(self, stop, names)

    monkeypatch.setattr(ApiProtocol, "_go", counted)
    return paths


@asynccontextmanager
async def wire(api: Api, sent: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port())
    try:
        writer.write(sent.encode())
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """The next answer: status, headers, decoded body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:])}
    assert len(headers) == len(head) - 1  # none is said twice
    return int(head[0].split()[1]), headers, json.loads(await reader.readexactly(int(headers["content-length"])))


def get(target: str, more: str = "") -> str:
    return f"GET {target} HTTP/1.1\r\n{KEYED}{more}\r\n"


def post(body: Any, more: str = "") -> str:
    text = json.dumps(body)
    return f"POST /v1/tasks HTTP/1.1\r\n{KEYED}Content-Length: {len(text)}\r\n{more}\r\n{text}"


@pytest.mark.parametrize("settings", [{}, {"rate_per_s": 0}])
def test_both_ways_lead_to_the_same_answer(tmp_path: Path, gone: list[str], settings: dict[str, Any]) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(metadata={"name": "é"})
        gone.clear()
        odd = [f"/v1/tasks/{'0' * 12}", "/v1/tasks?limit=0", "/v1/tasks?limit=1", "/v1/tasks/batch"]
        for target in (f"/v1/tasks/{task['id']}", f"/v1/tasks/{task['id']}?output=0", *odd):
            async with (
                wire(api, get(target)) as (short, _),
                wire(api, get(target, "Connection: close\r\n")) as (long, _),
            ):
                one, other = await answer(short), await answer(long)
            assert other[1].pop("connection") == "close"
            for _, headers, body in (one, other):
                assert len(headers.pop("x-trace-id")) == 36
                headers.pop("ratelimit", "")
                for name in ("date", "trace_id"):
                    assert headers.pop("date") if name == "date" else body.pop("trace_id", "-")
            assert one == other
            assert one[0] == {odd[0]: 404, odd[1]: 400, odd[3]: 405}.get(target, 200)
        assert gone == ["GET /v1/tasks/{taskId}"] * 3 + ["GET /v1/tasks"] * 2

    with_api(tmp_path, test, **settings)


def test_a_submit_goes_it_with_its_location_and_its_key_once(tmp_path: Path, gone: list[str]) -> None:
    async def test(api: Api) -> None:
        more = "Idempotency-Key: once\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
        async with wire(api, post({"job_name": "a"}, more) + post({"job_name": "a"}, more)) as (reader, _):
            status, headers, task = await answer(reader)
            assert (status, headers["location"]) == (201, f"/v1/tasks/{task['id']}")
            assert headers["x-trace-id"] == "0af7651916cd43dd8448eb211c80319c"
            status, headers, again = await answer(reader)
            assert (status, headers["idempotency-replayed"], again["id"]) == (201, "true", task["id"])
        assert len(gone) == 2

    with_api(tmp_path, test)


def test_answers_come_in_the_order_of_the_requests_whichever_way_they_went(tmp_path: Path, gone: list[str]) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        gone.clear()
        each = (
            get(f"/v1/tasks/{task['id']}"), get("/livez"), post({"job_name": "second"}), post({}), get("/v1/queue"),
            get("/v1/tasks/%61"), get("/v1/tasks?limit=1"), get(f"/v1/tasks/{task['id']}", "Expect: 100-continue\r\n"),
        )  # fmt: skip
        sent = "".join(each * 20)
        async with wire(api, sent[:1000]) as (reader, writer):
            for start in range(1000, len(sent), 777):
                writer.write(sent[start : start + 777].encode())
                await asyncio.sleep(0)
            for _ in range(20):
                for status in (200, 200, 201, 422, 200, 404, 200):
                    assert (await answer(reader))[0] == status
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                assert (await answer(reader))[2]["id"] == task["id"]
        async with wire(api, "") as (reader, writer):  # and one by one
            gone.clear()
            for request, status in zip(each[:-1], (200, 200, 201, 422, 200, 404, 200), strict=True):
                writer.write(request.encode())
                assert (await answer(reader))[0] == status
            assert gone == ["GET /v1/tasks/{taskId}", "POST /v1/tasks", "POST /v1/tasks", "GET /v1/tasks"]

    with_api(tmp_path, test)


def test_a_body_in_pieces_and_an_old_client_are_served_as_well(tmp_path: Path, gone: list[str]) -> None:
    async def test(api: Api) -> None:
        whole = post({"job_name": "pieces"})
        async with wire(api, whole[:-5]) as (reader, writer):
            await under_way(api)
            writer.write(whole[-5:].encode())
            assert (await answer(reader))[0] == 201
        old = get("/v1/tasks").replace("HTTP/1.1", "HTTP/1.0")
        async with wire(api, old) as (reader, _):
            assert (await answer(reader))[0] == 200
            assert await reader.read() == b""
        assert gone == []

    with_api(tmp_path, test)


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(tmp_path: Path, gone: list[str]) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(cpu=64)
        kept = api.client.server.app[CONNECTIONS]  # type: ignore[attr-defined]
        before = len(kept)
        async with wire(api, get(f"/v1/tasks/{task['id']}?wait_s=60") + get("/livez")):
            while len(gone) < 2:
                await asyncio.sleep(0)
        while len(kept) > before:
            await asyncio.sleep(0)
        await api.head.end(task["id"])  # who waited is answered, and nobody is there
        assert (await api.call("GET", f"/v1/tasks/{task['id']}"))[0] == 200

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    ("more", "short"), [([], ["GET /v1/tasks"]), (["/livez", "/v1/tasks"], []), (["/livez"] * 600, [])]
)
def test_who_asks_while_a_long_one_is_answered_is_next_in_turn(
    tmp_path: Path, gone: list[str], more: list[str], short: list[str]
) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(cpu=2)
        gone.clear()
        long = get(f"/v1/tasks/%{ord(task['id'][0]):x}{task['id'][1:]}?wait_s=60")  # the router alone can read that
        async with wire(api, long) as (reader, writer):
            connection = await under_way(api)
            for targets in (["/v1/tasks"], more):
                received = connection._received_bytes
                writer.write("".join(map(get, targets)).encode())
                while targets and connection._received_bytes == received:
                    await asyncio.sleep(0)
            await api.head.end(task["id"])
            assert (await answer(reader))[2]["status"] == "completed"
            for _ in ("/v1/tasks", *more):
                assert (await answer(reader))[0] == 200
            assert gone == short
            writer.write(get("/v1/tasks").encode())
            assert (await answer(reader))[0] == 200
            assert gone == [*short, "GET /v1/tasks"]

    with_api(tmp_path, test)


async def under_way(api: Api) -> ApiProtocol:
    """The connection whose request is being answered."""
    while True:
        for connection in api.client.server.app[CONNECTIONS]._all:  # type: ignore[attr-defined]
            assert isinstance(connection, ApiProtocol)
            if connection._current_request is not None:
                return connection
        await asyncio.sleep(0)


def test_the_server_ends_while_somebody_waits_and_says_nothing_more(tmp_path: Path, gone: list[str]) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(cpu=64)
        async with (
            wire(api, get(f"/v1/tasks/{task['id']}?wait_s=60")) as (waiting, _),
            wire(api, get("/v1/tasks")) as (idle, _),
        ):
            await answer(idle)
            while len(gone) < 3:
                await asyncio.sleep(0)
            await api.client.server.close()
            assert await waiting.read() == b""
            assert await idle.read() == b""

    with_api(tmp_path, test)


def test_a_connection_that_is_not_used_any_more_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "KEEP_ALIVE_S", 0.05)

    async def test(api: Api) -> None:
        async with wire(api, get("/v1/tasks")) as (reader, _):
            await answer(reader)
            assert await reader.read() == b""

    with_api(tmp_path, test)


def test_what_the_guard_refuses_is_refused_on_it(tmp_path: Path, gone: list[str]) -> None:
    async def test(api: Api) -> None:
        for raw, status in (
            (get("/v1/tasks").replace("Host: localhost", "Host: elsewhere.example"), 421),
            (get("/v1/tasks").replace(KEYS["user"], "fml_wrong"), 401),
            (get("/v1/tasks", "Origin: https://elsewhere.example\r\n"), 403),
            (post({"job_name": "a"}).replace(KEYS["user"], KEYS["viewer"]), 403),
            (post({"job_name": "a"}, "Content-Type: text/plain\r\n"), 400),
        ):
            async with wire(api, raw) as (reader, _):
                got, headers, body = await answer(reader)
                assert (got, body["trace_id"]) == (status, headers["x-trace-id"])
        assert len(gone) == 5

    with_api(tmp_path, test)
