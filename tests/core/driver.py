"""A scheduler to drive by hand: its clock, its record, every effect kept, every invariant checked after each event."""

from typing import Any, TypeVar, cast

from fetchmld.core.messages import (
    AttemptEnded,
    CancelRequested,
    DrainChanged,
    Effect,
    Event,
    Fact,
    HeartbeatReceived,
    LiveAttempt,
    Persist,
    PriorityChanged,
    Reply,
    ReservationAsked,
    ReservationReleased,
    TaskSubmitted,
    TimePassed,
    WorkerJoined,
)
from fetchmld.core.model import Capacity, EndReport, Gpu, TaskId, TaskRequest, TaskView, UserId, WorkerId
from fetchmld.core.scheduler import Policy, Scheduler

W1, W2 = WorkerId("w1"), WorkerId("w2")
T = TypeVar("T")
SMALL = Capacity(cpu=2, memory_gb=4, batch_slots=2, service_slots=1)
WITH_GPUS = Capacity(8, 32, 8, 1, tuple(Gpu(i, "A100", f"GPU-{i}") for i in range(4)))


class Driver:
    """A scheduler, its clock, its record; every effect is kept, every invariant checked."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.core = Scheduler(self.policy)
        self.now = 1000.0
        self.record: list[Fact] = []
        self.count = 0

    def do(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        self.record += [effect.fact for effect in effects if isinstance(effect, Persist)]
        self.core.check()
        return effects

    @property
    def at_us(self) -> int:
        return int(self.now * 1e6) + 7

    def submit(self, name: str = "", user: str = "ada", **request: Any) -> str:
        self.count += 1
        task_id = name or f"t{self.count}"
        self.do(
            TaskSubmitted(
                TaskId(task_id),
                UserId(user),
                cast(TaskRequest, {"job_name": "job", **request}),
                self.at_us,
                ticket=self.count,
            )
        )
        return task_id

    def join(
        self, worker: WorkerId = W1, capacity: Capacity = SMALL, *attempts: LiveAttempt, boot: str = "boot1"
    ) -> list[Effect]:
        return self.do(WorkerJoined(worker, boot, "host", capacity, list(attempts), self.at_us))

    def end(self, task: str, attempt: int = 1, worker: WorkerId = W1, seed: int = 0, **report: Any) -> list[Effect]:
        return self.do(AttemptEnded(worker, TaskId(task), attempt, 0, cast(EndReport, report), seed, self.at_us))

    def cancel(self, task: str, **more: Any) -> list[Effect]:
        return self.do(CancelRequested(TaskId(task), UserId("ada"), self.at_us, ticket=99, **more))

    def tick(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.do(TimePassed(self.at_us))

    def beat(self, worker: WorkerId = W1, **more: Any) -> None:
        self.do(HeartbeatReceived(worker, self.at_us, **more))

    def view(self, task: str) -> TaskView:
        view = self.core.view(TaskId(task))
        assert view is not None
        return view

    def status(self, task: str) -> str:
        return self.view(task)["status"]

    def where(self, task: str) -> list[str]:
        return [node["worker_id"] for node in self.view(task)["assignments"]]

    def drain(self, worker: WorkerId = W1, wanted: bool = True) -> list[Effect]:
        return self.do(DrainChanged(worker, wanted, UserId("op"), self.at_us, ticket=98))

    def reprioritise(self, task: str, priority: int, **more: Any) -> list[Effect]:
        return self.do(PriorityChanged(TaskId(task), priority, UserId("ada"), self.at_us, ticket=97, **more))

    def reserve(self, name: str = "r1", user: str = "ada", seconds: float = 1800.0, **more: Any) -> list[Effect]:
        asked = {"gpu_count": 1, "gpu_type": "", "node_count": 1, **more}
        return self.do(ReservationAsked(name, UserId(user), duration_s=seconds, at_us=self.at_us, ticket=96, **asked))

    def give_back(self, name: str = "r1", user: str = "ada") -> list[Effect]:
        return self.do(ReservationReleased(name, UserId(user), self.at_us, ticket=95))

    def actions(self) -> list[str]:
        return [fact.action for fact in self.record]


def error_in(effects: list[Effect]) -> Any:
    """What the caller was refused with, or None."""
    return next((effect.error for effect in effects if isinstance(effect, Reply)), None)


def replayed(driver: Driver, facts: list[Fact] | None = None) -> Scheduler:
    """What a restart would make of the record."""
    core = Scheduler(driver.policy)
    core.replay(driver.record if facts is None else facts, driver.now)
    core.check()
    return core


def of(kind: type[T], effects: list[Effect]) -> list[T]:
    return [effect for effect in effects if isinstance(effect, kind)]
