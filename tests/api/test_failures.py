"""Failed logins: each on record up to a limit of its address, the rest of a minute as one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from fetchmld.api import failures
from fetchmld.api.failures import Failures
from fetchmld.core.messages import Fact
from tests.api.served import Api, with_api


def failure(address: str) -> Fact:
    return Fact("auth_attempt", "auth.failure", "api", success=False, ip_address=address, error="no key")


def play(story: Callable[[Failures], None]) -> list[tuple[str, int]]:
    """The facts that a story leads to: the address, and how many failures each stands for."""
    found: list[Fact] = []

    async def run() -> None:
        story(Failures(found.append, 2))

    asyncio.run(run())
    assert {fact.action for fact in found} <= {"auth.failure"}
    assert not any(fact.success for fact in found)
    return [(fact.ip_address, fact.metadata.get("count", 1)) for fact in found]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "ADDRESSES_MAX", 3)


def test_beyond_the_limit_of_an_address_the_rest_of_the_minute_is_one() -> None:
    def story(failing: Failures) -> None:
        for _ in range(5):
            failing.note(failure("1.1.1.1"))
        failing.note(failure("2.2.2.2"))
        failing.end_minute()
        failing.note(failure("1.1.1.1"))
        failing.end_minute()
        failing.end_minute()

    assert play(story) == [*[("1.1.1.1", 1)] * 2, ("2.2.2.2", 1), ("1.1.1.1", 3), ("1.1.1.1", 1)]


def test_too_many_addresses_are_counted_together() -> None:
    def story(failing: Failures) -> None:
        for last in range(10):
            failing.note(failure(f"1.1.1.{last}"))
        failing.end_minute()

    told = [(f"1.1.1.{last}", 1) for last in range(5)]
    assert play(story) == [*told, ("", 5)]


def test_a_minute_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MINUTE_S", 0.01)
    found: list[Fact] = []

    async def run() -> None:
        ended = asyncio.Event()
        failing = Failures(lambda fact: (found.append(fact), "count" in fact.metadata and ended.set()), 2)  # type: ignore
        for _ in range(3):
            failing.note(failure("1.1.1.1"))
        async with asyncio.timeout(10):
            await ended.wait()

    asyncio.run(run())
    assert [fact.error for fact in found] == ["no key", "no key", "1 more failures within a minute"]


def test_every_failure_is_answered_and_the_end_tells_the_rest(tmp_path: Path) -> None:
    heads: list[Api] = []

    async def story(api: Api) -> None:
        heads.append(api)
        for status in (401, 401, 429, 429, 429):
            assert (await api.call("GET", "/v1/queue", key=None))[0] == status

    with_api(tmp_path, story, login_failures_per_minute=2)
    facts = heads[0].head.facts_of("auth.failure")
    assert [fact.metadata.get("count", 1) for fact in facts] == [1, 1, 3]
