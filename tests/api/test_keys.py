"""Keys over the API: shown once, usable at once, refused at once."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, WSMsgType, WSServerHandshakeError

from tests.api.local_head import digest
from tests.api.served import KEYS, Api, with_api

ADMIN = KEYS["admin"]


async def create(api: Api, **body: Any) -> tuple[int, Any]:
    return await api.call("POST", "/v1/keys", key=ADMIN, json={"user_id": "ada", "role": "user", **body})


def test_a_key_is_made_used_listed_and_revoked(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        status, made = await create(api)
        assert (status, made["role"], made["status"], made["user_id"]) == (201, "user", "active", "ada")
        secret = made.pop("key")
        assert len(secret) == len("fml_") + 43  # 256 bits
        assert (await api.call("GET", "/v1/tasks", key=secret))[0] == 200
        _, listed = await api.call("GET", "/v1/keys", key=ADMIN)
        assert listed[0] == made
        assert secret not in str(listed)
        assert (await api.call("DELETE", f"/v1/keys/{made['id']}", key=ADMIN))[0] == 204
        assert (await api.call("DELETE", f"/v1/keys/{made['id']}", key=ADMIN))[0] == 204
        assert (await api.call("GET", "/v1/tasks", key=secret))[0] == 401
        _, listed = await api.call("GET", "/v1/keys", key=ADMIN)
        assert listed[0]["status"] == "revoked"

    with_api(tmp_path, test)


def test_the_record_has_the_hash_and_never_the_key(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, made = await create(api)
        assert made["key"] not in str(api.head.facts)
        assert api.head.facts_of("key.create")[-1].metadata["sha256"] == digest(made["key"])

    with_api(tmp_path, test)


def test_a_revoked_key_ends_its_streams(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, made = await create(api)
        response = await api.raw("GET", "/v1/scheduler/status/stream", key=made["key"])
        await response.content.readline()
        await api.call("DELETE", f"/v1/keys/{made['id']}", key=ADMIN)
        with suppress(ClientPayloadError):  # it broke off; with_api bounds how long this may take
            while await response.content.readline():
                pass

    with_api(tmp_path, test)


def test_a_revoked_key_ends_its_socket_and_what_it_waits_for(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, made = await create(api)
        task = await api.submit(ADMIN)
        path = f"/v1/scheduler/jobs/{task['id']}/stream"
        async with api.client.ws_connect("/ws", headers={"X-API-Key": made["key"]}) as socket:
            assert (await socket.receive_json())["type"] == "resync"
            another = await api.raw("GET", path, key=ADMIN)
            await api.call("DELETE", f"/v1/keys/{made['id']}", key=ADMIN)
            while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR):
                pass
            with pytest.raises(WSServerHandshakeError) as refused:
                await api.client.ws_connect("/ws", headers={"X-API-Key": made["key"]})
            assert refused.value.status == 401
            assert not another.content.at_eof()  # of another key: it goes on
            another.close()

    with_api(tmp_path, test)


def test_a_key_expires(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        status, made = await create(api, expires_at=soon)
        assert (status, made["expires_at"][:16]) == (201, soon[:16])

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    "body",
    [
        {"role": "king"},
        {"user_id": ""},
        {"user_id": "a b"},
        {"user_id": "x" * 65},
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"expires_at": "soon"},
        {"sha256": "00"},
    ],
)
def test_what_cannot_be_a_key_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async def test(api: Api) -> None:
        status, error = await create(api, **body)
        assert (status, error["code"]) == (422, "VALIDATION_ERROR")

    with_api(tmp_path, test)


def test_an_unknown_one_is_404_and_the_last_administrator_409(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("DELETE", "/v1/keys/nope", key=ADMIN))[0] == 404
        _, listed = await api.call("GET", "/v1/keys", key=ADMIN)
        (admin,) = [key["id"] for key in listed if key["role"] == "admin"]
        assert (await api.call("DELETE", f"/v1/keys/{admin}", key=ADMIN))[0] == 409

    with_api(tmp_path, test)
