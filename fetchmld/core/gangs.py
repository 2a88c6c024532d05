"""The ends of attempts that run on several nodes: all or none.

One member that fails or is lost ends the attempt on all of them; the attempt is over once every node has reported its end
or was lost. Until then no end is acknowledged, so that after a crash of ours each worker tells us again: nothing here is
durable.
"""

from typing import Final

from fetchmld.core.model import EndReport, RankArtifacts, Task, TaskId, Worker, WorkerId
from fetchmld.core.state import State

PORT_FIRST: Final = 29_500  # torchrun's; all of them are below those that systems give to whoever asks for any
PORTS: Final = 1_000


class Gangs:
    """The reports of members whose attempt is not over on all nodes."""

    def __init__(self) -> None:
        self._reports: dict[TaskId, dict[WorkerId, EndReport]] = {}  # in order of arrival

    def note(self, task: Task, worker_id: WorkerId, report: EndReport) -> bool:
        """One node's end. True if it is news."""
        reports = self._reports.setdefault(task.id, {})
        if worker_id in reports:
            return False
        reports[worker_id] = report
        return True

    def running(self, task: Task) -> list[WorkerId]:
        """The nodes that have not ended."""
        reports = self._reports.get(task.id, {})
        return [w for node in task.assignments if (w := WorkerId(node["worker_id"])) not in reports]

    def failure(self, task: Task) -> tuple[WorkerId, EndReport] | None:
        """The first end that was not a success."""
        reports = self._reports.get(task.id, {})
        return next(((w, r) for w, r in reports.items() if not is_success(r)), None)

    def close(self, task: Task) -> tuple[WorkerId, EndReport]:
        """All have ended: the report that decides, and whose it is. That of the first failure, else of rank 0.

        It has what the others left as well.
        """
        first = WorkerId(task.assignments[0]["worker_id"])
        worker_id, report = self.failure(task) or (first, self._reports[task.id][first])
        others = _left_by_others(task, worker_id, self._reports.pop(task.id))
        return worker_id, EndReport(**{**report, "artifacts_of_others": others}) if others else report


def _left_by_others(task: Task, decisive: WorkerId, reports: dict[WorkerId, EndReport]) -> list[RankArtifacts]:
    found = []
    for node in task.assignments:
        report = reports.get(WorkerId(node["worker_id"]), EndReport())
        if node["worker_id"] != decisive and "artifacts" in report:
            found.append(RankArtifacts(rank=node["rank"], artifacts=report["artifacts"]))
    return found


def rendezvous(state: State, worker: Worker, attempt: int) -> str:
    """Where the members of a gang find each other if its rank 0 is on `worker`: a port that no other gang of the machine
    has. One that a stranger has is found out there; so the next attempt begins with another."""
    machine = [other for other in state.workers.values() if other.boot_id == worker.boot_id]
    taken = {_port_of(state.tasks[task_id]) for other in machine for task_id in other.tasks}
    ports = (PORT_FIRST + (attempt - 1 + step) % PORTS for step in range(PORTS))
    port = next((port for port in ports if port not in taken), PORT_FIRST)
    return f"{worker.detail.get('address') or worker.hostname}:{port}"


def _port_of(task: Task) -> int:
    said = task.assignments[0].get("rendezvous", "")
    return int(said.rpartition(":")[2]) if said else 0


def is_success(report: EndReport) -> bool:
    """Whether the program ended by itself, with status 0."""
    return not (report.get("word") or report.get("signal") or report.get("exit_code", 0))
