"""One plugin's sidecar kept alive: a pure state machine. Knows no process, socket or clock.

`handle(event, now)` says what to do; `actors.plugin` does it and tells what came of it. At most two sidecars live at a
time: the one that *serves*, and one that is *coming* up to take its place. The coming one is probed until it answers well;
only then does it serve, and only then does the old one go. Where it does not come up, the old one stays, and its
configuration is what is wanted again.

    coming ─▶ serving ─▶ leaving        a sidecar; `leaving` is told to stop, and forgotten once it has ended
       └────────────────────┘           it did not come up

One that ends, or does not answer `misses_max` probes in a row, is started again after a pause that doubles from
`pause_first_s` to `pause_max_s`, each cut by up to a half. The jitter comes from the seed and the number of the crash, so
the machine has no randomness. More than `crashes_max` of them within `crash_window_s` are a crash loop: the pauses are the
longest from then on, and it says so. Nothing here ever gives up, and nothing here knows of tasks.

What the table cannot say: a word about a sidecar that is neither serving nor coming is of one that was told to go, and
changes nothing. `MakeEnvironment`, `Start` and `Probe` each end in one event.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fetchmld.core.model import PluginState

Phase = Literal["coming", "serving", "leaving"]

PHASES: Final[dict[Phase, frozenset[Phase]]] = {
    "coming": frozenset({"serving", "leaving"}),
    "serving": frozenset({"leaving"}),
    "leaving": frozenset(),
}


@dataclass(slots=True, frozen=True)
class Pace:
    """Times in seconds. An end is noticed at once, silence after `misses_max` probes, each with a patience of its own."""

    start_s: float = 120.0  # a coming one has to answer within
    probe_coming_s: float = 0.25
    probe_s: float = 2.0
    misses_max: int = 3
    pause_first_s: float = 0.5
    pause_max_s: float = 60.0
    crashes_max: int = 5
    crash_window_s: float = 300.0


@dataclass(slots=True)
class Sidecar:
    """One start. `number` tells starts apart and is never used again."""

    number: int
    revision: int
    begun_t: float
    phase: Phase = "coming"
    misses: int = 0

    def advance(self, phase: Phase) -> None:
        """The only door to `phase`. Raises ValueError for a step that PHASES does not have."""
        if phase not in PHASES[self.phase]:
            raise ValueError(f"sidecar {self.number}: no way from {self.phase} to {phase}")
        self.phase = phase


# ---- events -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Wanted:
    """The plugin is to run with this revision. `hot`: what runs can take it over without a restart."""

    revision: int
    hot: bool = False


@dataclass(slots=True)
class Unwanted:
    """It is not to run."""


@dataclass(slots=True)
class Found:
    """What a supervisor before us left running, with their revisions; the newest is taken over, the others go."""

    running: list[tuple[int, int]]
    last_number: int


@dataclass(slots=True)
class EnvironmentReady:
    revision: int


@dataclass(slots=True)
class EnvironmentFailed:
    revision: int
    why: str


@dataclass(slots=True)
class Ended:
    """It could not be started, or it ended; whoever stopped it."""

    number: int
    why: str


@dataclass(slots=True)
class Probed:
    """It answered, well where `why` is empty."""

    number: int
    why: str = ""


@dataclass(slots=True)
class Ticked:
    """Nothing happened but time."""


Event = Wanted | Unwanted | Found | EnvironmentReady | EnvironmentFailed | Ended | Probed | Ticked

# ---- effects ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class MakeEnvironment:
    revision: int


@dataclass(slots=True)
class Start:
    number: int
    revision: int


@dataclass(slots=True)
class Stop:
    number: int


@dataclass(slots=True)
class Probe:
    number: int


@dataclass(slots=True)
class Serve:
    """From now on callers go to this one; 0: to none."""

    number: int


@dataclass(slots=True)
class Apply:
    """What runs goes on, with the settings of this revision."""

    revision: int


@dataclass(slots=True)
class Revert:
    """Revision `failed` did not come up; `to` still serves and is what is wanted from now on."""

    failed: int
    to: int
    why: str


@dataclass(slots=True)
class Say:
    status: PluginState
    problem: str


Effect = MakeEnvironment | Start | Stop | Probe | Serve | Apply | Revert | Say

# ---- the machine --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Supervisor:
    """Of one plugin. `handle` is its only method that changes anything."""

    seed: int
    pace: Pace = field(default_factory=Pace)
    wanted: int = 0  # the revision; 0 = it is not to run
    serving: Sidecar | None = None
    coming: Sidecar | None = None
    leaving: dict[int, Sidecar] = field(default_factory=dict)
    last_number: int = 0
    status: PluginState = "stopped"
    problem: str = ""
    knows: bool = False  # was it told what runs? Nothing is begun before
    making: int = 0  # the revision whose environment is being made
    resume_t: float = 0.0  # nothing is started before
    crash_count: int = 0  # since the newest `Wanted`, or since it was well for long
    crashes: list[float] = field(default_factory=list)  # when, those within the window
    _probing: set[int] = field(default_factory=set)  # numbers whose answer is awaited
    _probe_t: float = 0.0
    _effects: list[Effect] = field(default_factory=list)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do now that `event` has happened at `now` (seconds, monotonic). Late events change nothing."""
        on: Callable[[Any, float], None] = getattr(self, _METHODS[type(event)])
        on(event, now)
        effects, self._effects = self._effects, []
        return effects

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself; for tests."""
        assert self.serving is None or self.serving.phase == "serving"
        assert self.coming is None or self.coming.phase == "coming"
        assert all(sidecar.phase == "leaving" for sidecar in self.leaving.values())
        numbers = [s.number for s in (self.serving, self.coming) if s is not None] + list(self.leaving)
        assert len(numbers) == len(set(numbers))
        assert max(numbers, default=0) <= self.last_number
        assert self.wanted or (self.serving is None and self.coming is None), "it runs and is not wanted"
        assert (self.status == "stopped") == (self.wanted == 0)
        assert self.status != "healthy" or self.serving is not None

    # -- what is wanted

    def on_wanted(self, event: Wanted, now: float) -> None:
        if event.revision == self.wanted:
            return
        self.wanted, self.crash_count, self.resume_t = event.revision, 0, now
        self.crashes.clear()
        self._dismiss_coming()
        if self.serving is not None and (event.hot or event.revision == self.serving.revision):
            self.serving.revision = event.revision
            self._effects.append(Apply(event.revision))
            self._say("healthy")
            return
        if self.serving is None:
            self._say("starting")
        self._begin()

    def on_unwanted(self, _event: Unwanted, _now: float) -> None:
        self.wanted = self.making = 0
        self._dismiss_coming()
        self._dismiss_serving()
        self._say("stopped")

    def on_found(self, event: Found, now: float) -> None:
        self.last_number = max(self.last_number, event.last_number, *[number for number, _ in event.running], 0)
        for number, revision in sorted(event.running):
            found = Sidecar(number, revision, now)
            if (number, revision) == max(event.running) and revision == self.wanted and self.coming is None:
                self.coming, self.making = found, 0  # probed before it is believed
            else:
                self._dismiss(found)
        self.knows = True
        if self.wanted and self.serving is None and self.coming is None:
            self._begin()

    # -- coming up

    def _begin(self) -> None:
        if self.knows and self.making != self.wanted:
            self.making = self.wanted
            self._effects.append(MakeEnvironment(self.wanted))

    def on_environment_ready(self, event: EnvironmentReady, now: float) -> None:
        if event.revision != self.making:
            return
        self.making = 0
        if self.coming is not None or event.revision != self.wanted:
            return
        self.last_number += 1
        self.coming = Sidecar(self.last_number, event.revision, now)
        self._effects.append(Start(self.last_number, event.revision))

    def on_environment_failed(self, event: EnvironmentFailed, now: float) -> None:
        if event.revision == self.making:
            self.making = 0
            self._not_up(event.why, now)

    def _not_up(self, why: str, now: float) -> None:
        """The wanted revision did not come up."""
        self._dismiss_coming()
        if self.serving is None:
            self._crashed(why, now)
        elif self.wanted != self.serving.revision:
            failed, self.wanted = self.wanted, self.serving.revision
            self._effects.append(Revert(failed, self.wanted, why))
            self._say("healthy", f"revision {failed} did not come up, revision {self.wanted} still runs: {why}")

    def _crashed(self, why: str, now: float) -> None:
        self.crash_count += 1
        self.crashes = [then for then in self.crashes if now - then < self.pace.crash_window_s][
            -self.pace.crashes_max :
        ]
        self.crashes.append(now)
        looping = len(self.crashes) > self.pace.crashes_max
        self.resume_t = now + self._pause(looping=looping)
        loop = f"crash loop, {len(self.crashes)} ends within {self.pace.crash_window_s:g} s: " if looping else ""
        self._say("unhealthy", loop + why)

    def _pause(self, *, looping: bool) -> float:
        doubled = self.pace.pause_first_s * 2.0 ** min(self.crash_count - 1, 30)
        longest = self.pace.pause_max_s if looping else min(doubled, self.pace.pause_max_s)
        return longest * (1.0 - 0.5 * _fraction(self.seed, self.crash_count))

    # -- what became of one

    def on_ended(self, event: Ended, now: float) -> None:
        self._probing.discard(event.number)
        self.leaving.pop(event.number, None)
        if self.coming is not None and event.number == self.coming.number:
            self.coming = None
            self._not_up(event.why, now)
        elif self.serving is not None and event.number == self.serving.number:
            self.serving = None
            self._effects.append(Serve(0))
            if self.coming is None:
                self._crashed(event.why, now)
            else:
                self._say("starting", event.why)

    def on_probed(self, event: Probed, now: float) -> None:
        self._probing.discard(event.number)
        if self.coming is not None and event.number == self.coming.number:
            if not event.why:
                self._promote(self.coming)
            elif now - self.coming.begun_t >= self.pace.start_s:
                self._not_up(f"it did not answer well within {self.pace.start_s:g} s: {event.why}", now)
        elif self.serving is not None and event.number == self.serving.number:
            self.serving.misses = self.serving.misses + 1 if event.why else 0
            if self.serving.misses >= self.pace.misses_max:
                self._dismiss_serving()
                self._crashed(f"it did not answer: {event.why}", now)

    def _promote(self, sidecar: Sidecar) -> None:
        old, self.serving, self.coming = self.serving, sidecar, None
        sidecar.advance("serving")
        self._effects.append(Serve(sidecar.number))
        if old is not None:
            self._dismiss(old)
        self._say("healthy")

    def on_ticked(self, _event: Ticked, now: float) -> None:
        if self.wanted and self.serving is None and self.coming is None and now >= self.resume_t:
            self._begin()
        for sidecar, every_s in ((self.coming, self.pace.probe_coming_s), (self.serving, self.pace.probe_s)):
            if sidecar is not None and sidecar.number not in self._probing and now >= self._probe_t:
                self._probing.add(sidecar.number)
                self._effects.append(Probe(sidecar.number))
                self._probe_t = now + every_s

    # -- going

    def _dismiss(self, sidecar: Sidecar) -> None:
        sidecar.advance("leaving")
        self.leaving[sidecar.number] = sidecar
        self._probing.discard(sidecar.number)
        self._effects.append(Stop(sidecar.number))

    def _dismiss_coming(self) -> None:
        if self.coming is not None:
            sidecar, self.coming = self.coming, None
            self._dismiss(sidecar)

    def _dismiss_serving(self) -> None:
        if self.serving is not None:
            sidecar, self.serving = self.serving, None
            self._effects.append(Serve(0))
            self._dismiss(sidecar)

    def _say(self, status: PluginState, problem: str = "") -> None:
        if (status, problem) != (self.status, self.problem):
            self.status, self.problem = status, problem
            self._effects.append(Say(status, problem))


def _fraction(seed: int, count: int) -> float:
    """From 0 to below 1, the same for the same two numbers (splitmix64)."""
    mixed = (seed + count * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> shift) * factor & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 31) / 2.0**64


_METHODS: Final[dict[type, str]] = {
    Wanted: "on_wanted",
    Unwanted: "on_unwanted",
    Found: "on_found",
    EnvironmentReady: "on_environment_ready",
    EnvironmentFailed: "on_environment_failed",
    Ended: "on_ended",
    Probed: "on_probed",
    Ticked: "on_ticked",
}
