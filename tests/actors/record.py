"""The record's side of a data directory: a real ledger, and a scheduler that answers only how far it is."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fetchmld.channel import Client, Message, Peer, Server, serve
from fetchmld.config import Config
from fetchmld.core.messages import Fact
from fetchmld.store.ledger import Ledger

BOUND_S = 20.0


class Record:
    """Appends facts, and answers `durable` on RUN/scheduler.sock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths = Config(data_dir=directory).paths
        self.settings = {**Config(data_dir=directory).model_dump(mode="json"), "run_dir": str(directory)}
        self.ledger = Ledger.open(self.paths.ledger_dir, segment_bytes=2**18)
        self._server: Server | None = None

    async def open(self) -> None:
        self._server = await serve(self.directory / "scheduler.sock", self._on_messages)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(0)  # closed sockets are let go of in the loop's next turn
        self.ledger.close()

    def append(self, *facts: Fact) -> int:
        """The sequence number of the last one."""
        return self.ledger.append(facts)

    def durable(self) -> dict[str, Any]:
        return {
            "seq": self.ledger.next_seq - 1,
            "root_hash": self.ledger.root_hash.hex(),
            "at_us": self.ledger.last_at_us,
        }

    def _on_messages(self, _peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            assert message.kind == "durable"
            message.reply(self.durable())

    async def client(self, name: str) -> Client:
        """Connected, in the background, to RUN/<name>.sock."""

        async def resolve() -> Path:
            return self.directory / f"{name}.sock"

        client = Client(resolve)
        await client.start()
        return client


async def until(true: Callable[[], bool], what: str) -> None:
    """Wait for a condition. Raises AssertionError naming `what` after a bound."""
    deadline = asyncio.get_running_loop().time() + BOUND_S
    while not true():
        assert asyncio.get_running_loop().time() < deadline, f"not within {BOUND_S:g} s: {what}"
        await asyncio.sleep(0.005)
