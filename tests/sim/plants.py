"""Mistakes, put in on purpose: each changes one thing in the cores or in the shells, and the simulator must notice.

A plant is a context manager that replaces one attribute and puts it back; `said` is what the broken rule says.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from fetchmld.core import agent as agent_core
from fetchmld.core import placement, state
from fetchmld.core.agent import AgentCore, Forget, Spawn
from fetchmld.core.booking import Bookings
from fetchmld.core.desk import Desk
from fetchmld.core.ends import Ends
from fetchmld.core.leads import Leads
from fetchmld.core.lifecycle import STARTED
from fetchmld.core.line import Hearing, Line
from fetchmld.core.messages import AcknowledgeEnd, Fact, Persist, Reply, WorkerJoined
from fetchmld.core.model import EndReport, Task, TaskId
from fetchmld.core.placement import Placement
from fetchmld.core.reservations import Holds, free_of
from fetchmld.core.scheduler import Scheduler
from fetchmld.core.waiting import Waiting
from fetchmld.sim.cluster import Setting
from fetchmld.sim.faults import Faults
from fetchmld.sim.head import Head
from fetchmld.sim.ledger import Ledger
from fetchmld.sim.runner import Runner

SEEDS_MAX = 60
CROWDED = Setting(nodes=2, tasks_per_hour=3000.0, faults_s=240.0)
PARTITIONED = Setting(faults=Faults(partition_per_h=400.0))
OVERTAKEN = Setting(tasks_per_hour=1000.0, faults=Faults(duplicate_up_p=0.5, lose_p=0.05))
HOLDING = replace(CROWDED, faults=Faults(reboot_per_h=200.0))  # many wait for their next attempt
RESERVING = Setting(tasks_per_hour=1000.0, reservations_per_hour=60.0)
REBOOTING = Setting(faults=Faults(reboot_per_h=120.0))


@dataclass(frozen=True)
class Plant:
    """One mistake: where, what instead, what the simulator is to say, and under which faults."""

    name: str
    where: Any
    attribute: str
    instead: Any
    said: str
    setting: Setting = field(default_factory=Setting)

    @contextmanager
    def planted(self) -> Iterator[None]:
        with patch.object(self.where, self.attribute, self.instead):
            yield

    def is_noticed_in(self, rule: str) -> bool:
        return re.search(self.said, rule) is not None


def _with(**faults: float) -> Setting:
    """The usual cluster under these faults alone."""
    return Setting(faults=Faults(**faults))


def _nothing(*_arguments: Any, **_named: Any) -> None:
    """Instead of something."""


# ---- the head's shell ---------------------------------------------------------------------------------------------


def _speak_first(head: Head, batch: Any, effects: list[Any]) -> None:
    head._perform(effects)
    _commit(head, batch, [effect for effect in effects if isinstance(effect, Persist)])


def _reply_first(head: Head, batch: Any, effects: list[Any]) -> None:
    head._perform([effect for effect in effects if isinstance(effect, Reply) and effect.ticket])
    _commit(head, batch, [effect for effect in effects if not (isinstance(effect, Reply) and effect.ticket)])


def _acknowledge_first(head: Head, batch: Any, effects: list[Any]) -> None:
    head._perform([effect for effect in effects if isinstance(effect, AcknowledgeEnd)])
    _commit(head, batch, [effect for effect in effects if not isinstance(effect, AcknowledgeEnd)])


def _answer_every_beat(head: Head, _link: Any, _connection: int, body: Any) -> None:
    head._tell(body["worker_id"], "beat", {"sent_t": body["sent_t"]})


def _all_but_the_last(ledger: Ledger) -> Iterator[Fact]:
    return iter(list(_read(ledger))[:-1])


_commit, _read = Head._commit, Ledger.read

# ---- the scheduler ------------------------------------------------------------------------------------------------


def _no_fence(core: Scheduler, _worker_id: str, task_id: TaskId, _attempt: int) -> Task | None:
    task = core.state.tasks.get(task_id)
    return task if task is not None and task.status in STARTED else None


def _forgive_reboots(ends: Ends, task: Task, worker_id: Any, detail: str, at_us: int) -> None:
    if "restarted" not in detail:
        _lose(ends, task, worker_id, detail, at_us)


def _as_if_it_had_stayed(core: Scheduler, event: Any, now: float) -> list[Any]:
    if isinstance(event, WorkerJoined) and event.worker_id in core.state.workers:
        event = replace(event, boot_id=core.state.workers[event.worker_id].boot_id)
    return _handle(core, event, now)


def _wall_time(core: Scheduler, worker: Any, at_us: int) -> None:
    desk = core._desk
    kept, desk.now = desk.now, at_us / 1e6 - 1_700_000_000
    _watch(core, worker, at_us)
    desk.now = kept


def _same_attempt(core: Scheduler, task: Task, nodes: Any, at_us: int) -> None:
    task.attempt = max(0, task.attempt - 1)
    _start(core, task, nodes, at_us)


def _some_of_the_gang(core: Scheduler, task: Task, nodes: Any, at_us: int) -> None:
    _start(core, task, nodes[:1], at_us)


def _first_gpus(_placement: Placement, task: Task, worker: Any, _gpu_type: int) -> list[int]:
    return [gpu.index for gpu in worker.capacity.gpus][: task.resources.gpu]


def _resume_silently(core: Scheduler, task: Task, live: Any, worker: Any) -> None:
    if worker.id == task.assignments[0]["worker_id"]:
        core._set_phase(task, live.phase)


def _end_twice(desk: Desk, task: Task, action: str, error: str, report: EndReport, at_us: int, **more: Any) -> None:
    _finish(desk, task, action, error, report, at_us, **more)
    desk.effects.append(Persist(Fact("job_completed", action, task.id, task.user_id, metadata={"report": report})))


def _admit_at_once(waiting: Waiting, task: Task, at_us: int) -> None:
    kept, task.hold_until_t = task.hold_until_t, 0.0
    _admit(waiting, task, at_us)
    task.hold_until_t = kept


def _depend_on_nothing(waiting: Waiting, task: Task, at_us: int) -> None:
    kept, task.waits_for = task.waits_for, {}
    _admit(waiting, task, at_us)
    task.waits_for = kept


def _open_always(core: Scheduler, worker: Any) -> None:
    core._placement.open(worker)


def _release_twice(where: Any, task: Task) -> None:
    _release_all(where, task)
    _release_all(where, task)


def _keep_gpus(worker: Any, task: Task, _gpus: list[int]) -> None:
    _hold(worker, task, [])


def _youngest_first(priority: int, submit_t: float, ageing_tau_s: float) -> float:
    return priority + submit_t / ageing_tau_s


def _leave_held(waiting: Waiting, task: Task) -> None:
    held = task.id in waiting.held
    _leave(waiting, task)
    if held:
        waiting.held.add(task.id)


def _any_end_will_do(found: Any, task: Task, _now_t: float) -> None:
    for dependent in found.dependents.pop(task.id, ()):
        found.tasks[dependent].waits_for.pop(task.id)


def _impossible(*_arguments: Any) -> str:
    return "nobody could"


def _no_gpus(*_arguments: Any) -> set[int]:
    return set()


def _split_nothing(_holds: Holds, worker: Any) -> tuple[Any, list[Any]]:
    return free_of(worker), []


def _expire_again(bookings: Bookings, at_us: int) -> None:
    desk = bookings._desk
    for found in desk.state.reservations.values():
        if found.expires_t <= desk.now:
            fact = Fact("scheduler_drain", "reservation.expire", found.id, found.user_id, at_us=at_us)
            found.status = "active"
            desk.persist(fact)
            bookings._let_go(found)


_lose, _watch, _start, _finish, _admit = Ends.lose, Scheduler._watch, Scheduler._start, Desk.finish, Waiting.admit
_handle, _leave = Scheduler.handle, Waiting.leave
_release_all, _hold = state._release_all, state._hold

# ---- the agent and its runner -------------------------------------------------------------------------------------


def _forget_at_once(core: AgentCore, event: agent_core.Collected) -> list[agent_core.Effect]:
    effects = _on_collected(core, event)
    run = core.runs.pop(event.key, None)
    return effects if run is None else [*effects, Forget(run.key, run.rank)]


def _adopt_by_pid(runner: Runner) -> None:
    """Some process has that number, so the attempt lives."""
    gone = [key for key, entry in runner.journal.items() if entry.report is None and key not in runner.live]
    _recover(runner)
    for key in gone:
        runner.journal[key].report, runner.journal[key].shown = EndReport(exit_code=0), False


def _lost_unknown(runner: Runner, _entry: Any) -> EndReport:
    return EndReport(word="EXIT_UNKNOWN", detail="who knows")


def _spawn_again(core: AgentCore, run: agent_core.Run) -> list[agent_core.Effect]:
    return [Spawn(run.key)] if run.phase == "starting" else _found_missing(core, run)


def _always_take(*_arguments: Any) -> str:
    return "take"


def _always(*_arguments: Any) -> bool:
    return True


def _deaf(*_arguments: Any) -> list[Any]:
    return []


_on_collected, _found_missing, _recover = AgentCore.on_collected, AgentCore._found_missing, Runner.recover

PLANTS: list[Plant] = [
    Plant("speak before the facts are durable", Head, "_commit", _speak_first, "before it is on record"),
    Plant("tell the user before the fact is durable", Head, "_commit", _reply_first, "acknowledged and is not on"),
    Plant(
        "acknowledge an end before it is durable",
        Head,
        "_commit",
        _acknowledge_first,
        "started a second time|never end",
        _with(ledger_p=0.1, head_crash_per_h=60.0),
    ),
    Plant(
        "renew the lease of a worker given up",
        Head,
        "_answer_beat",
        _answer_every_beat,
        "while attempt|lives",
        replace(_with(agent_pause_per_h=120.0), tasks_per_hour=300.0),
    ),
    Plant("lose the newest fact on disk", Ledger, "read", _all_but_the_last, "not what its record says|on record"),
    Plant("drop the fence", Scheduler, "_current", _no_fence, "lives|second time", PARTITIONED),
    Plant("forgive a reboot", Ends, "lose", _forgive_reboots, "never end|second time", REBOOTING),
    Plant(
        "relaunch the same attempt after a reboot",
        Scheduler,
        "handle",
        _as_if_it_had_stayed,
        "second time",
        REBOOTING,
    ),
    Plant("let the wall clock count silence", Scheduler, "_watch", _wall_time, "lives", _with(wall_jump_per_h=60.0)),
    Plant("use an attempt's number again", Scheduler, "_start", _same_attempt, "attempts only grow"),
    Plant("start a part of a gang", Scheduler, "_start", _some_of_the_gang, "whole gang|all its nodes"),
    Plant("give a GPU to two", Placement, "pick_gpus", _first_gpus, "held twice|used by two"),
    Plant("never repeat a lost stop", Scheduler, "_resume", _resume_silently, "never end", _with(lose_p=0.2)),
    Plant("put an end on record twice", Desk, "finish", _end_twice, "ends twice|record"),
    Plant("ignore the back-off", Waiting, "admit", _admit_at_once, "while it is held"),
    Plant("ignore what a task depends on", Waiting, "admit", _depend_on_nothing, "queue is not the state|depends"),
    Plant("place work on a draining worker", Scheduler, "_open_or_shut", _open_always, "drain"),
    Plant("place work on a silent worker", Placement, "shut", _nothing, "which is (suspect|offline|draining)"),
    Plant("release what was held twice", state, "_release_all", _release_twice, "do not add up|record"),
    Plant("forget to release", state, "_release_all", _nothing, "do not add up|KeyError|record"),
    Plant("forget that a GPU is held", state, "_hold", _keep_gpus, "held twice|counts as free"),
    Plant("let the young pass the old", placement, "static_key", _youngest_first, "beyond the promise", CROWDED),
    Plant("keep the hold of a task that leaves", Waiting, "leave", _leave_held, "not all of them are queued", HOLDING),
    Plant("forget an end that nobody heard of", AgentCore, "on_collected", _forget_at_once, "second time"),
    Plant("say nothing to a new head", AgentCore, "on_greeted", _deaf, "never end"),
    Plant("ignore the lease", Runner, "_enforce_lease", _nothing, "lives", PARTITIONED),
    Plant("adopt by the pid alone", Runner, "recover", _adopt_by_pid, "never end", _with(runner_crash_per_h=200.0)),
    Plant("obey what was heard before", Hearing, "hear", _always_take, "second time", _with(duplicate_down_p=0.3)),
    Plant("let an old hello take the line", Line, "is_before", _always, "never end", OVERTAKEN),
    Plant(
        "start again what was asked to stop",
        AgentCore,
        "_found_missing",
        _spawn_again,
        "is to start, though",
        Setting(nodes=2, tasks_per_hour=3000.0, faults_s=240.0, faults=Faults(runner_crash_per_h=1200.0)),
    ),
    Plant("blame the program for a reboot", Runner, "_not_seen", _lost_unknown, "no runner was killed", REBOOTING),
    Plant("refuse what could run", Scheduler, "_never", _impossible, "is refused", Setting(unsatisfiable_share=1.0)),
    Plant("forget what was asked of a dependency", state, "_tell_dependents", _any_end_will_do, "is not so"),
    Plant("let long tasks into what is reserved", Leads, "settle", _nothing, "may outlive the start of", RESERVING),
    Plant("promise reserved GPUs twice", Holds, "idle_gpus", _no_gpus, "reserved twice|are not free", RESERVING),
    Plant("give reserved GPUs to anybody", Holds, "split", _split_nothing, "GPUs per node, not", RESERVING),
    Plant("end a reservation at every tick", Bookings, "expire", _expire_again, "ends twice", RESERVING),
    Plant("never let a reservation end", Bookings, "expire", _nothing, "never end|over time"),
]
