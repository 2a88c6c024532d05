"""`top`: the screen, driven by its keys, on answers of a stub daemon."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from fetchmld.cli.top_screen import Screen, worker_line
from fetchmld.client.client import Client
from tests.cli.conftest import Run
from tests.client.stub import Stub, answer, refused


def task(task_id: str, status: str, priority: float) -> dict[str, Any]:
    return {
        "id": task_id,
        "job_name": f"job-{task_id}",
        "status": status,
        "priority": int(priority),
        "priority_aged": priority,
        "created_at": "2026-01-31T12:00:00.000000Z",
        "user_id": "ada",
    }


WORKER: dict[str, Any] = {
    "id": "w1",
    "hostname": "node1",
    "status": "active",
    "suspect": False,
    "capabilities": {"cpu_cores": 8, "gpu_count": 3, "memory_gb": 32},
    "free": {"cpu_cores": 5, "gpu_count": 1, "memory_gb": 32},
    "gpus": [{"status": "held"}, {"status": "free"}, {"status": "quarantined"}],
}


def on_screen(stub: Stub, story: Callable[[Screen, Pilot[None]], Awaitable[None]]) -> None:
    lists = {"running": [task("r", "running", 5)], "queued": [task("low", "queued", 2), task("high", "queued", 9)]}

    def tasks(asked: Any) -> bytes:
        status = asked.target.partition("status=")[2].partition("&")[0]
        found = lists.get(status, [])
        return answer(200, {"tasks": found, "total": len(found)})

    stub.handlers |= {
        "GET /v1/tasks": tasks,
        "GET /v1/scheduler/status": answer(200, {"tasks_running": 1, "batch_queue_depth": 2, "workers_total": 1}),
        "GET /v1/scheduler/workers": answer(200, [WORKER]),
    }

    async def run() -> None:
        with Client(stub.address, "fml_test", retry_s=0) as client:
            screen = Screen(client, 0.5, None)
            async with screen.run_test(size=(120, 30)) as pilot:
                async with asyncio.timeout(20):
                    while not screen.query_one(DataTable).row_count:
                        await pilot.pause(0.02)
                    await story(screen, pilot)

    asyncio.run(run())


def said(screen: Screen, where: str) -> str:
    return str(screen.query_one(f"#{where}", Static).render())


async def until(pilot: Pilot[None], screen: Screen, where: str, text: str) -> None:
    while text not in said(screen, where):
        await pilot.pause(0.02)


def test_what_runs_comes_first_then_whose_turn_is_next(stub: Stub) -> None:
    async def story(screen: Screen, pilot: Pilot[None]) -> None:
        table = screen.query_one(DataTable)
        assert [table.get_row_at(at)[0] for at in range(3)] == ["r", "high", "low"]
        assert "1 running, 2 waiting" in said(screen, "numbers")
        assert "[#.x]" in said(screen, "workers")

    on_screen(stub, story)


def test_keys_ask_about_the_chosen_task(stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/high/explain"] = answer(200, {"task_id": "high", "reason": "needs 2 GPUs"})
    stub.handlers["GET /v1/tasks/r"] = answer(200, {**task("r", "running", 5), "output": "epoch 7\n"})

    async def story(screen: Screen, pilot: Pilot[None]) -> None:
        await pilot.press("l")
        await until(pilot, screen, "answer", "epoch 7")
        await pilot.press("down", "w")
        await until(pilot, screen, "answer", "needs 2 GPUs")

    on_screen(stub, story)


def test_cancelling_takes_the_key_twice(stub: Stub) -> None:
    stub.handlers["DELETE /v1/tasks/r"] = answer(204)

    async def story(screen: Screen, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        await until(pilot, screen, "answer", "once more")
        assert not [asked for asked in stub.asked if asked.method == "DELETE"]
        await pilot.press("c")
        await until(pilot, screen, "answer", "being cancelled")
        assert [asked.target for asked in stub.asked if asked.method == "DELETE"] == ["/v1/tasks/r"]

    on_screen(stub, story)


def test_a_daemon_that_goes_away_is_said_and_looked_for(stub: Stub) -> None:
    async def story(screen: Screen, pilot: Pilot[None]) -> None:
        well = stub.handlers["GET /v1/scheduler/status"]
        stub.handlers["GET /v1/scheduler/status"] = refused(503, "SERVICE_UNAVAILABLE", "not now")
        await until(pilot, screen, "numbers", "cannot look: not now")
        stub.handlers["GET /v1/scheduler/status"] = well
        await until(pilot, screen, "numbers", "1 running")

    on_screen(stub, story)


def test_without_its_package_the_command_says_which(client: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "textual"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fetchmld.cli.top_screen", raising=False)
    monkeypatch.setitem(sys.modules, "textual", None)
    ran = client("top")
    assert ran.code == 2
    assert "pip install 'fetchmld[top]'" in ran.err


def test_a_wrong_key_is_said_before_the_screen_is_taken(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/scheduler/status"] = refused(401, "UNAUTHORIZED", "the API key is not known")
    ran = client("top")
    assert ran.code == 4
    assert "not known" in ran.err


def test_a_silent_worker_says_so() -> None:
    assert "silent" in worker_line({**WORKER, "suspect": True})
