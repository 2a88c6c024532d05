"""A scheduler that only listens and orders, and an agent beside it: a real channel, a real runner, no Ray."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors.agent import Agent
from fetchmld.channel import Client, Message, Peer, Reply, Server, serve
from fetchmld.core.line import Line
from fetchmld.runner.proctree import Marks, stat_of
from tests.runner.client import cgroups_of

WAIT_S = 20.0


class FakeScheduler:
    """Keeps what it is told, in order, and answers hellos and beats."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "run" / "scheduler.sock"
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.answers_beats = True
        self._news = asyncio.Condition()
        self._agent: Peer | None = None
        self._line = Line("", 0.0)
        self.said_last: tuple[str, dict[str, Any]] = ("", {})
        self._server: Server | None = None

    async def open(self) -> None:
        self._server = await serve(self._path, self._on_messages)

    def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self._agent = None

    def _on_messages(self, peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            self.said.append((message.kind, message.body))
            if message.kind == "hello":
                self._agent, self._line = peer, Line(message.body["boot_id"], message.body["line"])
                message.reply({})
            elif message.kind == "beat" and self.answers_beats:
                self.tell("beat", sent_t=message.body["sent_t"])

    def tell(self, kind: str, **body: Any) -> None:
        assert self._agent is not None, "no agent has said hello"
        self.said_last = (kind, {"mark": self._line.mark(), **body})
        self.repeat(self.said_last)

    def repeat(self, message: tuple[str, dict[str, Any]]) -> None:
        """Say it again, as a transport may that delivers more than once."""
        assert self._agent is not None
        self._agent.post(*message)

    def skip_one(self) -> None:
        """A message is lost on the way."""
        self._line.mark()

    def all(self, kind: str, task_id: str = "") -> list[dict[str, Any]]:
        return [body for said, body in self.said if said == kind and task_id in ("", body.get("task_id"))]

    async def heard(self, kind: str, task_id: str = "", count: int = 1) -> dict[str, Any]:
        """The `count`th message of that kind (about that task), waited for."""
        await until(lambda: len(self.all(kind, task_id)) >= count, f"{kind} {task_id}")
        return self.all(kind, task_id)[count - 1]

    async def ended(self, task_id: str, count: int = 1) -> dict[str, Any]:
        """The report of that task's end."""
        report: dict[str, Any] = (await self.heard("ended", task_id, count))["report"]
        return report


async def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not (value := condition()):
            await asyncio.sleep(0.005)
    return value


class Node:
    """One node: a fake scheduler, and an agent that may be killed and started again."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        (directory / "run").mkdir(exist_ok=True)
        (directory / "data" / "datasets").mkdir(parents=True, exist_ok=True)
        self.settings = {
            "data_dir": str(directory / "data"),
            "run_dir": str(directory / "run"),
            "worker_id": "w1",
            "num_cpus": 2,
            "num_gpus": 2,
            "gpu_type": "FAKE",
            "memory_gb": 1,
            "heartbeat_s": 0.05,
            "grace_s": 5.0,
            "isolation": "none",  # scripts and marks of these tests lie in directories that are ours alone
            **settings,
        }
        self.scheduler = FakeScheduler(directory)
        self.agent = Agent(self.settings)
        self.orders: list[str] = []

    @property
    def node_dir(self) -> Path:
        return self.directory / "data" / "node"

    @property
    def marks(self) -> Marks:
        return Marks(str(self.node_dir))

    async def open(self) -> "Node":
        await self.scheduler.open()
        await self.agent.start()
        await self.scheduler.heard("hello")
        return self

    async def restart_agent(self) -> None:
        """A new agent in the place of one that vanished: nothing of the old one's state is kept."""
        await self.agent.shutdown()
        await self.start_agent(hello=len(self.scheduler.all("hello")) + 1)

    async def start_agent(self, hello: int) -> None:
        """Start an agent and wait for its hello, the `hello`th of all."""
        self.agent = Agent(self.settings)
        await self.agent.start()
        await self.scheduler.heard("hello", count=hello)

    def launch(self, task_id: str, entrypoint: str = "", **request: Any) -> None:
        attempt = 1
        if entrypoint:
            request["entrypoint"] = entrypoint
        order = {
            "task_id": task_id,
            "attempt": attempt,
            "rank": 0,
            "user_id": "u",
            "request": {"job_name": "job", **request},
            "assignments": [{"rank": 0, "worker_id": "w1", "gpus": request.pop("gpus", [])}],
        }
        self.orders.append(f"{task_id}-{attempt}-0")
        self.scheduler.tell("launch", order=order)

    async def run(self, task_id: str, entrypoint: str = "", **request: Any) -> dict[str, Any]:
        self.launch(task_id, entrypoint, **request)
        return await self.scheduler.ended(task_id)

    def stop(self, task_id: str, word: str = "CANCELLED") -> None:
        self.scheduler.tell("stop", task_id=task_id, attempt=1, word=word, detail="asked for it")

    def ack(self, task_id: str) -> None:
        self.scheduler.tell("ack", task_id=task_id, attempt=1)

    async def read(
        self, task_id: str, place: Any = None, offset: int = 0, wait_s: float = 0.0, limit: int = 65536
    ) -> Reply:
        """Ask the agent for a log, as the head does."""

        async def where() -> Path:
            return Path(await self.agent.address())

        client = Client(where)
        await client.start()
        try:
            body = {
                "task_id": task_id,
                "attempt": 1,
                "place": place,
                "offset": offset,
                "limit": limit,
                "wait_s": wait_s,
            }
            return await client.request("log.read", body)
        finally:
            await client.close()

    async def output(self, task_id: str, place: Any = None) -> bytes:
        return (await self.read(task_id, place)).blob

    async def close(self) -> None:
        runner_pid = (await self.agent.ping())["runner_pid"]
        await self.agent.shutdown()
        self.scheduler.close()
        for pid in [runner_pid, *self.marks.find(set(self.orders))]:
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)
        await until(lambda: not alive(runner_pid) and not self.marks.find(set(self.orders)), "the end of all processes")
        for path in cgroups_of(self.node_dir):
            path.rmdir()


def alive(pid: int) -> bool:
    stat = stat_of(pid)
    return stat is not None and stat.state not in "ZX"


@asynccontextmanager
async def node(**settings: Any) -> AsyncIterator[Node]:
    """A node in a directory of its own, whose processes are ended with it."""
    directory = Path(tempfile.mkdtemp(prefix="fml-"))
    found = Node(directory, **settings)
    try:
        yield await found.open()
    finally:
        await found.close()
        shutil.rmtree(directory)


def on_node(story: Callable[[Node], Awaitable[None]], **settings: Any) -> None:
    """Run `story` on a node."""

    async def tell() -> None:
        async with node(**settings) as found:
            await story(found)

    asyncio.run(tell())
