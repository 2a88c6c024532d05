"""A node's Jupyter servers beside their attempts: files, readiness, idleness. A small program answers in their place."""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from actors import jupyter, services
from actors.jupyter import Server
from actors.notebooks import Notebooks
from actors.services import Services
from actors.workspace import CannotRun
from fetchmld.core.agent import RunKey
from fetchmld.core.messages import Fact, LaunchOrder

KEY = RunKey("s1", 1)


@pytest.fixture(autouse=True)
def run_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Servers' short directories, whoever forgets them."""
    with tempfile.TemporaryDirectory(prefix="fml-run-") as directory:
        monkeypatch.setattr(services, "RUN_ROOT", directory)
        yield


class Node:
    """The services of one node, and what they did."""

    def __init__(self, tmp_path: Path, idle_s: float = 0.0) -> None:
        self.facts: list[Fact] = []
        self.stopped: list[tuple[RunKey, str]] = []
        self.changed = asyncio.Event()
        notebooks = Notebooks(tmp_path / "workspaces", range(0))
        self.services = Services(tmp_path / "node", notebooks, idle_s, self._record, self._stop)
        (tmp_path / "node").mkdir(exist_ok=True)
        self.services.open(lambda name: name == "s1-1-0")

    def _record(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.changed.set()

    def _stop(self, key: RunKey, word: str, _detail: str) -> None:
        self.stopped.append((key, word))
        self.changed.set()

    async def until_something_happens(self) -> None:
        await asyncio.wait_for(self.changed.wait(), 10)
        self.changed.clear()


def order(task_id: str = "s1", workspace: str = "default") -> LaunchOrder:
    request = {"job_name": "lab", "kind": "service", "jupyter": {"name": "lab", "workspace": workspace}}
    return cast(LaunchOrder, {"task_id": task_id, "attempt": 1, "rank": 0, "user_id": "ada", "request": request})


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(bounded())


@asynccontextmanager
async def answering(server: Server, last_activity: float, kernels: str = "idle") -> Any:
    """Stands where JupyterLab would, and lets in whoever has its token."""

    async def status(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"token {server.token}":
            return web.Response(status=403)
        at = datetime.fromtimestamp(last_activity, UTC).isoformat().replace("+00:00", "Z")
        return web.json_response({"last_activity": at, "kernels": 1})

    async def list_kernels(request: web.Request) -> web.Response:
        assert request.query["no_track_activity"] == "1"
        return web.json_response([{"execution_state": kernels}])

    app = web.Application()
    app.router.add_get(f"{server.base}/api/status", status)
    app.router.add_get(f"{server.base}/api/kernels", list_kernels)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, server.endpoint.removeprefix("unix:")).start()
    try:
        yield
    finally:
        await runner.cleanup()


def test_its_token_lies_in_one_file_of_its_users(tmp_path: Path) -> None:
    async def test() -> None:
        node = Node(tmp_path)
        server = node.services.make(order(), -1)
        settings = Path(server.run, jupyter.SETTINGS)
        assert settings.stat().st_mode & 0o777 == 0o600
        assert os.stat(server.run).st_mode & 0o777 == 0o700
        assert json.loads(settings.read_text())["IdentityProvider"]["token"] == server.token
        assert len(server.endpoint) < 100
        assert server.token not in " ".join(jupyter.words(server, "python"))
        assert server.token not in json.dumps(jupyter.variables(server))
        node.services.forget(KEY)
        assert not os.path.exists(server.run)
        assert list((tmp_path / "node" / "services").iterdir()) == []
        assert os.path.isdir(server.home)

    run(test)


def test_it_is_ready_once_it_answers_and_a_new_agent_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PROBE_FIRST_S", 0.01)

    async def test() -> None:
        node = Node(tmp_path)
        server = node.services.make(order(), -1)
        node.services.runs(KEY)
        look = node.services.look(KEY)
        assert look is not None
        assert look["ready"] is False
        async with answering(server, last_activity=1e9):
            await node.until_something_happens()
            assert [fact.action for fact in node.facts] == ["service.start"]
            look = node.services.look(KEY)
            assert look is not None
            assert (look["ready"], look["last_activity_at"], look["token"]) == (True, 1e9, server.token)
            await node.services.close()
            after = Node(tmp_path)
            after.services.runs(KEY)
            await after.until_something_happens()
            assert after.services.look(KEY) == look
            after.services.ended(KEY)
            assert [fact.action for fact in after.facts] == ["service.start", "service.stop"]
        assert node.services.look(RunKey("s1", 2)) is None

    run(test)


@pytest.mark.parametrize(
    ("kernels", "ago_s", "is_culled"), [("idle", 100, True), ("busy", 100, False), ("idle", 0, False)]
)
def test_an_idle_one_is_ended_and_a_busy_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str, ago_s: float, is_culled: bool
) -> None:
    monkeypatch.setattr(services, "PROBE_FIRST_S", 0.01)
    monkeypatch.setattr(services, "PROBE_S", 0.01)

    async def test() -> None:
        node = Node(tmp_path, idle_s=50)
        server = node.services.make(order(), -1)
        looks: list[bool] = []
        answers = node.services._answers

        async def counted(key: RunKey, asked: Server) -> bool:
            looks.append(True)
            if len(looks) > 5:
                node.changed.set()
            return await answers(key, asked)

        monkeypatch.setattr(node.services, "_answers", counted)
        async with answering(server, time.time() - ago_s, kernels):
            node.services.runs(KEY)
            await node.until_something_happens()
            await node.until_something_happens()
            assert node.stopped == ([(KEY, "CULLED")] if is_culled else [])
            await node.services.close()

    run(test)


def test_a_workspace_is_one_servers_at_a_time(tmp_path: Path) -> None:
    async def test() -> None:
        node = Node(tmp_path)
        node.services.make(order(), -1)
        with pytest.raises(CannotRun, match="WORKSPACE_IN_USE"):
            node.services.make(order("s2"), -1)
        node.services.make(order("s3", "other"), -1)
        node.services.forget(KEY)
        node.services.make(order("s2"), -1)
        assert node.services.look(RunKey("s2", 1)) is not None
        for task_id in ("s2", "s3"):
            node.services.forget(RunKey(task_id, 1))

    run(test)


def test_an_attempt_that_is_made_ready_again_has_its_workspace_still(tmp_path: Path) -> None:
    async def test() -> None:
        before = Node(tmp_path).services.make(order(), -1)
        node = Node(tmp_path)
        server = node.services.make(order(), -1)
        assert not os.path.exists(before.run)
        assert os.path.exists(server.run)
        node.services.keep_only({"s1-1-0"})
        assert node.services.look(KEY) is not None
        node.services.keep_only(set())
        assert node.services.look(KEY) is None

    run(test)


def test_what_is_left_of_attempts_that_are_gone_goes_too(tmp_path: Path) -> None:
    async def test() -> None:
        node = Node(tmp_path)
        gone = node.services.make(order("s9", "nine"), -1)
        kept = node.services.make(order(), -1)
        Path(tmp_path, "node", "services", "junk.json").write_text("{")
        after = Node(tmp_path)
        assert after.services.look(RunKey("s9", 1)) is None
        assert after.services.look(KEY) is not None
        assert not os.path.exists(gone.run)
        assert os.path.exists(kept.run)
        assert after.services.uid_at(kept.endpoint) == os.geteuid()
        assert after.services.uid_at("unix:/run/docker.sock") is None
        after.services.forget(KEY)

    run(test)
