"""The actors of the cluster: which there are, where they start, and that they are there.

`Cluster` owns Ray's processes (through `RayRuntime`) and the five actors. It starts them side by side, asks each every
few seconds how it is, replaces one that cannot start or does not answer, and starts all of it again when Ray itself
dies. What the actors do is their own affair: it knows their names and three of their methods.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from actors import native, ray_channel
from actors.aside import aside
from actors.hosting import hosted
from actors.members import attend_members
from actors.plugin_actors import attend_plugins
from actors.ray_compat import NAMESPACE, RayFailed, RayLost, RayRuntime

log = logging.getLogger(__name__)

ACTOR_START_S: Final = 120.0  # the scheduler reads its record meanwhile
ACTOR_STOP_S: Final = 5.0
CREATE_S: Final = 30.0
PING_EVERY_S: Final = 2.0
PING_TIMEOUT_S: Final = 10.0
PATIENCE: Final = {
    "silent": 3,
    "starting": int(ACTOR_START_S / PING_EVERY_S),
}  # such answers in a row; then it is replaced
LOOK_S: Final = 0.1
LOST_S: Final = 6.0  # Ray's library may take so long to say that Ray has died: its calls have 5 s
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0
CALLS_AT_ONCE: Final = 2 * ray_channel.LINES_MAX  # each line holds one while it waits for news
SCHEDULER_METHODS: Final = (*ray_channel.METHODS, *native.METHODS, "plugins_wanted")


@dataclass(slots=True, frozen=True)
class ActorSpec:
    """One actor: its name in the namespace, its class as `module:Name`, and what Ray's users may call of it."""

    name: str
    path: str
    methods: tuple[str, ...] = ()
    node_id: str = ""  # of the machine that joined and whose agent this is; the others are on the head's
    settings: dict[str, Any] = field(default_factory=dict)  # that differ from the head's

    @property
    def kind(self) -> str:
        """The name without what tells actors of a kind apart."""
        return self.name.partition(":")[0]


def head_specs(worker_id: str) -> tuple[ActorSpec, ...]:
    """The actors of a head node, in the order of their start; they stop in `STOP_ORDER`."""
    return (
        ActorSpec("scheduler", "actors.scheduler:SchedulerActor", SCHEDULER_METHODS),
        ActorSpec("history", "actors.history:HistoryActor"),
        ActorSpec("audit", "actors.audit:AuditActor"),
        ActorSpec(f"agent:{worker_id}", "actors.agent:Agent"),
        ActorSpec("head", "actors.head:HeadActor", (native.DOOR,)),
    )


def member_spec(worker_id: str, node_id: str, settings: dict[str, Any]) -> ActorSpec:
    """The one actor of a machine that joined."""
    return ActorSpec(f"agent:{worker_id}", "actors.agent:Agent", ray_channel.METHODS, node_id, settings)


def plugin_spec(name: str) -> ActorSpec:
    """The supervisor of one plugin, on the head's machine."""
    return ActorSpec(f"plugin:{name}", "actors.plugin:PluginActor", ray_channel.METHODS, settings={"plugin": name})


STOP_ORDER: Final = ("head", "plugin", "agent", "audit", "history", "scheduler")  # first who asks, last who writes


class ActorFailed(RuntimeError):
    """An actor could not be started; says which and why."""


class Backoff:
    """Waits that grow from 0.1 to 10 s, each cut by up to a half at random so that not all return at once."""

    def __init__(self, max_s: float = BACKOFF_MAX_S) -> None:
        self._next_s = BACKOFF_FIRST_S
        self._max_s = max_s

    def reset(self) -> None:
        self._next_s = BACKOFF_FIRST_S

    async def wait(self) -> None:
        await asyncio.sleep(self._next_s * random.uniform(0.5, 1.0))
        self._next_s = min(2 * self._next_s, self._max_s)


