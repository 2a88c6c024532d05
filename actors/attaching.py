"""Before an attempt starts: what it gets of the plugins that its task names. Whatever goes wrong here, the attempt starts.

Asks the plugin's actor, on this machine by its socket, on another one through Ray. A plugin that is down, or does not
answer in time, gives what its `without` says: the program works, and its data goes to the task's own output.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.plugin_tasks import facts_of
from actors.ray_channel import over_ray
from actors.ray_compat import NAMESPACE
from fetchmld.channel import Client, Dial
from fetchmld.config import Config
from fetchmld.core.errors import FetchmlError, Unavailable
from fetchmld.core.messages import LaunchOrder
from fetchmld.core.model import PluginUse
from fetchmld.plugins.catalog import catalog

log = logging.getLogger(__name__)

GREET_S: Final = 3.0  # within this the actor says how the plugin is
BEGIN_S: Final = 15.0  # and within this it has made what the attempt needs


@dataclass(slots=True, frozen=True)
class Followed:
    """Files below the attempt's output that a plugin wants while they grow."""

    plugin: str
    run_id: str
    directory: str


@dataclass(slots=True, frozen=True)
class Attached:
    """What one attempt got of all its plugins."""

    env: Mapping[str, str]
    followed: tuple[Followed, ...] = ()


NOTHING: Final = Attached({})


class Attacher:
    """One per agent. `tell` brings what became of it to the scheduler."""

    def __init__(
        self, run_dir: Path, head_url: str, is_remote: bool, tell: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._run_dir = run_dir
        self._head_url = head_url
        self._is_remote = is_remote
        self._tell = tell

    async def attach(self, order: LaunchOrder, output_dir: str) -> Attached:
        """Never raises. All plugins are asked at the same time."""
        wanted = named(order["request"].get("plugin_configs", {}))
        got = await asyncio.gather(*(self._attach(name, given, order, output_dir) for name, given in wanted.items()))
        env: dict[str, str] = {}
        for one in got:
            env.update(one.env)
        return Attached(env, tuple(followed for one in got for followed in one.followed))

    async def _attach(self, name: str, given: dict[str, Any], order: LaunchOrder, output_dir: str) -> Attached:
        body = self._question(given, order, output_dir)
        entry = catalog().get(name)
        tracker = entry.tracker if entry is not None else None
        try:
            use = await self._ask(name, body)
        except (FetchmlError, OSError) as error:
            detail = str(error) or type(error).__name__
            log.warning("plugin.not_attached", extra={"plugin": name, "task_id": order["task_id"], "reason": detail})
            if order["rank"] == 0:
                not_used = PluginUse(attempt=order["attempt"], status="unhealthy", detail=detail[:500])
                self._tell("plugin_used", {"name": name, "task_id": order["task_id"], "use": not_used})
            if tracker is None:
                return NOTHING
            return Attached(tracker.without(facts_of(name, tracker, body, "", None)))
        env = {variable: value.replace(OUTPUT, output_dir) for variable, value in use["env"].items()}
        if not use["followed"]:
            return Attached(env)
        return Attached(env, (Followed(name, use["run_id"], f"{output_dir}/{use['followed']}"),))

    def _question(self, given: dict[str, Any], order: LaunchOrder, output_dir: str) -> dict[str, Any]:
        request = order["request"]
        return {
            "task_id": order["task_id"],
            "attempt": order["attempt"],
            "user_id": order["user_id"],
            "job_name": request.get("job_name", ""),
            "experiment_id": request.get("experiment_id", ""),
            "entrypoint": request.get("entrypoint", "train.py"),
            "params": order["element"]["params"] if "element" in order else {},
            "settings": given.get("settings", {}),
            "head_url": self._head_url,
            "output_dir": output_dir,
        }

    async def _ask(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if not self._is_remote and not (self._run_dir / f"plugin-{name}.sock").exists():
            raise Unavailable(f"plugin {name} is not enabled, or not up yet")
        client = client_of(self._run_dir, name, self._is_remote)
        await client.start()
        try:
            said = (await client.request("status", {}, timeout_s=GREET_S)).body
            if said["status"] != "healthy":
                raise Unavailable(said["problem"] or f"plugin {name} is {said['status']}")
            # Each node of a gang has a directory of its own, and the answer is for all of them.
            asked = {**body, "output_dir": OUTPUT}
            answer: dict[str, Any] = (await client.request("attach", asked, timeout_s=BEGIN_S)).body
            return answer
        finally:
            await client.close()


def tasks_url(config: Config, members_url: str) -> str:
    """Where tasks of this machine reach the head, by its address; `members_url` is "" on the head's own."""
    if members_url:
        return members_url.rstrip("/")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    named = f"[{host}]" if ":" in host else host
    return f"{'https' if config.tls_cert else 'http'}://{named}:{config.port}"


OUTPUT: Final = "{output_dir}"


def named(configs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The plugins that a task wants: it may name one to say that it does not."""
    return {
        name: given for name, given in configs.items() if given.get("enabled", True) and given.get("mode") != "disabled"
    }


def client_of(run_dir: Path, name: str, is_remote: bool) -> Client:
    """A connection to the plugin's actor, not begun yet."""

    async def resolve() -> Path | Dial:
        return over_ray(f"plugin:{name}", NAMESPACE) if is_remote else run_dir / f"plugin-{name}.sock"

    return Client(resolve)
