"""A machine that joined: its agent calls the head's API, and pages pass. Real sockets on both ends, real frames between."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from actors.tunnels import Tunnels
from fetchmld.channel import Client, Message, Peer, serve
from fetchmld.core.errors import Unavailable
from fetchmld.upstream import Serving, Upstream
from tests.api.pages_server import HUGE_BYTES, serving_pages
from tests.api.served import KEYS, Api, with_api
from tests.api.test_proxy import SERVICE, TOKEN, get, seen


def with_joined(tmp_path: Path, test: Callable[[Api], Awaitable[None]], key: str = KEYS["worker"]) -> None:
    """Run `test` where the service runs on worker `w2`, whose agent has `key`."""

    async def run(api: Api) -> None:
        tunnels = Tunnels(f"http://127.0.0.1:{api.port()}", key)
        asked: set[asyncio.Task[None]] = set()

        async def call(message: Message) -> None:
            try:
                await tunnels.call(message.body["ticket"], message.body["endpoint"], os.geteuid())
            except Unavailable as error:
                message.fail(error)
            else:
                message.reply()

        def on_messages(_peer: Peer, messages: list[Message]) -> None:
            asked.update(asyncio.create_task(call(message)) for message in messages)

        path = tmp_path / "a.sock"
        server = await serve(Path(os.path.relpath(path)), on_messages)

        async def resolve() -> Path:
            return Path(os.path.relpath(path))

        agent = api.head.agents["w2"] = Client(resolve)
        await agent.start()
        async with serving_pages(tmp_path) as endpoint:
            api.head.start_service(SERVICE, "user")
            upstream = Upstream(endpoint, "w2", os.geteuid(), True, TOKEN)
            api.head.served[SERVICE] = Serving(upstream, "t0ken", answers=True, last_activity_at=0.0)
            await test(api)
        await tunnels.close()
        await agent.close()
        server.close()

    with_api(tmp_path, run)


def test_pages_of_a_joined_machine(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        body, headers = await seen(api, method="POST", data=b"x" * 1_000_000)
        assert (body["bytes"], headers["authorization"]) == (1_000_000, "token t0ken")
        async with await get(api, "/jupyter/s1/huge") as answer:
            assert len(await answer.read()) == HUGE_BYTES
        socket = await api.client.ws_connect("/jupyter/s1/a/echo", headers={"X-API-Key": KEYS["user"]}, max_msg_size=0)
        large = os.urandom(3 * 2**20)
        await socket.send_bytes(large)
        assert await socket.receive_bytes() == large
        await socket.close()

    with_joined(tmp_path, test)


def test_who_is_no_machine_cannot_answer_a_call(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with await get(api, "/jupyter/s1/a/seen") as answer:
            assert answer.status == 503

    with_joined(tmp_path, test, key=KEYS["admin"] + "x")


def test_a_call_that_nobody_waits_for_is_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        upgrade = {"Connection": "Upgrade", "Upgrade": "fetchml-tunnel"}
        for key, status in ((KEYS["worker"], 404), (KEYS["user"], 403)):
            async with await get(api, "/v1/tunnels/guess", key, headers=upgrade) as answer:
                assert answer.status == status
        async with await get(api, "/v1/tunnels/guess", KEYS["worker"]) as answer:
            assert answer.status == 400

    with_joined(tmp_path, test)


def test_a_program_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        upstream = Upstream("unix:/nonexistent/s", "w2", os.geteuid(), True, TOKEN)
        api.head.served[SERVICE] = Serving(upstream, "t0ken", answers=True, last_activity_at=0.0)
        async with await get(api, "/jupyter/s1/a/seen") as answer:
            assert answer.status == 503

    with_joined(tmp_path, test)
