"""Jupyter servers as their users see them: tasks of kind `service`, by another name for each state.

A server has no life of its own beside its task's, so there is one truth: queued, started, over. What is added is whether
it answers yet, which its worker knows.
"""

from typing import Final, Literal

from fetchmld.core.model import TaskId, TaskView
from fetchmld.core.state import State

ServiceStatus = Literal["starting", "running", "stopping", "stopped", "error"]

SERVICES_LISTED_MAX: Final = 1_000  # ended ones among them as long as they are among the newest ended tasks

# Ends that somebody wanted, by the first word of the task's error.
_WANTED: Final = frozenset({"", "CANCELLED", "CULLED", "TIME_LIMIT"})


def status_of(task: TaskView, answers: bool) -> ServiceStatus:
    """The contract's status of the server that `task` is. `answers`: its worker has seen it answer."""
    match task["status"]:
        case "completed":
            return "stopped"
        case "failed":
            return "stopped" if task["error"].partition(":")[0] in _WANTED else "error"
        case "collecting":
            return "stopping"
        case _ if task.get("stopping"):
            return "stopping"
        case "running" if answers:
            return "running"
    return "starting"


class ServiceList:
    """Which tasks are servers, oldest first. Follows from the state; nothing of it is recorded."""

    def __init__(self) -> None:
        self._ids: dict[TaskId, None] = {}

    def rebuild(self, state: State) -> None:
        """After a replay."""
        known = [*state.recent.values(), *state.tasks.values()]
        servers = sorted((task for task in known if "jupyter" in task.request), key=lambda task: task.submit_seq)
        self._ids = dict.fromkeys(task.id for task in servers)

    def add(self, task_id: TaskId) -> None:
        self._ids[task_id] = None

    def newest(self, state: State) -> list[TaskId]:
        """Those that are still known, newest first."""
        self._ids = {task_id: None for task_id in self._ids if state.task(task_id) is not None}
        return list(reversed(self._ids))[:SERVICES_LISTED_MAX]
