"""The proxy against a real program on a unix socket: what passes, what is stripped, and how it ends."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from fetchmld.api import proxy
from fetchmld.upstream import Serving, Upstream
from tests.api.local_head import digest
from tests.api.pages_server import HUGE_BYTES, serving_pages
from tests.api.served import KEYS, Api, with_api

SERVICE = "s1"
TOKEN = {"Authorization": "token t0ken"}


def with_pages(
    tmp_path: Path, test: Callable[[Api], Awaitable[None]], keeps_prefix: bool = True, **settings: Any
) -> None:
    """Run `test` where the user's service `s1` runs and answers."""

    async def run(api: Api) -> None:
        async with serving_pages(tmp_path) as endpoint:
            add_service(api, endpoint, keeps_prefix)
            await test(api)

    with_api(tmp_path, run, **settings)


def add_service(api: Api, endpoint: str, keeps_prefix: bool = True, worker_id: str = "", uid: int = -1) -> None:
    api.head.start_service(SERVICE, "user")
    upstream = Upstream(endpoint, worker_id, os.geteuid() if uid < 0 else uid, keeps_prefix, TOKEN)
    api.head.served[SERVICE] = Serving(upstream, "t0ken", answers=True, last_activity_at=0.0)


async def get(api: Api, path: str | URL, key: str | None = KEYS["user"], **more: Any) -> aiohttp.ClientResponse:
    headers = {"X-API-Key": key, **more.pop("headers", {})} if key else more.pop("headers", {})
    return await api.client.request(more.pop("method", "GET"), path, headers=headers, **more)


