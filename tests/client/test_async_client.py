"""The asynchronous client over the same table: what its own transport has to get right."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from fetchmld.client import AsyncClient, Client, Lost, NotFound, TimedOut, Unreachable
from fetchmld.client import line as line_module
from fetchmld.client import patience as patience_module
from fetchmld.client.table import Methods
from tests.client.stub import CLOSE, Asked, Stub, answer, chunked, refused


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience_module, "PAUSE_FIRST_S", 0.001)


def with_client(stub: Stub, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncClient(stub.address, "fml_k") as client:
            await work(client)

    asyncio.run(run())


def test_calls_travel_with_the_key_at_the_same_time(stub: Stub) -> None:
    stub.handlers["POST /v1/tasks"] = answer(201, {"id": "t1"})

    async def work(client: AsyncClient) -> None:
        made = await asyncio.gather(*(client.submit({"job_name": "x"}) for _ in range(20)))
        assert [task["id"] for task in made] == ["t1"] * 20

    with_client(stub, work)
    assert len({asked.headers["idempotency-key"] for asked in stub.asked}) == 20
    assert stub.asked[0].headers["x-api-key"] == "fml_k"
    assert stub.asked[0].json == {"job_name": "x"}


def test_a_lost_answer_is_asked_for_again_under_its_key(stub: Stub) -> None:
    stub.handlers["POST /v1/tasks"] = [CLOSE, CLOSE, refused(503, "X"), answer(201, {"id": "t1"})]

    async def work(client: AsyncClient) -> None:
        assert (await client.submit({"job_name": "x"}))["id"] == "t1"

    with_client(stub, work)
    assert len(stub.asked) == 4
    assert len({asked.headers["idempotency-key"] for asked in stub.asked}) == 1


def test_a_lost_answer_is_waited_for_only_so_long(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "LOST_MAX_S", 0.05)
    stub.handlers["POST /v1/experiments"] = CLOSE

    async def work(client: AsyncClient) -> None:
        with pytest.raises(Lost):
            await client.create_experiment("digits")

    with_client(stub, work)


def test_waiting_and_errors(stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t"] = [answer(200, {"status": "running"}), CLOSE, answer(200, {"status": "failed"})]

    async def work(client: AsyncClient) -> None:
        assert (await client.wait("t"))["status"] == "failed"
        with pytest.raises(NotFound):
            await client.task("gone")

    with_client(stub, work)


def test_a_followed_log_is_taken_up_where_it_broke(stub: Stub) -> None:
    text = b"one\ntwo \xc3\xa4\nthree\n"

    def serve(asked: Asked) -> bytes:
        offset = int(asked.target.split("offset=")[1].split("&")[0])
        rest = text[offset:]
        return chunked(rest[:5], whole=len(rest) <= 5)

    stub.handlers["GET /v1/tasks/t/logs"] = serve

    async def work(client: AsyncClient) -> None:
        assert b"".join([piece async for piece in client.logs("t", follow=True)]) == text
        assert [line async for line in client.lines("t", follow=True)] == ["one\n", "two ä\n", "three\n"]
        async for piece in client.logs("t", follow=True):
            assert piece
            break

    with_client(stub, work)


def test_nobody_there_and_silence() -> None:
    async def run(address: str, kind: type[Exception]) -> None:
        async with AsyncClient(address, timeout_s=0.05) as client:
            with pytest.raises(kind):
                await client.health()

    with socket.create_server(("127.0.0.1", 0)) as quiet:
        address = f"http://127.0.0.1:{quiet.getsockname()[1]}"
        asyncio.run(run(address, TimedOut))
    asyncio.run(run(address, Unreachable))


def test_a_quoted_id_is_not_unquoted_on_the_way(stub: Stub) -> None:
    async def work(client: AsyncClient) -> None:
        with pytest.raises(NotFound):
            await client.task("a/../b")

    with_client(stub, work)
    assert stub.asked[0].target == "/v1/tasks/a%2F..%2Fb"


def test_a_blocking_client_works_inside_a_running_loop(stub: Stub) -> None:
    """As it has to in a notebook."""
    stub.handlers["GET /v1/tasks/t/logs"] = chunked(b"abc")

    async def run() -> None:
        with Client(stub.address) as client:
            assert b"".join(client.logs("t", follow=True)) == b"abc"

    asyncio.run(run())


def test_both_clients_have_the_same_methods() -> None:
    written = {name for name in vars(Methods) if not name.startswith("_")}
    blocking, concurrent = ({name for name in vars(kind) if not name.startswith("_")} for kind in (Client, AsyncClient))
    assert blocking == concurrent == {"push", "pull", "close"}
    assert {"submit", "wait", "logs", "lines"} <= written


def test_a_snapshot_is_sent_and_fetched_from_a_thread(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print('hi')")
    stub.handlers["POST /v1/snapshots/diff"] = answer(200, {"missing": []})
    stub.handlers["POST /v1/snapshots"] = answer(201, {"id": "s1", "file_count": 1})

    async def work(client: AsyncClient) -> None:
        assert (await client.push(tmp_path / "code"))["id"] == "s1"

    with_client(stub, work)


def test_importing_the_package_imports_no_aiohttp_until_it_is_needed() -> None:
    import subprocess
    import sys

    code = "import sys, fetchmld; fetchmld.Client; assert 'aiohttp' not in sys.modules; fetchmld.AsyncClient"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
