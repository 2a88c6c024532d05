"""What machines that joined cost the head: `python load/workers/lines.py --lines 100 400`.

Two actors on a Ray node of their own: one answers, as the scheduler does, through the real `Gate`; the other dials it
once for each machine, as an agent does, through the real `over_ray`, and says a heartbeat of eight GPUs every second,
which is answered. Processor time of both, Ray's threads included, and how late the answers came. Then the same over one
unix socket each, as on the head's own machine.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import ray

from actors.ray_channel import Gate, over_ray
from fetchmld.channel import Client, Dial, Message, Peer, Server, serve

NAMESPACE: Final = "load"
USE: Final = {f"GPU-0000-{i}": {"used_mb": 70_000, "utilization": 95, "processes": 1} for i in range(8)}
BEAT_S: Final = 1.0
CALLS_AT_ONCE: Final = 10_000


def answer(_peer: Peer, messages: list[Message]) -> None:
    for message in messages:
        if message.id:
            message.reply()
        else:
            message.peer.post("beat", {"sent_t": message.body["sent_t"]})


def cpu_s() -> float:
    """Of this process with all its threads."""
    return time.process_time()


class Scheduler:
    """Whoever is dialled."""

    async def serve(self, path: str) -> None:
        self._server: Server = await serve(Path(path), answer)
        self._gate = Gate(self._server)

    async def push(self, line: str, number: int, piece: bytes) -> bool:
        return await self._gate.push(line, number, piece)

    async def pull(self, line: str, number: int) -> bytes | None:
        return await self._gate.pull(line, number)

    async def cpu_s(self) -> float:
        return cpu_s()


class Agents:
    """All agents in one process: what each would spend by itself is not what is measured."""

    async def beat(self, count: int, for_s: float, path: str) -> dict[str, Any]:
        late_s: list[float] = []

        def heard(_peer: Peer, messages: list[Message]) -> None:
            late_s.extend(time.monotonic() - message.body["sent_t"] for message in messages)

        async def where() -> Path | Dial:
            return Path(path) if path else over_ray("scheduler", NAMESPACE)

        clients = [Client(where, heard) for _ in range(count)]
        for client in clients:
            await client.start()
        await asyncio.gather(*(client.request("up", timeout_s=60.0) for client in clients))
        scheduler = ray.get_actor("scheduler", NAMESPACE)
        before, begun_t = (await scheduler.cpu_s.remote(), cpu_s()), time.monotonic()
        late_s.clear()

        async def say(client: Client, after_s: float) -> None:
            await asyncio.sleep(after_s)
            while time.monotonic() < begun_t + for_s:
                client.post("beat", {"worker_id": "w", "sent_t": time.monotonic(), "gpu_use": USE})
                await asyncio.sleep(BEAT_S)

        await asyncio.gather(*(say(client, BEAT_S * number / count) for number, client in enumerate(clients)))
        took_s = time.monotonic() - begun_t
        after = (await scheduler.cpu_s.remote(), cpu_s())
        for client in clients:
            await client.close()
        return {"answered": late_s, "scheduler": after[0] - before[0], "agents": after[1] - before[1], "took_s": took_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="+", default=[50, 200, 400])
    parser.add_argument("--for-s", type=float, default=8.0)
    given = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    root = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory(prefix="fml-lines-") as directory:
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            namespace=NAMESPACE,
            _node_ip_address="127.0.0.1",
            runtime_env={"env_vars": {"PYTHONPATH": f"{root}:{Path(__file__).parent}"}},
        )
        many = {"num_cpus": 0, "max_concurrency": CALLS_AT_ONCE}
        scheduler = ray.remote(Scheduler).options(name="scheduler", **many).remote()
        ray.get(scheduler.serve.remote(f"{directory}/s.sock"))
        agents = ray.remote(Agents).options(**many).remote()
        print(f"{'machines':>9} {'over':>8} {'head, ms a beat':>16} {'agents, ms':>11} {'answered after, ms':>20}")
        for count in given.lines:
            for over, path in (("Ray", ""), ("socket", f"{directory}/s.sock")):
                said = ray.get(agents.beat.remote(count, given.for_s, path))
                beats = len(said["answered"])
                each = [1e3 * said[who] / max(beats, 1) for who in ("scheduler", "agents")]
                middle, worst = 1e3 * statistics.median(said["answered"]), 1e3 * max(said["answered"])
                print(f"{count:>9} {over:>8} {each[0]:>16.2f} {each[1]:>11.2f} {middle:>12.1f} (worst {worst:.0f})")
        ray.shutdown()


if __name__ == "__main__":
    main()
