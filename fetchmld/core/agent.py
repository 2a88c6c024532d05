"""The worker's side of an attempt: prepare, run, collect, report, as a pure state machine.

Owns the phase of every attempt of one node and decides the one report of each. It knows nothing of sockets, processes or
files: `actors.agent` turns the outside into events and performs the effects. Rules that the table below cannot say:

- `Prepare`, `Spawn` and `Collect` each end in exactly one event (`Prepared` or `PrepareFailed`; `Started` and later
  `Exited`, or `StartFailed`; `Collected`), also after `Abandon` and `Stop`.
- An attempt is reported once it is over, and again on every `Greeted`, until it is acknowledged. Then it is forgotten.
- A runner that comes back says what it has. What it has and we do not know is an attempt of an agent before us.

    preparing ─▶ starting ─▶ running ─▶ collecting ─▶ ended
        └───────────┴───────────────────────────────────┘ could not be started
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from fetchmld.core.messages import LaunchOrder, LiveAttempt
from fetchmld.core.model import ArtifactSet, EndReport, TaskId

Phase = Literal["preparing", "starting", "running", "collecting", "ended"]

PHASES: Final[dict[Phase, frozenset[Phase]]] = {
    "preparing": frozenset({"starting", "ended"}),
    "starting": frozenset({"running", "collecting", "ended"}),
    "running": frozenset({"collecting"}),
    "collecting": frozenset({"ended"}),
    "ended": frozenset(),
}


class RunKey(NamedTuple):
    """One attempt; a node has at most one rank of it."""

    task_id: str
    attempt: int


@dataclass(slots=True)
class Run:
    """One attempt on this node."""

    key: RunKey
    rank: int
    phase: Phase
    stop_word: str = ""  # why it was asked to stop, if it was
    stop_detail: str = ""
    report: EndReport | None = None  # what it will say, complete once `phase` is ended

    def advance(self, phase: Phase) -> None:
        """The only door to `phase`. Raises ValueError for a step that PHASES does not have."""
        if phase not in PHASES[self.phase]:
            raise ValueError(f"attempt {self.key}: no way from {self.phase} to {phase}")
        self.phase = phase


# ---- events -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ordered:
    order: LaunchOrder


@dataclass(slots=True)
class StopAsked:
    key: RunKey
    word: str
    detail: str


@dataclass(slots=True)
class Acknowledged:
    """The end of this attempt is on record."""

    key: RunKey


@dataclass(slots=True)
class Greeted:
    """The scheduler has just been told of everything that is here."""


@dataclass(slots=True)
class Prepared:
    key: RunKey


@dataclass(slots=True)
class PrepareFailed:
    key: RunKey
    word: str
    detail: str
    infrastructure: bool = False


@dataclass(slots=True)
class Started:
    key: RunKey
    rank: int


@dataclass(slots=True)
class StartFailed:
    key: RunKey
    word: str
    detail: str
    infrastructure: bool = False


@dataclass(slots=True)
class Exited:
    """The attempt's processes are gone; `report` has its status, usage, log and time, or the word of who stopped it."""

    key: RunKey
    rank: int
    report: EndReport


@dataclass(slots=True)
class Collected:
    """The output directory is in the content store; None when nothing was left there. `detail` says what went wrong."""

    key: RunKey
    artifacts: ArtifactSet | None
    detail: str = ""


@dataclass(slots=True)
class RunnerReturned:
    """A runner answered, ours or another: these it has running, in addition to those whose `Exited` follow."""

    running: list[tuple[RunKey, int]]
    ended: list[RunKey]


Event = (
    Ordered
    | StopAsked
    | Acknowledged
    | Greeted
    | Prepared
    | PrepareFailed
    | Started
    | StartFailed
    | Exited
    | Collected
    | RunnerReturned
)

# ---- effects ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Prepare:
    """Make its directories, fetch its datasets, find its program."""

    order: LaunchOrder


