"""A plugin's supervisor as a plain class, beside a real scheduler, agent and runner: no Ray. The sidecar: the example's."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from actors.agent import Agent
from actors.plugin import PluginActor
from actors.scheduler import SchedulerActor
from fetchmld.channel import Client
from fetchmld.config import Config
from fetchmld.core.model import PluginConfig
from fetchmld.plugins import catalog
from fetchmld.plugins.calls import Calls
from fetchmld.plugins.catalog import Entry
from fetchmld.plugins.protocol import CallFailed, Command, Place
from tests.actors.fake_scheduler import alive, until
from tests.plugins import example

BOUND_S = 60.0
ODD: list[Any] = []  # of the test that runs


@pytest.fixture(autouse=True)
def scoreboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example, and one that does what it is told to."""
    with example.installed():
        ODD[:] = [_odd()]
        found = {**catalog.catalog(), "odd": Entry("odd", ODD[0])}
        for module in ("actors.plugin", "actors.attaching"):
            monkeypatch.setattr(f"{module}.catalog", lambda: found)
        yield


def _odd() -> Any:
    from scoreboard import Scoreboard, ScoreboardSettings

    class OddSettings(ScoreboardSettings):
        how: str = ""

    class Odd(Scoreboard):
        name = "odd"
        settings = OddSettings
        began: list[str] = []
        ended: list[tuple[str, str]] = []
        refuses = False

        def command(self, settings: Any, place: Place) -> Command:
            if settings.how:
                return Command(["/bin/sh", "-c", settings.how])
            return super().command(settings, place)

        async def begin(self, call: Any, settings: Any, task: Any) -> Any:
            if self.refuses:
                raise CallFailed("not today")
            self.began.append(f"{task.job_name} {task.experiment} {task.params}")
            return await super().begin(call, settings, task)

        async def end(self, call: Any, settings: Any, run_id: str, outcome: Any) -> None:
            self.ended.append((run_id, outcome.status))

    return Odd()


class Rig:
    """A scheduler, an agent, and the supervisor of one plugin, which may be killed and started again."""

    def __init__(self, directory: Path, name: str) -> None:
        data = directory / "data"
        (data / "datasets").mkdir(parents=True)
        (data / "admin.key").write_text("fml_test\n")
        config = Config(data_dir=data, num_cpus=2, memory_gb=1, isolation="none", heartbeat_s=0.2, segment_bytes=2**20)
        self.name = name
        self.settings = {**config.model_dump(mode="json"), "run_dir": str(directory / "run"), "worker_id": "w1"}
        (directory / "run").mkdir()
        self.run_dir = directory / "run"
        self.scheduler = SchedulerActor(self.settings)
        self.agent = Agent(self.settings)
        self.actor = PluginActor({**self.settings, "plugin": name})
        self.client = Client(self._of("scheduler.sock"))
        self.pids: set[int] = set()
        self.count = 0

    def _of(self, name: str) -> Callable[[], Awaitable[Path]]:
        async def resolve() -> Path:
            return self.run_dir / name

        return resolve

    async def open(self, **settings: Any) -> "Rig":
        await self.scheduler.start()
        await self.agent.start()
        await self.client.start()
        await self.configure(**settings)
        await self.actor.start()
        return self

    async def configure(self, enabled: bool = True, **settings: Any) -> None:
        config = PluginConfig(enabled=enabled, mode="sidecar", settings=settings)
        body = {"name": self.name, "config": config, "user_id": "boss", "ip_address": "", "trace_id": ""}
        await self.client.request("configure_plugin", body)
        self.actor._look.set()

    async def new_actor(self) -> None:
        """The supervisor vanished: nothing of its state is kept but its file."""
        for loop in self.actor._loops:
            loop.cancel()
        await self.actor.shutdown()
        self.actor = PluginActor({**self.settings, "plugin": self.name})
        await self.actor.start()

    async def record(self) -> dict[str, Any]:
        (found,) = (await self.client.request("plugins")).body
        return dict(found)

    async def serving(self) -> int:
        """The pid of the sidecar that serves, once one does; the record says that it is healthy."""
        await until(lambda: self.actor._it.serving is not None, "a sidecar that serves")
        while (await self.record())["status"] != "healthy":
            await asyncio.sleep(0.01)
        pid = self.pid(self.actor._serving)
        self.pids.add(pid)
        return pid

    def pid(self, number: int) -> int:
        marks = f"plugin-{self.name}-{number}-0"
        found = [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _marked(pid, self.node_dir, marks)
        ]
        return min(found)

    @property
    def node_dir(self) -> Path:
        return Path(self.settings["data_dir"]) / "node"

    async def page(self) -> str:
        """What the sidecar that serves answers."""
        upstream = self.actor._upstream()
        assert upstream is not None
        calls = Calls(upstream["endpoint"], {}, True)
        try:
            return (await calls._ask("GET", "/", 5.0, {}))[1].decode()
        finally:
            await calls.close()

    async def submit(self, entrypoint: str, args: str, **request: Any) -> str:
        self.count += 1
        task = {
            "id": f"t{self.count}",
            "request": {"job_name": "job", "entrypoint": entrypoint, "args": args, **request},
        }
        body = {"user_id": "ada", "ip_address": "", "trace_id": "", "tasks": [task]}
        await self.client.request("submit", body)
        return f"t{self.count}"

    async def ended(self, task_id: str) -> Any:
        return (await self.client.request("wait", {"task_id": task_id, "timeout_s": 30.0})).body

    async def close(self) -> None:
        with suppress(Exception):
            await self.configure(enabled=False)
        await self.actor.shutdown()
        runner_pid = (await self.agent.ping())["runner_pid"]
        await until(lambda: not any(map(alive, self.pids)), "the end of all sidecars")
        await self.agent.shutdown()
        await self.client.close()
        await self.scheduler.shutdown()
        os.kill(runner_pid, signal.SIGKILL)


