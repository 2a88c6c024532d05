"""The second task of a dataset runs where the first one left it: a real scheduler, two real agents, no Ray."""

import asyncio
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from actors.agent import Agent
from actors.scheduler import SchedulerActor
from fetchmld.channel import Client
from fetchmld.config import Config
from fetchmld.store.tail import Tail
from tests.actors.fake_scheduler import alive, until

BODY = b"1,2\n" * 1000
SUM = hashlib.sha256(BODY).hexdigest()


class Pair:
    """One scheduler; agents are started one by one, each on what counts as a machine of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = directory / "shared" / "d.csv"
        self.source.parent.mkdir()
        self.source.write_bytes(BODY)
        (directory / "admin.key").write_text("fml_test\n")
        self.socket = directory / "scheduler.sock"
        config = Config(data_dir=directory, segment_bytes=2**20).model_dump(mode="json")
        self.scheduler = SchedulerActor({**config, "run_dir": str(directory)})
        self.client = Client(self._resolve)
        self.agents: dict[str, Agent] = {}
        self.runners: set[int] = set()

    async def _resolve(self) -> Path:
        return self.socket

    async def open(self) -> "Pair":
        await self.scheduler.start()
        await self.client.start()
        await self.client.request("durable")
        return self

    async def start_agent(self, name: str, cpus: int, **settings: Any) -> None:
        """Start it, or start it again in the place of one that is gone."""
        home = self.directory / name
        (home / "run").mkdir(parents=True, exist_ok=True)
        link = home / "run" / "scheduler.sock"
        if not link.is_symlink():
            link.symlink_to(self.socket)
        about = {"data_dir": str(home), "run_dir": str(home / "run"), "worker_id": name, "num_cpus": cpus}
        more = {"num_gpus": 0, "memory_gb": 1, "heartbeat_s": 0.05, "dataset_roots": [str(self.source.parent)]}
        agent = self.agents[name] = Agent({**about, **more, **settings})
        await agent.start()
        self.runners.add((await agent.ping())["runner_pid"])
        while name not in {w["id"] for w in await self.ask("workers") if w["status"] == "active"}:
            await asyncio.sleep(0.01)

    async def ask(self, kind: str, **body: Any) -> Any:
        return (await self.client.request(kind, body)).body

    async def where(self, task_id: str, **request: Any) -> str:
        """Run the task to its end; the worker that it ran on."""
        asked = {"job_name": "job", "entrypoint": "/bin/true", **request}
        tasks = [{"id": task_id, "request": asked}]
        await self.ask("submit", user_id="ada", ip_address="", trace_id="", tasks=tasks)
        view = (await self.client.request("wait", {"task_id": task_id, "timeout_s": 20.0}, timeout_s=20.0)).body
        assert view["status"] == "completed", view
        return str(view["assignments"][0]["worker_id"])

    async def reads(self) -> list[tuple[str, str, bool]]:
        """Every `dataset.read` on record: task, worker, and whether it was there already."""
        seq = (await self.ask("durable"))["seq"]
        with closing(Tail(self.directory / "ledger")) as tail:
            facts = [event.fact for event in tail.read(seq, 1000)]
        reads = [fact.metadata for fact in facts if fact.action == "dataset.read"]
        return [(read["task_id"], read["worker_id"], read["cached"]) for read in reads]

    def dataset(self) -> dict[str, Any]:
        return {"dataset_specs": [{"name": "d", "source": str(self.source), "mount_path": "data/d.csv", "sha256": SUM}]}

    async def close(self) -> None:
        for agent in self.agents.values():
            await agent.shutdown()
        await self.client.close()
        await self.scheduler.shutdown()
        for pid in self.runners:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(map(alive, self.runners)), "the end of the runners")


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    directory = Path(tempfile.mkdtemp(prefix="fml-"))
    found = Pair(directory)
    try:
        yield await found.open()
    finally:
        await found.close()
        shutil.rmtree(directory)


def test_the_second_task_of_a_dataset_runs_where_it_is_cached() -> None:
    async def story() -> list[tuple[str, str, bool]]:
        async with pair() as cluster:
            await cluster.start_agent("far", 8)
            assert await cluster.where("t1", **cluster.dataset()) == "far"
            await cluster.start_agent("near", 2)
            assert await cluster.where("t2") == "near", "the tighter fit"
            assert await cluster.where("t3", **cluster.dataset()) == "far", "it has the dataset"
            await cluster.agents["far"].shutdown()
            await cluster.start_agent("far", 8)
            assert await cluster.where("t4", **cluster.dataset()) == "far", "its hello says that it still has it"
            return await cluster.reads()

    expected = [("t1", "far", False), ("t3", "far", True), ("t4", "far", True)]
    assert asyncio.run(story()) == expected
