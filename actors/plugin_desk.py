"""The head's part of plugins: what is shown of them, that they are configured, where they are, and tokens of tasks.

How each is to run is on record, what each is doing right now its actor says; where that does not answer, the record stands.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, cast

from actors.code_desk import Asking
from fetchmld.channel import Client, Reply
from fetchmld.core.errors import FetchmlError, Invalid, NotFound, Unavailable
from fetchmld.core.lifecycle import STARTED
from fetchmld.core.model import PluginConfig, PluginView, TaskView
from fetchmld.plugins import secrets
from fetchmld.plugins.catalog import Entry, catalog, check_config, extras, requires_restart
from fetchmld.plugins.tokens import TaskToken, Tokens
from fetchmld.upstream import Upstream

ASK_S: Final = 1.0  # an actor has so long to say how its plugin is
UPSTREAM_KEPT_S: Final = 1.0
TOKEN_KEPT_S: Final = 1.0  # a task that ended loses its access within this
KEPT_MAX: Final = 10_000
NEVER: Final = PluginConfig(enabled=False, mode="disabled", settings={})


class Asked(Protocol):
    """Somebody who answers: `channel.Client`."""

    def post(self, kind: str, body: Any = None) -> None: ...

    async def request(self, kind: str, body: Any = None, *, timeout_s: float = ...) -> Reply: ...


class Actors:
    """Connections to the plugins' actors, made when they are asked for."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._clients: dict[str, Client] = {}

    def __call__(self, name: str) -> Client:
        if name not in self._clients:
            path = self._run_dir / f"plugin-{name}.sock"

            async def resolve() -> Path:
                return path

            self._clients[name] = Client(resolve)
            self._clients[name].start_soon()
        return self._clients[name]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()


