"""Plugins as the record has them: how each is to run, how it was last seen, and what attempts were given of them.

What a plugin is, and whether its settings are right, was checked where they came in; its sidecar is `supervise`'s. A plugin
never holds a task up: nothing here looks at the queue.
"""

from typing import Final

from fetchmld.core.desk import Desk
from fetchmld.core.errors import Conflict
from fetchmld.core.lifecycle import PLUGIN, STARTED
from fetchmld.core.messages import Fact, PluginConfigured, PluginReverted, PluginSeen, PluginUsed
from fetchmld.core.model import Plugin, PluginConfig

PLUGINS_MAX: Final = 64  # ever configured: each keeps its number


def configure(desk: Desk, event: PluginConfigured) -> None:
    """Reply: the Plugin. To disable one that is disabled changes nothing."""
    known = desk.state.plugins.get(event.name)
    if known is None and len(desk.state.plugins) >= PLUGINS_MAX:
        desk.fail(event.ticket, Conflict(f"{PLUGINS_MAX} plugins were configured before, which is the limit"))
        return
    runs = wanted(event.config)
    if known is None or known.config != event.config:
        revision = known.last_revision + 1 if known is not None else 1
        metadata = {
            "config": event.config,
            "revision": revision,
            "status": "starting" if runs else "stopped",
        }
        action = "plugin.update" if runs else "plugin.disable"
        desk.record(event, "plugin_configured", action, event.name, event.user_id, metadata, ip=event.ip_address)
    desk.reply(event.ticket, desk.state.plugins[event.name])


def see(desk: Desk, event: PluginSeen) -> None:
    """A supervisor's word on another revision than the current one comes too late, and changes nothing."""
    plugin = _current(desk, event.name, event.revision)
    if plugin is None or (plugin.status, plugin.problem) == (event.status, event.problem):
        return
    if event.status == plugin.status or event.status in PLUGIN[plugin.status]:
        metadata = {"status": event.status, "revision": event.revision}
        desk.record(event, "plugin_configured", "plugin.state", event.name, "", metadata, error=event.problem)


def revert(desk: Desk, event: PluginReverted) -> None:
    """What ran before is what is wanted again, if nobody has wanted something else meanwhile."""
    if _current(desk, event.name, event.failed) is None:
        return
    metadata = {"config": event.config, "revision": event.to, "status": "healthy", "failed_revision": event.failed}
    desk.record(event, "plugin_configured", "plugin.update", event.name, "", metadata, error=event.problem)


def use(desk: Desk, event: PluginUsed) -> None:
    """Fenced by the attempt: what is said of one that is over is dropped."""
    task = desk.state.tasks.get(event.task_id)
    if task is not None and task.status in STARTED and task.attempt == event.use["attempt"]:
        metadata = {"plugin": event.name, "use": event.use}
        fact = Fact("job_started", "task.attach", task.id, task.user_id, metadata=metadata, at_us=event.at_us)
        desk.persist(fact)
        desk.changed(task.id)
    desk.reply(event.ticket)


def wanted(config: PluginConfig) -> bool:
    """Is the plugin to run?"""
    return config["enabled"] and config["mode"] != "disabled"


def _current(desk: Desk, name: str, revision: int) -> Plugin | None:
    plugin = desk.state.plugins.get(name)
    return plugin if plugin is not None and plugin.wanted and plugin.revision == revision else None
