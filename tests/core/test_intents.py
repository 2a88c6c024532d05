"""Idempotency-Keys in the core: one intent, one thing, whatever is sent again and whatever is forgotten by a crash."""

import random
from dataclasses import replace
from typing import Any, cast

import pytest

from fetchmld.core import state
from fetchmld.core.errors import Invalid, Repeated
from fetchmld.core.messages import Event, ExperimentCreated, Persist, Reply, ReservationAsked, TaskSubmitted
from fetchmld.core.model import INTENT_KEPT_S, Intent, TaskId, TaskRequest, UserId
from fetchmld.store import state_form
from tests.core.driver import WITH_GPUS, Driver, error_in, replayed

ADA = UserId("ada")
REQUEST = cast(TaskRequest, {"job_name": "job"})


def submitted(driver: Driver, task_id: str, intent: Intent | None) -> Event:
    return TaskSubmitted(TaskId(task_id), ADA, REQUEST, driver.at_us, ticket=1, intent=intent)


def reserved(driver: Driver, name: str, intent: Intent | None) -> Event:
    return ReservationAsked(name, ADA, 1, "", 1, 60.0, driver.at_us, ticket=1, intent=intent)


def experiment(driver: Driver, name: str, intent: Intent | None) -> Event:
    return ExperimentCreated(name, "digits", "", ADA, driver.at_us, ticket=1, intent=intent)


@pytest.mark.parametrize("event", [submitted, reserved, experiment])
def test_the_same_again_makes_nothing_and_tells_what_was_made(event: Any) -> None:
    driver = Driver()
    driver.join(capacity=WITH_GPUS)
    assert error_in(driver.do(event(driver, "first", Intent("k", "b")))) is None
    count = len(driver.record)
    again = error_in(driver.do(event(driver, "second", Intent("k", "b"))))
    assert (type(again), str(again)) == (Repeated, "first")
    other = error_in(driver.do(event(driver, "third", Intent("k", "other"))))
    assert type(other) is Invalid
    assert "first" in str(other)
    assert len(driver.record) == count
    assert error_in(driver.do(event(driver, "fourth", Intent("k2", "b")))) is None
    assert error_in(driver.do(event(driver, "fifth", None))) is None


def test_what_was_refused_may_be_asked_again() -> None:
    driver = Driver()
    driver.join()  # no GPUs there
    assert type(error_in(driver.do(reserved(driver, "r1", Intent("k", "b"))))) is Invalid
    driver.join(capacity=WITH_GPUS)
    assert error_in(driver.do(reserved(driver, "r2", Intent("k", "b")))) is None


def test_a_day_later_the_key_is_new() -> None:
    driver = Driver()
    driver.do(submitted(driver, "first", Intent("k", "b")))
    driver.now += INTENT_KEPT_S - 1
    assert type(error_in(driver.do(submitted(driver, "second", Intent("k", "b"))))) is Repeated
    driver.now += 1
    assert error_in(driver.do(submitted(driver, "third", Intent("k", "b")))) is None
    assert [deed.made for deed in driver.core.state.intents.values()] == ["third"]
    assert replayed(driver).state.durable() == driver.core.state.durable()


def test_the_oldest_are_forgotten_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "INTENTS_MAX", 3)
    driver = Driver()
    for number in range(5):
        driver.do(submitted(driver, f"t{number}", Intent(f"k{number}", "b")))
    assert list(driver.core.state.intents) == ["k2", "k3", "k4"]
    assert replayed(driver).state.durable() == driver.core.state.durable()


def test_ten_thousand_retries_with_lost_answers_and_restarts_make_each_thing_once() -> None:
    dice = random.Random(6)
    driver = Driver()
    answered: dict[str, str] = {}  # what the client was told, by its key
    wanted = [f"k{number}" for number in range(500)]
    sent = 0
    while len(answered) < len(wanted) or sent < 10_000:
        key = dice.choice(wanted)
        driver.now += dice.random()
        sent += 1
        effects = driver.core.handle(submitted(driver, f"t{sent}", Intent(key, "body of " + key)), driver.now)
        facts = [effect.fact for effect in effects if isinstance(effect, Persist)]
        fate = dice.random()
        if fate < 0.002:  # it dies before the write: nobody was told
            driver.core = replayed(driver)
            continue
        driver.record += [replace(fact) for fact in facts]
        if fate < 0.004:  # it dies after the write, before the answer
            driver.core = replayed(driver)
        elif fate < 0.7:  # the answer arrives
            (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
            made = str(reply.error) if isinstance(reply.error, Repeated) else reply.value["id"]
            assert answered.setdefault(key, made) == made
    made_for = [fact.metadata["intent"]["key"] for fact in driver.record if fact.action == "task.submit"]
    assert len(made_for) == len(set(made_for)) == len(wanted)
    assert replayed(driver).state.durable() == driver.core.state.durable()
    assert state_form.to_bytes(state_form.from_bytes(state_form.to_bytes(driver.core.state))) == state_form.to_bytes(
        driver.core.state
    )
