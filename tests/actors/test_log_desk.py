"""Where output is read: here once it was sent here, from its machine else, and whatever came where that machine is gone."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from actors.log_desk import LogDesk, Output
from fetchmld.api.attempts import of_attempt
from fetchmld.channel import Client, Reply
from fetchmld.core.errors import NotFound, Unavailable
from fetchmld.core.model import LogPlace, TaskId, TaskView
from fetchmld.runner.logs import LogPool
from fetchmld.store.shipment import Piece, live_name
from fetchmld.store.shipped_logs import ShippedLogs


class Agent:
    """A worker's agent as the desk reaches it; None: it does not answer."""

    def __init__(self, output: bytes | None) -> None:
        self.output = output
        self.asked = 0

    @property
    def connected(self) -> bool:
        return self.output is not None

    async def request(self, kind: str, body: dict[str, Any], timeout_s: float) -> Reply:
        assert kind == "log.read"
        self.asked += 1
        if self.output is None:
            raise Unavailable("no answer")
        data = self.output[body["offset"] : body["offset"] + body["limit"]]
        return Reply({"offset": body["offset"], "size": len(self.output), "ended": False}, data)


class Desk:
    def __init__(self, top: Path) -> None:
        self.store = ShippedLogs(top / "head")
        self.agent = Agent(b"from the worker")
        self.now: TaskView | None = None
        self.desk = LogDesk(self.store, "own", self._agent_of, self._task_of)

    async def _agent_of(self, worker_id: str) -> Client:
        return cast(Client, self.agent)

    async def _task_of(self, task_id: TaskId) -> TaskView | None:
        return self.now

    def read(self, view: TaskView, offset: int = 0, limit: int = 100, wait_s: float = 0.0) -> Output:
        work: Coroutine[Any, Any, Output] = self.desk.read(view, offset, limit, wait_s)
        return asyncio.run(work)


def view(**fields: Any) -> TaskView:
    running = {
        "id": "t", "status": "running", "attempt": 1, "report": None,
        "assignments": [{"rank": 0, "worker_id": "w", "gpus": []}],
    }  # fmt: skip
    return cast(TaskView, {**running, **fields})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def ended(top: Path, output: bytes) -> tuple[LogPlace, bytes]:
    pool = LogPool(str(top / "node"), set())
    slot, fd = pool.acquire()
    os.write(fd, output)
    place = cast(LogPlace, {"worker_id": "w", **pool.keep(slot, "t-1-0")})
    return place, (top / "node" / place["file"]).read_bytes()


def test_what_runs_is_asked_for_where_it_runs(desk: Desk) -> None:
    assert desk.read(view()) == Output(b"from the worker", 0, 15, False)
    assert desk.read(view(assignments=[], status="queued")) == Output(b"", 0, 0, False)


def test_what_was_sent_is_shown_while_the_worker_does_not_answer(desk: Desk) -> None:
    desk.store.take("w", [Piece(live_name("t-1-0"), 0, b"from the")])
    desk.agent.output, desk.now = None, view()
    assert desk.read(view(), 5) == Output(b"the", 5, 8, False)
    assert desk.agent.asked == 0
    assert desk.read(view(), 8) == Output(b"", 8, 8, False)  # more may come
    desk.now = view(attempt=2)
    assert desk.read(view(), 8) == Output(b"", 8, 8, True)  # it was given up
    desk.agent.output = b"from the worker"
    assert desk.read(view(), 8).data == b" worker"


def test_a_worker_that_does_not_answer_and_sent_nothing_is_said(desk: Desk) -> None:
    desk.agent.output, desk.now = None, view()
    with pytest.raises(Unavailable):
        desk.read(view())
    desk.now = view(assignments=[], status="queued")
    assert desk.read(view()) == Output(b"", 0, 0, True)


def test_what_has_ended_is_read_here_once_it_was_sent(desk: Desk, tmp_path: Path) -> None:
    place, content = ended(tmp_path, b"all of it")
    over = view(status="completed", report={"log": place})
    desk.agent.output = None
    with pytest.raises(Unavailable, match="worker w, which does not answer"):
        desk.read(over)
    desk.store.take("w", [Piece(place["file"], 0, content)])
    assert desk.read(over, 0, 4) == Output(b"all ", 0, 9, False)
    assert desk.read(over, 4) == Output(b"of it", 4, 9, True)


def test_what_came_of_an_attempt_whose_worker_was_lost_is_there(desk: Desk) -> None:
    lost = of_attempt(view(attempt=2), 1)
    with pytest.raises(NotFound, match="attempt 1 is not known: its worker was lost"):
        desk.read(lost)
    desk.store.take("w", [Piece(live_name("t-1-0"), 0, b"so far")])
    assert desk.read(lost) == Output(b"so far", 0, 6, True)
    failed = view(status="failed", report={"word": "WORKER_LOST"})
    assert desk.read(failed) == Output(b"so far", 0, 6, True)
    assert desk.read(view(id="u", status="failed")) == Output(b"", 0, 0, True)
