"""The scheduler actor as a plain class: a real ledger, real sockets, an agent that this test plays."""

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from actors.feed import watch
from actors.scheduler import SchedulerActor
from fetchmld.channel import Client, Message, Peer
from fetchmld.config import Config
from fetchmld.core.errors import Invalid, NotFound, Unavailable
from fetchmld.core.messages import Fact
from fetchmld.store.ledger import Ledger, LedgerDamaged

BOUND_S = 20.0
CAPACITY = {"cpu": 4, "memory_gb": 8, "batch_slots": 4, "service_slots": 1, "gpus": []}


def hello(line: float) -> dict[str, Any]:
    return {
        "worker_id": "w1",
        "boot_id": "b",
        "line": line,
        "hostname": "h",
        "capacity": CAPACITY,
        "attempts": [],
        "detail": {},
    }


class Cluster:
    """A running scheduler actor, a client of it, and an agent."""

    def __init__(self, directory: Path) -> None:
        (directory / "admin.key").write_text("fml_test\n")
        config = Config(data_dir=directory, segment_bytes=2**20)
        self.actor = SchedulerActor({**config.model_dump(mode="json"), "run_dir": str(directory)})
        self.socket = directory / "scheduler.sock"
        self.orders: asyncio.Queue[Message] = asyncio.Queue()
        self.lines = 0
        self.client = Client(self._resolve)
        self.agent = Client(self._resolve, self._on_order, self._hello)

    async def _resolve(self) -> Path:
        return self.socket

    def _on_order(self, _peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            self.orders.put_nowait(message)

    async def _hello(self, agent: Client) -> None:
        self.lines += 1
        await agent.request("hello", hello(self.lines))

    async def order(self, kind: str) -> Any:
        while True:
            message = await self.orders.get()
            if message.kind == kind:
                return message.body

    async def submit(self, *ids: str) -> list[dict[str, Any]]:
        tasks = [{"id": task_id, "request": {"job_name": "job", "cpu": 1}} for task_id in ids]
        body = {"user_id": "ada", "ip_address": "127.0.0.1", "trace_id": "t", "tasks": tasks}
        return [outcome["task"] for outcome in (await self.client.request("submit", body)).body]

    async def view(self, task_id: str) -> Any:
        return (await self.client.request("view", {"task_id": task_id})).body

    async def worker_is(self, status: str) -> None:
        while [w["status"] for w in (await self.client.request("workers")).body] != [status]:
            await asyncio.sleep(0.01)

    def end(self, task_id: str, attempt: int = 1) -> None:
        report = {"exit_code": 0}
        body = {"worker_id": "w1", "task_id": task_id, "attempt": attempt, "rank": 0, "report": report}
        self.agent.post("ended", body)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(directory)
    await cluster.actor.start()
    await cluster.client.start()
    await cluster.agent.start()
    await cluster.client.request("durable")
    try:
        yield cluster
    finally:
        await cluster.client.close()
        await cluster.agent.close()
        await cluster.actor.shutdown()


def run(tmp_path: Path, scenario: Callable[[Cluster], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with running(tmp_path) as cluster:
            await asyncio.wait_for(_as_coroutine(scenario(cluster)), BOUND_S)

    asyncio.run(bounded())


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


def actions(directory: Path) -> list[str]:
    ledger = Ledger.open(directory / "ledger", segment_bytes=2**20)
    try:
        return [event.fact.action for event in ledger.read()]
    finally:
        ledger.close()


def test_a_task_goes_through_and_the_record_has_it(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.submit("t1")
        order = (await cluster.order("launch"))["order"]
        assert (order["task_id"], order["attempt"], order["request"]["job_name"]) == ("t1", 1, "job")
        waiting = asyncio.create_task(cluster.client.request("wait", {"task_id": "t1", "timeout_s": 10}))
        await cluster.view("t1")
        cluster.end("t1")
        assert (await waiting).body["status"] == "completed"
        assert await cluster.order("ack") == {"task_id": "t1", "attempt": 1, "mark": [1.0, 2]}

    run(tmp_path, scenario)
    assert [a for a in actions(tmp_path) if a.startswith("task.")] == ["task.submit", "task.start", "task.completed"]


def test_a_batch_of_requests_costs_few_syncs(tmp_path: Path) -> None:
    syncs = 0

    async def scenario(cluster: Cluster) -> None:
        nonlocal syncs
        append = cluster.actor._ledger.append

        def counted(facts: Any) -> int:
            nonlocal syncs
            syncs += 1
            return append(facts)

        cluster.actor._ledger.append = counted  # type: ignore[method-assign]
        await asyncio.gather(*(cluster.submit(f"t{n}") for n in range(200)))

    run(tmp_path, scenario)
    assert syncs < 20
    assert actions(tmp_path).count("task.submit") == 200


def test_a_restart_finds_everything_again(tmp_path: Path) -> None:
    async def first(cluster: Cluster) -> None:
        await cluster.submit("t1", "t2")
        await cluster.order("launch")
        cluster.end("t1")
        await cluster.order("ack")

    async def second(cluster: Cluster) -> None:
        assert (await cluster.view("t1"))["status"] == "completed"
        assert (await cluster.view("t2"))["status"] == "preparing"
        assert (await cluster.order("launch"))["order"]["task_id"] == "t2", "the worker says it has nothing"
        digest = hashlib.sha256(b"fml_test").hexdigest()
        assert (await cluster.client.request("key", {"sha256": digest})).body["role"] == "admin"

    run(tmp_path, first)
    run(tmp_path, second)
    assert actions(tmp_path).count("key.create") == 1


def test_nothing_counts_while_the_record_cannot_be_written(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.submit("before")
        ledger = cluster.actor._ledger
        working, ledger._sync = ledger._sync, broken_disk
        with pytest.raises(Unavailable, match="nothing was changed"):
            await cluster.submit("lost")
        assert await cluster.view("lost") is None
        assert (await cluster.view("before"))["id"] == "before", "reads go on"
        ledger._sync = working
        while True:
            try:
                await cluster.submit("after")
                break
            except Unavailable:
                continue
        assert (await cluster.view("before"))["id"] == "before"

    run(tmp_path, scenario)
    recorded = actions(tmp_path)
    assert recorded.count("task.submit") == 2
    assert "audit.gap" in recorded


def test_a_restart_begins_at_a_snapshot(tmp_path: Path) -> None:
    reached = []

    async def first(cluster: Cluster) -> None:
        await cluster.submit("t1", "t2")
        assert await cluster.actor._snapshots.make()
        reached.append(cluster.actor._ledger.next_seq)
        await cluster.submit("t3")

    async def second(cluster: Cluster) -> None:
        assert cluster.actor._snapshots._reached >= reached[0]
        assert [(await cluster.view(task))["id"] for task in ("t1", "t2", "t3")] == ["t1", "t2", "t3"]

    run(tmp_path, first)
    run(tmp_path, second)


def test_damage_found_behind_the_start_is_final(tmp_path: Path) -> None:
    async def first(cluster: Cluster) -> None:
        await cluster.submit("t1", "t2")
        assert await cluster.actor._snapshots.make()

    async def second(cluster: Cluster) -> None:
        while (said := await cluster.actor.ping())["started"]:
            await asyncio.sleep(0.01)
        assert said["final"]
        assert "damaged from event 2 on" in said["error"]

    run(tmp_path, first)
    segment = tmp_path / "ledger/segments/00000000000000000000.log"
    segment.write_bytes(segment.read_bytes().replace(b"task.submit", b"task.subm1t", 1))
    run(tmp_path, second)
    with pytest.raises(LedgerDamaged):
        run(tmp_path, second)


def test_the_setting_halt_ends_the_daemon_instead(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.actor._config = cluster.actor._config.model_copy(update={"audit_on_failure": "halt"})
        working, cluster.actor._ledger._sync = cluster.actor._ledger._sync, broken_disk
        with pytest.raises(Unavailable):
            await cluster.submit("t1")
        while (said := await cluster.actor.ping())["started"]:
            await asyncio.sleep(0)
        assert said["final"]
        assert "No space left" in said["error"]
        cluster.actor._ledger._sync = working

    run(tmp_path, scenario)


def broken_disk(_fd: int) -> None:
    raise OSError(28, os.strerror(28))


def test_a_loop_that_ended_shows_in_the_ping(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        assert (await cluster.actor.ping())["started"]
        (tmp_path / "ledger").rename(tmp_path / "away")  # neither a write nor a rebuild is possible any more
        cluster.actor._ledger._sync = broken_disk
        with pytest.raises(Unavailable):
            await cluster.submit("t1")
        while (said := await cluster.actor.ping())["started"]:
            await asyncio.sleep(0)
        assert "a loop of the scheduler ended" in said["error"]
        (tmp_path / "away").rename(tmp_path / "ledger")

    run(tmp_path, scenario)


def test_a_worker_that_was_given_up_has_no_lease_renewed(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.worker_is("active")
        cluster.agent.post("beat", {"worker_id": "w1", "sent_t": 1.0})
        assert (await cluster.order("beat"))["sent_t"] == 1.0
        clock = cluster.actor._clock
        clock._offset += 20.0  # silent for so long, by the only clock that counts
        await cluster.worker_is("suspect")
        await cluster.worker_is("offline")
        cluster.agent.post("beat", {"worker_id": "w1", "sent_t": 2.0})
        await cluster.worker_is("active")  # it was cut off, and has said hello again
        assert cluster.orders.empty()

    run(tmp_path, scenario)


def test_a_hello_that_was_overtaken_does_not_take_the_line(tmp_path: Path) -> None:
    """Of two sockets of one agent the older may be read last."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.worker_is("active")
        late = Client(cluster._resolve, cluster._on_order)
        await late.start()
        with pytest.raises(Unavailable, match="not its newest"):
            await late.request("hello", hello(0.5))
        await late.close()
        await cluster.submit("t1")
        assert (await cluster.order("launch"))["mark"] == [1.0, 1]

    run(tmp_path, scenario)


def test_unknown_messages_are_refused(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(Exception, match="knows no message 'nonsense'"):
            await cluster.client.request("nonsense", {})

    run(tmp_path, scenario)


def test_each_task_of_a_request_has_its_own_answer_and_all_share_one_sync(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        appended: list[int] = []
        append = cluster.actor._ledger.append
        cluster.actor._ledger.append = lambda facts: appended.append(len(facts)) or append(facts)  # type: ignore
        tasks: list[dict[str, Any]] = [{"id": f"t{n}", "request": {"job_name": "job", "cpu": 1}} for n in range(3)]
        tasks[1]["request"]["depends_on"] = [{"task_id": "nobody", "condition": "ok"}]
        body = {"user_id": "ada", "ip_address": "", "trace_id": "t", "tasks": tasks}
        first, second, third = (await cluster.client.request("submit", body)).body
        assert [first["task"]["id"], third["task"]["id"]] == ["t0", "t2"]
        assert second["refused"][0] == "Invalid"
        assert "there is no task 'nobody'" in second["refused"][1]
        assert await cluster.view("t1") is None
        assert [count for count in appended if count > 1] == [4], "two submitted and two started"

    run(tmp_path, test)


def test_facts_that_were_noted_elsewhere_are_recorded_with_one_answer(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        facts = [{"event_type": "auth_attempt", "action": f"auth.{n}", "resource": "api", "at_us": n} for n in (1, 2)]
        assert (await cluster.client.request("notes", {"facts": facts})).body == (
            await cluster.client.request("durable")
        ).body["seq"]

    run(tmp_path, test)
    assert actions(tmp_path)[-2:] == ["auth.1", "auth.2"]


def test_drain_priority_and_the_question_why_over_the_socket(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        ask = cluster.client.request
        who = {"user_id": "ada", "ip_address": ""}
        await ask("drain", {**who, "worker_id": "w1", "wanted": True})
        await cluster.submit("a")
        said = (await ask("explain", {"task_id": "a"})).body
        assert "w1 is draining" in said["reason"]
        changed = await ask("priority", {**who, "task_id": "a", "priority": 8, "known_ended": False})
        assert changed.body["priority"] == 8
        await ask("drain", {**who, "worker_id": "w1", "wanted": False})
        assert (await cluster.order("launch"))["order"]["task_id"] == "a"
        wanted = {"gpu_count": 1, "gpu_type": "", "node_count": 1, "duration_s": 60.0, "starts_in_s": 0.0}
        with pytest.raises(Invalid, match="more than the cluster has"):
            await ask("reserve", {**who, "reservation_id": "r", **wanted})
        assert (await ask("reservations", {})).body == []
        with pytest.raises(NotFound):
            await ask("unreserve", {**who, "reservation_id": "r", "any_user": True})

    run(tmp_path, test)


def test_watchers_are_told_what_became_durable(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.submit("t0")
        async with contextlib.aclosing(watch(cluster.socket)) as feeds:
            begin = await anext(feeds)
            assert begin["since"] == begin["seq"] == (await cluster.client.request("durable")).body["seq"]
            await cluster.submit("t1")
            cluster.agent.post("phase", {"worker_id": "w1", "task_id": "t1", "attempt": 1, "phase": "running"})
            told, seq = [], begin["seq"]
            async for feed in feeds:
                assert feed["since"] == seq, "no gap"
                seq = feed["seq"]
                told += [(c["seq"] - begin["seq"] if c["seq"] else 0, c["action"]) for c in feed["tasks"]]
                if told[-1:] == [(0, "")] and feed["tasks"][-1]["task"]["status"] == "running":
                    break
            assert [change for change in told if change[0]] == [(1, "task.submit"), (2, "task.start")]

    run(tmp_path, scenario)


def test_a_restarted_machine_does_not_get_what_its_last_life_was_given(tmp_path: Path) -> None:
    """The task and the hello of the machine's next life are in one batch, which is sent after both were decided."""

    async def scenario(cluster: Cluster) -> None:
        heard: asyncio.Queue[Message] = asyncio.Queue()
        greeted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def greet(agent: Client) -> None:
            if not greeted.done():
                greeted.set_result(await agent.request("hello", {**hello(1), "boot_id": "next life"}))

        def hear(_peer: Peer, messages: list[Message]) -> None:
            for message in messages:
                heard.put_nowait(message)

        reborn = Client(cluster._resolve, hear, greet)
        await cluster.worker_is("active")
        release = await _hold_the_ledger(cluster.actor)
        cluster.client.post("fact", asdict(Fact("auth_attempt", "auth.success", "key:k")))
        await _until(lambda: cluster.actor._writer._work_queue.qsize() == 1)  # its batch waits for the ledger
        submitted = asyncio.create_task(cluster.submit("t1"))
        await _until(lambda: any(_kind(item) == "submit" for item in cluster.actor._mailbox))
        await reborn.start()
        await _until(lambda: [_kind(item) for item in cluster.actor._mailbox].count("hello") == 1)
        release()
        await submitted
        await greeted
        view = await cluster.view("t1")
        assert (view["status"], view["attempt"]) == ("queued", 1), "it was placed, and lost with the last life"
        reborn.post("beat", {"worker_id": "w1", "sent_t": 1.0})
        while (message := await heard.get()).kind != "beat":
            assert message.body["order"]["attempt"] > 1, message.body
        await reborn.close()

    run(tmp_path, scenario)


def _kind(item: Any) -> str:
    return item.kind if isinstance(item, Message) else ""


async def _hold_the_ledger(actor: SchedulerActor) -> Callable[[], None]:
    """The writer's thread, where a slow disk is written to, is kept until the returned function is called."""
    held, go_on = threading.Event(), threading.Event()
    actor._sync_s = 1.0

    def wait() -> None:
        held.set()
        assert go_on.wait(BOUND_S)

    actor._writer.submit(wait)
    await asyncio.get_running_loop().run_in_executor(None, held.wait, BOUND_S)
    return go_on.set


async def _until(check: Callable[[], bool]) -> None:
    while not check():
        await asyncio.sleep(0.001)
