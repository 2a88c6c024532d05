"""Host and Origin: under which names the server answers, and to whose pages."""

from pathlib import Path
from typing import Final

import pytest
from aiohttp import WSServerHandshakeError

from fetchmld.api.doors import bare_name
from tests.api.served import KEYS, Api, with_api

LISTS: Final = {"allowed_hosts": ("ml.example", "odd.example:8443"), "allowed_origins": ("https://ml.example",)}
BAD_HOSTS: Final = (
    "evil.example", "evil.example:9101", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2", "10.0.0.1",
    "odd.example", "odd.example:9101", "ml.example:9101:1", "ml.example.", "ml.example:x", "ml example", "0.0.0.0",
    "[::]", "[::1", "::1:9101", "2130706433", "0x7f.1", "127.1", "127.0.0.1@evil.example", "evil.example/127.0.0.1", "",
)  # fmt: skip
BAD_ORIGINS: Final = (
    "https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "http://localhost", "ml.example",
    "http://ml.example", "https://ml.example:8443", "https://ml.example/", "https://ml.example.evil.example",
    "https://ml.example@evil.example", "file://", "chrome-extension://abc", "*", "",
)  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/queue", "/health", "/ws", "/nowhere"])
def test_another_name_is_misdirected_whatever_is_asked(tmp_path: Path, path: str) -> None:
    async def test(api: Api) -> None:
        for host in BAD_HOSTS:
            status, error = await api.call("GET", path, headers={"Host": host})
            assert (status, error["code"]) == (421, "BAD_REQUEST"), host

    with_api(tmp_path, test, **LISTS)


def test_our_names_are_answered_to(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        good = ("localhost", "LOCALHOST:1", "127.0.0.1:9101", "[::1]", "[::1]:80", "ml.example", "odd.example:8443")
        for host in (*good, "ML.example:12345"):
            assert (await api.call("GET", "/v1/queue", headers={"Host": host}))[0] == 200, host

    with_api(tmp_path, test, **LISTS)


def test_another_s_page_is_refused_whatever_it_asks(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for origin in BAD_ORIGINS:
            for method, path in (("GET", "/v1/queue"), ("POST", "/v1/tasks"), ("GET", "/health"), ("OPTIONS", "/ws")):
                status, error = await api.call(method, path, headers={"Origin": origin})
                assert (status, error["code"]) == (403, "FORBIDDEN"), (origin, path)

    with_api(tmp_path, test, **LISTS)


def test_a_handshake_from_another_s_page_or_name_is_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        bad = [({"Origin": origin}, 403) for origin in BAD_ORIGINS] + [({"Host": host}, 421) for host in BAD_HOSTS]
        assert len(bad) >= 30
        for headers, status in bad:
            with pytest.raises(WSServerHandshakeError) as refused:
                await api.client.ws_connect("/ws", headers={"X-API-Key": KEYS["user"], **headers})
            assert refused.value.status == status, headers

    with_api(tmp_path, test, **LISTS)


def test_our_own_pages_may_ask_and_nothing_is_said_to_others(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        own = f"127.0.0.1:{api.port()}"
        for origin in (f"http://{own}", f"https://{own}", "https://ml.example"):
            response = await api.raw("GET", "/v1/queue", headers={"Origin": origin})
            assert response.status == 200, origin
            assert not any(name.lower().startswith("access-control-") for name in response.headers)
            async with api.client.ws_connect("/ws", headers={"X-API-Key": KEYS["user"], "Origin": origin}) as socket:
                assert (await socket.receive_json())["type"] == "resync"

    with_api(tmp_path, test, **LISTS)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.example", "a.example"),
        ("a.example:1", "a.example"),
        ("[::1]:1", "::1"),
        ("[::1]", "::1"),
        ("::1", ""),
        ("a:b", ""),
        ("[::1", ""),
        ("", ""),
    ],
)
def test_names_without_their_ports(host: str, name: str) -> None:
    assert bare_name(host) == name
