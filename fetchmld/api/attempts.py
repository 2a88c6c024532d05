"""One attempt of a task, addressed: the newest, or an earlier one whose output is still there."""

from fetchmld.core.errors import NotFound
from fetchmld.core.model import Assignment, EarlierAttempt, EndReport, TaskView


def of_attempt(view: TaskView, attempt: int = 0) -> TaskView:
    """The task as if `attempt` had been its last (0 = the newest that was started). Raises NotFound for one with no log."""
    wanted = attempt or view["attempt"]
    if wanted > view["attempt"]:
        raise NotFound(f"task {view['id']} has no attempt {attempt}; its newest is {view['attempt']}")
    for earlier in view.get("earlier", ()):
        if earlier["attempt"] == wanted:
            return _as_last(view, earlier)
    return _as_lost(view, wanted) if wanted < view["attempt"] else view


def _as_lost(view: TaskView, attempt: int) -> TaskView:
    """Its worker was lost before it said where the output is; it may have sent some."""
    last = view.copy()
    last["attempt"], last["status"], last["report"] = attempt, "failed", EndReport(word="WORKER_LOST")
    last["assignments"] = []
    return last


def _as_last(view: TaskView, earlier: EarlierAttempt) -> TaskView:
    last = view.copy()
    last["attempt"], last["status"], last["report"] = earlier["attempt"], "failed", EndReport(log=earlier["log"])
    last["assignments"] = [Assignment(rank=0, worker_id=earlier["log"]["worker_id"], gpus=[])]
    return last
