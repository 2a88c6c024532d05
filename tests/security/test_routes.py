"""S1: whatever is mounted, by whatever method, and however its path is written: without a key nobody gets in.

The list of what is open is written down here once more, so that opening a route is a change of this file.
"""

import base64
import itertools
import re
from pathlib import Path
from typing import Final, cast

import pytest
from aiohttp import WSServerHandshakeError
from yarl import URL

from tests.api.served import KEYS, Api, Server, assert_is_error, with_api
from tests.api.test_guard import raw_answer

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")
OPEN: Final = {
    ("GET", "/"), ("GET", "/console/{file}"), ("GET", "/health"), ("GET", "/livez"), ("GET", "/readyz"),
    ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/docs/{file}"),
    ("POST", "/v1/sessions"), ("GET", "/v1/sessions"), ("GET", "/sessions/{ticket}"),
}  # fmt: skip
SOCKETS: Final = (
    "/ws",
    "/ws?workers=true",
    "/jupyter/s1/api/kernels/k/channels",
    "/plugins/mlflow/ws",
    "/v1/tunnels/x",
)
GOOD: Final = KEYS["admin"]
# A key that is right, where a browser's history, a proxy's log or another site could have it from: of no use there.
ELSEWHERE: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    (f"?api_key={GOOD}", {}),
    (f"?key={GOOD}&token={GOOD}&access_token={GOOD}&X-API-Key={GOOD}", {}),
    ("", {"Authorization": f"Basic {base64.b64encode(f'admin:{GOOD}'.encode()).decode()}"}),
    ("", {"Cookie": f"fetchml_session={GOOD}; fetchml_services={GOOD}; X-API-Key={GOOD}"}),
    ("", {"X-Api_Key": GOOD, "Api-Key": GOOD, "X-Forwarded-User": "admin", "X-Remote-User": "admin"}),
    ("", {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}),
)
WRONG: Final[tuple[dict[str, str], ...]] = (
    {"X-API-Key": ""},
    {"X-API-Key": "fml_wrong"},
    {"X-API-Key": GOOD[:-1]},
    {"X-API-Key": f"{GOOD}x"},
    {"X-API-Key": f"Bearer {GOOD}"},
    {"Authorization": "Bearer fml_wrong"},
)


def mounted(api: Api) -> list[str]:
    """What can be asked for under each mounted route, and what nothing is mounted under."""
    server = cast(Server, api.client.server)
    found = {
        re.sub(r"\{(\w+)(:(?:[^{}]|\{[^{}]*\})*)?\}", r"\1", one.canonical) for one in server.app.router.resources()
    }
    nothing = ("/nowhere", "/v1/tasks/", "/v1", "/console/", "/docs/")
    return sorted({*found, *nothing, "/jupyter/s1", "/jupyter/s1/a/b", "/plugins/mlflow"})


