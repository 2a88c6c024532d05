"""The streams: what is told, to whom, in which order; resuming; slow clients."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError

from fetchmld.api import feed
from tests.api.served import KEYS, Api, with_api

STATUS = "/v1/scheduler/status/stream"


class Events:
    """Reads a stream of server-sent events one by one."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[str, int | None, dict[str, Any]]:
        """Name, id and data; comments are passed over. Raises EOFError at the stream's end."""
        block: dict[str, str] = {}
        while line := await self.response.content.readline():
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                block[name] = value
            elif "data" in block:
                number = int(block["id"]) if "id" in block else None
                return block["event"], number, orjson.loads(block["data"])
            else:
                block = {}
        raise EOFError

    async def until(self, *names: str) -> tuple[str, int | None, dict[str, Any]]:
        while True:
            event = await self.next()
            if event[0] in names:
                return event

    async def rest(self) -> list[tuple[str, int | None, dict[str, Any]]]:
        found = []
        try:
            while True:
                found.append(await self.next())
        except EOFError:
            return found


@asynccontextmanager
async def streaming(api: Api, path: str, key: str = KEYS["user"], after: int | None = None) -> AsyncIterator[Events]:
    headers = {"Last-Event-ID": str(after)} if after is not None else {}
    response = await api.raw("GET", path, key=key, headers=headers)
    assert response.status == 200
    assert response.content_type == "text/event-stream"
    try:
        yield Events(response)
    finally:
        response.close()


def job(task: dict[str, Any]) -> str:
    return f"/v1/scheduler/jobs/{task['id']}/stream"


