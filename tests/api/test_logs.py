"""A task's log over HTTP: whole, from an offset, followed, as events."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from fetchmld.core.errors import Unavailable
from tests.api.served import KEYS, Api, with_api

EVENTS = {"Accept": "text/event-stream"}


def events_of(body: bytes) -> list[tuple[str, str, Any]]:
    """(id, name, data) of each event."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields["id"], fields.get("event", ""), json.loads(fields["data"])))
    return found


def text_of(body: bytes) -> str:
    return "".join(data["text"] for _, name, data in events_of(body) if not name)


def test_a_log_is_bytes_as_they_are(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        path = f"/v1/tasks/{task['id']}/logs"
        assert await api.call("GET", path) == (200, b"")
        await api.head.write(task["id"], b"one\r\n\xff\x00two")
        response = await api.raw("GET", path)
        assert await response.read() == b"one\r\n\xff\x00two"
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["X-Log-Size"] == "10"
        assert (await api.call("GET", f"{path}?offset=7"))[1] == b"two"
        assert (await api.call("GET", f"{path}?offset=1000"))[1] == b""

    with_api(tmp_path, test)


def test_a_long_log_comes_whole(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        whole = bytes(range(256)) * 1000
        await api.head.write(task["id"], whole)
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/logs"))[1] == whole
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/logs?offset=100000"))[1] == whole[100_000:]

    with_api(tmp_path, test)


def test_following_goes_on_until_the_attempt_ends(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.write(task["id"], b"one ")
        response = await api.raw("GET", f"/v1/tasks/{task['id']}/logs?follow=true")
        assert await response.content.readexactly(4) == b"one "
        await api.head.write(task["id"], b"two ")
        assert await response.content.readexactly(4) == b"two "
        await api.head.write(task["id"], b"three")
        await api.head.end(task["id"])
        assert await response.content.read() == b"three"
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/logs?follow=true"))[1] == b"one two three"
        for odd in ("follow", "follow=", "follow=yes"):
            assert (await api.call("GET", f"/v1/tasks/{task['id']}/logs?{odd}"))[0] == 400

    with_api(tmp_path, test)


def test_following_a_queued_task_waits_for_its_start(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        first = await api.submit(cpu=4)
        second = await api.submit()
        assert second["status"] == "queued"
        response = await api.raw("GET", f"/v1/tasks/{second['id']}/logs?follow=1")
        await api.head.end(first["id"])
        await api.head.write(second["id"], b"here")
        assert await response.content.readexactly(4) == b"here"
        await api.head.end(second["id"])
        assert await response.content.read() == b""

    with_api(tmp_path, test)


def test_following_a_queued_task_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(node_count=2)
        response = await api.raw("GET", f"/v1/tasks/{task['id']}/logs?follow=1")
        await api.call("DELETE", f"/v1/tasks/{task['id']}")
        assert await response.content.read() == b""

    with_api(tmp_path, test)


def test_following_ends_with_its_attempt_when_the_task_is_retried(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(max_retries=1)
        await api.head.write(task["id"], b"first try")
        response = await api.raw("GET", f"/v1/tasks/{task['id']}/logs?follow=1")
        assert await response.content.readexactly(9) == b"first try"
        await api.head.end(task["id"], 1)
        assert await response.content.read() == b""
        assert (await api.call("GET", f"/v1/tasks/{task['id']}"))[1]["retry_count"] == 1

    with_api(tmp_path, test)


def test_attempts(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.write(task["id"], b"one")
        path = f"/v1/tasks/{task['id']}/logs"
        assert (await api.call("GET", f"{path}?attempt=1"))[1] == b"one"
        assert (await api.call("GET", f"{path}?attempt=2"))[0] == 404
        assert (await api.call("GET", f"{path}?attempt=0"))[0] == 400

    with_api(tmp_path, test)


def test_an_earlier_attempt_keeps_its_log(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(max_retries=1)
        path = f"/v1/tasks/{task['id']}"
        await api.head.write(task["id"], b"first")
        await api.head.end(task["id"], 1)
        await api.head.write(task["id"], b"second", attempt=2)
        assert (await api.call("GET", f"{path}/logs"))[1] == b"second"
        for query in ("attempt=1", "attempt=1&follow=1"):
            assert (await api.call("GET", f"{path}/logs?{query}"))[1] == b"first"
        assert (await api.call("GET", f"{path}/logs?attempt=1&offset=3"))[1] == b"st"
        await api.head.end(task["id"], 1)
        assert (await api.call("GET", f"{path}/logs?attempt=1"))[1] == b"first"
        assert (await api.call("GET", f"{path}/logs?attempt=2"))[1] == b"second"
        assert (await api.call("GET", f"{path}/logs?attempt=3"))[0] == 404

    with_api(tmp_path, test)


@pytest.mark.parametrize("bad", ["offset=-1", "offset=x", "follow=maybe", "attempt=x"])
def test_bad_parameters(tmp_path: Path, bad: str) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/logs?{bad}"))[0] == 400

    with_api(tmp_path, test)


def test_events_have_byte_offsets_and_an_end(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.write(task["id"], "a\r\n\u00e9".encode())
        response = await api.raw("GET", f"/v1/tasks/{task['id']}/logs", headers=EVENTS)
        assert response.headers["Content-Type"] == "text/event-stream"
        first = await response.content.readuntil(b"\n\n")
        assert events_of(first) == [("5", "", {"text": "a\r\n\u00e9"})]
        await api.head.end(task["id"])
        assert events_of(await response.content.read()) == [("5", "end", {"size": 5})]

    with_api(tmp_path, test)


def test_a_character_cut_by_a_write_is_kept_whole(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        smile = "\U0001f600".encode()
        await api.head.write(task["id"], b"x" + smile[:2])
        response = await api.raw("GET", f"/v1/tasks/{task['id']}/logs?follow=1", headers=EVENTS)
        assert events_of(await response.content.readuntil(b"\n\n")) == [("1", "", {"text": "x"})]
        await api.head.write(task["id"], smile[2:] + smile[:1])
        await api.head.end(task["id"])
        rest = events_of(await response.content.read())
        assert [event[0] for event in rest] == ["5", "6", "6"]
        assert rest[0][2]["text"] + rest[1][2]["text"] == "\U0001f600\ufffd"

    with_api(tmp_path, test)


def test_events_resume_after_the_last_one_seen(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.write(task["id"], b"0123456789")
        await api.head.end(task["id"])
        path = f"/v1/tasks/{task['id']}/logs"
        _, body = await api.call("GET", path, headers={**EVENTS, "Last-Event-ID": "4"})
        assert text_of(body) == "456789"
        _, body = await api.call("GET", f"{path}?offset=8", headers=EVENTS)
        assert text_of(body) == "89"
        for bad in ("x", "-1", "9" * 30, "\u00b2"):
            assert (await api.call("GET", path, headers={**EVENTS, "Last-Event-ID": bad}))[0] == 400

    with_api(tmp_path, test)


def test_a_long_log_as_events_loses_nothing(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        whole = "line \u00e9\u00e9\u00e9\n" * 40_000
        await api.head.write(task["id"], whole.encode())
        await api.head.end(task["id"])
        _, body = await api.call("GET", f"/v1/tasks/{task['id']}/logs?follow=1", headers=EVENTS)
        assert text_of(body) == whole
        assert events_of(body)[-1] == (str(len(whole.encode())), "end", {"size": len(whole.encode())})

    with_api(tmp_path, test)


def test_a_stream_that_breaks_is_seen_to_break(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.write(task["id"], b"one")
        response = await api.raw("GET", f"/v1/tasks/{task['id']}/logs?follow=1")
        assert await response.content.readexactly(3) == b"one"
        api.head.broken = Unavailable("the worker does not answer")
        await api.head.write(task["id"], b"two")
        with pytest.raises(ClientPayloadError):
            await response.content.read()

    with_api(tmp_path, test)


def test_a_clean_stop_ends_those_who_follow_and_wait(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.write(task["id"], b"one")
        response = await api.raw("GET", f"/v1/tasks/{task['id']}/logs?follow=1")
        assert await response.content.readexactly(3) == b"one"
        waiting = asyncio.create_task(api.call("GET", f"/v1/tasks/{task['id']}?wait_s=60"))
        await asyncio.wait_for(api.call("GET", "/v1/queue"), 5)
        await asyncio.wait_for(api.client.server.close(), 5)
        with pytest.raises(ClientPayloadError):
            await response.content.read()
        with pytest.raises(Exception, match=r"[Dd]isconnected|[Cc]onnect|reset"):
            await waiting

    with_api(tmp_path, test)


def test_a_viewer_reads_no_log_of_others(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/logs", key=KEYS["viewer"]))[0] == 404
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/logs", key=KEYS["operator"]))[0] == 200

    with_api(tmp_path, test)
