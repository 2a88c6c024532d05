"""The channel over real sockets: batches, requests, errors, reconnection, bounds."""

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fetchmld.channel import Client, Message, Peer, Server, serve
from fetchmld.core.errors import Conflict, Unavailable

BOUND_S = 10.0


Scenario = Callable[[Path], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """On asyncio's own loop and on uvloop's, which Ray's actors have: their transports differ."""
    new_loop = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(asyncio.wait_for(_as_coroutine(scenario, tmp_path), BOUND_S))

    return run


async def _as_coroutine(scenario: Scenario, tmp_path: Path) -> None:
    await scenario(tmp_path / "x.sock")


async def connect(path: Path, **more: Any) -> Client:
    async def resolve() -> Path:
        return path

    client = Client(resolve, **more)
    await client.start()
    return client


def echo(_peer: Peer, messages: list[Message]) -> None:
    for message in messages:
        if message.kind == "refuse":
            message.fail(Conflict("no"))
        elif message.id and message.kind != "silence":
            message.reply({"got": message.body}, message.blob[::-1])


def test_request_and_answer_carry_json_and_bytes(run: Run) -> None:
    async def scenario(path: Path) -> None:
        server = await serve(path, echo)
        client = await connect(path)
        answer = await client.request("echo", {"a": [1, "é", None]}, b"\x00\xff")
        assert (answer.body, answer.blob) == ({"got": {"a": [1, "é", None]}}, b"\xff\x00")
        await client.close()
        server.close()

    run(scenario)


def test_the_socket_is_for_its_owner_alone(run: Run) -> None:
    async def scenario(path: Path) -> None:
        server = await serve(path, echo)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        server.close()
        assert not path.exists()

    run(scenario)


def test_what_is_sent_in_one_turn_arrives_as_one_batch(run: Run) -> None:
    batches: list[list[Any]] = []
    arrived = asyncio.Event()

    def keep(_peer: Peer, messages: list[Message]) -> None:
        batches.append([message.body for message in messages])
        arrived.set()

    async def scenario(path: Path) -> None:
        server = await serve(path, keep)
        client = await connect(path)
        await wait_until_up(client)
        for number in range(100):
            client.post("n", number)
        await arrived.wait()
        assert batches == [list(range(100))]
        await client.close()
        server.close()

    run(scenario)


async def wait_until_up(client: Client) -> None:
    while not client.connected:
        await asyncio.sleep(0)


def test_an_error_arrives_as_itself(run: Run) -> None:
    async def scenario(path: Path) -> None:
        server = await serve(path, echo)
        client = await connect(path)
        with pytest.raises(Conflict, match="^no$"):
            await client.request("refuse")
        await client.close()
        server.close()

    run(scenario)


def test_no_answer_in_time_is_unavailable(run: Run) -> None:
    async def scenario(path: Path) -> None:
        server = await serve(path, echo)
        client = await connect(path)
        with pytest.raises(Unavailable, match=r"no answer to 'silence' within 0\.01 s"):
            await client.request("silence", timeout_s=0.01)
        await client.close()
        server.close()

    run(scenario)


def test_nobody_there_is_unavailable(run: Run) -> None:
    async def scenario(path: Path) -> None:
        client = await connect(path)
        with pytest.raises(Unavailable, match="cannot reach"):
            await client.request("echo", timeout_s=0.05)
        await client.close()

    run(scenario)


def test_a_client_finds_its_peer_again_and_greets_it(run: Run) -> None:
    greeted: list[str] = []

    async def greet(client: Client) -> None:
        greeted.append((await client.request("hello")).body["got"] or "hello")

    async def scenario(path: Path) -> None:
        server = await serve(path, echo)
        client = await connect(path, on_connect=greet)
        assert (await client.request("echo", 1)).body == {"got": 1}
        server.close()
        server = await serve(path, echo)
        assert (await request_again(client)).body == {"got": 2}
        assert greeted == ["hello", "hello"]
        await client.close()
        server.close()

    run(scenario)


async def request_again(client: Client) -> Any:
    while True:
        try:
            return await client.request("echo", 2, timeout_s=2.0)
        except Unavailable:
            continue


def test_closing_ends_at_whatever_moment_it_comes(run: Run) -> None:
    async def greet(client: Client) -> None:
        await client.request("hello")

    async def scenario(path: Path) -> None:
        server = await serve(path, echo)
        for turns in range(60):
            client = await connect(path, on_connect=greet)
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.close()
        server.close()

    run(scenario)


def test_requests_in_flight_fail_when_the_peer_goes(run: Run) -> None:
    async def scenario(path: Path) -> None:
        server = await serve(path, echo)
        client = await connect(path)
        await client.request("echo")
        waiting = asyncio.create_task(client.request("silence"))
        await asyncio.sleep(0)
        close_all(server)
        with pytest.raises(Unavailable, match="lost the connection"):
            await waiting
        await client.close()

    run(scenario)


def close_all(server: Server) -> None:
    server.close()


def test_a_frame_beyond_the_bound_closes_the_connection(run: Run) -> None:
    async def scenario(path: Path) -> None:
        server = await serve(path, echo)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"\xff\xff\xff\xff\x00\x00\x00\x00")
        assert await reader.read() == b""
        writer.close()
        server.close()

    run(scenario)


def test_frames_cut_anywhere_are_put_together(run: Run) -> None:
    bodies: list[Any] = []

    def keep(_peer: Peer, messages: list[Message]) -> None:
        bodies.extend(message.body for message in messages)

    class Sink:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += data

        def get_write_buffer_size(self) -> int:
            return 0

    async def scenario(_path: Path) -> None:
        sender, sink = Peer(keep), Sink()
        sender._transport = sink  # type: ignore[assignment]
        for number in range(3):
            sender.post("n", number)
            sender._flush()
        for cut in range(1, len(sink.data)):
            receiver = Peer(keep)
            bodies.clear()
            receiver.data_received(sink.data[:cut])
            receiver.data_received(sink.data[cut:])
            assert bodies == [0, 1, 2]

    run(scenario)
