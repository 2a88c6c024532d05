"""What clients were shown and told was so: tasks, plugins, reservations, experiments, workers, from answers and streams."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.fault.outside.case import ENDS, Case, Problem
from tests.fault.outside.histories import Said
from tests.fault.outside.ledger import Event
from tests.fault.outside.timeline import State, Timeline

RULE: Final = "true reads"
WRITES: Final = "acknowledged"
STREAMS: Final = "true streams"
STARTED: Final = ("preparing", "running", "collecting")
Seen = tuple[str, str, Callable[[State], bool]]  # what kind of thing, its id, and what was said of it


def check(case: Case) -> Iterator[Problem]:
    timelines = timelines_of(case.events)
    for said in sorted(case.said, key=lambda one: one.ended_us):
        for kind, name, fits in seen_in(said):
            if problem := timelines[kind, name].see(said.begun_us, said.ended_us, fits):
                rule = RULE if said.operation.startswith("GET") else WRITES
                yield Problem(rule, f"{said.name} about {kind} {name}: {problem}")
    for said in case.said:
        yield from (Problem(STREAMS, f"{said.name}: {text}") for text in _of_stream(said, timelines))


# -- how things were


def timelines_of(events: list[Event]) -> dict[tuple[str, str], Timeline]:
    found: dict[tuple[str, str], Timeline] = defaultdict(Timeline)
    for event in events:
        kind, _, what = event.action.partition(".")
        line = found[kind, event.resource]
        match kind:
            case "task":
                _of_task(line, event)
            case "plugin" if what in ("update", "disable"):
                config = event.metadata["config"]
                line.add(event, status="configured", enabled=config["enabled"], mode=config["mode"])
            case "reservation":
                line.add(event, status={"create": "active", "claim": "claimed"}.get(what, "expired"))
            case "experiment" if what == "create":
                line.add(event, status="active", name=event.metadata["name"])
            case "worker" if what in ("join", "drain", "undrain"):
                drained = {"drain": True, "undrain": False}.get(what, line.states[-1].get("drained", False))
                line.add(event, status="known", drained=drained)
    return found


def _of_task(line: Timeline, event: Event) -> None:
    metadata = event.metadata
    match event.action:
        case "task.submit":
            line.add(event, status="queued", attempt=0, priority=metadata["priority"], cancelling=False, error="")
        case "task.start":
            line.add(event, status="started", attempt=metadata["attempt"])
        case "task.requeue":
            line.add(event, status="queued")
        case "task.reprioritise":
            line.add(event, priority=metadata["priority"])
        case "task.cancel_requested":
            line.add(event, cancelling=True)
        case "task.deleted":
            line.add(event, status="absent")
        case action if action in ENDS:
            line.add(event, status=ENDS[action], error=event.error)


# -- what was said of them


def seen_in(said: Said) -> list[Seen]:
    """What an answer says of how things are."""
    find = _ANSWERS.get(said.operation)
    return find(said) if find is not None and said.status else []


def _task(view: dict[str, Any], kind: str = "task") -> Seen:
    status = "started" if view["status"] in STARTED else view["status"]
    shown = {"status": status, "attempt": view["attempt"], "priority": view["priority"], "error": view.get("error", "")}
    return kind, view["id"], lambda state: all(state.get(name) == value for name, value in shown.items())


def _one_task(said: Said) -> list[Seen]:
    if said.status == 404:
        return [("task", said.target, lambda state: state["status"] == "absent")] if not _is_anothers(said) else []
    return [_task(said.answer)] if said.is_done else []


def _is_anothers(said: Said) -> bool:
    """Asked on purpose for what is not theirs: it is absent to them, whatever it is."""
    return "stranger" in said.query


def _listed_tasks(said: Said) -> list[Seen]:
    return [_task(view) for view in said.answer["tasks"]] if said.is_done else []


def _made_task(said: Said) -> list[Seen]:
    return [("task", said.answer["id"], lambda state: state["status"] != "absent")] if said.is_done else []


def _ended_task(said: Said) -> list[Seen]:
    if not said.is_done:
        return []
    return [
        ("task", said.target, lambda state: state["status"] in ("completed", "failed", "absent") or state["cancelling"])
    ]


def _changed_priority(said: Said) -> list[Seen]:
    wanted = said.body["priority"] if isinstance(said.body, dict) and "priority" in said.body else 0
    if said.is_done:
        return [_task(said.answer), ("task", said.target, lambda state: state.get("priority") == wanted)]
    if said.status == 409:
        return [("task", said.target, lambda state: state["status"] in ("completed", "failed"))]
    return []


def _services(said: Said) -> list[Seen]:
    return (
        [("task", one["id"], lambda state: state["status"] != "absent") for one in said.answer] if said.is_done else []
    )


def _plugin(name: str, view: dict[str, Any]) -> Seen:
    def fits(state: State) -> bool:
        if state["status"] == "absent":
            return not view["enabled"]
        return bool(state["enabled"] == view["enabled"] and state["mode"] == view["mode"])

    return "plugin", name, fits


def _configured(said: Said) -> list[Seen]:
    return [_plugin(said.target, said.answer)] if said.is_done else []


def _disabled(said: Said) -> list[Seen]:
    return [("plugin", said.target, lambda state: not state.get("enabled", False))] if said.is_done else []


def _plugins(said: Said) -> list[Seen]:
    return [_plugin(one["name"], one) for one in said.answer] if said.is_done else []


def _reservations(said: Said) -> list[Seen]:
    found = said.answer if isinstance(said.answer, list) else [said.answer]
    return [_with_status("reservation", one["id"], one["status"]) for one in found] if said.is_done else []


def _with_status(kind: str, name: str, status: str) -> Seen:
    return kind, name, lambda state: state["status"] == status


def _released(said: Said) -> list[Seen]:
    return [_with_status("reservation", said.target, "expired")] if said.is_done or said.status == 409 else []


def _experiments(said: Said) -> list[Seen]:
    found = said.answer if isinstance(said.answer, list) else [said.answer]
    return [_with_status("experiment", one["id"], one["status"]) for one in found] if said.is_done else []


def _worker(view: dict[str, Any]) -> Seen:
    allowed = {"active": (False,), "draining": (True,)}.get(view["status"], (False, True))
    return "worker", view["id"], lambda state: state.get("drained") in allowed


def _workers(said: Said) -> list[Seen]:
    found = said.answer if isinstance(said.answer, list) else [said.answer]
    return [_worker(one) for one in found] if said.is_done else []


def _drained(said: Said) -> list[Seen]:
    wanted = said.operation.startswith("DELETE")
    return [("worker", said.target, lambda state: state.get("drained") is wanted)] if said.is_done else []


_ANSWERS: Final[dict[str, Callable[[Said], list[Seen]]]] = {
    "GET /v1/tasks": _listed_tasks,
    "POST /v1/tasks": _made_task,
    "GET /v1/tasks/{taskId}": _one_task,
    "DELETE /v1/tasks/{taskId}": _ended_task,
    "PATCH /v1/scheduler/jobs/{jobId}/priority": _changed_priority,
    "GET /v1/plugins": _plugins,
    "GET /v1/plugins/{pluginName}": _configured,
    "GET /v1/plugins/{pluginName}/config": _configured,
    "PUT /v1/plugins/{pluginName}/config": _configured,
    "DELETE /v1/plugins/{pluginName}/config": _disabled,
    "GET /v1/scheduler/reservations": _reservations,
    "POST /v1/scheduler/reservations": _reservations,
    "DELETE /v1/scheduler/reservations/{reservationId}": _released,
    "GET /v1/experiments": _experiments,
    "POST /v1/experiments": _experiments,
    "GET /v1/scheduler/workers": _workers,
    "GET /v1/scheduler/workers/{workerId}": _workers,
    "DELETE /v1/scheduler/workers/{workerId}": _drained,
    "POST /v1/scheduler/workers/{workerId}/undrain": _drained,
    "GET /v1/jupyter/services": _services,
    "POST /v1/jupyter/services": _made_task,
    "DELETE /v1/jupyter/services/{serviceId}": _ended_task,
}


# -- streams


def _of_stream(said: Said, timelines: dict[tuple[str, str], Timeline]) -> Iterator[str]:
    """Numbers rise; an event shows a task as it was with the fact of that number or later, and never goes back; a task that
    ended has one last event. What has no number (a phase) comes with that of the event before it."""
    last, over = -1, set[str]()
    shown: dict[str, int] = defaultdict(int)  # which state of each task, at least
    for event in said.events:
        number, task = int(event["id"] or last), event["data"].get("task")
        if number < last:
            yield f"event {number} comes after {last}"
        last = number
        if task is not None:
            kind, name, fits = _task(task)
            line = timelines[kind, name]
            index = line.first(fits, max(shown[name], line.index(number) if event["id"] else 0))
            if index is None:
                yield f"event {number} shows {name} {task['status']}, the record {line.states[line.index(number)]}"
            if name in over:
                yield f"event {number} comes after the end of {name}"
            shown[name] = index or shown[name]
            over |= {name} if event["event"] == "task_complete" else set()
