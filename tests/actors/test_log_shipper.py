"""Logs on their way to the head: every byte arrives, whatever fails, restarts or comes twice meanwhile."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from actors import log_shipper
from actors.log_shipper import LogShipper
from fetchmld.core.agent import RunKey
from fetchmld.core.model import LogPlace
from fetchmld.runner.logs import LogPool
from fetchmld.store.shipment import Piece, live_name, pack, unpack
from fetchmld.store.shipped_logs import ShippedLogs


class Wire:
    """The head's store as a machine reaches it, which may fail before or after the head has taken what came."""

    def __init__(self, store: ShippedLogs) -> None:
        self.store = store
        self.fails: Callable[[], bool] = lambda: False
        self.sent_bytes = 0

    def lengths(self) -> dict[str, int]:
        if self.fails():
            raise OSError("no answer")
        return self.store.lengths("w")

    def ship(self, pieces: Iterable[Piece]) -> dict[str, int]:
        if self.fails():
            raise OSError("not sent")
        shipment = pack(pieces)
        self.sent_bytes += len(shipment)
        lengths = self.store.take("w", unpack(shipment))
        if self.fails():
            raise OSError("the answer was lost")
        return lengths


class Machine:
    """A runner's logs, and an agent's shipper, which may be replaced by another."""

    def __init__(self, top: Path, wire: Wire) -> None:
        self.directory = str(top / "node")
        self.pool = LogPool(self.directory, set())
        self.wire = wire
        self.running: dict[str, int] = {}
        self.ended: dict[str, LogPlace] = {}
        self.shipper = self.new_shipper()

    def new_shipper(self) -> LogShipper:
        self.shipper = LogShipper(self.directory, 0, self.wire, 0)  # type: ignore[arg-type]
        for name, slot in self.running.items():
            self.shipper.runs(RunKey(name, 1), 0, slot)
        return self.shipper

    def begin(self, name: str) -> None:
        self.running[name], _ = self.pool.acquire()
        self.shipper.runs(RunKey(name, 1), 0, self.running[name])

    def write(self, name: str, data: bytes) -> None:
        os.write(self.pool._fds[self.running[name]], data)

    def end(self, name: str) -> LogPlace:
        slot = self.running.pop(name)
        place: LogPlace = {"worker_id": "w", **self.pool.keep(slot, f"{name}-1-0")}  # type: ignore[typeddict-item]
        self.ended[name] = place
        self.shipper.ended(RunKey(name, 1), 0, place)
        self.shipper.forget(RunKey(name, 1), 0)
        self.pool.release(slot)
        return place

    async def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            await self.shipper._round()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, Wire(ShippedLogs(tmp_path / "head")))


def test_output_is_there_while_it_runs_and_in_its_place_afterwards(machine: Machine) -> None:
    async def test() -> None:
        store = machine.wire.store
        machine.begin("t")
        machine.write("t", b"one ")
        await machine.rounds()
        assert store.read_loose("t-1-0", 0, 100) == (b"one ", 4)
        machine.write("t", b"two")
        place = machine.end("t")
        await machine.rounds()
        assert store.read(place, "t-1-", 0, 100) == b"one two"
        assert live_name("t-1-0") not in store.lengths("w")

    asyncio.run(test())


def test_large_output_is_sent_once_and_not_again_at_its_end(machine: Machine) -> None:
    async def test() -> None:
        machine.begin("t")
        whole = random.Random(1).randbytes(3 * 2**20)
        machine.write("t", whole)
        await machine.rounds(14)
        place = machine.end("t")
        await machine.rounds()
        assert machine.wire.store.read(place, "t-1-", 2**20, 2**20) == whole[2**20 : 2**21]
        assert machine.wire.sent_bytes < len(whole) + 10_000

    asyncio.run(test())


def test_a_thousand_short_attempts_are_a_few_shipments_and_no_files_of_their_own(machine: Machine) -> None:
    async def test() -> None:
        for number in range(1000):
            machine.begin(f"t{number}")
            machine.write(f"t{number}", b"x" * 100)
            machine.end(f"t{number}")
        await machine.rounds(2)
        assert list(machine.wire.store.lengths("w")) == ["segments/0.seg"]

    asyncio.run(test())


@pytest.mark.parametrize("seed", range(8))
def test_whatever_fails_every_byte_arrives(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost shipments, lost answers, agents that die; live reads are small so that many rounds are needed."""
    monkeypatch.setattr(log_shipper, "LIVE_BYTES", 1000)
    monkeypatch.setattr(log_shipper, "ROUND_BYTES", 5000)
    chance = random.Random(seed)
    machine = Machine(tmp_path, Wire(ShippedLogs(tmp_path / "head")))
    machine.wire.fails = lambda: chance.random() < 0.2
    wrote: dict[str, bytes] = {}

    async def test() -> None:
        for step in range(300):
            match chance.randrange(6):
                case 0 if len(machine.running) < 5:
                    machine.begin(f"t{step}")
                    wrote[f"t{step}"] = b""
                case 1 | 2 | 3 if machine.running:
                    name = chance.choice(list(machine.running))
                    data = chance.randbytes(chance.choice([1, 500, 3000, 400_000]))
                    machine.write(name, data)
                    wrote[name] += data
                case 4 if machine.running and chance.random() < 0.5:
                    machine.end(chance.choice(list(machine.running)))
                case 5 if chance.random() < 0.2:
                    machine.new_shipper()
            try:
                await machine.rounds(1)
            except OSError:
                pass
        for name in list(machine.running):
            machine.end(name)
        machine.wire.fails = lambda: False
        monkeypatch.setattr(log_shipper, "ROUND_BYTES", 4 * 2**20)
        await machine.rounds(30)
        for name, place in machine.ended.items():
            here = b""
            while piece := machine.wire.store.read(place, f"{name}-1-", len(here), 2**20):
                here += piece
            assert here == wrote[name], name

    asyncio.run(test())


@pytest.mark.parametrize("answer", [OSError("away"), ValueError("no JSON"), KeyError("a file is not named")])
def test_no_answer_of_the_head_ends_it(machine: Machine, monkeypatch: pytest.MonkeyPatch, answer: Exception) -> None:
    monkeypatch.setattr(log_shipper, "SHIP_S", 0.001)
    asked: list[int] = []

    def fails() -> bool:
        asked.append(1)
        if len(asked) < 4:
            raise answer
        return False

    machine.wire.fails = fails

    async def test() -> None:
        machine.begin("t")
        machine.write("t", b"late")
        work = asyncio.create_task(machine.shipper.run())
        async with asyncio.timeout(20):
            while machine.wire.store.read_loose("t-1-0", 0, 10) is None:
                await asyncio.sleep(0.001)
        work.cancel()

    asyncio.run(test())
    assert machine.wire.store.read_loose("t-1-0", 0, 10) == (b"late", 4)


def test_an_old_file_is_not_sent_again_to_a_head_that_has_removed_it(machine: Machine) -> None:
    async def test() -> None:
        machine.begin("t")
        machine.write("t", b"old")
        place = machine.end("t")
        os.utime(f"{machine.directory}/{place['file']}", (1, 1))
        machine.shipper = LogShipper(machine.directory, 0, machine.wire, 3600)  # type: ignore[arg-type]
        await machine.rounds()
        assert machine.wire.store.lengths("w") == {}
        assert time.time() > 3600

    asyncio.run(test())
