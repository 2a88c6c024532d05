"""The supervisor alone: what it asks for at each event, and that a wrong one would be seen (the plants at the end)."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.core import supervise
from fetchmld.core.supervise import (
    PHASES,
    Apply,
    Effect,
    Ended,
    EnvironmentFailed,
    EnvironmentReady,
    Event,
    Found,
    MakeEnvironment,
    Pace,
    Probe,
    Probed,
    Revert,
    Say,
    Serve,
    Sidecar,
    Start,
    Stop,
    Supervisor,
    Ticked,
    Unwanted,
    Wanted,
)

PACE = Pace()


class Rig:
    """A supervisor, its clock, and all it has asked for."""

    def __init__(self, seed: int = 7, knows: bool = True) -> None:
        self.it = Supervisor(seed, knows=knows)
        self.now = 100.0
        self.all: list[Effect] = []

    def do(self, event: Event, after_s: float = 0.0) -> list[Effect]:
        self.now += after_s
        effects = self.it.handle(event, self.now)
        self.it.check()
        self.all += effects
        return effects

    def tick(self, after_s: float) -> list[Effect]:
        return self.do(Ticked(), after_s)

    def bring_up(self, revision: int = 1) -> int:
        """Wanted, made, started, probed well: the number that serves."""
        self.do(Wanted(revision))
        self.do(EnvironmentReady(revision))
        self.do(Probed(self.it.last_number))
        assert self.it.serving is not None
        return self.it.serving.number


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("to", PHASES)
def test_a_sidecar_moves_as_the_table_says(phase: Any, to: Any) -> None:
    sidecar = Sidecar(1, 1, 0.0, phase)
    if to in PHASES[sidecar.phase]:
        sidecar.advance(to)
        assert sidecar.phase == to
    else:
        with pytest.raises(ValueError, match=f"no way from {phase} to {to}"):
            sidecar.advance(to)


def test_from_wanted_to_healthy() -> None:
    rig = Rig()
    assert rig.do(Wanted(1)) == [Say("starting", ""), MakeEnvironment(1)]
    assert rig.tick(1.0) == []  # it is being made, once
    assert rig.do(EnvironmentReady(1)) == [Start(1, 1)]
    assert rig.tick(0.5) == [Probe(1)]
    assert rig.tick(0.5) == []  # one question at a time
    assert rig.do(Probed(1, "refused")) == []
    assert rig.tick(0.5) == [Probe(1)]
    assert rig.do(Probed(1)) == [Serve(1), Say("healthy", "")]


def test_it_is_started_again_after_it_ended() -> None:
    rig = Rig()
    number = rig.bring_up()
    assert rig.do(Ended(number, "killed by signal 9")) == [Serve(0), Say("unhealthy", "killed by signal 9")]
    assert rig.tick(PACE.pause_first_s) == [MakeEnvironment(1)]
    assert rig.do(EnvironmentReady(1)) == [Start(number + 1, 1)]
    assert rig.do(Probed(number + 1)) == [Serve(number + 1), Say("healthy", "")]


def test_silence_is_a_death_after_so_many_misses() -> None:
    rig = Rig()
    number = rig.bring_up()
    for _ in range(PACE.misses_max - 1):
        assert rig.do(Probed(number, "no answer"), PACE.probe_s) == []
    assert rig.do(Probed(number)) == []  # well again: counted anew
    for _ in range(PACE.misses_max - 1):
        assert rig.do(Probed(number, "no answer"), PACE.probe_s) == []
    expected = [Serve(0), Stop(number), Say("unhealthy", "it did not answer: no answer")]
    assert rig.do(Probed(number, "no answer"), PACE.probe_s) == expected


def test_the_new_one_is_probed_before_the_old_one_goes() -> None:
    rig = Rig()
    old = rig.bring_up()
    assert rig.do(Wanted(2)) == [MakeEnvironment(2)]  # and it stays healthy meanwhile
    assert rig.do(EnvironmentReady(2)) == [Start(old + 1, 2)]
    assert rig.it.serving is not None
    assert rig.it.serving.number == old
    assert rig.do(Probed(old + 1)) == [Serve(old + 1), Stop(old)]
    assert rig.do(Ended(old, "stopped")) == []


@pytest.mark.parametrize("failure", ["end", "silence", "environment"])
def test_back_to_the_old_one_where_the_new_one_does_not_come_up(failure: str) -> None:
    rig = Rig()
    old = rig.bring_up(3)
    rig.do(Wanted(4))
    if failure == "environment":
        said = rig.do(EnvironmentFailed(4, "why"))
    else:
        rig.do(EnvironmentReady(4))
        event: Event = Ended(old + 1, "why") if failure == "end" else Probed(old + 1, "why")
        said = rig.do(event, PACE.start_s)
    assert [effect for effect in said if isinstance(effect, Revert)] == [Revert(4, 3, said_why(said))]
    assert "why" in said_why(said)
    assert rig.it.serving is not None
    assert rig.it.serving.number == old
    assert rig.it.status == "healthy"
    assert "revision 3 still runs" in rig.it.problem
    assert rig.tick(1.0) == [Probe(old)]  # and nothing else is begun
    assert rig.do(Wanted(3)) == []  # as the record has it from now on


def said_why(effects: list[Effect]) -> str:
    (revert,) = [effect for effect in effects if isinstance(effect, Revert)]
    return revert.why


def test_hot_settings_change_nothing_that_runs() -> None:
    rig = Rig()
    number = rig.bring_up()
    assert rig.do(Wanted(2, hot=True)) == [Apply(2)]
    assert rig.it.serving is not None
    assert (rig.it.serving.number, rig.it.serving.revision) == (number, 2)


def test_disabled_while_it_comes_up() -> None:
    rig = Rig()
    rig.do(Wanted(1))
    rig.do(EnvironmentReady(1))
    assert rig.do(Unwanted()) == [Stop(1), Say("stopped", "")]
    assert rig.do(Probed(1)) == []  # too late
    assert rig.do(Ended(1, "stopped")) == []
    assert rig.tick(100.0) == []


def test_what_a_supervisor_before_us_left_is_taken_over() -> None:
    rig = Rig(knows=False)
    assert rig.do(Wanted(5)) == [Say("starting", "")]
    assert rig.tick(1.0) == []  # nothing is begun before it is known what runs
    assert rig.do(Found([(3, 4), (4, 5)], 4)) == [Stop(3)]
    assert rig.tick(0.5) == [Probe(4)]
    assert rig.do(Probed(4)) == [Serve(4), Say("healthy", "")]


def test_what_was_left_of_another_configuration_goes() -> None:
    rig = Rig(knows=False)
    rig.do(Wanted(6))
    assert rig.do(Found([(4, 5)], 4)) == [Stop(4), MakeEnvironment(6)]
    assert rig.do(EnvironmentReady(6)) == [Start(5, 6)]


def test_a_crash_loop_says_so_and_slows_down() -> None:
    rig = Rig()
    rig.bring_up()
    pauses = []
    for _ in range(PACE.crashes_max + 1):
        rig.do(Ended(rig.it.last_number, "exit 1"))
        pauses.append(rig.it.resume_t - rig.now)
        rig.tick(pauses[-1])
        rig.do(EnvironmentReady(1))
    assert rig.it.problem.startswith("crash loop, 6 ends")
    assert all(
        0.5 * PACE.pause_first_s * 2**n <= pause <= PACE.pause_first_s * 2**n for n, pause in enumerate(pauses[:5])
    )
    assert 0.5 * PACE.pause_max_s <= pauses[5] <= PACE.pause_max_s
    assert rig.all[-1] == Start(rig.it.last_number, 1)
    assert Say("healthy", "") in rig.do(Probed(rig.it.last_number))


def test_two_plugins_do_not_come_back_in_step() -> None:
    pauses = set()
    for seed in range(20):
        rig = Rig(seed)
        rig.do(Ended(rig.bring_up(), "x"))
        pauses.add(round(rig.it.resume_t - rig.now, 6))
    assert len(pauses) == 20


EVENTS = st.one_of(
    st.builds(Wanted, st.integers(1, 4), st.booleans()),
    st.builds(Unwanted),
    st.builds(
        Found,
        st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), max_size=2, unique_by=lambda x: x[0]),
        st.just(5),
    ),
    st.builds(EnvironmentReady, st.integers(1, 4)),
    st.builds(EnvironmentFailed, st.integers(1, 4), st.just("no network")),
    st.builds(Ended, st.integers(1, 12), st.just("exit 1")),
    st.builds(Probed, st.integers(1, 12), st.sampled_from(["", "refused"])),
    st.builds(Ticked),
)


def walk(events: list[tuple[Event, float]]) -> None:
    """Whatever is said in whatever order: what must hold, holds, and it comes up once nothing goes wrong any more."""
    rig, alive, served = Rig(knows=False), set[int](), 0
    for event, after_s in [*events, (Found([], 5), 0.0)]:
        if isinstance(event, Found):
            if rig.it.knows:
                continue  # a supervisor is told of strangers once, at its beginning
            alive |= {number for number, _ in event.running}
        if isinstance(event, Ended):
            alive.discard(event.number)
        for effect in rig.do(event, after_s):
            if isinstance(effect, Start):
                assert effect.number not in alive, "a number is used twice"
                alive.add(effect.number)
                assert len(alive - set(rig.it.leaving)) <= 2, "more than two at a time"
            if isinstance(effect, Serve):
                assert effect.number == 0 or effect.number in alive, "callers are sent to one that is dead"
                served = effect.number
        ours = rig.it.serving.number if rig.it.serving is not None else 0
        assert served == ours
    rig.do(Wanted(9))
    for _ in range(400):
        if rig.it.status == "healthy" and rig.it.serving is not None and rig.it.serving.revision == 9:
            return
        if rig.it.making:
            rig.do(EnvironmentReady(rig.it.making))
        if rig.it.coming is not None:
            rig.do(Probed(rig.it.coming.number))
        rig.tick(1.0)
    raise AssertionError("it never came up")


@given(st.lists(st.tuples(EVENTS, st.floats(0, 30)), max_size=40))
@settings(max_examples=150, deadline=None)
def test_whatever_happens(events: list[tuple[Event, float]]) -> None:
    walk(events)


# ---- plants: the walk and the tests above must see each of these


def _served_before_it_is_probed(it: Supervisor, event: Any, now: float) -> None:
    supervise_ready(it, event, now)
    if it.coming is not None:
        it._promote(it.coming)


def _forgets_to_stop_the_old(it: Supervisor, sidecar: Sidecar) -> None:
    it.serving, it.coming = sidecar, None
    sidecar.advance("serving")
    it._effects.append(Serve(sidecar.number))
    it._say("healthy")


def _gives_up(it: Supervisor, why: str, _now: float) -> None:
    it._say("unhealthy", why)
    it.resume_t = float("inf")


def _says_nothing_of_the_end(it: Supervisor, event: Any, _now: float) -> None:
    if it.serving is not None and event.number == it.serving.number:
        it.serving = None


def _uses_numbers_again(it: Supervisor, event: Any, now: float) -> None:
    it.last_number = max(0, it.last_number - 1)
    supervise_ready(it, event, now)


supervise_ready = Supervisor.on_environment_ready
SEEING: list[Callable[[], None]] = [
    test_from_wanted_to_healthy,
    test_it_is_started_again_after_it_ended,
    test_the_new_one_is_probed_before_the_old_one_goes,
    test_a_crash_loop_says_so_and_slows_down,
]


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("on_environment_ready", _served_before_it_is_probed),
        ("_promote", _forgets_to_stop_the_old),
        ("_crashed", _gives_up),
        ("on_ended", _says_nothing_of_the_end),
        ("on_environment_ready", _uses_numbers_again),
        ("_pause", lambda it, *, looping: PACE.pause_first_s),
    ],
)
def test_a_planted_mistake_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, plant: Any) -> None:
    monkeypatch.setattr(supervise.Supervisor, name, plant)
    caught = 0
    for check in SEEING:
        try:
            check()
        except (AssertionError, ValueError):
            caught += 1
    assert caught
