"""How an attempt's end becomes the task's: on record as completed, failed or cancelled, or back into the queue."""

from typing import Any, Final

from fetchmld.core.desk import Desk
from fetchmld.core.gangs import Gangs
from fetchmld.core.messages import AcknowledgeEnd, Fact, StopAttempt
from fetchmld.core.model import EndReport, Task, TaskId, WorkerId
from fetchmld.core.waiting import Waiting

INFRA_RETRIES_MAX: Final = 3  # beyond max_retries
BACKOFF_FIRST_S: Final = 10.0
BACKOFF_MAX_S: Final = 360.0

_FINAL_WORDS: Final = frozenset(
    {"NO_ENTRYPOINT", "ENTRYPOINT_NOT_FOUND", "ENTRYPOINT_NOT_EXECUTABLE", "TIME_LIMIT", "CULLED"}
)


class Ends:
    """Takes the ends of attempts, node by node."""

    def __init__(self, desk: Desk, waiting: Waiting) -> None:
        self._desk, self._waiting = desk, waiting
        self.gangs = Gangs()

    def on_node(self, task: Task, worker_id: WorkerId, report: EndReport, seed: int, at_us: int) -> None:
        """The task's current attempt is over on one node, or that node is lost."""
        if not self.gangs.note(task, worker_id, report):
            return
        if running := self.gangs.running(task):
            if failure := self.gangs.failure(task):
                self._stop(task, running, failure)
            return
        decisive = self.gangs.close(task)
        self._settle(task, decisive, seed, at_us)

    def lose(self, task: Task, worker_id: WorkerId, detail: str, at_us: int) -> None:
        """That node will never report."""
        report = EndReport(word="WORKER_LOST", detail=detail, infrastructure=True)
        self.on_node(task, worker_id, report, hash_seed(task.id, task.attempt), at_us)

    def stop_again(self, task: Task, worker_id: WorkerId) -> None:
        """A node of a failing gang came back with its attempt alive."""
        if failure := self.gangs.failure(task):
            self._stop(task, [worker_id], failure)

    def _stop(self, task: Task, nodes: list[WorkerId], failure: tuple[WorkerId, EndReport]) -> None:
        word, _, detail = error_of(failure[1], task).partition(": ")
        said = f"on worker {failure[0]}, which ends it on all nodes: {detail}"
        self._desk.effects += [StopAttempt(worker_id, task.id, task.attempt, word, said) for worker_id in nodes]

    def _settle(self, task: Task, decisive: tuple[WorkerId, EndReport], seed: int, at_us: int) -> None:
        """An attempt is over: put the end on record, or put the task back into the queue."""
        worker_id, report = decisive
        nodes, attempt = [WorkerId(node["worker_id"]) for node in task.assignments], task.attempt
        error = error_of(report, task)
        infrastructure = bool(report.get("infrastructure"))
        if not error:
            self._desk.finish(task, "task.completed", "", report, at_us)
        elif task.cancel_by:
            self._desk.finish(task, "task.cancelled", f"CANCELLED: by {task.cancel_by}", report, at_us)
        elif _may_retry(task, infrastructure, report.get("word", "")):
            self._requeue(task, error, report, worker_id if infrastructure else None, seed, at_us)
        else:
            self._desk.finish(task, "task.failed", error, report, at_us)
        self._desk.placement.release(task)
        if len(nodes) > 1:
            self._desk.effects += [AcknowledgeEnd(node, task.id, attempt) for node in nodes]

    def _requeue(
        self, task: Task, error: str, report: EndReport, lost_with: WorkerId | None, seed: int, at_us: int
    ) -> None:
        word, _, detail = error.partition(": ")
        failures = task.own_failures if lost_with is None else task.infra_failures
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**failures)
        metadata: dict[str, Any] = {
            "attempt": task.attempt,
            "cause": word,
            "detail": detail,
            "hold_s": round(ceiling * seed / 2**32, 3),  # full jitter
            "infrastructure": lost_with is not None,
        }
        if lost_with is not None:
            metadata["avoid"] = lost_with
        if "log" in report:
            metadata["log"] = report["log"]
        fact = Fact("job_queued", "task.requeue", task.id, task.user_id, metadata=metadata, at_us=at_us)
        self._desk.persist(fact)
        self._desk.changed(task.id)
        self._waiting.admit(task, at_us)
        if task.array_id:
            self._desk.due.append(task.array_id)  # another of its elements may start


def _may_retry(task: Task, infrastructure: bool, word: str) -> bool:
    allowed = task.request.get("max_retries", 0)
    if infrastructure and word != "EXIT_UNKNOWN":
        return task.infra_failures < INFRA_RETRIES_MAX + allowed
    return word not in _FINAL_WORDS and task.own_failures < allowed


def hash_seed(task_id: TaskId, attempt: int) -> int:
    """32 bits that differ from task to task, for the jitter of a retry that no shell's event brought randomness for."""
    seed = 2166136261
    for byte in f"{task_id}:{attempt}".encode():
        seed = (seed ^ byte) * 16777619 & 0xFFFFFFFF  # FNV-1a
    return seed


def error_of(report: EndReport, task: Task) -> str:
    """The task's `error` for this end: WORD, then plain words; "" for a success."""
    if word := report.get("word"):
        return f"{word}: {report.get('detail', '')}"
    if signal := report.get("signal"):
        return f"SIGNALLED: attempt {task.attempt} was ended by signal {signal}"
    if (code := report.get("exit_code", 0)) != 0:
        return f"EXIT_NONZERO: attempt {task.attempt} ended with exit status {code}"
    return ""
