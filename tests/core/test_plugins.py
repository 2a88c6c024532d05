"""Plugins on record: configured, seen, taken back, used; and that a replay gives the same."""

from typing import Any

import pytest

from fetchmld.core.errors import Conflict
from fetchmld.core.messages import PluginConfigured, PluginReverted, PluginSeen, PluginUsed, Reply
from fetchmld.core.model import PluginConfig, PluginUse, TaskId, UserId
from fetchmld.core.plugins import PLUGINS_MAX
from fetchmld.core.scheduler import Policy, Scheduler
from tests.core.driver import Driver

ON = PluginConfig(enabled=True, mode="sidecar", settings={"a": 1})
OFF = PluginConfig(enabled=False, mode="disabled", settings={"a": 1})


def configure(driver: Driver, config: PluginConfig, name: str = "mlflow") -> list[str]:
    before = len(driver.record)
    effects = driver.do(PluginConfigured(name, config, UserId("boss"), driver.at_us, "::1", ticket=1))
    (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
    if reply.error is not None:
        raise reply.error
    return [fact.action for fact in driver.record[before:]]


def seen(driver: Driver, revision: int, status: Any, problem: str = "") -> None:
    driver.do(PluginSeen("mlflow", revision, status, problem, driver.at_us))


def as_replayed(driver: Driver) -> dict[str, Any]:
    again = Scheduler(Policy())
    again.replay(driver.record, driver.now)
    assert again.state.durable() == driver.core.state.durable()
    return {name: (p.status, p.revision, p.problem) for name, p in again.state.plugins.items()}


def test_a_life() -> None:
    driver = Driver()
    assert configure(driver, ON) == ["plugin.update"]
    assert configure(driver, ON) == []  # as it is
    seen(driver, 1, "healthy")
    seen(driver, 1, "healthy")
    seen(driver, 1, "unhealthy", "killed")
    seen(driver, 1, "healthy")
    assert [fact.action for fact in driver.record] == ["plugin.update", *["plugin.state"] * 3]
    assert configure(driver, OFF) == ["plugin.disable"]
    seen(driver, 1, "unhealthy", "too late")
    assert as_replayed(driver) == {"mlflow": ("stopped", 2, "")}


def test_a_revision_that_did_not_come_up_is_taken_back() -> None:
    driver = Driver()
    configure(driver, ON)
    seen(driver, 1, "healthy")
    worse = PluginConfig(enabled=True, mode="sidecar", settings={"a": 2})
    configure(driver, worse)
    driver.do(PluginReverted("mlflow", 2, 1, ON, "it did not answer", driver.at_us))
    plugin = driver.core.state.plugins["mlflow"]
    assert (plugin.config, plugin.revision, plugin.last_revision) == (ON, 1, 2)
    assert as_replayed(driver) == {"mlflow": ("healthy", 1, "it did not answer")}
    configure(driver, worse)
    assert plugin.revision == 3  # never one that was used before
    driver.do(PluginReverted("mlflow", 2, 1, ON, "again", driver.at_us))
    assert plugin.revision == 3  # somebody wanted something else meanwhile


def test_there_is_a_limit() -> None:
    driver = Driver()
    for number in range(PLUGINS_MAX):
        configure(driver, ON, f"p{number}")
    with pytest.raises(Conflict):
        configure(driver, ON, "one-more")
    assert [plugin.number for plugin in driver.core.state.plugins.values()] == list(range(1, PLUGINS_MAX + 1))


def test_what_an_attempt_was_given_is_on_record() -> None:
    driver = Driver()
    driver.join()
    task = driver.submit(plugin_configs={"mlflow": {}})
    use = PluginUse(attempt=1, status="healthy", run_id="r1", path="#/r1")
    driver.do(PluginUsed("mlflow", TaskId(task), use, driver.at_us))
    view = driver.core.view(TaskId(task))
    assert view is not None
    assert view["plugins"] == {"mlflow": use}
    as_replayed(driver)


def test_what_is_said_of_an_attempt_that_is_over_is_dropped() -> None:
    driver = Driver()
    driver.join()
    task = driver.submit()
    use = PluginUse(attempt=2, status="healthy", run_id="r2")
    driver.do(PluginUsed("mlflow", TaskId(task), use, driver.at_us))
    driver.end(task, exit_code=0)
    driver.do(PluginUsed("mlflow", TaskId(task), PluginUse(attempt=1, status="healthy"), driver.at_us))
    assert not any(fact.action == "task.attach" for fact in driver.record)