class Cluster:
    """Start, watch, stop. `settings` goes to each actor's constructor; `on_revival` is called when Ray is another one."""

    def __init__(
        self,
        runtime: RayRuntime,
        settings: dict[str, Any],
        specs: tuple[ActorSpec, ...],
        on_revival: Callable[[], None] = lambda: None,
    ) -> None:
        self.runtime = runtime
        self._settings = settings
        self._specs = specs
        self._on_revival = on_revival
        self._handles: dict[str, Any] = {}
        self._members: dict[str, ActorSpec] = {}  # agents of machines that joined, also of those that left
        self.revivals = 0  # times that all of it had to start again
        self.populated = False  # every actor has started since Ray did
        self._given_up: asyncio.Future[None] | None = None  # fails when an actor says that it cannot go on

    # -- start

    async def start(self) -> None:
        """Return when every actor has started. Raises `RayFailed` or `ActorFailed`; call `stop` also then, but not after
        `RayLost`."""
        await self._in_ray(self.runtime.start)
        await self._populate()

    async def _populate(self) -> None:
        await self._in_ray(self.runtime.connect)
        await self._in_ray(self._create_all)
        starting = asyncio.create_task(_all([self._start_actor(spec) for spec in self._specs]))
        death = asyncio.create_task(self.runtime.wait_dead())
        try:
            await asyncio.wait([starting, death], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                raise RayFailed(f"Ray's {death.result()} died while the actors were starting")
            starting.result()
        finally:
            for waiting in (starting, death):
                waiting.cancel()
            await asyncio.gather(starting, death, return_exceptions=True)
        self.populated = True

    async def _in_ray(self, work: Callable[[], None]) -> None:
        """Do something in a thread that waits for Ray. Raises `RayLost` where Ray has died and the thread waits on."""
        doing = asyncio.ensure_future(aside(work))
        dead_s = 0.0
        while not doing.done():
            await asyncio.wait([doing], timeout=LOOK_S)
            dead_s = dead_s + LOOK_S if self.runtime.is_dead() else 0.0
            if dead_s > LOST_S and not doing.done():
                raise RayLost("Ray died, and its library waits for it")
        doing.result()

    def _create_all(self) -> None:
        for spec in self._specs:
            self._handles[spec.name] = self._create(spec)

    def _create(self, spec: ActorSpec) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where: dict[str, Any] = {"resources": {"node:__internal_head__": 0.001}}
        if spec.node_id:
            where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(spec.node_id, soft=False)}
        options: dict[str, Any] = {
            "name": spec.name,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 0,  # a call is made once or fails; its caller knows whether to repeat it
            "max_concurrency": CALLS_AT_ONCE,
            "enable_task_events": False,
            **where,
        }
        actor = ray.remote(hosted(spec.kind, spec.methods)).options(**options)
        return actor.remote(spec.name, spec.path, {**self._settings, **spec.settings})

    async def _start_actor(self, spec: ActorSpec) -> None:
        from ray.exceptions import RayActorError, RayTaskError

        try:
            await _answer(self._handles[spec.name].start.remote(), ACTOR_START_S)
        except TimeoutError:
            raise ActorFailed(f"the {spec.name} actor has not started in {ACTOR_START_S:g} s") from None
        except RayTaskError as error:
            raise ActorFailed(f"the {spec.name} actor cannot start: {_reason(error.cause)}") from None
        except RayActorError as error:
            raise ActorFailed(f"the {spec.name} actor died while starting: {_reason(error)}") from None

    # -- watch

    async def watch(self) -> None:
        """Keep all of it alive until cancelled. Call after `start`. Raises `ActorFailed` where an actor cannot go on, and
        `RayLost` where this process cannot."""
        self._given_up = asyncio.get_running_loop().create_future()
        while True:
            dead = await self._tend_until_death()
            log.error("ray_died", extra={"of": dead})
            await self.revive()

    async def _tend_until_death(self) -> str:
        tenders = [asyncio.create_task(self._tend(spec)) for spec in self._specs]
        tenders.append(asyncio.create_task(self._tend_zygote()))
        tenders.append(asyncio.create_task(attend_members(self._attend)))
        tenders.append(
            asyncio.create_task(attend_plugins(self._wanted_plugins, self._attend_plugin, self._dismiss_plugin))
        )
        death = asyncio.create_task(self.runtime.wait_dead())
        assert self._given_up is not None
        waited: list[asyncio.Future[Any]] = [death, self._given_up]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._given_up.done():
                self._given_up.result()
            return death.result()
        finally:
            for tender in (*tenders, death):
                tender.cancel()
            await asyncio.gather(*tenders, death, return_exceptions=True)

    async def _tend_zygote(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_S)
            if await asyncio.to_thread(self.runtime.renew_zygote):
                log.warning("zygote_renewed")

    async def _tend(self, spec: ActorSpec) -> None:
        """Ask one actor again and again how it is; replace it where that is all there is left to do."""
        backoff, misses = Backoff(), 0
        while True:
            await asyncio.sleep(PING_EVERY_S)
            try:
                misses = await self._tend_once(spec, backoff, misses)
            except ActorFailed as error:
                if (
                    spec.name in self._members
                ):  # a machine that joined, a plugin: the others go on, and it may be mended
                    log.error("member_fails", extra={"actor": spec.name, "reason": str(error)})
                    continue
                if self._given_up is not None and not self._given_up.done():
                    self._given_up.set_exception(error)
                return
            except Exception:  # Ray is going, and raises whatever it likes; who waits for its death sees that
                log.exception("actor_not_tended", extra={"actor": spec.name})

    async def _attend(self, worker_id: str, node_id: str, settings: dict[str, Any]) -> None:
        """Give a machine that joined its agent, and tend that until cancelled."""
        spec = member_spec(worker_id, node_id, {**settings, **self._ways_to_head()})
        self._members[spec.name] = spec
        await aside(self._create_afresh, spec)
        self._handles[spec.name].start.remote()
        await self._tend(spec)

    async def _wanted_plugins(self, known: list[str]) -> list[str]:
        async with asyncio.timeout(3 * PING_TIMEOUT_S):
            return list(await self._handles["scheduler"].plugins_wanted.remote(known))

    async def _attend_plugin(self, name: str) -> None:
        """Give a plugin its supervisor, and tend that until cancelled."""
        spec = plugin_spec(name)
        self._members[spec.name] = spec
        await aside(self._create_afresh, spec)
        self._handles[spec.name].start.remote()
        await self._tend(spec)

    async def _dismiss_plugin(self, name: str) -> None:
        """Its supervisor ends the sidecar, and goes."""
        spec = plugin_spec(name)
        self._members.pop(spec.name, None)
        await self._shut_down_one(spec)
        await aside(self._end_actor, spec)

    def _end_actor(self, spec: ActorSpec) -> None:
        import ray

        with contextlib.suppress(ValueError):
            ray.kill(self._handles.pop(spec.name), no_restart=True)

    def _ways_to_head(self) -> dict[str, str]:
        """Where agents on other machines find the API, and what they know it by there."""
        return {
            "head_url": self._settings.get("members_url", ""),
            "head_certificate": self._settings.get("members_certificate", ""),
        }

    def _create_afresh(self, spec: ActorSpec) -> None:
        """Ray may still have one of that name, of the machine's last stay."""
        import ray

        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(spec.name, NAMESPACE), no_restart=True)
        self._handles[spec.name] = self._create(spec)

    async def _tend_once(self, spec: ActorSpec, backoff: Backoff, misses: int) -> int:
        """One question and what follows from the answer; how often in a row it was not a good one."""
        fault = await self._ask(spec)
        if fault == "":
            backoff.reset()
            return 0
        if fault in PATIENCE and misses + 1 < PATIENCE[fault]:
            return misses + 1
        log.warning("actor_replaced", extra={"actor": spec.name, "reason": fault})
        await backoff.wait()
        await self._replace(spec)
        return 0

    async def _ask(self, spec: ActorSpec) -> str:
        """How one actor is: nothing when all is well, `silent`, `starting`, or else why it is to be replaced.

        Raises `ActorFailed` where to replace it would not help.
        """
        from ray.exceptions import ActorDiedError, RayError

        try:
            said = await _answer(self._handles[spec.name].ping.remote(), PING_TIMEOUT_S)
        except ActorDiedError as error:
            return _reason(error)
        except (TimeoutError, RayError):  # restarting, or too busy
            return "silent"
        if said.get("final"):
            raise ActorFailed(f"the {spec.name} actor cannot go on: {said.get('error', '')}")
        return "" if said.get("started") else str(said.get("error", "starting"))

    async def _replace(self, spec: ActorSpec) -> None:
        """End the process of an actor. Ray starts it anew; one that Ray has given up is created again."""
        from ray.exceptions import RayError

        try:
            async with asyncio.timeout(CREATE_S):
                await aside(self._kill_and_create, spec)
        except (TimeoutError, RayError, ValueError) as error:
            log.warning("actor_not_replaced", extra={"actor": spec.name, "reason": _reason(error)})

    def _kill_and_create(self, spec: ActorSpec) -> None:
        import ray

        with contextlib.suppress(ValueError):
            ray.kill(self._handles[spec.name], no_restart=False)
        self._handles[spec.name] = handle = self._create(spec)
        handle.start.remote()  # of no effect on one that Ray started anew: it does so by itself

    async def revive(self) -> None:
        """Ray is dead: clear the remains and start again, for as long as it takes. Raises `RayLost`."""
        backoff = Backoff()
        while True:
            self.populated = False
            self.revivals += 1
            self._members.clear()
            self._handles.clear()  # of the cluster that is no more
            try:
                await self._renew_ray()
                await self._populate()
            except RayLost:
                raise
            except Exception as error:  # Ray in ruins raises whatever it likes; all there is to do is to try again
                log.error("ray_not_revived", extra={"reason": _reason(error)}, exc_info=error)
                await backoff.wait()
            else:
                self._on_revival()
                log.warning("ray_revived", extra={"revivals": self.revivals})
                return

    async def _renew_ray(self) -> None:
        """Leave the old cluster, if possible while it can answer: one whose GCS is dead keeps us for 5 s, in which its
        library holds the interpreter's lock. The new one's processes use that time to come up; but not where the new GCS
        has the old one's port: the library would find it there, take it for the old one, and end this process."""
        leaves_late = "gcs_server" not in self.runtime.pids() and not self.runtime.options.gcs_port
        if not leaves_late:
            await asyncio.to_thread(self.runtime.disconnect)
        await asyncio.to_thread(self.runtime.stop)
        await self._in_ray(self.runtime.start)
        if leaves_late:
            await asyncio.to_thread(self.runtime.disconnect)

    async def ping(self) -> dict[str, dict[str, Any]]:
        """What each actor says of itself, by name; `{"error": ...}` for one that does not answer."""
        specs = (*self._specs, *self._members.values())
        answers = await asyncio.gather(*(self._say(spec) for spec in specs))
        return {spec.name: said for spec, said in zip(specs, answers, strict=True)}

    async def _say(self, spec: ActorSpec) -> dict[str, Any]:
        from ray.exceptions import RayError

        if spec.name not in self._handles:
            return {"started": False, "error": "it is not created yet"}
        try:
            said: dict[str, Any] = await _answer(self._handles[spec.name].ping.remote(), PING_TIMEOUT_S)
        except (TimeoutError, RayError) as error:
            return {"started": False, "error": _reason(error)}
        return said

    # -- stop

    async def stop(self) -> None:
        """Let each actor finish, those that ask before those that write, then end Ray. Never raises for what is dead."""
        try:
            if self.runtime.is_alive():
                specs = (*self._specs, *self._members.values())
                for name in STOP_ORDER:
                    await self._shut_down([spec for spec in specs if spec.kind == name])
                await self._shut_down([spec for spec in specs if spec.kind not in STOP_ORDER])
            await asyncio.to_thread(self.runtime.disconnect)
        finally:
            await asyncio.to_thread(self.runtime.close)

    async def _shut_down(self, specs: list[ActorSpec]) -> None:
        await asyncio.gather(*(self._shut_down_one(spec) for spec in specs if spec.name in self._handles))

    async def _shut_down_one(self, spec: ActorSpec) -> None:
        try:
            await _answer(self._handles[spec.name].shutdown.remote(), ACTOR_STOP_S)
        except Exception as error:  # noqa: BLE001 (Ray in ruins raises whatever it likes, and the others are to be told)
            log.warning("actor_not_shut_down", extra={"actor": spec.name, "reason": _reason(error)})


async def _answer(reference: Any, timeout_s: float) -> Any:
    async with asyncio.timeout(timeout_s):
        return await reference


async def _all(works: list[Coroutine[Any, Any, Any]]) -> None:
    """Do all side by side to the end of each, then raise the first failure, if any."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _reason(error: BaseException | None) -> str:
    """The last line of what Ray says, which is the original error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
