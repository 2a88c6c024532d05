"""What attempts of tasks get of a plugin, and that it hears of their ends.

An attempt asks before it starts; however many nodes it has, and however often its agent asks, it is given the same. Its end
is learnt from the scheduler's feed, and after a pause of anybody's from the record; the plugin is told until it listens.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

from actors import feed
from actors.plugin_memory import Memory, Open
from fetchmld.channel import Client
from fetchmld.core.errors import FetchmlError
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import PluginUse, TaskView
from fetchmld.plugins.catalog import valid
from fetchmld.plugins.protocol import Call, CallFailed, Outcome, TaskFacts, Tracker, Use
from fetchmld.plugins.tokens import Tokens

log = logging.getLogger(__name__)

RETRY_S: Final = 5.0  # between two tries to tell the plugin of an end
LOOK_S: Final = 60.0  # between two looks at all that is open, whatever the feed said
USES_MAX: Final = 10_000  # remembered, for nodes of a gang that ask late
OPEN_MAX: Final = 100_000


class PluginTasks:
    """One per plugin that tasks report to. `settings` are the plugin's own, as they are now; `after` follows each end."""

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        memory: Memory,
        tokens: Tokens,
        scheduler: Client,
        history: Client,
        scheduler_socket: Path,
        task_url: str,
        call: Call,
        settings: Callable[[], Any],
        after: Callable[[Open, TaskView | None], Awaitable[None]],
    ) -> None:
        self._name = name
        self._tracker = tracker
        self._memory = memory
        self._tokens = tokens
        self._scheduler = scheduler
        self._history = history
        self._socket = scheduler_socket
        self._task_url = task_url
        self._call = call
        self._settings = settings
        self._after = after
        self._uses: dict[str, asyncio.Future[Use]] = {}
        self._due = asyncio.Event()
        self._over: set[str] = set()  # open ones that may be over

    # -- before an attempt starts

    @property
    def followed(self) -> str:
        """Told to agents, whose machines need not have a third party's package."""
        return self._tracker.followed

    async def begin(self, body: dict[str, Any]) -> Use:
        """What the attempt gets. Raises `CallFailed`, or `Invalid` for settings of a task that are none."""
        key = _key(body["task_id"], body["attempt"])
        known = self._uses.get(key)
        if known is not None:
            return await asyncio.shield(known)
        made = self._uses[key] = asyncio.get_running_loop().create_future()
        try:
            use = await self._begin(key, body)
        except BaseException as error:
            del self._uses[key]
            if isinstance(error, Exception):
                made.set_exception(error)
                made.exception()  # whoever else waits gets it; nobody may
            else:
                made.cancel()
            raise
        made.set_result(use)
        while len(self._uses) > USES_MAX:
            del self._uses[next(iter(self._uses))]
        return use

    async def _begin(self, key: str, body: dict[str, Any]) -> Use:
        facts = await self._facts(body)
        use = await self._tracker.begin(self._call, self._settings(), facts)
        if len(self._memory.open) < OPEN_MAX:
            self._memory.open[key] = Open(facts.task_id, facts.attempt, use.run_id)
            self._memory.save()
        given = PluginUse(attempt=facts.attempt, status="healthy")
        if use.run_id:
            given["run_id"] = use.run_id
        if use.path:
            given["path"] = use.path
        await self._scheduler.request("plugin_used", {"name": self._name, "task_id": facts.task_id, "use": given})
        return use

    async def _facts(self, body: dict[str, Any]) -> TaskFacts:
        experiment = ""
        if experiment_id := body.get("experiment_id"):
            asked = {"experiment_id": experiment_id}
            experiment = (await self._scheduler.request("experiment_name", asked)).body
        return facts_of(self._name, self._tracker, {**body, "head_url": self._reached(body)}, experiment, self._tokens)

    def _reached(self, body: dict[str, Any]) -> str:
        """What tasks put before `/plugins`; "" where they would not trust the certificate, which names no address."""
        by_address: str = body["head_url"]
        return self._task_url or ("" if by_address.startswith("https:") else by_address)

    # -- after it ended

    async def watch(self) -> None:
        """Until cancelled: hear of ends, and pass them on."""
        self._look_at_all()
        hearing = asyncio.create_task(self._hear())
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._due.wait()
                except TimeoutError:
                    self._look_at_all()
                self._due.clear()
                if not await self._settle_some():
                    await asyncio.sleep(RETRY_S)
                    self._due.set()
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    def _look_at_all(self) -> None:
        self._over |= self._memory.open.keys()
        self._due.set()

    async def _hear(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(feed.watch(self._socket)) as feeds:
                    async for news in feeds:
                        self._take(news)
            except (OSError, FetchmlError):
                pass
            await asyncio.sleep(1.0)
            self._look_at_all()  # something may have ended meanwhile

    def _take(self, news: Any) -> None:
        for change in news["tasks"]:
            task: TaskView = change["task"]
            for attempt in {task["attempt"], task["attempt"] - 1}:
                key = _key(task["id"], attempt)
                if key in self._memory.open and _outcome(task, attempt) is not None:
                    self._over.add(key)
                    self._due.set()

    async def _settle_some(self) -> bool:
        """Pass on those that are over; whether all of it went well."""
        well = True
        for key in list(self._over):
            try:
                await self._settle(key)
                self._over.discard(key)
            except (CallFailed, FetchmlError) as error:
                log.warning("plugin.end_not_told", extra={"attempt": key, "reason": str(error)})
                well = False
        return well

    async def _settle(self, key: str) -> None:
        opened = self._memory.open.get(key)
        if opened is None:
            return
        task = await self._task(opened.task_id)
        outcome = (
            Outcome("failed", "the task is not known any more", 0.0) if task is None else _outcome(task, opened.attempt)
        )
        if outcome is None:
            return
        await self._after(opened, task)
        await self._tracker.end(self._call, self._settings(), opened.run_id, outcome)
        self._uses.pop(key, None)
        del self._memory.open[key]
        self._memory.save()

    async def _task(self, task_id: str) -> TaskView | None:
        live = (await self._scheduler.request("view", {"task_id": task_id})).body
        if live is None:
            seq = int((await self._scheduler.request("durable")).body["seq"])
            live = (await self._history.request("task", {"id": task_id, "min_seq": seq})).body
        return cast("TaskView | None", live)


def facts_of(name: str, tracker: Tracker, body: dict[str, Any], experiment: str, tokens: Tokens | None) -> TaskFacts:
    """What the tracker is told. `body`: as an agent asks. Raises `Invalid`."""
    settings = valid(tracker.task_settings, body["settings"], f"plugin_configs.{name}.settings")
    return TaskFacts(
        task_id=body["task_id"],
        attempt=body["attempt"],
        user_id=body["user_id"],
        job_name=body["job_name"],
        experiment=experiment,
        entrypoint=body["entrypoint"],
        params=body["params"],
        settings=settings,
        url=f"{body['head_url']}/plugins/{name}" if body["head_url"] else "",
        token=tokens.make(body["task_id"], body["attempt"], name) if tokens is not None else "",
        output_dir=body["output_dir"],
    )


def _key(task_id: str, attempt: int) -> str:
    return f"{task_id}.{attempt}"


def _outcome(task: TaskView, attempt: int) -> Outcome | None:
    """How that attempt of the task ended; None while it goes on."""
    if task["attempt"] > attempt:
        return Outcome("failed", "it ended, and the task was started again", task["started_at"])
    if task["status"] == "queued":
        return Outcome("failed", "it ended, and the task waits to be started again", 0.0)
    if task["status"] not in ENDED:
        return None
    if task["reason"] == "cancelled":
        return Outcome("cancelled", task["error"], task["ended_at"])
    return Outcome("completed" if task["status"] == "completed" else "failed", task["error"], task["ended_at"])