class PluginDesk:
    """Implements `api.head.Plugins`."""

    def __init__(self, keep: secrets.Secrets, tokens: Tokens, scheduler: Asked, actor: Callable[[str], Asked]) -> None:
        """`actor`: the plugin's, by its name."""
        self._secrets = keep
        self._tokens = tokens
        self._scheduler = scheduler
        self._actor = actor
        self._upstreams: dict[str, tuple[float, Upstream | None]] = {}
        self._holders: dict[str, tuple[float, str]] = {}

    async def open(self) -> None:
        """Forget secrets that no configuration names any more."""
        records = await self._records()
        used = set().union(*(secrets.ids_in(one["config"]["settings"]) for one in records.values()))
        await asyncio.to_thread(self._secrets.forget_all_but, used)

    # -- shown

    async def all(self) -> list[PluginView]:
        records = await self._records()
        return list(await asyncio.gather(*(self._view(entry, records.get(name)) for name, entry in catalog().items())))

    async def one(self, name: str) -> PluginView:
        entry = _entry(name)
        return await self._view(entry, (await self._records()).get(name))

    async def _records(self) -> dict[str, dict[str, Any]]:
        return {one["id"]: one for one in (await self._scheduler.request("plugins")).body}

    async def _view(self, entry: Entry, record: dict[str, Any] | None) -> PluginView:
        config = cast(PluginConfig, record["config"]) if record is not None else NEVER
        runs = config["enabled"] and config["mode"] != "disabled"
        view = PluginView(
            name=entry.name,
            version=entry.plugin.version if entry.plugin is not None else "",
            enabled=config["enabled"],
            mode=config["mode"],
            settings=secrets.masked(config["settings"]),
            status=record["status"] if record is not None else "stopped",
            problem=entry.problem or (record["problem"] if record is not None else ""),
            progress="",
            endpoint="",
            checked_at=record["changed_at"] if record is not None else 0.0,
            requires_restart=entry.plugin is not None and requires_restart(entry.plugin),
        )
        if runs:
            await self._add_news(entry.name, view, record["revision"] if record is not None else 0)
        return view

    async def _add_news(self, name: str, view: PluginView, revision: int) -> None:
        """How it is now. What its actor says before it has read this revision is of the one before."""
        try:
            said = (await self._actor(name).request("status", {}, timeout_s=ASK_S)).body
        except FetchmlError:
            return
        if said["status"] != "stopped" and said["revision"] == revision:
            view["status"], view["problem"] = said["status"], said["problem"]
        view["progress"], view["endpoint"] = said["progress"], said["endpoint"]
        view["checked_at"] = said["checked_at"] or view["checked_at"]

    # -- changed

    async def configure(self, caller: Asking, name: str, config: PluginConfig) -> PluginView:
        entry = _entry(name)
        if entry.plugin is None:
            raise Invalid(f"plugin {name} {entry.problem}")
        record = (await self._records()).get(name)
        before: Mapping[str, Any] = record["config"]["settings"] if record is not None else {}
        names = extras(entry.plugin.settings, "secret")
        hidden = await asyncio.to_thread(self._secrets.hide, config["settings"], names, before)
        check_config(entry.plugin, config, await asyncio.to_thread(self._secrets.reveal, hidden))
        body = {
            "name": name,
            "config": {**config, "settings": hidden},
            "user_id": caller.user_id,
            "ip_address": caller.ip_address,
            "trace_id": caller.trace_id,
        }
        await self._scheduler.request("configure_plugin", body)
        self._changed(name)
        return await self.one(name)

    async def disable(self, caller: Asking, name: str) -> None:
        """Its settings stay on record, for when it is enabled again."""
        _entry(name)
        record = (await self._records()).get(name)
        if record is None:
            return
        config = PluginConfig(enabled=False, mode="disabled", settings=record["config"]["settings"])
        by = {"user_id": caller.user_id, "ip_address": caller.ip_address, "trace_id": caller.trace_id}
        await self._scheduler.request("configure_plugin", {"name": name, "config": config, **by})
        self._changed(name)

    def _changed(self, name: str) -> None:
        """Its actor looks at the record now and then; this has it look at once."""
        self._upstreams.pop(name, None)
        self._actor(name).post("configured", {})

    # -- reached

    async def upstream(self, name: str) -> Upstream:
        """Where it is. NotFound where it is not enabled, Unavailable while it is down."""
        now = time.monotonic()
        known = self._upstreams.get(name)
        if known is None or now - known[0] > UPSTREAM_KEPT_S:
            known = self._upstreams[name] = (now, await self._find_upstream(name))
        if known[1] is None:
            raise Unavailable(f"plugin {name} is not up").passing(2)
        return known[1]

    async def _find_upstream(self, name: str) -> Upstream | None:
        _entry(name)
        record = (await self._records()).get(name)
        if record is None or not record["config"]["enabled"] or record["config"]["mode"] == "disabled":
            raise NotFound(f"plugin {name} is not enabled")
        try:
            found = (await self._actor(name).request("upstream", {}, timeout_s=ASK_S)).body
        except Unavailable:
            return None
        return None if found is None else Upstream(**found)

    async def token_holder(self, token: str) -> tuple[str, TaskToken] | None:
        """The user whose attempt it is, and what it opens; None for what is no token, or not any more."""
        read = self._tokens.read(token)
        if read is None:
            return None
        now = time.monotonic()
        known = self._holders.get(token)
        if known is None or now - known[0] > TOKEN_KEPT_S:
            if len(self._holders) >= KEPT_MAX:
                self._holders.clear()
            known = self._holders[token] = (now, await self._holder(read))
        return (known[1], read) if known[1] else None

    async def _holder(self, token: TaskToken) -> str:
        """Whose attempt it is, "" where it is over."""
        task = cast("TaskView | None", (await self._scheduler.request("view", {"task_id": token.task_id})).body)
        if task is None or task["status"] not in STARTED or task["attempt"] != token.attempt:
            return ""
        return task["user_id"]


def _entry(name: str) -> Entry:
    entry = catalog().get(name)
    if entry is None:
        raise NotFound(f"there is no plugin {name[:64]!r}; there are {', '.join(catalog()) or 'none'}")
    return entry
