"""GPUs that fail: which are kept from everybody, what becomes of those who hold them, and when they are used again.

Which GPUs are in quarantine is durable (`Worker.quarantined`, by uuid). When each was last said to be faulty is not: after
a restart all have to be well for the whole time once more.
"""

from collections.abc import Mapping

from fetchmld.core.desk import Desk
from fetchmld.core.errors import Conflict, NotFound
from fetchmld.core.gangs import is_success
from fetchmld.core.messages import Fact, GpuReleaseAsked, StopAttempt
from fetchmld.core.model import EndReport, Gpu, Task, Worker


class Gpus:
    """The quarantine of one cluster. The worker's free capacity follows from the facts; the placement is told by others."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._faulty_t: dict[tuple[str, str], float] = {}  # of those in quarantine, by worker and uuid

    # -- what a worker says

    def hear(self, worker: Worker, faults: Mapping[str, str], at_us: int) -> bool:
        """What is wrong with which GPUs of this worker, by uuid. True if any was put into quarantine by it."""
        news = False
        for gpu in worker.capacity.gpus if faults else ():
            if gpu.uuid in faults:
                self._faulty_t[worker.id, gpu.uuid] = self._desk.now
                if gpu.uuid not in worker.quarantined:
                    self._quarantine(worker, gpu, faults[gpu.uuid], at_us)
                    news = True
        return news

    def _quarantine(self, worker: Worker, gpu: Gpu, cause: str, at_us: int) -> None:
        metadata = {"index": gpu.index, "uuid": gpu.uuid, "cause": cause}
        fact = Fact("scheduler_drain", "gpu.quarantine", worker.id, success=False, metadata=metadata, at_us=at_us)
        self._desk.persist(fact)
        for task_id in sorted(worker.tasks):
            self.stop_holder(self._desk.state.tasks[task_id], worker)

    # -- who holds one

    def stop_holder(self, task: Task, worker: Worker) -> None:
        """The attempt cannot go on if it has a GPU there that failed: others may try."""
        if lost := self._lost(task, worker):
            self._desk.effects.append(StopAttempt(worker.id, task.id, task.attempt, "GPU_LOST", lost))

    def blame(self, task: Task, worker: Worker, report: EndReport) -> EndReport:
        """What the end of an attempt there really means: a program that loses its GPU may end with any status."""
        word, lost = report.get("word", ""), self._lost(task, worker)
        if word == "GPU_LOST":
            return {**report, "infrastructure": True}
        if not lost or word or is_success(report):
            return report
        how = f"signal {report['signal']}" if "signal" in report else f"exit status {report.get('exit_code', 0)}"
        blamed = EndReport(word="GPU_LOST", detail=f"{lost}; the program ended with {how}", infrastructure=True)
        rest = {name: value for name, value in report.items() if name not in ("exit_code", "signal")}
        return {**rest, **blamed}  # type: ignore[typeddict-item]

    def _lost(self, task: Task, worker: Worker) -> str:
        """Which failed GPU of this worker the task's attempt holds, and why it failed; "" for none."""
        if not worker.quarantined:
            return ""
        held = {index for node in task.assignments if node["worker_id"] == worker.id for index in node["gpus"]}
        for gpu in worker.capacity.gpus:
            if gpu.index in held and gpu.uuid in worker.quarantined:
                return f"GPU {gpu.index} of worker {worker.id}: {worker.quarantined[gpu.uuid]}"
        return ""

    # -- the way out

    def release_due(self, worker: Worker, at_us: int) -> bool:
        """Release what has been well for long enough, as its worker says by saying nothing. True if there was any."""
        if not worker.quarantined or not self._desk.policy.gpu_release_after_s:
            return False
        now, news = self._desk.now, False
        for uuid in list(worker.quarantined):
            last_t = self._faulty_t.setdefault((worker.id, uuid), now)
            if worker.status not in ("active", "draining"):
                self._faulty_t[worker.id, uuid] = now  # nobody looks at it
            elif now - last_t >= self._desk.policy.gpu_release_after_s:
                fact = Fact("scheduler_drain", "gpu.release", worker.id, at_us=at_us)
                fact.metadata = self._of(worker, uuid) | {"well_for_s": round(now - last_t, 3)}
                self._let_out(worker, uuid, fact)
                news = True
        return news

    def release(self, event: GpuReleaseAsked) -> Worker | None:
        """Somebody's word is enough; the next fault ends it again. The worker, if there was anything to release."""
        worker = self._desk.state.workers.get(event.worker_id)
        gpus = {gpu.index: gpu.uuid for gpu in worker.capacity.gpus} if worker is not None else {}
        if worker is None or event.index not in gpus:
            which = f"worker {event.worker_id[:64]!r}" if worker is None else f"GPU {event.index} of worker {worker.id}"
            self._desk.fail(event.ticket, NotFound(f"there is no {which}"))
            return None
        uuid = gpus[event.index]
        if uuid not in worker.quarantined:
            self._desk.fail(event.ticket, Conflict(f"GPU {event.index} of worker {worker.id} is not in quarantine"))
            return None
        fact = Fact("scheduler_drain", "gpu.release", worker.id, event.user_id, ip_address=event.ip_address)
        fact.metadata, fact.at_us = self._of(worker, uuid) | {"by": event.user_id}, event.at_us
        self._let_out(worker, uuid, fact)
        return worker

    def _let_out(self, worker: Worker, uuid: str, fact: Fact) -> None:
        self._faulty_t.pop((worker.id, uuid), None)
        self._desk.persist(fact)

    def _of(self, worker: Worker, uuid: str) -> dict[str, object]:
        """What the record says of a GPU; one that its worker no longer has is only a uuid."""
        index = next((gpu.index for gpu in worker.capacity.gpus if gpu.uuid == uuid), None)
        return {"uuid": uuid} if index is None else {"index": index, "uuid": uuid}
