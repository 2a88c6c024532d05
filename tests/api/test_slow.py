"""Clients that take their time: a header, a body, a reader that does not move, and connections without end."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fetchmld.api import connections
from fetchmld.api.connections import Connections, Limits, owner_of
from fetchmld.api.context import CONNECTIONS
from tests.api.served import KEYS, Api, assert_is_error, with_api

KEYED = f"Host: localhost\r\nX-API-Key: {KEYS['user']}\r\n".encode()


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK_S", 0.01)  # a second, as the watch counts


@asynccontextmanager
async def wire(api: Api, sent: bytes = b"") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port())
    try:
        writer.write(sent)
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


async def refused(reader: asyncio.StreamReader) -> int:
    """The status of the refusal that comes before the connection is closed."""
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert_is_error(json.loads(body), headers["x-trace-id"])
    assert headers["connection"] == "close"
    return int(lines[0].split()[1])


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_a_header_that_does_not_come_is_waited_for_so_long(tmp_path: Path, sent: bytes) -> None:
    async def test(api: Api) -> None:
        async with wire(api, sent) as (reader, _):
            assert await refused(reader) == 408

    with_api(tmp_path, test, header_s=3)


def test_a_header_that_drips_is_cut_as_well(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with wire(api, b"GET /health HTTP/1.1\r\nHost: localhost\r\n") as (reader, writer):
            answer = asyncio.create_task(reader.read())
            while not answer.done():  # whoever still talks then may find the connection reset before the answer
                writer.write(b"X-A: b\r\n")
                await asyncio.wait([answer], timeout=0.002)
            assert isinstance(answer.exception(), ConnectionError) or b" 408 " in answer.result()

    with_api(tmp_path, test, header_s=5)


def test_an_idle_connection_is_none_of_them(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with wire(api) as (reader, writer):
            for _ in range(3):
                writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b"200" in await reader.readuntil(b"}")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.1)

    with_api(tmp_path, test, header_s=1)


@pytest.mark.parametrize("path", ["POST /v1/tasks", f"PUT /v1/blobs/{'0' * 64}", "POST /v1/tasks/batch"])
def test_a_body_without_progress_is_cut(tmp_path: Path, path: str) -> None:
    async def test(api: Api) -> None:
        for ending in (b"Content-Length: 9000\r\n\r\n[", b"Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n"):
            async with wire(api, path.encode() + b" HTTP/1.1\r\n" + KEYED + ending) as (reader, writer):
                answer = asyncio.create_task(reader.read())
                while not answer.done():
                    writer.write(b"1" if b"Length" in ending else b"1\r\n1\r\n")  # drips
                    await asyncio.wait([answer], timeout=0.005)
                assert isinstance(answer.exception(), ConnectionError) or b" 408 " in answer.result()

    with_api(tmp_path, test, stalled_s=3)


def test_a_body_that_stops_is_told_so(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sent = b"POST /v1/tasks HTTP/1.1\r\n" + KEYED + b"Content-Length: 9\r\n\r\n{"
        async with wire(api, sent) as (reader, _):
            assert await refused(reader) == 408

    with_api(tmp_path, test, stalled_s=3)


def test_a_slow_body_that_moves_is_waited_for(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        body = json.dumps({"job_name": "slow", "args": "x" * 15_000}).encode()
        head = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        async with wire(api, b"POST /v1/tasks HTTP/1.1\r\n" + KEYED + head) as (reader, writer):
            for start in range(0, len(body), 700):
                writer.write(body[start : start + 700])
                await asyncio.sleep(0.02)
            assert b" 201 " in await reader.readline()

    with_api(tmp_path, test, stalled_s=20)


def test_who_does_not_read_the_answer_is_left(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for _ in range(40):
            await api.submit(args="x" * 15_000)
        kept = api.client.server.app[CONNECTIONS]  # type: ignore[attr-defined]
        before = len(kept)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", api.port()))
            for _ in range(12):  # more than all buffers between us take
                client.sendall(b"GET /v1/tasks?limit=1000 HTTP/1.1\r\n" + KEYED + b"\r\n")
            while len(kept) == before:
                await asyncio.sleep(0.01)
            while len(kept) > before:
                await asyncio.sleep(0.01)

    with_api(tmp_path, test, stalled_s=5)


def test_an_address_has_so_many_connections_without_a_key(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with wire(api) as (reader, _), wire(api), wire(api), wire(api) as (fourth, _):
            assert await refused(fourth) == 429
        async with wire(api, b"GET /v1/queue HTTP/1.1\r\n" + KEYED + b"\r\n") as (reader, _):
            assert b" 200 " in await reader.readline()
            async with (
                wire(api),
                wire(api),
                wire(api),
                wire(api) as (fifth, _),
            ):  # one that brought a key is not counted
                assert await refused(fifth) == 429

    with_api(tmp_path, test, connections_unauthenticated_max=3, header_s=600)


def test_a_key_has_so_many_connections(tmp_path: Path) -> None:
    asked = b"GET /v1/queue HTTP/1.1\r\n" + KEYED + b"\r\n"

    async def test(api: Api) -> None:
        async with wire(api, asked) as (first, one), wire(api, asked) as (second, _):
            assert b" 200 " in await first.readline()
            assert b" 200 " in await second.readline()
            async with wire(api, asked) as (third, _):
                assert await refused(third) == 429
            one.write(asked)  # those that are open go on
            await first.readuntil(b"}")
            assert b" 200 " in await first.readline()
            assert (await api.call("GET", "/v1/queue", key=KEYS["other"]))[0] == 200

    with_api(tmp_path, test, connections_per_key_max=2)


def test_machines_that_joined_have_as_many_as_they_need(tmp_path: Path) -> None:
    asked = f"GET /v1/objects/{'0' * 64} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEYS['worker']}\r\n\r\n".encode()

    async def test(api: Api) -> None:
        async with wire(api, asked) as (one, _), wire(api, asked) as (two, _), wire(api, asked) as (three, _):
            for reader in (one, two, three):
                assert b" 404 " in await reader.readline()

    with_api(tmp_path, test, connections_unauthenticated_max=3, connections_per_key_max=1)


class Held:
    def __init__(self, owner: str) -> None:
        self.owner = owner

    def look(self, limits: Limits) -> None:
        raise NotImplementedError


def test_connections_are_counted_by_whom_they_belong_to() -> None:
    kept = Connections(Limits(2, 1, 1.0, 1.0))
    one, two, three = Held("a"), Held("a"), Held("a")
    assert [kept.add(each) for each in (one, two, three)] == [True, True, False]
    assert kept.give(one, "k")
    assert kept.give(one, "k")
    assert not kept.give(two, "k")
    assert (kept.of("a"), kept.of("key:k"), len(kept)) == (1, 1, 2)
    kept.remove(three)
    kept.remove(one)
    kept.remove(one)
    kept.remove(two)
    assert (kept.of("a"), kept.of("key:k"), len(kept)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("address", "owner"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a socket", "a socket"),
    ],
)
def test_whom_an_address_belongs_to(address: str, owner: str) -> None:
    assert owner_of(address) == owner


def test_the_watch_goes_on_while_streams_and_waits_are_open(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        stream = b"GET /v1/scheduler/status/stream HTTP/1.1\r\n" + KEYED + b"\r\n"
        wait = f"GET /v1/tasks/{task['id']}?wait_s=9 HTTP/1.1\r\n".encode() + KEYED + b"\r\n"
        async with (
            wire(api, stream) as (streaming, _),
            wire(api, wait),
            api.client.ws_connect("/ws", headers={"X-API-Key": KEYS["user"]}) as socket_,
        ):
            assert b" 200 " in await streaming.readline()
            await socket_.receive_json()
            for _ in range(2):
                async with wire(api, b"G") as (reader, _):
                    assert await refused(reader) == 408

    with_api(tmp_path, test, header_s=5, stalled_s=5)
