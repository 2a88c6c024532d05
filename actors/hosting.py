"""What surrounds an actor inside its Ray worker: its log file, one start, and a start by itself when Ray revived it.

The actors' classes stay plain, and the daemon never imports them: it hands Ray a `Hosted` with the class's name. Whoever
asks by `ping` learns under `started` whether the actor serves, and under `error` why it cannot: one whose start failed
is not started again in place (half of it may be up) but replaced; unless the error says by `final` that another start
would find the same.
"""

import asyncio
import importlib
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from actors import json_logs
from fetchmld.runner.process import be_patient

log = logging.getLogger(__name__)

PATIENT: Final = frozenset({"agent", "history", "audit"})


class Hosted:
    """One actor in its process. Built by Ray on the event loop that its methods run on."""

    def __init__(self, name: str, path: str, settings: dict[str, Any]) -> None:
        file = Path(settings["data_dir"]) / "logs" / f"{name.replace(':', '-')}.log"
        json_logs.configure(file, settings.get("log_level", "INFO"))
        self._name = name
        self._actor = load(path)(settings)
        self._starting: asyncio.Task[None] | None = None
        if was_revived():
            log.warning("actor_revived", extra={"actor": name})
            self._begin()

    def _begin(self) -> asyncio.Task[None]:
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
        return self._starting

    async def _start(self) -> None:
        if self._name.partition(":")[0] in PATIENT:
            be_patient()  # on the loop's thread, and so of those that it starts
        try:
            await self._actor.start()
        except Exception:
            log.exception("actor_start_failed", extra={"actor": self._name})
            raise
        log.info("actor_started", extra={"actor": self._name})

    async def start(self) -> None:
        """Start, unless that was done or is being done; returns when it is done, raises why it could not be."""
        await asyncio.shield(self._begin())

    async def ping(self) -> dict[str, Any]:
        """`{"started": bool}`, with `error` where the start failed, or with what the started actor says of itself."""
        starting = self._starting
        if starting is None or not starting.done():
            return {"started": False}
        error = starting.exception()
        if error is not None:
            return {
                "started": False,
                "error": f"{type(error).__name__}: {error}",
                "final": getattr(error, "final", False),
            }
        said: dict[str, Any] = await self._actor.ping()
        return said

    async def shutdown(self) -> None:
        """Let the actor finish. One that never started has nothing to finish."""
        if self._starting is not None and self._starting.done() and self._starting.exception() is None:
            await self._actor.shutdown()
            log.info("actor_shut_down", extra={"actor": self._name})


def hosted(title: str, methods: tuple[str, ...]) -> type[Hosted]:
    """`Hosted` under a name of its own, as `ps` shows it, that answers to `methods` of its actor as well."""
    return type(title, (Hosted,), {method: _forward(method) for method in methods})


def _forward(method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(self: Hosted, *arguments: Any) -> Any:
        await self.start()
        return await getattr(self._actor, method)(*arguments)

    call.__name__ = method
    return call


def load(path: str) -> Any:
    """The class that `module:Name` means."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def was_revived() -> bool:
    """Is this the second life, or a later one, of the actor that runs in this process?"""
    import ray

    return bool(ray.is_initialized() and ray.get_runtime_context().was_current_actor_reconstructed)
