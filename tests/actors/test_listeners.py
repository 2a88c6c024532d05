"""The listening sockets: lent again and again, with nobody refused in between; refused themselves with the reason."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.data_dir import Refused
from actors.listeners import NAME, Listeners, borrow
from tests.actors.conftest import until


@asynccontextmanager
async def lent(listeners: Listeners, run_dir: Path) -> AsyncIterator[None]:
    lending = asyncio.create_task(listeners.lend(run_dir))
    try:
        await asyncio.to_thread(until, "it is lent", (run_dir / NAME).exists)
        yield
    finally:
        lending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await lending
        listeners.close()


async def answer_all(listening: list[socket.socket], word: bytes) -> list[asyncio.AbstractServer]:
    """A head: says `word` to each line that comes, until it is closed."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(word + await reader.readline())
        writer.close()

    return [await asyncio.start_server(say, sock=one) for one in listening]


def ask(host: str, port: int) -> socket.socket:
    line = socket.create_connection((host, port), timeout=10)
    line.sendall(b"?\n")
    return line


def answer(line: socket.socket) -> bytes:
    """All that is said until it is closed."""
    with line, line.makefile("rb") as said:
        return said.read()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_who_comes_while_no_head_is_there_waits_for_the_next(run_dir: Path, host: str) -> None:
    async def scenario() -> None:
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            port = probe.getsockname()[1]
        listeners = Listeners.listen(host, [port])
        async with lent(listeners, run_dir):
            assert stat.S_IMODE((run_dir / NAME).stat().st_mode) == 0o600
            early = ask(host, port)
            for word in (b"first", b"second", b"third"):
                servers = await answer_all(await asyncio.to_thread(borrow, run_dir), word)
                assert len(servers) == len(listeners.sockets)
                assert await asyncio.to_thread(answer, early) == word + b"?\n"
                for server in servers:
                    server.close()
                early = ask(host, port)  # nobody accepts
        assert not (run_dir / NAME).exists()
        with pytest.raises(ConnectionResetError):  # with the daemon go those who wait
            answer(early)
        with pytest.raises(ConnectionRefusedError):
            ask(host, port)

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_each_port_is_lent_in_its_order(run_dir: Path) -> None:
    async def scenario() -> None:
        listeners = Listeners.listen("127.0.0.1", [0, 0])
        async with lent(listeners, run_dir):
            found = await asyncio.to_thread(borrow, run_dir)
            assert [one.getsockname() for one in found] == [one.getsockname() for one in listeners.sockets]
            assert not any(one.get_inheritable() for one in (*found, *listeners.sockets))
            for one in found:
                one.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_what_a_killed_daemon_left_is_in_nobodys_way(run_dir: Path) -> None:
    (run_dir / NAME).touch()

    async def scenario() -> None:
        listeners = Listeners.listen("127.0.0.1", [0])
        lending = asyncio.create_task(listeners.lend(run_dir))
        while not (run_dir / NAME).is_socket():
            await asyncio.sleep(0)
        for one in await asyncio.to_thread(borrow, run_dir):
            one.close()
        lending.cancel()
        listeners.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_where_nobody_lends_a_head_cannot_start(run_dir: Path) -> None:
    with pytest.raises(FileNotFoundError):
        borrow(run_dir)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(run_dir / NAME))
        silent.listen()
        ended = asyncio.run(_borrow_from_one_that_hangs_up(silent, run_dir))
    assert "did not arrive whole" in ended


async def _borrow_from_one_that_hangs_up(silent: socket.socket, run_dir: Path) -> str:
    borrowing = asyncio.create_task(asyncio.to_thread(borrow, run_dir))
    (await asyncio.to_thread(silent.accept))[0].close()
    try:
        await borrowing
    except OSError as error:
        return str(error)
    return ""


def test_what_cannot_be_had_is_named_and_nothing_is_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder, socket.create_server(("127.0.0.1", 0)) as free:
        taken, other = holder.getsockname()[1], free.getsockname()[1]
        free.close()
        with pytest.raises(Refused, match=f"port {taken} of 127.0.0.1 is taken by another program"):
            Listeners.listen("127.0.0.1", [other, taken])
        Listeners.listen("127.0.0.1", [other]).close()
    with pytest.raises(Refused, match=r"cannot listen on 192\.0\.2\.1"):
        Listeners.listen("192.0.2.1", [other])
    with pytest.raises(Refused, match="cannot listen on no.such.host.invalid"):
        Listeners.listen("no.such.host.invalid", [other])
