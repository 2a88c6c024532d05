"""The cluster keeps its actors alive: shown with actors that pretend, on a real Ray."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors import cluster as module
from actors.cluster import ActorFailed, ActorSpec, Backoff, Cluster, head_specs
from actors.ray_compat import RayOptions, RayRuntime
from actors.ray_processes import marked

HERE = "tests.actors.pretend"
TWO = (ActorSpec("scheduler", f"{HERE}:First"), ActorSpec("head", f"{HERE}:Second", methods=("add",)))


@contextlib.asynccontextmanager
async def alive(run_dir: Path, options: RayOptions, specs: tuple[ActorSpec, ...] = TWO) -> AsyncIterator[Cluster]:
    """A cluster that has started and is watched."""
    runtime = RayRuntime(run_dir, replace(options, preload=(HERE,)))
    cluster = Cluster(runtime, {"run_dir": str(run_dir), "data_dir": str(run_dir)}, specs)
    watching = None
    try:
        await cluster.start()
        watching = asyncio.create_task(cluster.watch())
        yield cluster
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        await cluster.stop()


async def until(what: str, check: Callable[[], Awaitable[bool]], within_s: float = 40.0) -> float:
    began = time.monotonic()
    while not await check():
        assert time.monotonic() - began < within_s, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def pids(cluster: Cluster) -> dict[str, int]:
    """Of the actors that have started."""
    return {name: said["pid"] for name, said in (await cluster.ping()).items() if said["started"]}


@pytest.mark.ray
def test_actors_start_come_back_and_stop_in_order(
    run_dir: Path, ray_options: RayOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_EVERY_S", 0.1)

    async def live() -> None:
        async with alive(run_dir, ray_options) as cluster:
            before = await pids(cluster)
            assert before.keys() == {"scheduler", "head"}
            await asyncio.to_thread(call_through_ray)

            os.kill(before["head"], signal.SIGKILL)  # Ray restarts it, and it starts itself
            await until("the actor is back", lambda: changed(cluster, "head", before))
            os.kill(cluster.runtime.pids()["zygote"], signal.SIGKILL)
            await until("the zygote is back", lambda: is_true("zygote" in cluster.runtime.pids()))

            os.kill(before["scheduler"], signal.SIGSTOP)  # it hangs: nobody answers
            monkeypatch.setattr(module, "PING_TIMEOUT_S", 1.0)
            await until("the hanging actor is replaced", lambda: changed(cluster, "scheduler", before))
            monkeypatch.setattr(module, "PING_TIMEOUT_S", 10.0)  # its successor may be slow, but it is there

    asyncio.run(live())
    diary = (run_dir / "diary").read_text().split("\n")
    assert sorted(diary[:2]) == ["start First", "start Second"]
    assert diary[-3:] == ["shutdown Second", "shutdown First", ""], "first who asks, last who writes"
    assert marked(run_dir) == []


async def changed(cluster: Cluster, name: str, before: dict[str, int]) -> bool:
    return (await pids(cluster)).get(name, before[name]) != before[name]


async def is_true(value: bool) -> bool:
    return value


def call_through_ray() -> None:
    """What a Ray-native user does: by name, straight to the actor."""
    import ray

    actor = ray.get_actor("head", namespace="fetchmld")
    assert ray.get(actor.add.remote(2, 3), timeout=30) == 5


@pytest.mark.ray
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_all_comes_back_after_the_death_of_rays_processes(run_dir: Path, ray_options: RayOptions, victim: str) -> None:
    async def live() -> None:
        async with alive(run_dir, ray_options) as cluster:
            before = await pids(cluster)
            processes = cluster.runtime.pids()
            os.kill(processes[victim], signal.SIGKILL)
            await until("all of it is back", lambda: revived(cluster))
            after = await pids(cluster)
            assert after.keys() == before.keys()
            assert not set(after.values()) & set(before.values())
            assert not set(cluster.runtime.pids().values()) & set(processes.values())

    asyncio.run(live())
    assert marked(run_dir) == []


@pytest.mark.ray
def test_all_comes_back_when_ray_dies_again_while_the_actors_start(run_dir: Path, ray_options: RayOptions) -> None:
    """Nobody looked at Ray's processes then, and its library ended this process 15 s later."""
    hold, diary = run_dir / "hold", run_dir / "diary"

    async def live() -> None:
        async with alive(run_dir, ray_options, (ActorSpec("scheduler", f"{HERE}:Hesitant"),)) as cluster:
            hold.touch()
            before = cluster.runtime.pids()
            os.kill(before["raylet"], signal.SIGKILL)
            await until("it starts once more", lambda: is_true(diary.read_text().count("hesitate") == 2))
            os.kill(cluster.runtime.pids()["gcs_server"], signal.SIGKILL)
            hold.unlink()
            await until("all of it is back", lambda: revived(cluster))
            assert cluster.revivals == 2

    asyncio.run(live())
    assert marked(run_dir) == []