@dataclass(slots=True)
class Abandon:
    """Stop preparing; `PrepareFailed` is still owed."""

    key: RunKey


@dataclass(slots=True)
class Spawn:
    key: RunKey


@dataclass(slots=True)
class Stop:
    """SIGTERM, grace, SIGKILL to all of it; `Exited` will carry the word."""

    key: RunKey
    rank: int
    word: str
    detail: str


@dataclass(slots=True)
class Collect:
    key: RunKey
    rank: int


@dataclass(slots=True)
class SayPhase:
    key: RunKey
    phase: Literal["running", "collecting"]


@dataclass(slots=True)
class Report:
    key: RunKey
    rank: int
    report: EndReport


@dataclass(slots=True)
class Forget:
    """Remove its directory, and let the runner forget it."""

    key: RunKey
    rank: int


Effect = Prepare | Abandon | Spawn | Stop | Collect | SayPhase | Report | Forget


# ---- the machine --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class AgentCore:
    """Every attempt of this node that is not acknowledged. `handle` is its only method that changes anything."""

    runs: dict[RunKey, Run] = field(default_factory=dict)

    def handle(self, event: Event) -> list[Effect]:
        """What to do now that `event` has happened. Unknown and late events change nothing."""
        on: Callable[[Any], list[Effect]] = getattr(self, _METHODS[type(event)])
        return on(event)

    def live(self) -> list[LiveAttempt]:
        """All that is here, as the scheduler wants to hear it: what has ended counts as collecting until acknowledged."""
        return [LiveAttempt(TaskId(run.key.task_id), run.key.attempt, _SHOWN[run.phase]) for run in self.runs.values()]

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself; for tests."""
        for key, run in self.runs.items():
            assert run.key == key, f"{key} holds {run.key}"
            assert (run.phase == "ended") <= (run.report is not None), f"{key} ended without a report"

    # -- the scheduler asks

    def on_ordered(self, event: Ordered) -> list[Effect]:
        order = event.order
        key = RunKey(order["task_id"], order["attempt"])
        if key in self.runs:
            return []
        self.runs[key] = Run(key, order["rank"], "preparing")
        return [Prepare(order)]

    def on_stop_asked(self, event: StopAsked) -> list[Effect]:
        run = self.runs.get(event.key)
        if run is None:  # never started here: say so, that the scheduler need not wait
            run = self.runs[event.key] = Run(event.key, 0, "preparing")
            return self._end(run, EndReport(word=event.word, detail=event.detail))
        if run.phase == "ended":
            return self._report(run)
        if run.phase == "collecting":  # it is over; the report is on its way
            return []
        if not run.stop_word:
            run.stop_word, run.stop_detail = event.word, event.detail
        if run.phase == "preparing":
            return [Abandon(run.key)]
        return [Stop(run.key, run.rank, run.stop_word, run.stop_detail)]

    def on_acknowledged(self, event: Acknowledged) -> list[Effect]:
        run = self.runs.get(event.key)
        if run is None or run.phase != "ended":
            return []
        del self.runs[event.key]
        return [Forget(run.key, run.rank)]

    def on_greeted(self, _event: Greeted) -> list[Effect]:
        return [effect for run in self.runs.values() if run.phase == "ended" for effect in self._report(run)]

    # -- what we asked for has happened

    def on_prepared(self, event: Prepared) -> list[Effect]:
        run = self._run(event.key, "preparing")
        if run is None:
            return []
        if run.stop_word:
            return self._end(run, EndReport())
        run.advance("starting")
        return [Spawn(run.key)]

    def on_prepare_failed(self, event: PrepareFailed) -> list[Effect]:
        run = self._run(event.key, "preparing")
        return [] if run is None else self._end(run, _failure(event))

    def on_started(self, event: Started) -> list[Effect]:
        run = self._run(event.key, "starting")
        if run is None:
            return []
        run.advance("running")
        return [SayPhase(run.key, "running")]

    def on_start_failed(self, event: StartFailed) -> list[Effect]:
        run = self._run(event.key, "starting")
        return [] if run is None else self._end(run, _failure(event))

    def on_exited(self, event: Exited) -> list[Effect]:
        run = self.runs.get(event.key)
        if run is None:  # of an agent before us
            run = self.runs[event.key] = Run(event.key, event.rank, "running")
        if run.phase not in ("starting", "running"):
            return []
        run.advance("collecting")
        run.report = event.report
        return [SayPhase(run.key, "collecting"), Collect(run.key, run.rank)]

    def on_collected(self, event: Collected) -> list[Effect]:
        run = self._run(event.key, "collecting")
        if run is None:
            return []
        assert run.report is not None
        if event.artifacts is not None:
            run.report["artifacts"] = event.artifacts
        if event.detail:
            run.report["detail"] = "; ".join(part for part in (run.report.get("detail", ""), event.detail) if part)
        run.advance("ended")
        return self._report(run)

    def on_runner_returned(self, event: RunnerReturned) -> list[Effect]:
        effects: list[Effect] = []
        for key, rank in event.running:
            effects += self._found_running(key, rank)
        known = {key for key, _ in event.running} | set(event.ended)
        for run in [run for run in self.runs.values() if run.key not in known]:
            effects += self._found_missing(run)
        return effects

    def _found_missing(self, run: Run) -> list[Effect]:
        """The runner has nothing of an attempt that is here."""
        if run.phase == "starting":  # the order was lost with the connection; to ask twice does no harm
            return self._end(run, EndReport()) if run.stop_word else [Spawn(run.key)]
        if run.phase == "running":
            detail = "the runner has lost its record"
            return self.on_exited(Exited(run.key, run.rank, EndReport(word="EXIT_UNKNOWN", detail=detail)))
        return []

    def _found_running(self, key: RunKey, rank: int) -> list[Effect]:
        run = self.runs.get(key)
        if run is None:
            self.runs[key] = Run(key, rank, "running")
            return []
        effects: list[Effect] = self.on_started(Started(key, rank)) if run.phase == "starting" else []
        if run.stop_word and run.phase == "running":
            effects.append(Stop(key, run.rank, run.stop_word, run.stop_detail))
        return effects

    # -- the end

    def _run(self, key: RunKey, phase: Phase) -> Run | None:
        run = self.runs.get(key)
        return run if run is not None and run.phase == phase else None

    def _end(self, run: Run, report: EndReport) -> list[Effect]:
        """It is over before it ran. Whoever asked it to stop is the reason, whatever failed meanwhile."""
        run.report = EndReport(word=run.stop_word, detail=run.stop_detail) if run.stop_word else report
        run.advance("ended")
        return self._report(run)

    def _report(self, run: Run) -> list[Effect]:
        assert run.report is not None
        return [Report(run.key, run.rank, run.report)]


def _failure(event: PrepareFailed | StartFailed) -> EndReport:
    report = EndReport(word=event.word, detail=event.detail)
    if event.infrastructure:
        report["infrastructure"] = True
    return report


_SHOWN: Final[dict[Phase, Literal["preparing", "running", "collecting"]]] = {
    "preparing": "preparing",
    "starting": "preparing",
    "running": "running",
    "collecting": "collecting",
    "ended": "collecting",
}

_METHODS: Final[dict[type, str]] = {
    Ordered: "on_ordered",
    StopAsked: "on_stop_asked",
    Acknowledged: "on_acknowledged",
    Greeted: "on_greeted",
    Prepared: "on_prepared",
    PrepareFailed: "on_prepare_failed",
    Started: "on_started",
    StartFailed: "on_start_failed",
    Exited: "on_exited",
    Collected: "on_collected",
    RunnerReturned: "on_runner_returned",
}