def _marked(pid: int, node_dir: Path, key: str) -> bool:
    with suppress(OSError):
        return f"{node_dir}" in (env := Path(f"/proc/{pid}/environ").read_text()) and key in env and alive(pid)
    return False


def on_rig(tmp_path: Path, story: Callable[[Rig], Awaitable[None]], name: str = "scoreboard", **settings: Any) -> None:
    async def tell() -> None:
        rig = Rig(tmp_path, name)
        try:
            await rig.open(**settings)
            await asyncio.wait_for(_as_coroutine(story(rig)), BOUND_S)
        finally:
            await rig.close()

    asyncio.run(tell())


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work


def actions(rig: Rig) -> list[str]:
    return [
        event.fact.action for event in rig.scheduler._ledger.read(0) if event.fact.event_type == "plugin_configured"
    ]


def test_the_example_serves_is_killed_and_is_back(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        first = await rig.serving()
        assert await rig.page() == "Best"
        os.kill(first, signal.SIGKILL)
        await until(lambda: rig.actor._it.status == "unhealthy", "the death to be noticed")
        assert rig.actor._upstream() is None
        assert rig.actor._it.problem == "killed by SIGKILL"
        assert await rig.serving() != first
        assert await rig.page() == "Best"
        assert actions(rig) == ["plugin.update", "plugin.state", "plugin.state", "plugin.state"]

    on_rig(tmp_path, story, title="Best")


def test_the_next_supervisor_and_the_next_agent_take_over_the_same_process(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        pid = await rig.serving()
        await rig.new_actor()
        assert await rig.serving() == pid
        await rig.agent.shutdown()
        rig.agent = Agent(rig.settings)
        await rig.agent.start()
        assert await rig.serving() == pid
        os.kill(pid, signal.SIGKILL)  # and it is still looked after
        await until(lambda: rig.actor._it.status == "unhealthy", "the death to be noticed")
        await rig.serving()

    on_rig(tmp_path, story)


def test_other_settings_the_new_one_serves_before_the_old_one_goes(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        old = await rig.serving()
        await rig.configure(title="Other")
        await until(lambda: rig.actor._serving == 2, "the new one")
        assert await rig.page() == "Other"
        await until(lambda: not alive(old), "the old one to go")
        assert await rig.serving() != old

    on_rig(tmp_path, story)


@pytest.mark.parametrize("how", ["echo broken; echo no such key >&2; exit 3", "/no/such/program"])
def test_settings_that_do_not_come_up_are_taken_back(tmp_path: Path, how: str) -> None:
    async def story(rig: Rig) -> None:
        pid = await rig.serving()
        await rig.configure(title="Best", how=how)
        while (await rig.record())["problem"] == "":
            await asyncio.sleep(0.01)
        record = await rig.record()
        assert (record["status"], record["revision"], record["config"]["settings"]) == ("healthy", 1, {"title": "Best"})
        assert "ended with exit code" in record["problem"]
        assert await rig.serving() == pid
        assert await rig.page() == "Best"
        await rig.configure(title="Third")
        await until(lambda: rig.actor._serving == 3, "the one after")

    on_rig(tmp_path, story, "odd", title="Best")


def test_one_that_never_comes_up_is_unhealthy_says_why_and_is_tried_again(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await until(lambda: rig.actor._it.crash_count >= 2, "two tries")
        record = await rig.record()
        assert (record["status"], record["problem"]) == ("unhealthy", "ended with exit code 3: no such key")
        await rig.configure(title="Well")
        await rig.serving()

    on_rig(tmp_path, story, "odd", how="echo no such key >&2; exit 3")


def test_a_disabled_one_ends_its_sidecar(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        pid = await rig.serving()
        await rig.configure(enabled=False)
        await until(lambda: not alive(pid), "its end")
        assert (await rig.record())["status"] == "stopped"

    on_rig(tmp_path, story)


WRITES = "'mkdir -p $SCOREBOARD_DIR; echo 0.97 >> $SCOREBOARD_DIR/s.txt; echo dir=$SCOREBOARD_DIR'"


def test_a_task_gets_its_environment_and_its_files_are_shown_while_it_runs_and_after(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await rig.serving()
        go = tmp_path / "go"
        wait = WRITES[:-1] + f"; while [ ! -e {go} ]; do sleep 0.05; done; echo 0.98 >> $SCOREBOARD_DIR/s.txt'"
        task_id = await rig.submit("/bin/sh -c", wait, plugin_configs={"scoreboard": {}})
        while f"job/{task_id}-1: 0.97" not in await rig.page():
            await asyncio.sleep(0.05)
        go.touch()
        task = await rig.ended(task_id)
        assert (task["status"], task["error"]) == ("completed", "")
        assert task["plugins"] == {"scoreboard": {"attempt": 1, "status": "healthy", "run_id": f"job/{task_id}-1"}}
        while f"job/{task_id}-1: 0.98" not in await rig.page():
            await asyncio.sleep(0.05)
        await until(lambda: not rig.actor._memory.open, "the end to be told")

    on_rig(tmp_path, story)


def test_a_plugin_hears_how_attempts_ended_also_those_that_ended_while_nobody_was_there(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        odd: Any = ODD[0]
        await rig.serving()
        configs: dict[str, Any] = {"plugin_configs": {"odd": {}}}
        well = await rig.submit("/bin/true", "", **configs)
        badly = await rig.submit("/bin/false", "", **configs)
        await until(lambda: len(odd.ended) == 2, "two ends")
        assert dict(odd.ended) == {f"job/{well}-1": "completed", f"job/{badly}-1": "failed"}
        long = await rig.submit("/bin/sleep", "60", **configs)
        await until(lambda: rig.actor._memory.open, "the third to begin")
        await rig.actor.shutdown()
        cancel = {"task_id": long, "user_id": "ada", "known_ended": False, "ip_address": "", "trace_id": ""}
        await rig.client.request("cancel", cancel)
        await rig.ended(long)
        rig.actor = PluginActor({**rig.settings, "plugin": "odd"})
        await rig.actor.start()
        await until(lambda: (f"job/{long}-1", "cancelled") in odd.ended, "the third end")

    on_rig(tmp_path, story, "odd")


@pytest.mark.parametrize("why", ["down", "refuses", "unknown", "away"])
def test_a_plugin_that_does_not_work_costs_a_task_nothing(tmp_path: Path, why: str) -> None:
    async def story(rig: Rig) -> None:
        odd: Any = ODD[0]
        odd.refuses = why == "refuses"
        if why == "refuses":
            await rig.serving()
        if why == "away":
            await rig.actor.shutdown()
        name = "nothing" if why == "unknown" else "odd"
        task_id = await rig.submit("/bin/sh -c", "true", plugin_configs={name: {}})
        task = await rig.ended(task_id)
        assert (task["status"], task["error"]) == ("completed", "")
        assert task["plugins"][name]["status"] == "unhealthy"
        assert task["plugins"][name]["detail"]
        odd.refuses = False

    on_rig(tmp_path, story, "odd", **({"how": "exit 1"} if why == "down" else {}))


def test_what_a_task_sets_itself_counts(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await rig.serving()
        out = tmp_path / "out"
        args = f"'echo $SCOREBOARD_DIR > {out}'"
        env = {"SCOREBOARD_DIR": "/mine"}
        await rig.ended(await rig.submit("/bin/sh -c", args, env=env, plugin_configs={"scoreboard": {}}))
        assert out.read_text() == "/mine\n"

    on_rig(tmp_path, story)
