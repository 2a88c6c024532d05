"""Whether what somebody asks for is accepted: decoded, allowed to this caller, and naming only things that are there.

Knows no request of HTTP: whatever way a task comes in, it comes through here.
"""

from typing import Any

from fetchmld.api import access
from fetchmld.api.body import as_object
from fetchmld.api.head import Caller, Head
from fetchmld.api.intake import Intake
from fetchmld.config import Config
from fetchmld.core.errors import Conflict, FetchmlError, Invalid
from fetchmld.core.model import PRIORITY_DEFAULT, TaskId, TaskRequest


class Admission:
    """One per application."""

    def __init__(self, head: Head, config: Config, intake: Intake) -> None:
        self._head = head
        self._intake = intake
        self._user_priority_max = config.user_priority_max

    async def accept(self, caller: Caller, body: dict[str, Any], known: set[str]) -> TaskRequest:
        """What `body` asks for, if the caller may. `known`: experiments, snapshots and tasks that were looked up already.

        Raises Invalid, Forbidden and Conflict.
        """
        asked = self._intake.task_request(body)
        access.check_priority(caller, asked.get("priority", PRIORITY_DEFAULT), self._user_priority_max)
        if (experiment_id := asked.get("experiment_id")) and experiment_id not in known:
            await self._check_experiment(caller, experiment_id)
            known.add(experiment_id)
        if (snapshot_id := asked.get("snapshot_id")) and snapshot_id not in known:
            await self._check_snapshot(caller, snapshot_id)
            known.add(snapshot_id)
        if "image" in asked and "image" not in known:
            await self.check_containers()
            known.add("image")
        for task_id in {needed["task_id"] for needed in asked.get("depends_on", ())} - known:
            await self._check_dependency(caller, task_id)
            known.add(task_id)
        return asked

    async def try_accept(self, caller: Caller, item: Any, known: set[str]) -> TaskRequest | FetchmlError:
        """As `accept`, for one of many: what is wrong with it is returned. Raises only what is our own fault."""
        try:
            return await self.accept(caller, as_object(item), known)
        except FetchmlError as error:
            if error.status >= 500:
                raise
            return error

    async def _check_experiment(self, caller: Caller, experiment_id: str) -> None:
        for found in await self._head.experiments():
            if found["id"] == experiment_id and access.sees(caller, found):
                if found["status"] == "archived":
                    raise Conflict(f"experiment_id: experiment {experiment_id} is archived; it takes no more tasks")
                return
        raise Invalid(f"experiment_id: there is no experiment {experiment_id!r}")

    async def _check_snapshot(self, caller: Caller, snapshot_id: str) -> None:
        if not await self._head.code.has(caller, snapshot_id):
            raise Invalid(f"snapshot_id: there is no snapshot {snapshot_id!r}; `fetchmld snapshots push DIR` makes one")

    async def check_containers(self) -> None:
        """An image needs a worker that can run one."""
        workers = await self._head.workers()
        if not any(one["detail"].get("containers") for one in workers if one["status"] != "offline"):
            raise Invalid("image: no worker here can run one; that takes podman, docker or apptainer on the worker")

    async def _check_dependency(self, caller: Caller, task_id: str) -> None:
        """A task may depend on those that its submitter may know of."""
        found = await self._head.task(TaskId(task_id))
        if found is None or not (access.sees_all(caller) or found["user_id"] == caller.user_id):
            raise Invalid(f"depends_on: there is no task {task_id!r}")
