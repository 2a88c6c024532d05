"""Who waits for datasets before GPUs are given to it: they are fetched and verified first, by a worker that could run it.

A queued task that asks for GPUs and for datasets from elsewhere, which no worker that is large enough has, is kept out of
the ready queue while as many workers as it needs nodes fetch them; others get the GPUs meanwhile. However the fetch
ends, the task is ready then: where it failed, the attempt will say so, in its own words and with its own retries.

Nothing of this is durable, and none of it can hold a task for long: a worker that goes away, or takes longer than
`STAGE_MAX_S`, is waited for no more.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from fetchmld.core.desk import Desk, StagingWait
from fetchmld.core.explain import is_able
from fetchmld.core.messages import StageDatasets
from fetchmld.core.model import DatasetSpec, Task, TaskId, Worker, WorkerId

STAGE_MAX_S: Final = 3600.0
WAITS_MAX: Final = 1000  # tasks; more are not kept waiting
_ELSEWHERE: Final = ("http", "https")


class Staging:
    """Decides who fetches what before it is needed."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @property
    def waits(self) -> dict[TaskId, StagingWait]:
        """Who waits."""
        return self._desk.staging

    def must_wait(self, task: Task) -> bool:
        """Whether its datasets are being fetched, from now on or already."""
        if task.id in self.waits:
            return True
        specs = self._wanted(task)
        if not specs:
            return False
        chosen = self._choose(task, specs)
        if not chosen:
            return False
        said = f"its datasets are being fetched to {_named(chosen)}, before it is given GPUs"
        self.waits[task.id] = StagingWait({worker.id for worker in chosen}, specs, self._desk.now, said)
        self._desk.effects += [StageDatasets(worker.id, task.id, specs) for worker in chosen]
        return True

    def _wanted(self, task: Task) -> list[DatasetSpec]:
        if not self._desk.policy.stage_datasets or not task.resources.gpu or len(self.waits) >= WAITS_MAX:
            return []
        if task.array_id or (task.array is not None and task.array.unnamed < task.array.size):
            return []  # an array waits as a whole, before its first element
        specs = task.request.get("dataset_specs", ())
        return [spec for spec in specs if spec["source"].partition(":")[0] in _ELSEWHERE]

    def _choose(self, task: Task, specs: list[DatasetSpec]) -> list[Worker]:
        """The workers that fetch; none where enough have it all, or too few could run the task."""
        wanted, away = task.resources, self._desk.placement.away(task)
        workers = (w for w in self._desk.state.workers.values() if w.status == "active" and w.id != away)
        able = [worker for worker in workers if is_able(wanted, worker)]
        have = [worker for worker in able if self._desk.caches.has_all(worker.id, specs)]
        lacking = wanted.node_count - len(have)
        if lacking <= 0 or len(able) < wanted.node_count:
            return []
        held, busy = self._desk.caches.bytes_held(specs), self._busy()
        others = [worker for worker in able if worker not in have]
        others.sort(key=lambda worker: (-held.get(worker.id, 0), busy[worker.id] + len(worker.tasks), worker.id))
        return others[:lacking]

    def _busy(self) -> Counter[WorkerId]:
        """How many tasks each worker fetches for, so that many tasks do not all wait for one worker."""
        return Counter(worker_id for wait in self.waits.values() for worker_id in wait.workers)

    def heard(self, worker_id: WorkerId, task_id: TaskId, said: str, is_over: bool) -> list[TaskId]:
        """What a worker says of its fetch; the task, where it need not wait any more."""
        wait = self.waits.get(task_id)
        if wait is None or worker_id not in wait.workers:
            return []
        if is_over:
            return self._without(worker_id, [task_id])
        wait.said = f"{said} (on worker {worker_id}, before it is given GPUs)"
        return []

    def lost(self, worker_id: WorkerId) -> list[TaskId]:
        """The worker is gone: who need not wait any more."""
        return self._without(worker_id, list(self.waits))

    def _without(self, worker_id: WorkerId, task_ids: Iterable[TaskId]) -> list[TaskId]:
        free = []
        for task_id in task_ids:
            self.waits[task_id].workers.discard(worker_id)
            if not self.waits[task_id].workers:
                del self.waits[task_id]
                free.append(task_id)
        return free

    def again(self, worker_id: WorkerId) -> None:
        """The worker said hello: it may have forgotten what it was asked for."""
        for task_id, wait in self.waits.items():
            if worker_id in wait.workers:
                self._desk.effects.append(StageDatasets(worker_id, task_id, wait.specs))

    def overdue(self) -> list[TaskId]:
        """Who has waited too long, and does no more."""
        found = [task_id for task_id, wait in self.waits.items() if self._desk.now - wait.since_t > STAGE_MAX_S]
        for task_id in found:
            del self.waits[task_id]
        return found


def _named(workers: list[Worker]) -> str:
    return "worker " + workers[0].id if len(workers) == 1 else f"{len(workers)} workers"
