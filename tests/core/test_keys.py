"""Keys in the core: made once, revoked for good, and never without an administrator."""

from typing import Any

import pytest

from fetchmld.core.errors import Conflict, NotFound
from fetchmld.core.messages import Event, KeyCreated, KeyRevoked, Persist, Reply
from fetchmld.core.model import Role, UserId
from fetchmld.core.scheduler import Policy, Scheduler

BOSS = UserId("boss")


def made(core: Scheduler, name: str, role: Role = "user", expires_at: float = 0.0) -> None:
    ask(core, KeyCreated(name, UserId(name), role, f"sum-{name}", expires_at, BOSS, 1_000_000, ticket=1))


def ask(core: Scheduler, event: Event) -> Any:
    effects = core.handle(event, 0.0)
    (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
    if reply.error is not None:
        raise reply.error
    return [effect.fact.action for effect in effects if isinstance(effect, Persist)]


def revoke(core: Scheduler, name: str, at_us: int = 2_000_000) -> Any:
    return ask(core, KeyRevoked(name, BOSS, at_us, ticket=1))


def test_a_revoked_key_stays_revoked() -> None:
    core = Scheduler(Policy())
    made(core, "root", "admin")
    made(core, "ada")
    assert revoke(core, "ada") == ["key.revoke"]
    key = core.state.keys["sum-ada"]
    assert (key.revoked_at, key.is_valid(0.0)) == (2.0, False)
    assert revoke(core, "ada") == []  # twice is the same, and on record once
    with pytest.raises(Conflict):
        made(core, "ada")


def test_an_unknown_key_cannot_be_revoked() -> None:
    with pytest.raises(NotFound):
        revoke(Scheduler(Policy()), "nobody")


def test_the_last_administrator_stays() -> None:
    core = Scheduler(Policy())
    made(core, "root", "admin")
    made(core, "brief", "admin", expires_at=1.5)
    with pytest.raises(Conflict, match="last one of an administrator"):
        revoke(core, "root")  # at 2 s: the other one has expired
    assert revoke(core, "root", at_us=1_200_000) == ["key.revoke"]


def test_a_replay_gives_the_same_keys() -> None:
    core, facts = Scheduler(Policy()), []
    for event in (
        KeyCreated("root", BOSS, "admin", "sum-root", 0.0, BOSS, 1_000_000),
        KeyCreated("ada", UserId("ada"), "user", "sum-ada", 9.0, BOSS, 2_000_000),
        KeyRevoked("ada", BOSS, 3_000_000),
    ):
        facts += [effect.fact for effect in core.handle(event, 0.0) if isinstance(effect, Persist)]
    again = Scheduler(Policy())
    again.replay(facts, 0.0)
    assert again.state.keys == core.state.keys
