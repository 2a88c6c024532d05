"""Where a task's output is read: in the head's own copy, or from the machine that it ran on, whichever has it.

What has ended is read here, once it was sent here. What runs is asked for where it runs; while that machine does not
answer, what it sent before is shown. So is what came of an attempt whose machine was lost before it said where it is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from fetchmld.channel import Client
from fetchmld.core.errors import NotFound, Unavailable
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import LogPlace, TaskId, TaskView
from fetchmld.store.shipment import unpack
from fetchmld.store.shipped_logs import ShippedLogs

ANSWER_S: Final = 10.0  # for a machine's answer, beyond what it was asked to wait
LIVE: Final = "live/"


class Output(NamedTuple):
    """As `api.head.LogChunk`."""

    data: bytes
    offset: int
    size: int
    ended: bool


class LogDesk:
    """`agent_of`: the way to a worker's agent. `task_of`: a task as it is now."""

    def __init__(
        self,
        shipped: ShippedLogs,
        own_worker: str,
        agent_of: Callable[[str], Awaitable[Client]],
        task_of: Callable[[TaskId], Awaitable[TaskView | None]],
    ) -> None:
        self._shipped = shipped
        self._own_worker = own_worker
        self._agent_of = agent_of
        self._task_of = task_of

    # -- reading

    async def read(self, task: TaskView, offset: int, limit_bytes: int, wait_s: float) -> Output:
        """As `api.head.Head.logs`."""
        report = task["report"] or {}
        if (place := report.get("log")) is not None:
            return await self._read_kept(task, place, offset, limit_bytes)
        if task["status"] in ENDED:
            sent = await self._sent(task, offset, limit_bytes, is_over=True)
            if sent is None and report.get("word") == "WORKER_LOST" and not task["assignments"]:
                raise NotFound(
                    f"the log of attempt {task['attempt']} is not known: its worker was lost before it sent any of it"
                )
            return sent or Output(b"", offset, 0, True)
        if not task["assignments"]:
            return Output(b"", offset, 0, False)
        return await self._read_running(task, offset, limit_bytes, wait_s)

    async def _read_kept(self, task: TaskView, place: LogPlace, offset: int, limit_bytes: int) -> Output:
        if place["worker_id"] != self._own_worker:
            owner = f"{task['id']}-{task['attempt']}-"
            data = await asyncio.to_thread(self._shipped.read, place, owner, offset, limit_bytes)
            if data is not None:
                return Output(data, offset, place["length"], offset + len(data) >= place["length"])
        try:
            return await self._ask(task, place, offset, limit_bytes, 0.0)
        except Unavailable:
            raise Unavailable(
                f"the log of task {task['id']} is on worker {place['worker_id']}, which does not answer, and has not been "
                "sent here; try again when it is back"
            ) from None

    async def _read_running(self, task: TaskView, offset: int, limit_bytes: int, wait_s: float) -> Output:
        agent = await self._agent_of(task["assignments"][0]["worker_id"])
        if not agent.connected:
            sent = await self._sent(task, offset, limit_bytes)
            if sent is not None and sent.data:
                return sent
        try:
            return await self._ask(task, None, offset, limit_bytes, wait_s)
        except Unavailable:
            is_over = await self._is_over(task)
            sent = await self._sent(task, offset, limit_bytes, is_over)
            if sent is None and not is_over:
                raise
            return sent or Output(b"", offset, 0, True)

    async def _is_over(self, task: TaskView) -> bool:
        """Has the attempt been given up, and the task perhaps been started elsewhere?"""
        now = await self._task_of(TaskId(task["id"]))
        return now is None or now["attempt"] != task["attempt"] or not now["assignments"]

    async def _sent(self, task: TaskView, offset: int, limit_bytes: int, is_over: bool = False) -> Output | None:
        """What the attempt's first node sent while it ran; None where nothing came."""
        name = f"{task['id']}-{task['attempt']}-0"
        found = await asyncio.to_thread(self._shipped.read_loose, name, offset, limit_bytes)
        if found is None:
            return None
        data, size = found
        return Output(data, offset, size, is_over and offset + len(data) >= size)

    async def _ask(
        self, task: TaskView, place: LogPlace | None, offset: int, limit_bytes: int, wait_s: float
    ) -> Output:
        body: dict[str, Any] = {
            "task_id": task["id"],
            "attempt": task["attempt"],
            "place": place,
            "offset": offset,
            "limit": limit_bytes,
            "wait_s": wait_s,
        }
        agent = await self._agent_of(place["worker_id"] if place else task["assignments"][0]["worker_id"])
        answer = await agent.request("log.read", body, timeout_s=wait_s + ANSWER_S)
        return Output(answer.blob, answer.body["offset"], answer.body["size"], answer.body["ended"])

    # -- what machines send

    async def lengths(self, worker_id: str) -> dict[str, int]:
        """As `api.head.MachineLogs`."""
        return await asyncio.to_thread(self._shipped.lengths, worker_id)

    async def take(self, worker_id: str, shipment: bytes) -> dict[str, int]:
        """As `api.head.MachineLogs`. An attempt's output stays as long as nothing else says where it is."""
        pieces = [
            piece for piece in unpack(shipment) if not piece.gone or await self._is_on_record(worker_id, piece.file)
        ]
        return await asyncio.to_thread(self._shipped.take, worker_id, pieces)

    async def _is_on_record(self, worker_id: str, live: str) -> bool:
        """Does the record say that this attempt's output lies on that worker? True for a task that is no more."""
        name = live.removeprefix(LIVE).removesuffix(".log")
        task_id, attempt, rank = [*name.rsplit("-", 2), "", ""][:3]
        task = await self._task_of(TaskId(task_id))
        if task is None or rank != "0":
            return True
        places = {earlier["attempt"]: earlier["log"] for earlier in task.get("earlier", ())}
        if (place := (task["report"] or {}).get("log")) is not None:
            places[task["attempt"]] = place
        found = places.get(int(attempt) if attempt.isdigit() else -1)
        return found is not None and found["worker_id"] == worker_id
