"""Programs that listen, reached and asked; and those that are not who they should be."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fetchmld.endpoint import NotReached, connect, probe

HERE = os.geteuid()


def with_listener(tmp_path: Path, said: bytes, test: Callable[[str], Awaitable[None]]) -> None:
    """Run `test` against a socket whose owner says `said` to whoever asks."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await (writer.drain() if said else reader.read())
        writer.close()

    async def run() -> None:
        path = os.path.relpath(tmp_path / "s.sock")
        server = await asyncio.start_unix_server(answer, path)
        async with server:
            await test(f"unix:{path}")

    asyncio.run(run())


def test_an_answer_is_read_up_to_its_bound(tmp_path: Path) -> None:
    async def test(endpoint: str) -> None:
        status, body = await probe(endpoint, "/x", {"A": "b"}, HERE)
        assert (status, len(body)) == (200, 64 * 1024)

    with_listener(tmp_path, b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 200_000, test)


@pytest.mark.parametrize("said", [b"hello\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"x" * 100_000, b"short"])
def test_what_is_no_http_is_said_to_be_none(tmp_path: Path, said: bytes) -> None:
    async def test(endpoint: str) -> None:
        with pytest.raises(NotReached):
            await probe(endpoint, "/", None, HERE)

    with_listener(tmp_path, said, test)


def test_who_says_nothing_is_given_up(tmp_path: Path) -> None:
    async def test(endpoint: str) -> None:
        with pytest.raises(NotReached, match=r"within 0\.1 s"):
            await probe(endpoint, "/", None, HERE, timeout_s=0.1)

    with_listener(tmp_path, b"", test)


def test_another_users_program_is_not_spoken_to(tmp_path: Path) -> None:
    async def test(endpoint: str) -> None:
        with pytest.raises(NotReached, match=f"a program of user {HERE}"):
            await connect(endpoint, HERE + 1)

    with_listener(tmp_path, b"HTTP/1.0 200 OK\r\n\r\n", test)


@pytest.mark.parametrize("endpoint", ["unix:/nonexistent/x.sock", "tcp:1"])
def test_nobody_there(endpoint: str) -> None:
    with pytest.raises(NotReached, match="nobody listens"):
        asyncio.run(connect(endpoint))
