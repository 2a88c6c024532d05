"""Ray's processes as we start, watch and end them: real ones, but for what can be shown without."""

import asyncio
import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from actors import ray_compat
from actors.ray_compat import RayFailed, RayOptions, RayRuntime
from actors.ray_processes import free_ports, kill_marked, marked
from tests.actors.conftest import until


@contextlib.contextmanager
def running(run_dir: Path, options: RayOptions) -> Iterator[RayRuntime]:
    runtime = RayRuntime(run_dir, options)
    try:
        runtime.start()
        yield runtime
    finally:
        runtime.disconnect()
        runtime.stop()


def listening(pids: list[int]) -> list[tuple[str, int]]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = psutil.Process(pid).net_connections("inet")
            found += [(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]
    return found


def run_task() -> tuple[int, int]:
    """Pid and parent of a worker; each serves one call, but Ray may have it ready from before."""
    import ray

    def where() -> tuple[int, int]:
        return os.getpid(), os.getppid()

    task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(where)
    found: tuple[int, int] = ray.get(task.remote(), timeout=30)
    return found


@pytest.mark.ray
def test_a_head_node_is_lean_closed_and_gone_after_stop(run_dir: Path, ray_options: RayOptions) -> None:
    run_dir.chmod(0o755)
    with running(run_dir, ray_options) as runtime:
        assert runtime.pids().keys() == {"gcs_server", "raylet", "zygote"}
        assert runtime.is_alive()
        runtime.connect()
        _pid, parent = run_task()
        assert parent == runtime.pids()["zygote"], "a worker is a fork of the zygote"

        pids = marked(run_dir)
        sockets = listening([*pids, os.getpid()])
        assert len(sockets) >= 5
        assert {address for address, _port in sockets} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

        assert runtime.token_path.stat().st_mode & 0o777 == 0o600
        assert run_dir.stat().st_mode & 0o777 == 0o700, "Ray's drivers open their directory to all; ours is above it"
        assert len(pids) <= 7
    began = time.monotonic()
    runtime.stop()  # once more does no harm
    assert time.monotonic() - began < 1
    assert marked(run_dir) == []


@pytest.mark.ray
def test_a_wrong_token_is_refused_at_once(run_dir: Path, ray_options: RayOptions, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    program = (
        "import sys, time\nimport ray\nfrom actors.ray_compat import RayWrongToken, connect\nbegan = time.monotonic()\n"
        "try:\n    connect(sys.argv[1])\nexcept RayWrongToken as error:\n    print(time.monotonic() - began, error)\n"
    )
    with running(run_dir, ray_options) as runtime:
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)}
        command = [sys.executable, "-c", program, runtime.driver_address]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    took, _, sentence = said.partition(" ")
    assert float(took) < 2
    assert "refused the token" in sentence
    assert str(wrong) in sentence


@pytest.mark.ray
def test_two_runtimes_do_not_disturb_each_other(
    run_dir: Path, tmp_path_factory: pytest.TempPathFactory, ray_options: RayOptions
) -> None:
    other_dir = tmp_path_factory.mktemp("r")
    with running(run_dir, ray_options) as one:
        with running(other_dir, ray_options) as other:
            assert not set(one.pids().values()) & set(other.pids().values())
            assert one.address != other.address
        assert marked(other_dir) == []
        assert one.is_alive()
        one.connect()
        assert run_task()


@pytest.mark.ray
def test_death_is_noticed_and_cleared_away(run_dir: Path, ray_options: RayOptions) -> None:
    async def death_of(runtime: RayRuntime, name: str) -> str:
        waiting = asyncio.create_task(runtime.wait_dead())
        await asyncio.sleep(0)
        os.kill(runtime.pids()[name], signal.SIGKILL)
        return await asyncio.wait_for(waiting, 5)

    runtime = RayRuntime(run_dir, ray_options)
    for name in ("raylet", "gcs_server"):
        runtime.start()
        assert asyncio.run(death_of(runtime, name)) == name
        assert not runtime.is_alive()
        began = time.monotonic()
        runtime.stop()
        assert time.monotonic() - began < 1
        assert marked(run_dir) == []
    assert len(list(run_dir.glob("ray/session_2*"))) == 2, "this start's and the one before"


