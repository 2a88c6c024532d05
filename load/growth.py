"""What a task costs the scheduler as there are more tasks, and more nodes.

The scheduler actor with its ledger in a process of its own, and on its socket, from another, who submits (1,000 a
message, 20,000 waiting at most) and simulated nodes of 64 slots, which answer each order with the end of its attempt.
Processor time of the scheduler's process for each task, from its submission to its end on record; the rows take turns,
medians. Then its memory with tasks that wait. Bounds: 1.2 times from one row to the next, 2,000 bytes for each waiting.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import uvloop
from processes import Process

from actors.scheduler import SchedulerActor
from fetchmld.channel import Client, Message, Peer
from fetchmld.config import Config

SLOTS: Final = 64
BATCH: Final = 1000
AHEAD_MAX: Final = 20_000
GROWTH_MOST, QUEUED_BYTES_MOST = 1.2, 2000
CAPACITY: Final = {"cpu": 64, "memory_gb": 256, "batch_slots": SLOTS, "service_slots": 1, "gpus": []}
REQUEST: Final = {"job_name": "growth", "entrypoint": "/bin/true"}


async def serve(directory: Path) -> None:
    config = Config(data_dir=directory)
    actor = SchedulerActor({**config.model_dump(mode="json"), "run_dir": str(directory), "token_path": ""})
    await actor.start()
    print("ready", flush=True)
    await asyncio.Event().wait()  # who started us ends us: all that this leaves goes with it


@contextmanager
def scheduler() -> Iterator[tuple[Path, Process]]:
    """Its socket and its process."""
    with tempfile.TemporaryDirectory(prefix="fml-") as name:
        directory = Path(name)
        (directory / "admin.key").write_text("fml_growth\n")
        words = [sys.executable, __file__, "--serve", name]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                if process.stdout.readline().strip() != "ready":
                    raise SystemExit("the scheduler did not start")
                yield directory / "scheduler.sock", Process(process.pid, "scheduler", is_rays=False)
            finally:
                process.kill()


class Node:
    """One simulated node."""

    def __init__(self, socket: Path, name: str, ended: "Ended") -> None:
        self._socket = socket
        self._name = name
        self._ended = ended
        self.client = Client(self._resolve, self._on_messages, self._hello)

    async def _resolve(self) -> Path:
        return self._socket

    async def _hello(self, client: Client) -> None:
        about = {"worker_id": self._name, "boot_id": "b", "line": time.monotonic(), "hostname": self._name}
        await client.request("hello", {**about, "capacity": CAPACITY, "attempts": [], "detail": {}})

    def _on_messages(self, peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            if message.kind == "launch":
                order = message.body["order"]
                attempt = {"worker_id": self._name, "task_id": order["task_id"], "attempt": order["attempt"], "rank": 0}
                report = {"exit_code": 0, "ended_at": time.time(), "log": {"file": "", "offset": 0, "length": 0}}
                peer.post("ended", {**attempt, "report": report})
            elif message.kind == "ack":
                self._ended.one()

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.client.post("beat", {"worker_id": self._name, "sent_t": time.monotonic()})


class Ended:
    """Counts ends that are on record."""

    def __init__(self) -> None:
        self.count = 0
        self._moved = asyncio.Event()

    def one(self) -> None:
        self.count += 1
        self._moved.set()

    async def reach(self, count: int) -> None:
        while self.count < count:
            self._moved.clear()
            await self._moved.wait()


def tasks(first: int, count: int) -> dict[str, Any]:
    found = [{"id": f"g{number:011d}", "request": REQUEST} for number in range(first, first + count)]
    return {"user_id": "ada", "ip_address": "127.0.0.1", "tasks": found}


async def ended_us(socket: Path, process: Process, count: int, nodes: int) -> float:
    """Processor microseconds for each of `count` tasks on so many nodes. A thousand go before, to warm up."""
    ended = Ended()
    found = [Node(socket, f"n{number}", ended) for number in range(nodes)]
    async with asyncio.TaskGroup() as group:
        for node in found:
            await node.client.start()
            await node.client.request("counts")
        beats = [group.create_task(node.beat()) for node in found]
        await submit(found[0].client, ended, BATCH)
        before = process.cpu_s()[0]
        await submit(found[0].client, ended, count)
        took_us = (process.cpu_s()[0] - before) * 1e6
        for beat in beats:
            beat.cancel()
    for node in found:
        await node.client.close()
    return took_us / count


async def submit(client: Client, ended: Ended, count: int) -> None:
    """Submit, and wait until all have ended."""
    first = ended.count
    for at in range(first, first + count, BATCH):
        await ended.reach(at - AHEAD_MAX)
        await client.request("submit", tasks(at, min(BATCH, first + count - at)))
    await ended.reach(first + count)


async def queued_bytes(socket: Path, process: Process, count: int) -> float:
    """Bytes of memory for each of `count` tasks that wait, as no node is there."""

    async def resolve() -> Path:
        return socket

    client = Client(resolve)
    await client.start()
    await client.request("counts")
    before = process.memory_mib()[1]
    for at in range(0, count, BATCH):
        await client.request("submit", tasks(at, BATCH))
    grown = process.memory_mib()[1] - before
    await client.close()
    return grown * 2**20 / count


def cost(count: int, nodes: int) -> float:
    with scheduler() as (socket, process):
        return uvloop.run(ended_us(socket, process, count, nodes))


def report(title: str, rows: list[tuple[int, int]], rounds: int) -> bool:
    """Rows are (tasks, nodes), the smallest first. Whether all steps are within their bound."""
    print(f"\n{title}: processor time of the scheduler for each, us")
    found: dict[tuple[int, int], list[float]] = {row: [] for row in rows}
    for _ in range(rounds):
        for row in rows:
            found[row].append(cost(*row))
    medians = [statistics.median(times) for times in found.values()]
    for (count, nodes), times, median in zip(rows, found.values(), medians, strict=True):
        print(f"  {count:7} tasks, {nodes:3} nodes: {median:6.1f}  ({min(times):.1f} to {max(times):.1f})")
    ratios = [large / small for small, large in pairwise(medians)]
    for ratio in ratios:
        print(f"  step: {ratio:.2f} times (below {GROWTH_MOST}: {'met' if ratio < GROWTH_MOST else 'MISSED'})")
    return all(ratio < GROWTH_MOST for ratio in ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", default="1000,10000,100000")
    parser.add_argument("--nodes", default="1,4,16")
    parser.add_argument("--queued", type=int, default=100_000)
    given = parser.parse_args()
    if given.serve:
        uvloop.run(serve(given.serve))
        return 0
    holds = report("Tasks", [(int(count), 1) for count in given.tasks.split(",")], given.rounds)
    holds &= report("Nodes", [(10_000, int(nodes)) for nodes in given.nodes.split(",")], given.rounds)
    with scheduler() as (socket, process):
        each = uvloop.run(queued_bytes(socket, process, given.queued))
    fits = each < QUEUED_BYTES_MOST
    print(
        f"\n{given.queued} waiting: {each:.0f} bytes for each (below {QUEUED_BYTES_MOST}: {'met' if fits else 'MISSED'})"
    )
    return 0 if holds and fits else 1


if __name__ == "__main__":
    sys.exit(main())