def test_a_task_is_followed_from_what_it_is_to_its_end(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        async with streaming(api, job(task)) as events:
            name, number, data = await events.next()
            assert (name, data["task"]["id"], data["seq"]) == ("snapshot", task["id"], number)
            await api.head.run(task["id"])
            name, number, data = await events.next()
            assert (name, number, data["task"]["status"]) == ("task_update", None, "running")
            await api.head.end(task["id"])
            name, number, data = await events.next()
            assert (name, data["action"], data["task"]["status"]) == ("task_complete", "task.completed", "completed")
            assert await events.rest() == []

    with_api(tmp_path, test)


def test_a_changed_priority_is_told(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit(cpu=64)
        async with streaming(api, job(task)) as events:
            await events.next()
            await api.call("PATCH", f"/v1/scheduler/jobs/{task['id']}/priority", json={"priority": 9})
            name, _, data = await events.next()
            assert (name, data["action"], data["task"]["priority"]) == ("task_update", "task.reprioritise", 9)

    with_api(tmp_path, test)


def test_who_comes_back_gets_what_was_missed_and_nothing_twice(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        async with streaming(api, job(task)) as events:
            _, first, _ = await events.next()
        await api.head.run(task["id"])
        await api.head.end(task["id"])
        async with streaming(api, job(task), after=first) as events:
            told = await events.rest()
        assert [(name, data["action"]) for name, _, data in told] == [("task_complete", "task.completed")]
        status, _ = await api.call("GET", job(task), headers={"Last-Event-ID": str(told[-1][1])})
        assert status == 204  # it saw the end: EventSource stops at this

    with_api(tmp_path, test)


def test_a_task_that_is_over_says_so_and_ends(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.end(task["id"], exit_code=3)
        async with streaming(api, job(task)) as events:
            assert [name for name, _, _ in await events.rest()] == ["snapshot", "task_complete"]

    with_api(tmp_path, test)


@pytest.mark.parametrize("given", ["x", "-1", "1e3", "9" * 40])
def test_a_bad_id_to_resume_from_is_refused(tmp_path: Path, given: str) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("GET", STATUS, headers={"Last-Event-ID": given}))[0] == 400

    with_api(tmp_path, test)


def test_another_users_task_is_not_there(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        assert (await api.call("GET", job(task), key=KEYS["other"]))[0] == 404

    with_api(tmp_path, test)


def test_the_scheduler_is_followed(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with streaming(api, STATUS) as events:
            name, _, data = await events.next()
            assert name == "snapshot"
            assert {worker["id"] for worker in data["workers"]} == {"w1"}
            assert data["status"]["workers_active"] == 1
            task = await api.submit()
            name, number, data = await events.until("task_update")
            assert (data["action"], data["task"]["id"], data["seq"]) == ("task.submit", task["id"], number)
            _, _, data = await events.until("queue_update")
            assert data["queue"]["running"] == 1
            api.head.add_worker("w2", gpus=2)
            _, _, data = await events.until("worker_update")
            assert (data["worker"]["id"], data["worker"]["active_tasks"]) == ("w2", [])

    with_api(tmp_path, test)


def test_users_are_told_of_their_own_tasks_and_auditors_without_secrets(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with (
            streaming(api, STATUS) as own,
            streaming(api, STATUS, KEYS["auditor"]) as audit,
            streaming(api, STATUS, KEYS["admin"]) as admin,
        ):
            await asyncio.gather(own.next(), audit.next(), admin.next())
            theirs = await api.submit(KEYS["other"], env={"TOKEN": "s3cret"})
            mine = await api.submit()
            assert (await own.until("task_update"))[2]["task"]["id"] == mine["id"]
            assert "env" not in (await audit.until("task_update"))[2]["task"]
            told = (await admin.until("task_update"))[2]["task"]
            assert (told["id"], told["env"]) == (theirs["id"], {"TOKEN": "s3cret"})

    with_api(tmp_path, test)


def test_what_the_connection_lost_comes_from_the_record(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with streaming(api, STATUS) as events:
            await events.next()
            api.head.cut = True
            tasks = [await api.submit() for _ in range(3)]
            numbers: list[int] = []
            told: set[str] = set()
            while told != {task["id"] for task in tasks}:
                _, number, data = await events.until("task_update")
                told.add(data["task"]["id"])
                numbers += [number] if number is not None else []
            assert numbers == sorted(set(numbers))

    with_api(tmp_path, test)


async def told_of(follower: feed.Follower) -> list[tuple[int, str, str]]:
    """Number, action and the task's status of all that waits."""
    events = [orjson.loads(piece) for piece in await follower.take(1.0)]
    return [(event.get("seq", 0), event.get("action", ""), event["task"]["status"]) for event in events]


def as_feed(since: int, *changes: Any) -> Any:
    numbers = [change["seq"] for change in changes if change["seq"]]
    return {"since": since, "seq": max([since, *numbers]), "tasks": list(changes), "workers": [], "counts": None}


def test_what_was_missed_and_told_as_it_is_now_does_not_go_back_and_lacks_nothing(tmp_path: Path) -> None:
    """The record's page shows a task that has ended meanwhile; the feed, not so far, has how it came to it."""

    async def test(api: Api) -> None:
        await api.submit()
        found = await api.head.changes_since(-1)
        assert found is not None
        submit = found[-1]
        first = submit["seq"]
        ended: Any = {**submit["task"], "status": "completed", "last_seq": first + 2}
        running: Any = {**submit["task"], "status": "running", "last_seq": first + 1}

        async def missed(seq: int) -> list[Any]:
            return [{"seq": first, "action": "task.submit", "task": ended}]

        api.head.changes_since = missed  # type: ignore[method-assign]
        hub = feed.Hub(api.head)
        async with hub.follow(feed.Scope(), "ws") as follower, hub.follow(feed.Scope("other"), "ws") as elsewhere:
            hub._seq = follower.after = first - 1
            phase = {"seq": 0, "action": "", "task": submit["task"]}
            start = {"seq": first + 1, "action": "task.start", "task": running}
            end = {"seq": first + 2, "action": "task.completed", "task": ended}
            await hub._hand_on(as_feed(first, phase))
            await hub._hand_on(as_feed(first, start, {"seq": 0, "action": "", "task": running}))
            assert (len(follower.shown), elsewhere.shown) == (1, {})
            await hub._hand_on(as_feed(first + 1, end))
            assert not follower.shown
            assert await told_of(follower) == [
                (first, "task.submit", "completed"),
                (first + 1, "task.start", "completed"),
                (first + 2, "task.completed", "completed"),
            ]

    with_api(tmp_path, test)


def test_who_comes_back_is_told_all_and_of_no_task_what_is_older_than_what_it_was_told(tmp_path: Path) -> None:
    """The same for one who resumes: the page shows a task that has ended; what waits for it, and the feed, do not yet."""

    async def test(api: Api) -> None:
        await api.submit()
        found = await api.head.changes_since(-1)
        assert found is not None
        view: Any = found[-1]["task"]
        seq = view["last_seq"]
        running: Any = {**view, "last_seq": seq + 1}
        ended: Any = {**view, "status": "completed", "last_seq": seq + 3}
        other: Any = {**view, "id": "other", "last_seq": seq + 2}
        hub = feed.Hub(api.head)
        async with hub.follow(feed.Scope(), "ws") as follower:
            start = {"seq": seq + 1, "action": "task.start", "task": running}
            await hub._hand_on(as_feed(seq, {"seq": 0, "action": "", "task": view}, start))
            follower.go_on_from([ended])  # after what waits was made
            await hub._hand_on(
                as_feed(
                    seq + 1,
                    {"seq": 0, "action": "", "task": running},
                    {"seq": seq + 2, "action": "task.submit", "task": other},
                )
            )
            await hub._hand_on(as_feed(seq + 2, {"seq": seq + 3, "action": "task.completed", "task": ended}))
            assert not follower.shown
            assert await told_of(follower) == [
                (seq + 1, "task.start", "completed"),
                (seq + 2, "task.submit", view["status"]),
                (seq + 3, "task.completed", "completed"),
            ]

    with_api(tmp_path, test)


def test_who_missed_too_much_begins_anew(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.changes_max = 1
        for _ in range(3):
            await api.submit()
        async with streaming(api, STATUS, after=0) as events:
            name, number, _ = await events.next()
            assert (name, number) == ("resync", len(api.head.facts) - 1)

    with_api(tmp_path, test)


def test_a_stream_lasts_as_long_as_the_setting_says(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with streaming(api, STATUS) as events:
            assert [name for name, _, _ in await events.rest()] == ["snapshot"]

    with_api(tmp_path, test, stream_max_s=0.05)


def test_one_who_cannot_keep_up_is_told_so_and_left() -> None:
    async def run() -> None:
        follower = feed.Follower(feed.Scope(), "sse", 0)
        size = feed.PENDING_BYTES_MAX // 4
        for number in range(5):
            follower.give(feed.Batch([feed.Piece(number, b"x" * size)], "sse"), number)
        (last,) = await follower.take(1.0)
        assert b"event: resync" in last
        assert last.startswith(b"id: 4\n")
        assert follower.is_over
        assert await follower.take(60.0) == []

    asyncio.run(run())


@pytest.mark.parametrize("framing", ["sse", "ws"])
def test_who_knows_a_part_of_what_is_told_at_once_gets_the_rest(framing: feed.Framing) -> None:
    async def run() -> None:
        batch = feed.Batch([*map(feed.Piece, (11, 0, 12, 13), (b"a", b"b", b"c", b"d"))], framing)
        before, after = feed.Follower(feed.Scope(), framing, 0), feed.Follower(feed.Scope(), framing, 0)
        before.skip_to(12)
        before.give(batch, 13)
        after.give(batch, 13)
        after.skip_to(12)
        assert b"".join(await before.take(1.0)) == b"".join(await after.take(1.0)) == b"bd"
        after.give(feed.Batch([feed.Piece(11, b"a"), feed.Piece(12, b"c")], framing), 13)
        assert not after.pending

    asyncio.run(run())


def test_one_slow_client_changes_nothing_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PENDING_BYTES_MAX", 200_000)

    async def test(api: Api) -> None:
        async with streaming(api, STATUS) as quick, streaming(api, STATUS):  # the second one is never read
            await quick.next()
            for _ in range(20):
                task = await api.submit(args="x" * 15_000)
                while (await quick.until("task_update"))[2]["task"]["id"] != task["id"]:
                    pass

    with_api(tmp_path, test)


# -- the WebSocket


@asynccontextmanager
async def socket(api: Api, path: str = "/ws", **more: Any) -> AsyncIterator[ClientWebSocketResponse]:
    async with api.client.ws_connect(path, **more) as opened:
        yield opened


def test_a_socket_tells_of_workers_where_it_is_asked_to(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        headers = {"X-API-Key": KEYS["user"]}
        async with socket(api, "/ws?workers=true", headers=headers) as ws, socket(api, headers=headers) as plain:
            assert (await ws.receive_json())["type"] == "resync"
            assert (await plain.receive_json())["type"] == "resync"
            await api.submit()
            while (seen := await ws.receive_json())["type"] != "queue_update":
                assert seen["type"] == "task_update"
            assert seen["queue"]["workers_total"] == 1
            assert (await plain.receive_json())["type"] == "task_update"

    with_api(tmp_path, test)


def test_a_socket_tells_of_tasks(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with socket(api, headers={"X-API-Key": KEYS["user"]}) as ws:
            assert (await ws.receive_json())["type"] == "resync"
            await api.submit(KEYS["other"])
            task = await api.submit()
            told = await ws.receive_json()
            assert (told["type"], told["task"]["id"]) == ("task_update", task["id"])
            await ws.send_json({"type": "pong"})
            await api.head.end(task["id"])
            while told["type"] != "task_complete":
                told = await ws.receive_json()
            last = told["seq"]
        again = await api.submit()
        async with socket(api, f"/ws?after={last}", headers={"X-API-Key": KEYS["user"]}) as ws:
            told = await ws.receive_json()
            assert (told["task"]["id"], told["seq"] > last) == (again["id"], True)

    with_api(tmp_path, test)


def test_a_browser_brings_its_key_as_a_subprotocol(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        key = base64.urlsafe_b64encode(KEYS["user"].encode()).decode().rstrip("=")
        async with socket(api, protocols=("fetchml.v1", f"fetchml.key.{key}")) as ws:
            assert ws.protocol == "fetchml.v1"
            assert (await ws.receive_json())["type"] == "resync"

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    ("headers", "protocols", "status"),
    [
        ({}, (), 401),
        ({}, ("fetchml.v1", "fetchml.key.%%%"), 401),
        ({}, ("fetchml.v1", "fetchml.key.bm9wZQ"), 401),
        ({"X-API-Key": KEYS["user"], "Origin": "https://evil.example"}, (), 403),
        ({"X-API-Key": KEYS["user"], "Origin": "null"}, (), 403),
    ],
)
def test_a_bad_handshake_is_refused(
    tmp_path: Path, headers: dict[str, str], protocols: tuple[str, ...], status: int
) -> None:
    async def test(api: Api) -> None:
        with pytest.raises(WSServerHandshakeError) as refused:
            async with socket(api, headers=headers, protocols=protocols):
                pass
        assert refused.value.status == status

    with_api(tmp_path, test)


def test_too_long_a_message_ends_the_socket(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with socket(api, headers={"X-API-Key": KEYS["user"]}) as ws:
            await ws.receive_json()
            await ws.send_str("x" * 5000)
            assert (await ws.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED)

    with_api(tmp_path, test)


def test_a_plain_get_is_told_to_upgrade(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        response = await api.raw("GET", "/ws")
        assert (response.status, response.headers["Upgrade"]) == (426, "websocket")

    with_api(tmp_path, test)