@pytest.mark.ray
def test_workers_start_without_the_zygote_and_it_comes_back(run_dir: Path, ray_options: RayOptions) -> None:
    with running(run_dir, ray_options) as runtime:
        runtime.connect()
        first = runtime.pids()["zygote"]
        assert run_task()[1] == first
        os.kill(first, signal.SIGKILL)
        until("the zygote is dead", lambda: "zygote" not in runtime.pids())
        raylet = runtime.pids()["raylet"]
        until("a worker started the slow way, as the raylet's own child", lambda: run_task()[1] == raylet)
        assert runtime.renew_zygote()
        assert not runtime.renew_zygote(), "one is enough"
        until("a worker is a fork of the new zygote", lambda: run_task()[1] == runtime.pids()["zygote"])


@pytest.mark.ray
def test_a_runtime_environment_brings_up_its_agent(run_dir: Path, ray_options: RayOptions) -> None:
    with running(run_dir, ray_options) as runtime:
        runtime.connect()
        import ray

        def colour() -> str | None:
            return os.environ.get("COLOUR")

        task = ray.remote(num_cpus=0, runtime_env={"env_vars": {"COLOUR": "blue"}})(colour)
        assert ray.get(task.remote(), timeout=60) == "blue"


@pytest.mark.ray
def test_a_start_that_fails_leaves_nothing(run_dir: Path, ray_options: RayOptions) -> None:
    runtime = RayRuntime(run_dir, replace(ray_options, host="192.0.2.1"))  # no address of ours
    with pytest.raises((RayFailed, OSError)):
        runtime.start()
    assert runtime.pids() == {}
    assert marked(run_dir) == []


# -- without Ray


@pytest.mark.ray
def test_a_start_gives_up_when_another_thread_closes(run_dir: Path, ray_options: RayOptions) -> None:
    runtime = RayRuntime(run_dir, ray_options)
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(runtime.start)
        until("its first process is there", lambda: bool(runtime.pids()))
        runtime.close()
        with pytest.raises(RayFailed, match="given up"):
            starting.result(timeout=0)
    assert (runtime.pids(), marked(run_dir)) == ({}, [])
    with pytest.raises(RayFailed, match="given up"):
        runtime.start()


def test_another_version_of_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_compat.check_version()
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "2.61.0")
    with pytest.raises(RayFailed, match=r"Ray 2\.61\.0 is installed, but FetchML works with 2\.60\.0 only"):
        ray_compat.check_version()


def test_only_processes_of_the_very_directory_are_killed(tmp_path: Path) -> None:
    def sleeper(mark: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sleep", "60"], env={**os.environ, "RAY_TMPDIR": f"{mark}/ray"})

    ours = [sleeper(str(tmp_path)), sleeper(str(tmp_path))]
    others = [sleeper(f"{tmp_path}2"), sleeper(str(tmp_path)[:-1]), subprocess.Popen(["sleep", "60"])]
    try:
        until("they run", lambda: len(marked(tmp_path)) == 2)
        assert kill_marked(tmp_path) == 2
        assert [process.wait(5) for process in ours] == [-signal.SIGKILL] * 2
        assert [process.poll() for process in others] == [None] * 3
        assert kill_marked(tmp_path) == 0
    finally:
        for process in [*ours, *others]:
            process.kill()
            process.wait()


def test_a_token_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "token"
    ray_compat.write_token(path)
    token = path.read_text()
    assert len(token) == 64
    path.chmod(0o644)
    ray_compat.write_token(path)
    assert path.read_text() == token
    assert path.stat().st_mode & 0o777 == 0o600


def test_old_sessions_go_and_the_newest_stays(tmp_path: Path) -> None:
    for day in range(1, 4):
        (tmp_path / f"session_2026-01-0{day}_00-00-00_000000_1" / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to("session_2026-01-03_00-00-00_000000_1")
    ray_compat.remove_old_sessions(tmp_path, keep=1)
    assert [path.name for path in tmp_path.glob("session_2*")] == ["session_2026-01-03_00-00-00_000000_1"]
    assert (tmp_path / "session_latest").is_symlink()


def test_free_ports_differ_and_are_free_afterwards() -> None:
    with free_ports(4, "127.0.0.1") as ports:
        assert len(set(ports)) == 4
        with pytest.raises(OSError, match="in use"), free_ports_at(ports[0]):
            pass
    with free_ports_at(ports[0]):
        pass


@contextlib.contextmanager
def free_ports_at(port: int) -> Iterator[None]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", port))
        yield
