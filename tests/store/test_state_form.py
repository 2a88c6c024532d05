"""The state as bytes: whatever happened, what is read back is what was written, and a replay goes on from it alike."""

from dataclasses import fields

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.core.chain import decode, encode
from fetchmld.core.messages import Fact
from fetchmld.core.model import Task
from fetchmld.core.state import State
from fetchmld.store import state_form
from tests.core.driver import Driver
from tests.core.test_scheduler import STEPS


def facts_of(steps: list[tuple[str, int]]) -> list[Fact]:
    """What a ledger gives back of these steps."""
    driver = Driver()
    for name, number in steps:
        STEPS[name](driver, number)
    return [decode(encode(fact, seq, bytes(32)))[2] for seq, fact in enumerate(driver.record)]


def folded(facts: list[Fact], begin: State | None = None) -> State:
    state = begin or State()
    for fact in facts:
        state.apply(fact)
    return state


STEP_LISTS = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 30)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(STEP_LISTS, st.integers(0, 100))
def test_a_replay_from_a_snapshot_is_a_replay_of_everything(steps: list[tuple[str, int]], percent: int) -> None:
    facts = facts_of(steps)
    cut = len(facts) * percent // 100
    raw = state_form.to_bytes(folded(facts_of(steps)[:cut]))
    resumed = folded(facts_of(steps)[cut:], state_form.from_bytes(raw))
    whole = folded(facts)
    assert state_form.to_bytes(resumed) == state_form.to_bytes(whole)
    assert resumed.durable() == whole.durable()
    assert list(resumed.recent) == list(whole.recent)


def test_every_field_of_the_state_is_in_it() -> None:
    written = orjson.loads(state_form.to_bytes(State()))
    assert list(written) == [field.name for field in fields(State)]


def full_state() -> State:
    steps = [(name, number) for number in range(12) for name in ("join", "submit", "odd", "reserve", "drain", "end")]
    return folded(facts_of(steps))


def test_a_field_that_an_earlier_version_did_not_have_gets_its_default() -> None:
    state = full_state()
    written = orjson.loads(state_form.to_bytes(state))
    del written["dependents"]
    for task in [*written["tasks"].values(), *written["recent"].values()]:
        del task["doomed"]
    found = state_form.from_bytes(orjson.dumps(written))
    assert found.tasks
    assert {task.doomed for task in found.tasks.values()} == {""}
    assert found.workers == state.workers


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"seq": 1, "no_such_field": 2}', b'{"tasks": [1]}', b"null"])
def test_what_is_no_state_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        state_form.from_bytes(raw)


def test_a_type_that_cannot_be_read_back_is_named() -> None:
    with pytest.raises(TypeError, match="complex"):
        state_form._reader(dict[str, complex])
    with pytest.raises(TypeError, match="keys"):
        state_form._reader(dict[Task, int])
