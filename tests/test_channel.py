"""The channel over real sockets, and over calls as between machines: batches, requests, errors, reconnection, bounds."""

import asyncio
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from actors import ray_channel
from actors.ray_channel import Gate, over_calls
from fetchmld import channel
from fetchmld.channel import Client, Dial, Message, Peer, Server
from fetchmld.core.errors import Conflict, Unavailable

BOUND_S = 10.0


Scenario = Callable[[Path], Awaitable[None]]
Run = Callable[[Scenario], None]


GATES: dict[Path, Gate] = {}  # of the servers that are dialled by calls


@pytest.fixture(params=["asyncio", "uvloop", "calls"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """On asyncio's own loop and on uvloop's, which Ray's actors have: their transports differ; and without a socket."""
    new_loop = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    by_calls = request.param == "calls"

    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(
                asyncio.wait_for(_as_coroutine(scenario, tmp_path / ("calls" if by_calls else "x.sock")), BOUND_S)
            )

    yield run
    GATES.clear()


async def _as_coroutine(scenario: Scenario, path: Path) -> None:
    await scenario(path)


async def serve(path: Path, on_messages: channel.OnMessages) -> Server:
    server = await channel.serve(path, on_messages)
    if path.name == "calls":
        GATES[path] = Gate(server)
    return server


def dial(path: Path) -> Dial:
    if path not in GATES:
        raise ConnectionRefusedError
    return over_calls(GATES[path].push, GATES[path].pull)


async def connect(path: Path, **more: Any) -> Client:
    async def resolve() -> Path | Dial:
        return dial(path) if path.name == "calls" else path

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


# -- what only calls between machines can do


class Flaky:
    """Stands between a caller and a gate, and loses an answer when told to."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.loses = ""

    async def push(self, name: str, number: int, piece: bytes) -> bool:
        answer = await self._gate.push(name, number, piece)
        self._maybe_lose("push")
        return answer

    async def pull(self, name: str, number: int) -> bytes | None:
        answer = await self._gate.pull(name, number)
        self._maybe_lose("pull")
        return answer

    def _maybe_lose(self, what: str) -> None:
        if self.loses == what:
            self.loses = ""
            raise ConnectionAbortedError(what)


@pytest.mark.parametrize("lost", ["push", "pull"])
def test_a_call_whose_answer_is_lost_breaks_the_line_and_the_next_one_works(tmp_path: Path, lost: str) -> None:
    closed: list[Peer] = []

    async def scenario() -> None:
        server = await channel.serve(tmp_path / "x.sock", echo, closed.append)
        flaky = Flaky(Gate(server))

        async def resolve() -> Dial:
            return over_calls(flaky.push, flaky.pull)

        client = Client(resolve)
        await client.start()
        assert (await client.request("echo", 1)).body == {"got": 1}
        flaky.loses = lost
        with pytest.raises(Unavailable, match="lost the connection"):
            await client.request("echo", 1)
        assert (await request_again(client)).body == {"got": 2}
        assert len(closed) == 1, "the other end was told"
        assert len(server.peers) == 1
        await client.close()
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), BOUND_S))


def test_a_piece_that_comes_twice_or_too_soon_breaks_the_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = await channel.serve(tmp_path / "x.sock", echo)
        gate = Gate(server)
        for numbers in ([0, 1, 1], [0, 2], [1], [0, -1]):
            name = f"line-{numbers}"
            *before, last = [await gate.push(name, number, b"") for number in numbers]
            assert all(before)
            assert not last
            assert await gate.pull(name, 0) is None
        assert not server.peers
        gate.close()
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), BOUND_S))


def test_a_line_that_falls_silent_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_channel, "SILENT_MAX_S", 0.05)

    async def scenario() -> None:
        gone = asyncio.Event()
        server = await channel.serve(tmp_path / "x.sock", echo, lambda _peer: gone.set())
        gate = Gate(server)
        assert await gate.push("line", 0, b"")
        await gone.wait()
        assert not await gate.push("line", 1, b"")
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), BOUND_S))


def test_much_travels_in_small_pieces(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = await channel.serve(tmp_path / "x.sock", echo)
        gate = Gate(server)
        sizes: list[int] = []

        async def push(name: str, number: int, piece: bytes) -> bool:
            sizes.append(len(piece))
            return await gate.push(name, number, piece)

        async def resolve() -> Dial:
            return over_calls(push, gate.pull)

        client = Client(resolve)
        await client.start()
        blob = bytes(range(256)) * 4096
        assert (await client.request("echo", 1, blob)).blob == blob[::-1]
        assert max(sizes) == ray_channel.PIECE_BYTES_MAX
        await client.close()
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), BOUND_S))