async def seen(api: Api, path: str | URL = "/jupyter/s1/a/seen", **more: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What the program saw, and its headers in lower case."""
    async with await get(api, path, **more) as answer:
        assert answer.status == 200, await answer.text()
        body = await answer.json()
        return body, {name.lower(): value for name, value in body["headers"]}


def test_a_request_arrives_as_it_was_sent(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        path = "/jupyter/s1/a%20b/%C3%A9/seen?x=%2F&y=a+b"
        body, headers = await seen(api, URL(path, encoded=True), method="PUT", data=b"x" * 100_000)
        assert (body["method"], body["path"], body["bytes"]) == ("PUT", path, 100_000)
        assert body["sha256"] == hashlib.sha256(b"x" * 100_000).hexdigest()
        assert headers["host"] == f"127.0.0.1:{api.port()}"
        assert headers["content-length"] == "100000"
        assert "transfer-encoding" not in headers
        assert headers["x-forwarded-proto"] == "http"
        _, headers = await seen(api)
        assert headers.keys().isdisjoint({"content-length", "transfer-encoding"})

    with_pages(tmp_path, test)


def test_a_body_of_unknown_length_streams_up(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(2**16)

    async def test(api: Api) -> None:
        body, headers = await seen(api, method="POST", data=pieces())
        assert body["bytes"] == 64 * 2**16
        assert headers["transfer-encoding"] == "chunked"

    with_pages(tmp_path, test)


def test_nothing_of_ours_goes_up(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        ours = {
            "Cookie": "a=1; fetchml_session=secret; b=2; fetchml_services=secret",
            "Authorization": "Bearer fml_secret",
            "X-Forwarded-For": "6.6.6.6",
            "X-Forwarded-User": "root",
            "Forwarded": "for=6.6.6.6",
            "Connection": "keep-alive, X-Hop",
            "X-Hop": "1",
            "Proxy-Authorization": "Basic x",
            "TE": "trailers",
        }
        body, headers = await seen(api, headers=ours)
        written = repr(body["headers"])
        assert "secret" not in written
        assert KEYS["user"] not in written
        assert "6.6.6.6" not in written
        assert headers["cookie"] == "a=1; b=2"
        assert headers["authorization"] == "token t0ken"
        assert headers.keys().isdisjoint({"x-hop", "proxy-authorization", "te", "x-forwarded-user", "x-api-key"})

    with_pages(tmp_path, test)


def test_what_comes_down_stays_below_its_path(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with await get(api, "/jupyter/s1/cookies") as answer:
            assert sorted(answer.headers.getall("Set-Cookie")) == [
                "a=1; Path=/jupyter/s1/",
                "b=2; HttpOnly; Path=/jupyter/s1/",
                "c=3; Path=/jupyter/s1/",
                "d=4; SameSite=Lax; Path=/jupyter/s1/lab",
            ]
        async with await get(api, "/jupyter/s1/a/seen") as answer:
            assert "X-Of-This-Hop" not in answer.headers

    with_pages(tmp_path, test)


@pytest.mark.parametrize(
    ("keeps_prefix", "to", "leads"),
    [
        (True, "/jupyter/s1/lab?", "/jupyter/s1/lab?"),
        (True, "http://127.0.0.1:5000/jupyter/s1/x", "/jupyter/s1/x"),
        (True, "https://example.org/x", "https://example.org/x"),
        (True, "tree", "tree"),
        (False, "/login?next=%2F", "/jupyter/s1/login?next=%2F"),
        (False, "http://localhost:5000/x", "/jupyter/s1/x"),
    ],
)
def test_redirects_lead_where_they_were_meant_to(tmp_path: Path, keeps_prefix: bool, to: str, leads: str) -> None:
    async def test(api: Api) -> None:
        async with await get(api, "/jupyter/s1/redirect", params={"to": to}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, leads)

    with_pages(tmp_path, test, keeps_prefix)


def test_a_program_that_knows_no_prefix_is_asked_without(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        body, _ = await seen(api, "/jupyter/s1/seen?x=1")
        assert body["path"] == "/seen?x=1"

    with_pages(tmp_path, test, keeps_prefix=False)


def test_only_the_owner_and_administrators_see_the_pages(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for name, status in (("user", 200), ("admin", 200), ("other", 404), ("operator", 404), ("viewer", 403)):
            async with await get(api, "/jupyter/s1/a/seen", KEYS[name]) as answer:
                assert answer.status == status, name
        async with await get(api, "/jupyter/s1/a/seen", None) as answer:
            assert answer.status == 401
        async with (
            await get(api, "/jupyter/none/a/seen") as missing,
            await get(api, "/jupyter/s1/x", KEYS["other"]) as hidden,
        ):
            texts = [(await one.json())["error"] for one in (missing, hidden)]
        assert texts[0].replace("none", "s1") == texts[1]

    with_pages(tmp_path, test)


def test_dots_lead_nowhere(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for path in ("/jupyter/s1/../s2/seen", "/jupyter/s1/%2e%2e/seen", "/jupyter/s1/a/.%2E/seen"):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port())
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEYS['user']}\r\n\r\n".encode())
            assert b" 404 " in await reader.readline(), path
            writer.close()

    with_pages(tmp_path, test)


def test_large_bodies_come_down_whole(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with await get(api, "/jupyter/s1/huge") as answer:
            assert answer.headers["Content-Length"] == str(HUGE_BYTES)
            assert len(await answer.read()) == HUGE_BYTES

    with_pages(tmp_path, test)


def test_an_answer_without_a_body_says_what_it_would_have_had(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with await get(api, "/jupyter/s1/a/seen", method="HEAD") as answer:
            assert answer.status == 200
            assert int(answer.headers["Content-Length"]) > 100
            assert await answer.read() == b""

    with_pages(tmp_path, test)


def test_a_body_that_stands_still_is_cut_and_a_stream_of_events_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "STALL_S", 0.2)

    async def test(api: Api) -> None:
        events = await get(api, "/jupyter/s1/drip", params={"type": "text/event-stream"})
        assert await events.content.readany() == b"first"
        async with await get(api, "/jupyter/s1/drip") as answer:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(events.content.readany(), 0.3)
        events.close()

    with_pages(tmp_path, test)


def test_where_nobody_answers_it_is_said_and_forgotten(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        add_service(api, "unix:" + os.path.relpath(tmp_path / "nothing.sock"))
        async with await get(api, "/jupyter/s1/a/seen") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        async with serving_pages(tmp_path) as endpoint:
            api.head.served[SERVICE] = Serving(Upstream(endpoint), "t0ken", answers=True, last_activity_at=0.0)
            await seen(api)

    with_api(tmp_path, test)


def test_somebody_elses_program_is_not_spoken_to(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with serving_pages(tmp_path) as endpoint:
            add_service(api, endpoint, uid=os.geteuid() + 1)
            async with await get(api, "/jupyter/s1/a/seen") as answer:
                assert answer.status == 503
            async with await get(api, "/jupyter/s1/a/echo", headers=UPGRADE) as answer:
                assert answer.status == 503

    with_api(tmp_path, test)


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def test_a_websocket_passes_as_it_is(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        socket = await api.client.ws_connect(
            "/jupyter/s1/a/echo?x=1", headers={"X-API-Key": KEYS["user"]}, protocols=("v1.kernel",), max_msg_size=0
        )
        assert socket.protocol == "v1.kernel"
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello /jupyter/s1/a/echo?x=1"
        large = os.urandom(3 * 2**20)
        await socket.send_bytes(large)
        assert await socket.receive_bytes() == large
        await socket.send_str("close")
        assert (await socket.receive()).data == 4001

    with_pages(tmp_path, test)


def test_a_refused_handshake_is_passed_on(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with await get(api, "/jupyter/s1/a/refuse", headers=UPGRADE) as answer:
            assert (answer.status, await answer.text()) == (403, "no")

    with_pages(tmp_path, test)


def test_a_websocket_ends_with_its_key(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        socket = await api.client.ws_connect("/jupyter/s1/a/echo", headers={"X-API-Key": KEYS["user"]})
        await socket.send_str("hello")
        await socket.receive_str()
        key = api.head.core.state.keys[digest(KEYS["user"])]
        assert (await api.call("DELETE", f"/v1/keys/{key.id}", key=KEYS["admin"]))[0] == 204
        assert (await socket.receive(timeout=5)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)

    with_pages(tmp_path, test)


def test_a_browser_reaches_pages_by_its_session_and_only_ours(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await api.client.post("/v1/sessions", json={"key": KEYS["user"]})
        _, headers = await seen(api, key=None)
        assert "cookie" not in headers
        ours = {"Origin": f"http://127.0.0.1:{api.port()}"}
        for origin, status in (({}, 403), ({"Origin": "http://evil.example"}, 403), (ours, 200)):
            async with await get(api, "/jupyter/s1/a/seen", None, method="POST", headers=origin) as answer:
                assert answer.status == status
        async with await get(api, "/jupyter/s1/a/echo", None, headers=UPGRADE) as answer:
            assert answer.status == 403
        socket = await api.client.ws_connect("/jupyter/s1/a/echo", headers=ours)
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello /jupyter/s1/a/echo"
        await socket.close()

    with_pages(tmp_path, test)


def test_pages_of_services_can_have_an_address_of_their_own(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        there = {"Host": "services.test"}
        _, (shown,) = await api.call("GET", "/v1/jupyter/services")
        assert shown["url"] == f"http://127.0.0.1:{api.port()}/jupyter/s1/lab"  # which leads there
        await api.client.post("/v1/sessions", json={"key": KEYS["user"]})
        async with await get(api, "/jupyter/s1/a/seen?x=1", None, allow_redirects=False) as answer:
            assert answer.status == 303
            base, _, path = answer.headers["Location"].partition("/sessions/")
            assert base == "http://services.test"
        async with await get(api, f"/sessions/{path}", None, headers=there, allow_redirects=False) as answer:
            assert 'content="0; url=/jupyter/s1/a/seen?x=1"' in await answer.text()
            cookie = {"Cookie": f"fetchml_services={answer.cookies['fetchml_services'].value}"}
        _, headers = await seen(api, key=None, headers={**there, **cookie})
        assert "cookie" not in headers
        # The pages' session is nothing to the API, nor the console's to the pages; and there is no API beside the pages.
        api.client.session.cookie_jar.clear()
        assert (await get(api, "/v1/tasks", None, headers=cookie)).status == 401
        assert (await get(api, "/v1/tasks", KEYS["user"], headers=there)).status == 404
        await api.client.post("/v1/sessions", json={"key": KEYS["user"]})
        assert (await get(api, "/jupyter/s1/a/seen", None, headers=there)).status == 401
        assert (await get(api, "/jupyter/s1/a/seen", None, method="POST")).status == 403

    with_pages(tmp_path, test, services_url="http://services.test")
