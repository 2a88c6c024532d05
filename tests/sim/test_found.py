"""What seeds have found, as small as it can be told. A strict xfail is a mistake that is still there."""

from typing import Any, cast

from fetchmld.core.messages import AttemptEnded, LiveAttempt, PhaseReported, TaskSubmitted, WorkerJoined
from fetchmld.core.model import Capacity, EndReport, TaskId, TaskRequest, UserId, WorkerId
from fetchmld.core.scheduler import Policy, Scheduler

# What a rule says when a seed meets one of the mistakes below; empty once none is left.
KNOWN: tuple[str, ...] = ()
W = WorkerId("w")
AT_US = 1_000_000


def core_with(**requests: dict[str, Any]) -> Scheduler:
    """A scheduler with one worker, and these tasks."""
    core = Scheduler(Policy())
    core.handle(WorkerJoined(W, "boot", "host", Capacity(1, 8, 1, 1), [], AT_US), 1.0)
    for name, more in requests.items():
        request = cast(TaskRequest, {"job_name": "job", **more})
        core.handle(TaskSubmitted(TaskId(name), UserId("ada"), request, AT_US), 1.0)
    return core


def test_an_old_phase_after_a_greeting_changes_nothing() -> None:
    """What a worker said on its last connection may be read after its greeting on the new one."""
    core = core_with(a={})
    live = [LiveAttempt(TaskId("a"), 1, "collecting")]
    core.handle(WorkerJoined(W, "boot", "host", Capacity(1, 8, 1, 1), live, AT_US), 2.0)
    core.handle(PhaseReported(W, TaskId("a"), 1, "running", AT_US), 2.1)
    assert core.state.tasks[TaskId("a")].status == "collecting"


def test_a_task_is_admitted_once_when_two_that_it_waits_for_end_together() -> None:
    """`a` fails, which dooms `b`; `c` waits for both and is due by each of the two ends, in the same event."""
    needs = [{"task_id": "a", "condition": "any"}, {"task_id": "b", "condition": "any"}]
    core = core_with(a={}, b={"depends_on": [{"task_id": "a", "condition": "ok"}]}, c={"depends_on": needs})
    core.handle(AttemptEnded(W, TaskId("a"), 1, 0, EndReport(exit_code=1), 0, AT_US), 2.0)
    core.check()
    assert core.state.tasks[TaskId("c")].status == "preparing"
