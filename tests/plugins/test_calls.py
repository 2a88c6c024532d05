"""Requests to plugins' servers: what is said when it goes wrong; a stranger's address leads to nobody of ours."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fetchmld.plugins.calls import Calls, shown
from fetchmld.plugins.protocol import CallFailed


class Canary:
    """A server on loopback that counts who came."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path == "/away":
            raise web.HTTPFound(f"http://127.0.0.1:{self.port}/inner")
        if request.path == "/text":
            return web.Response(text="no JSON")
        if request.path == "/bad":
            return web.Response(status=400, text='{"error_code": "RESOURCE_ALREADY_EXISTS"}')
        if request.path == "/slow":
            await asyncio.sleep(60)
        return web.json_response({"path": request.path_qs})


@asynccontextmanager
async def canary(socket: Path | None = None) -> AsyncIterator[Canary]:
    found = Canary()
    runner = web.ServerRunner(web.Server(found), shutdown_timeout=0.1)
    await runner.setup()
    if socket is not None:
        await web.UnixSite(runner, str(socket)).start()
    else:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.port = runner.addresses[0][1]
    try:
        yield found
    finally:
        await runner.cleanup()


@asynccontextmanager
async def calls(endpoint: str, private: bool = False) -> AsyncIterator[Calls]:
    made = Calls(endpoint, {}, private)
    try:
        yield made
    finally:
        await made.close()


HOSTILE = [
    "127.0.0.1",
    "127.1",
    "127.0.0.1.",
    "127.127.127.127",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "0.0.0.0",
    "0",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "user@127.0.0.1",
    "user:password@127.0.0.1",
    "example.org@127.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "[fe80::1]",
    "[fd00::1]",
    "[::ffff:169.254.169.254]",
    "224.0.0.1",
    "255.255.255.255",
]


@pytest.mark.parametrize("host", HOSTILE)
def test_what_leads_to_inner_addresses_is_refused_before_it_is_connected_to(host: str) -> None:
    async def test() -> None:
        async with canary() as found, calls(f"http://{host}:{found.port}") as made:
            with pytest.raises(CallFailed):
                async with asyncio.timeout(20):
                    await made.call("GET", "/", None)
            assert found.asked == []

    asyncio.run(test())


def test_where_it_is_allowed_they_are_reached(tmp_path: Path) -> None:
    async def test() -> None:
        async with canary() as found:
            async with calls(f"http://127.0.0.1:{found.port}/base", private=True) as made:
                assert await made.call("GET", "/x", {"a": "b c"}) == {"path": "/base/x?a=b+c"}
            async with calls(f"tcp:{found.port}") as made:
                assert await made.probe("/") == ""
        async with canary(tmp_path / "s") as found, calls(f"unix:{tmp_path / 's'}") as made:
            assert await made.call("POST", "/x", {"a": 1}) == {"path": "/x"}

    asyncio.run(test())


def test_redirects_are_not_followed() -> None:
    async def test() -> None:
        async with canary() as found, calls(f"tcp:{found.port}") as made:
            with pytest.raises(CallFailed, match="it answered 302"):
                await made.call("GET", "/away", None)
            assert found.asked == ["/away"]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/bad", "it answered 400 to GET /bad: .*RESOURCE_ALREADY_EXISTS"),
        ("/text", "what is no JSON: no JSON"),
        ("/slow", "within"),
    ],
)
def test_what_goes_wrong_is_said(path: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchmld.plugins.calls.CALL_TIMEOUT_S", 0.2)

    async def test() -> None:
        async with canary() as found, calls(f"tcp:{found.port}") as made:
            with pytest.raises(CallFailed, match=said):
                await made.call("GET", path, None)

    asyncio.run(test())


def test_nobody_there_is_said_and_not_raised_by_a_probe(tmp_path: Path) -> None:
    async def test() -> None:
        async with calls(f"unix:{tmp_path / 'nothing'}") as made:
            assert "GET /health" in await made.probe("/health")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [("unix:/a/b", "unix:/a/b"), ("https://u:p@h:1/base?q=secret", "https://h:1/base"), ("tcp:5", "tcp:5")],
)
def test_an_endpoint_is_shown_without_secrets(endpoint: str, text: Any) -> None:
    assert shown(endpoint) == text
