"""The record's side of a data directory: a real ledger, and a scheduler that answers only how far it is."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fetchmld.channel import Client, Message, Peer, Server, serve
from fetchmld.config import Config
from fetchmld.core.chain import Genesis
from fetchmld.core.messages import Fact
from fetchmld.store.ledger import Ledger
from fetchmld.store.notes import new_genesis

BOUND_S = 20.0


class Record:
    """Appends facts, also such as are sent, and answers `durable` on RUN/scheduler.sock."""

    def __init__(self, directory: Path, sinks: tuple[str, ...] = (), genesis: Genesis | None = None) -> None:
        self.directory = directory
        config = Config(data_dir=directory, audit_sinks=sinks)
        self.paths = config.paths
        self.settings = {**config.model_dump(mode="json"), "run_dir": str(directory)}
        grown_from = genesis or new_genesis(self.paths.ledger_dir)
        self.ledger = Ledger.open(self.paths.ledger_dir, segment_bytes=2**18, genesis=grown_from)
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
            if message.kind == "fact":
                message.reply(self.append(Fact(**message.body)))
            else:
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