@pytest.mark.ray
def test_a_stop_in_the_midst_of_a_revival_leaves_nothing(run_dir: Path, ray_options: RayOptions) -> None:
    """The thread that starts Ray goes on when nobody waits for it any more: it started what nobody then ended."""

    async def live() -> None:
        async with alive(run_dir, ray_options) as cluster:
            before = cluster.runtime.pids()
            os.kill(before["raylet"], signal.SIGKILL)
            await until("it starts again", lambda: is_true(is_other(cluster.runtime.pids(), before, "gcs_server")))

    asyncio.run(live())
    assert marked(run_dir) == []


def is_other(now: dict[str, int], before: dict[str, int], name: str) -> bool:
    return now.get(name, before[name]) != before[name]


@pytest.mark.ray
def test_who_waits_for_a_ray_that_died_knows_that_it_is_lost(run_dir: Path, ray_options: RayOptions) -> None:
    """In a process of its own, which Ray's library would end."""
    ran = subprocess.run([sys.executable, "-m", "tests.actors.lost", str(run_dir)], capture_output=True, check=False)
    assert ran.stdout == b"lost\n", ran.stderr.decode()


async def revived(cluster: Cluster) -> bool:
    return cluster.revivals > 0 and cluster.runtime.is_alive() and cluster.populated


@pytest.mark.ray
def test_an_actor_that_cannot_start_is_named_with_its_reason(run_dir: Path, ray_options: RayOptions) -> None:
    async def live() -> None:
        async with alive(run_dir, ray_options, (TWO[0], ActorSpec("audit", f"{HERE}:Broken"))):
            pytest.fail("it started")

    with pytest.raises(ActorFailed, match="the audit actor cannot start: no such colour: 'blurple'"):
        asyncio.run(live())
    assert marked(run_dir) == []


@pytest.mark.ray
def test_an_actor_whose_revival_fails_is_replaced(
    run_dir: Path, ray_options: RayOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_EVERY_S", 0.1)
    (run_dir / "mood").touch()

    async def live() -> None:
        async with alive(run_dir, ray_options, (ActorSpec("scheduler", f"{HERE}:Moody"),)) as cluster:
            before = await pids(cluster)
            (run_dir / "mood").unlink()
            os.kill(before["scheduler"], signal.SIGKILL)
            await until("it is well again", lambda: changed(cluster, "scheduler", before))
            assert (run_dir / "mood").exists(), "one start failed in between"

    asyncio.run(live())


# -- without Ray


def test_waits_grow_to_a_bound_and_start_small_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    async def back_off() -> None:
        backoff = Backoff()
        for _ in range(12):
            await backoff.wait()
        backoff.reset()
        await backoff.wait()

    monkeypatch.setattr(asyncio, "sleep", note)
    asyncio.run(back_off())
    assert 0.05 <= waits[0] <= 0.1
    assert all(wait <= module.BACKOFF_MAX_S for wait in waits)
    assert waits[11] >= module.BACKOFF_MAX_S / 2
    assert waits[12] <= 0.1


def test_every_actor_of_a_head_node_exists() -> None:
    from actors.hosting import load

    specs: Any = head_specs("w1")
    assert [spec.name for spec in specs] == ["scheduler", "history", "audit", "agent:w1", "head"]
    for spec in specs:
        actor = load(spec.path)
        assert all(callable(getattr(actor, method)) for method in ("start", "ping", "shutdown", *spec.methods))
    assert {spec.kind for spec in specs} | {"plugin"} == set(module.STOP_ORDER)
