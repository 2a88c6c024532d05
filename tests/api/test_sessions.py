"""Browsers that log in: what a session is good for, what it is not, and how it ends."""

import json
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from yarl import URL

from tests.api.local_head import digest
from tests.api.served import KEYS, Api, with_api


async def log_in(api: Api, **body: str) -> ClientResponse:
    return await api.client.post("/v1/sessions", json=body)


def origin(api: Api) -> dict[str, str]:
    return {"Origin": f"http://127.0.0.1:{api.port()}"}


async def browse(api: Api, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> int:
    """Ask as a browser does: the cookies that it has, and no key."""
    async with api.client.request(method, path, headers=headers or {}, **more) as answer:
        await answer.read()
        return answer.status


def test_a_key_opens_a_session_that_scripts_cannot_see(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        answer = await log_in(api, key=KEYS["user"])
        assert answer.status == 201
        body = await answer.json()
        assert (body["user_id"], body["role"]) == ("user", "user")
        (cookie,) = answer.headers.getall("Set-Cookie")
        assert {part.strip() for part in cookie.split(";")} >= {"HttpOnly", "SameSite=Strict", "Path=/"}
        assert "Secure" not in cookie  # over TLS alone
        assert KEYS["user"] not in cookie
        assert await browse(api, "GET", "/v1/tasks") == 200
        async with api.client.get("/v1/sessions") as who:
            assert (await who.json())["user_id"] == "user"

    with_api(tmp_path, test)


def test_a_session_changes_things_only_for_our_own_pages(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await log_in(api, key=KEYS["user"])
        body = {"json": {"job_name": "x"}}
        assert await browse(api, "POST", "/v1/tasks", **body) == 403
        assert await browse(api, "POST", "/v1/tasks", {"Origin": "http://evil.example"}, **body) == 403
        assert await browse(api, "POST", "/v1/tasks", {"Origin": f"http://127.0.0.1:{api.port() + 1}"}, **body) == 403
        assert await browse(api, "POST", "/v1/tasks", {"Origin": "null"}, **body) == 403
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        assert await browse(api, "GET", "/ws", {**upgrade, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}) == 403
        assert await browse(api, "POST", "/v1/tasks", origin(api), **body) == 201

    with_api(tmp_path, test)


def test_other_pages_log_nobody_in(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        evil = {"Origin": "http://evil.example"}
        assert await browse(api, "POST", "/v1/sessions", evil, json={"key": KEYS["user"]}) == 403
        ticket = (await api.call("POST", "/v1/sessions/tickets"))[1]["ticket"]
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert await browse(api, "GET", f"/sessions/{ticket}", cross, allow_redirects=False) == 403

    with_api(tmp_path, test)


def test_a_ticket_is_good_once_and_leads_nowhere_else(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for to, leads in (
            ("/x?y=1", "/x?y=1"),
            ("//evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\\evil", "/"),
        ):
            made = (await api.call("POST", "/v1/sessions/tickets"))[1]
            assert made["url"] == f"http://127.0.0.1:{api.port()}/sessions/{made['ticket']}"
            path = URL(f"/sessions/{made['ticket']}").with_query(to=to)
            async with api.client.get(path, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, leads)
            assert await browse(api, "GET", "/v1/tasks") == 200
            api.client.session.cookie_jar.clear()
            assert await browse(api, "GET", f"/sessions/{made['ticket']}", allow_redirects=False) == 401
            assert (await log_in(api, ticket=made["ticket"])).status == 401
            assert await browse(api, "GET", "/v1/tasks") == 401
        written = json.dumps([fact.metadata for fact in api.head.facts])
        assert made["ticket"] not in written

    with_api(tmp_path, test)


def test_what_is_no_key_opens_nothing_and_is_on_record(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert (await log_in(api, key="fml_wrong")).status == 401
        assert (await log_in(api, key=KEYS["worker"])).status == 403
        for body in ({}, {"key": "a", "ticket": "b"}, {"key": 1}, {"name": "x"}, {"key": "fml_" + "s" * 600}):
            answer = await api.client.post("/v1/sessions", json=body)
            assert answer.status == 422
            assert "sss" not in await answer.text()
        assert [fact.action for fact in api.head.facts].count("auth.failure") == 1

    with_api(tmp_path, test)


def test_a_session_ends_with_its_key(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await log_in(api, key=KEYS["other"])
        assert await browse(api, "GET", "/v1/tasks") == 200
        key = api.head.core.state.keys[digest(KEYS["other"])]
        assert (await api.call("DELETE", f"/v1/keys/{key.id}", key=KEYS["admin"]))[0] == 204
        assert await browse(api, "GET", "/v1/tasks") == 401

    with_api(tmp_path, test)


def test_logging_out_is_final(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        answer = await log_in(api, key=KEYS["user"])
        cookie = {"Cookie": f"fetchml_session={answer.cookies['fetchml_session'].value}"}
        assert await browse(api, "DELETE", "/v1/sessions") == 403
        assert await browse(api, "DELETE", "/v1/sessions", origin(api)) == 204
        assert await browse(api, "GET", "/v1/tasks") == 401
        assert await browse(api, "GET", "/v1/tasks", cookie) == 401  # also for who kept the cookie

    with_api(tmp_path, test)


def test_a_key_ends_all_its_sessions(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await log_in(api, key=KEYS["user"])
        assert (await api.call("DELETE", "/v1/sessions", key=KEYS["other"]))[0] == 204
        assert await browse(api, "GET", "/v1/tasks") == 200
        assert (await api.call("DELETE", "/v1/sessions"))[0] == 204
        assert await browse(api, "GET", "/v1/tasks") == 401

    with_api(tmp_path, test)


def test_a_browser_that_has_no_session_is_nobody_and_no_failure(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        before = len(api.head.facts)
        assert await browse(api, "GET", "/v1/sessions") == 204
        assert await browse(api, "GET", "/v1/sessions", {"Cookie": "fetchml_session=stale"}) == 204
        assert len(api.head.facts) == before
        assert await browse(api, "GET", "/v1/sessions", {"X-API-Key": "fml_wrong"}) == 401

    with_api(tmp_path, test)