def is_open(method: str, path: str) -> bool:
    method = "GET" if method == "HEAD" else method
    return any(method == one and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", way), path) for one, way in OPEN)


def test_the_open_routes_are_these_and_no_others(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        found = set()
        for path, method in itertools.product(mounted(api), METHODS):
            async with api.client.request(method, path, headers={}, allow_redirects=False) as answer:
                if answer.status != 401:
                    found.add((method, path))
        wanted = {(method, path) for method, path in OPEN if "{ticket}" not in path}  # a ticket is a key of its own
        wanted = {(method, re.sub(r"\{(\w+)\}", r"\1", path)) for method, path in wanted}
        wanted |= {("HEAD", path) for method, path in wanted if method == "GET"}
        assert found == wanted

    with_api(tmp_path, test)


@pytest.mark.parametrize(("query", "headers"), [*ELSEWHERE, *(("", one) for one in WRONG)])
def test_no_mounted_route_takes_less_than_a_key(tmp_path: Path, query: str, headers: dict[str, str]) -> None:
    async def test(api: Api) -> None:
        asked = 0
        for path, method in itertools.product(mounted(api), METHODS):
            if is_open(method, path):
                continue
            url = URL(path + query, encoded=True)
            async with api.client.request(method, url, headers=headers, allow_redirects=False) as answer:
                asked += 1
                assert answer.status == 401, (method, path)
                assert "WWW-Authenticate" in answer.headers
                assert GOOD not in str(answer.headers)
                assert answer.headers["Server"] == "fetchmld"
                if method != "HEAD":
                    assert_is_error(await answer.json(), answer.headers["X-Trace-Id"])
        assert asked > 500

    with_api(tmp_path, test)


def test_no_socket_opens_without_a_key(tmp_path: Path) -> None:
    wrong = base64.urlsafe_b64encode(b"fml_wrong").decode().rstrip("=")
    offers: tuple[tuple[str, ...], ...] = (
        (),
        ("fetchml",),
        (f"fetchml.key.{wrong}",),
        ("fetchml.key.",),
        ("fetchml.key.!!",),
    )

    async def test(api: Api) -> None:
        for path in SOCKETS:
            for headers in ({}, *WRONG, *(headers for _, headers in ELSEWHERE)):
                for protocols in offers:
                    with pytest.raises(WSServerHandshakeError) as refused:
                        await api.client.ws_connect(path, headers=headers, protocols=protocols)
                    assert refused.value.status == 401, (path, headers, protocols)
        for query, _ in ELSEWHERE[:2]:
            with pytest.raises(WSServerHandshakeError) as refused:
                await api.client.ws_connect(f"/ws{query}")
            assert refused.value.status == 401

    with_api(tmp_path, test)


# The same place, written otherwise; and a closed one behind an open one.
TRICKS: Final = (
    "//v1/queue", "/v1//queue", "/V1/queue", "/v1/queue/", "/v1/queue/.", "/./v1/queue", "/v1/%71ueue",
    "/v1/queue%20", "/v1/queue%00", "/v1/queue;x", "/v1%2Fqueue", "/health/../v1/queue", "/health/%2e%2e/v1/queue",
    "/health/..%2fv1/queue", "/health//v1/queue", "/health;/v1/queue", "/health%2f..%2fv1/queue",
    "/console/../v1/queue", "/console/%2e%2e/v1/queue", "/console/..%2fv1%2fqueue", "/docs/../v1/queue",
    "/docs/%2e%2e%2fv1/queue", "/docs/..;/v1/queue", "/sessions/../v1/queue", "/sessions/x/../../v1/queue",
    "/v1/sessions/../queue", "/v1/sessions/../tasks", "/livez/./../v1/queue", "/?/v1/queue", "/v1/queue?health",
    "/v1/queue#/health", "/\\v1/queue", "/health\\..\\v1\\queue", "/%2e/v1/queue", "/..;/v1/queue",
    "http://localhost/v1/queue", "http://localhost/health/../v1/queue", "http://evil.example/v1/queue",
    "/v1/queue?x=/health",
)  # fmt: skip


@pytest.mark.parametrize("target", TRICKS)
def test_no_way_of_writing_a_path_leads_round_the_key(tmp_path: Path, target: str) -> None:
    """As bytes: a client would tidy the path up."""

    async def test(api: Api) -> None:
        sent = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        if target == "/?/v1/queue":  # the page itself
            async with api.client.get("/?/v1/queue") as answer:
                assert answer.content_type == "text/html"
            return
        status, answer_ = await raw_answer(api, sent)
        assert status in (400, 401, 404, 421), answer_
        assert not {"queued", "running"} & set(answer_)

    with_api(tmp_path, test)


def test_a_method_in_a_header_changes_nothing(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL"):
            for value in ("GET", "DELETE", "/v1/queue"):
                async with api.client.post("/v1/queue", headers={name: value}) as answer:
                    assert answer.status == 401
                async with api.client.get("/health", headers={name: value}) as answer:
                    assert "queued" not in await answer.text()

    with_api(tmp_path, test)
