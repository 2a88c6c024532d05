"""The agent with a real runner and a real channel; only the scheduler is a stand-in."""

import asyncio
import errno
import hashlib
import http.server
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import collecting
from fetchmld.core.caches import dataset_key
from fetchmld.core.model import DatasetSpec
from fetchmld.runner.proctree import boot_id
from fetchmld.store.artifacts import Kept, keep_tree
from fetchmld.store.content import ContentStore
from tests.actors.fake_scheduler import Node, alive, on_node, until


def sh(script: str) -> dict[str, str]:
    """A request that runs `script`."""
    return {"entrypoint": "/bin/sh -c", "args": f"'{script}'"}


def spec(source: object, sha256: str = "", name: str = "d", mount_path: str = "data/d") -> dict[str, Any]:
    found = {"name": name, "source": str(source), "mount_path": mount_path}
    return {**found, "sha256": sha256} if sha256 else found


def test_hello_says_what_the_node_is() -> None:
    async def story(node: Node) -> None:
        hello = await node.scheduler.heard("hello")
        assert hello["worker_id"] == "w1"
        assert hello["capacity"]["cpu"] == 2
        assert [gpu["type"] for gpu in hello["capacity"]["gpus"]] == ["FAKE", "FAKE"]
        assert hello["attempts"] == []
        assert hello["detail"]["isolation"] == "single-trust"
        await node.scheduler.heard("beat")
        assert stat.S_IMODE(os.stat(await node.agent.address()).st_mode) == 0o600

    on_node(story)


def test_a_task_runs_and_its_end_is_reported_once() -> None:
    async def story(node: Node) -> None:
        report = await node.run("a", "/bin/sh -c", args="'echo hello; exit 3'")
        assert report["exit_code"] == 3
        assert "word" not in report
        assert report["usage"]["rss_max_bytes"] > 0
        assert await node.output("a") == b"hello\n"
        node.ack("a")
        await until(lambda: not os.listdir(node.node_dir / "attempts"), "its directory to go")
        answer = await node.read("a", report["log"])
        assert (answer.blob, answer.body) == (b"hello\n", {"offset": 0, "size": 6, "ended": True})
        assert len(node.scheduler.all("ended")) == 1

    on_node(story)


def test_a_signal_and_a_lone_exit_status_are_told_apart() -> None:
    async def story(node: Node) -> None:
        report = await node.run("a", **sh("kill -KILL $$"))
        assert report["signal"] == signal.SIGKILL
        assert "exit_code" not in report

    on_node(story)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ({}, "NO_ENTRYPOINT"),
        ({"entrypoint": "nosuchprogram"}, "ENTRYPOINT_NOT_FOUND"),
        ({"entrypoint": "./nosuch"}, "ENTRYPOINT_NOT_FOUND"),
        ({"entrypoint": "/no/such/program"}, "ENTRYPOINT_NOT_FOUND"),
        ({"entrypoint": "train.py"}, "ENTRYPOINT_NOT_FOUND"),
        ({"entrypoint": "run.sh"}, "ENTRYPOINT_NOT_FOUND"),
        ({"entrypoint": "'open"}, "ENTRYPOINT_NOT_FOUND"),
        ({"entrypoint": "/etc/passwd"}, "ENTRYPOINT_NOT_EXECUTABLE"),
        ({"entrypoint": "/tmp"}, "ENTRYPOINT_NOT_EXECUTABLE"),
    ],
)
def test_what_cannot_be_run_says_why(request_: dict[str, Any], word: str) -> None:
    async def story(node: Node) -> None:
        report = await node.run("a", **request_)
        assert report["word"] == word
        assert report["detail"]
        assert "infrastructure" not in report
        node.ack("a")
        await until(lambda: not os.listdir(node.node_dir / "attempts"), "its directory to go")

    on_node(story)


def test_a_python_script_is_run_by_our_python_and_a_shell_script_by_bash() -> None:
    async def story(node: Node) -> None:
        script = node.directory / "s.py"
        script.write_text("import sys; print(sys.executable, sys.argv[1:])")
        await node.run("a", str(script), args="one 'two three'")
        assert await node.output("a") == f"{sys.executable} ['one', 'two three']\n".encode()
        shell = node.directory / "s.sh"
        shell.write_text("echo $BASH_VERSION $1")
        await node.run("b", f"{shell} x")
        assert (await node.output("b")).endswith(b" x\n")

    on_node(story)


def test_the_environment_is_built_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    async def story(node: Node) -> None:
        env = {"MINE": "1", "PATH": "/mine:/usr/bin", "FETCHML_TASK_ID": "forged"}
        await node.run("a", "/usr/bin/env", env=env, gpus=[1])
        found = dict(line.split("=", 1) for line in (await node.output("a")).decode().splitlines())
        assert {"RAY_AUTH_TOKEN", "OMP_NUM_THREADS"} & set(found) == set()
        assert (found["MINE"], found["PATH"]) == ("1", "/mine:/usr/bin")
        assert (found["FETCHML_TASK_ID"], found["FETCHML_ATTEMPT"], found["FETCHML_JOB_NAME"]) == ("a", "1", "job")
        assert (found["FETCHML_NODE_RANK"], found["FETCHML_NODE_COUNT"]) == ("0", "1")
        assert (found["CUDA_VISIBLE_DEVICES"], found["PYTHONUNBUFFERED"]) == ("1", "1")
        base = str(node.node_dir / "attempts" / "a-1-0")
        assert (found["HOME"], found["TMPDIR"]) == (base, f"{base}/tmp")
        assert found["FETCHML_OUTPUT_DIR"] == f"{base}/output"
        await node.run("b", **sh("pwd; echo [$CUDA_VISIBLE_DEVICES]; ls -A"))
        assert (await node.output("b")).decode() == f"{node.node_dir}/attempts/b-1-0/work\n[]\n"

    on_node(story)


def test_a_stop_ends_the_tree_and_keeps_its_word() -> None:
    async def story(node: Node) -> None:
        node.launch("a", **sh("trap : TERM; setsid sleep 60 & echo up; while :; do sleep 1; done"))
        await until(lambda: node.marks.find({"a-1-0"}), "its processes")
        await node.scheduler.heard("phase", "a")
        while b"up" not in await node.output("a"):
            pass
        node.stop("a")
        node.stop("a")
        report = await node.scheduler.ended("a")
        assert (report["word"], report["detail"]) == ("CANCELLED", "asked for it")
        assert "exit_code" not in report
        assert "signal" not in report
        assert not node.marks.find({"a-1-0"})
        assert len(node.scheduler.all("ended")) == 1

    on_node(story, grace_s=0.3)


def test_a_stop_for_something_unknown_is_answered() -> None:
    async def story(node: Node) -> None:
        node.stop("ghost")
        assert (await node.scheduler.ended("ghost"))["word"] == "CANCELLED"

    on_node(story)


def test_an_order_heard_twice_runs_once() -> None:
    async def story(node: Node) -> None:
        marker = node.directory / "marker"
        for _ in range(2):
            node.launch("a", **sh(f"echo run >> {marker}"))
        await node.scheduler.ended("a")
        node.launch("a", **sh(f"echo run >> {marker}"))
        await node.run("b", "/bin/true")
        assert marker.read_text() == "run\n"

    on_node(story)


def test_a_time_limit() -> None:
    async def story(node: Node) -> None:
        assert (await node.run("a", "/bin/sleep 60", time_limit_s=1))["word"] == "TIME_LIMIT"

    on_node(story)


def test_a_trivial_task_says_its_end_and_no_phase_before_it() -> None:
    async def story(node: Node) -> None:
        for number in range(5):
            await node.run(f"t{number}", "/bin/true")
        phases = [body["phase"] for body in node.scheduler.all("phase")]
        assert "collecting" not in phases

    on_node(story)


# ---- artifacts


def test_what_is_left_in_the_output_directory_is_collected() -> None:
    async def story(node: Node) -> None:
        script = (
            "cd $FETCHML_OUTPUT_DIR; mkdir -p sub; echo model > sub/model.bin; echo {} > metrics.json; "
            "ln -s /etc/passwd link; mkfifo pipe"
        )
        report = await node.run("a", **sh(script))
        assert report["exit_code"] == 0
        found = report["artifacts"]
        store = ContentStore(node.directory / "data" / "objects")
        manifest = json.loads(store.read(found["manifest"]))
        assert [entry["path"] for entry in manifest] == ["metrics.json", "sub/model.bin"]
        assert store.read(manifest[1]["hash"]) == b"model\n"
        assert (found["file_count"], found["total_bytes"]) == (2, 9)
        assert "link" in report["detail"]
        assert "pipe" in report["detail"]
        assert "collecting" in [body["phase"] for body in node.scheduler.all("phase", "a")]

    on_node(story)


def test_a_full_disk_is_waited_for_before_output_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def full(*given: Any) -> Kept:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return keep_tree(*given)

    monkeypatch.setattr(collecting, "keep_tree", full)
    monkeypatch.setattr(collecting, "RETRY_FIRST_S", 0.01)

    async def story(node: Node) -> None:
        report = await node.run("a", **sh("echo x > $FETCHML_OUTPUT_DIR/x"))
        assert report["artifacts"]["file_count"] == 1
        assert len(tries) == 3
        monkeypatch.setattr(collecting, "GIVE_UP_S", 0.0)
        tries.clear()
        report = await node.run("b", **sh("echo x > $FETCHML_OUTPUT_DIR/x"))
        assert "artifacts" not in report
        assert "could not be collected" in report["detail"]
        assert "No space left" in report["detail"]

    on_node(story)


def test_no_output_no_artifacts() -> None:
    async def story(node: Node) -> None:
        assert "artifacts" not in await node.run("a", "/bin/true")

    on_node(story)


# ---- datasets


def test_a_dataset_is_verified_mounted_and_recorded() -> None:
    async def story(node: Node) -> None:
        source = node.directory / "data" / "datasets" / "d.csv"
        source.write_bytes(b"1,2\n")
        sha256 = hashlib.sha256(b"1,2\n").hexdigest()
        request = sh("cat data/d; echo $FETCHML_DATASET_MY_SET")
        report = await node.run("a", **request, dataset_specs=[spec(source, sha256, name="my-set")])
        assert report["exit_code"] == 0
        mounted = node.node_dir / "attempts" / "a-1-0" / "work" / "data" / "d"
        assert (await node.output("a")).decode() == f"1,2\n{mounted}\n"
        assert stat.S_IMODE(mounted.stat().st_mode) == 0o444
        access = await node.scheduler.heard("dataset", "a")
        assert access == {
            "worker_id": "w1",
            "task_id": "a",
            "attempt": 1,
            "name": "my-set",
            "source": str(source),
            "success": True,
            "sha256": sha256,
            "total_bytes": 4,
            "cached": False,
        }
        await node.run("b", **request, dataset_specs=[spec(source, name="my-set")])
        again = await node.scheduler.heard("dataset", "b")
        assert (again["sha256"], again["cached"]) == (sha256, True)

    on_node(story)


def test_the_scheduler_hears_what_is_in_the_cache() -> None:
    async def story(node: Node) -> None:
        source = node.directory / "data" / "datasets" / "d.csv"
        source.write_bytes(b"1,2\n")
        key = hashlib.sha256(b"1,2\n").hexdigest()[:16]
        assert (await node.scheduler.heard("hello"))["datasets"] == {}
        await node.run("a", "/bin/true", dataset_specs=[spec(source)])

        def news(name: str) -> list[Any]:
            return [beat[name] for beat in node.scheduler.all("beat") if name in beat]

        (added,) = await until(lambda: news("datasets_added"), "the news")
        assert added == {key: 4, dataset_key(DatasetSpec(name="", source=str(source), mount_path="")): 4}
        await node.restart_agent()
        assert (await node.scheduler.heard("hello", count=2))["datasets"] == {key: 4}
        assert len(news("datasets_added")) == 1, "it is said once"

    on_node(story)


def test_a_cache_without_room_keeps_what_attempts_use() -> None:
    async def story(node: Node) -> None:
        source = node.directory / "data" / "datasets" / "d.csv"
        source.write_bytes(b"1,2\n")
        report = await node.run("a", **sh("cat data/d"), dataset_specs=[spec(source)])
        assert report["exit_code"] == 0
        assert os.listdir(node.node_dir / "cache") == [hashlib.sha256(b"1,2\n").hexdigest()]
        node.ack("a")
        await until(lambda: not os.listdir(node.node_dir / "cache"), "room")
        dropped = [beat["datasets_dropped"] for beat in node.scheduler.all("beat") if "datasets_dropped" in beat]
        assert len(dropped) <= 1

    on_node(story, dataset_cache_bytes_max=0)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda root: spec(root / "d.csv", "0" * 64), "DATASET_MISMATCH"),
        (lambda root: spec(root / "missing.csv"), "DATASET_NOT_FOUND"),
        (lambda _root: spec("/etc/passwd"), "DATASET_NOT_FOUND"),
        (lambda root: spec(root / "escape"), "DATASET_NOT_FOUND"),
        (lambda _root: spec("http://127.0.0.1:9/x", "0" * 64), "DATASET_NOT_FOUND"),
    ],
)
def test_a_bad_dataset_ends_the_task_before_it_starts(make: Any, word: str) -> None:
    async def story(node: Node) -> None:
        root = node.directory / "data" / "datasets"
        (root / "d.csv").write_text("x")
        (root / "escape").symlink_to("/etc/passwd")
        marker = node.directory / "ran"
        report = await node.run("a", f"/bin/touch {marker}", dataset_specs=[make(root)])
        assert report["word"] == word
        assert "log" not in report
        assert not marker.exists()
        access = await node.scheduler.heard("dataset", "a")
        assert access["success"] is False
        assert access["error"].startswith(word)

    on_node(story)


@contextmanager
def slow_server() -> Iterator[tuple[str, threading.Event]]:
    """An HTTP server that sends one byte and then nothing until it is closed."""
    release = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
            self.wfile.flush()
            release.wait(30)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/d", release
    finally:
        release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_stop_while_a_dataset_is_fetched_is_answered_at_once() -> None:
    with slow_server() as (url, release):

        async def story(node: Node) -> None:
            node.launch("a", "/bin/true", dataset_specs=[spec(url, "0" * 64)])
            await until(lambda: node.agent._preparing, "the fetch to begin")
            node.stop("a")
            assert (await node.scheduler.ended("a"))["word"] == "CANCELLED"
            release.set()  # the fetch's thread ends with it, and our close waits for that

        on_node(story, private_hosts=True)


def test_a_stop_that_comes_with_its_order_is_answered() -> None:
    """After a line was lost both are said at once. Fetching had not begun, and nobody said that it was over."""
    with slow_server() as (url, release):

        async def story(node: Node) -> None:
            node.launch("a", "/bin/true", dataset_specs=[spec(url, "0" * 64)])
            node.stop("a")
            assert (await node.scheduler.ended("a"))["word"] == "CANCELLED"
            assert node.agent._preparing == {}
            release.set()

        on_node(story, private_hosts=True)


# ---- logs


def test_a_live_log_is_followed() -> None:
    async def story(node: Node) -> None:
        flag = node.directory / "go"
        node.launch("a", **sh(f"echo one; while [ ! -e {flag} ]; do sleep 0.02; done; echo two"))
        first = await node.read("a", wait_s=10.0)
        assert (first.blob, first.body["ended"]) == (b"one\n", False)
        waiting = asyncio.create_task(node.read("a", offset=4, wait_s=10.0))
        flag.touch()
        second = await waiting
        assert second.blob == b"two\n"
        await node.scheduler.ended("a")
        end = await node.read("a", offset=8, wait_s=10.0)
        assert (end.blob, end.body) == (b"", {"offset": 8, "size": 8, "ended": True})

    on_node(story)


def test_a_large_log_is_exact_and_read_in_pieces() -> None:
    async def story(node: Node) -> None:
        size = 3_000_000
        script = node.directory / "s.py"
        script.write_text(f"import sys; sys.stdout.write(''.join(chr(33 + i % 90) for i in range({size})))")
        report = await node.run("a", str(script))
        assert report["log"]["length"] == size
        node.ack("a")
        found = b""
        while len(found) < size:
            answer = await node.read("a", report["log"], offset=len(found), limit=1_000_000)
            found += answer.blob
        assert answer.body["ended"]
        assert found == bytes(33 + i % 90 for i in range(size))

    on_node(story)


# ---- deaths


def test_a_task_outlives_the_agent() -> None:
    async def story(node: Node) -> None:
        flag = node.directory / "go"
        node.launch(
            "a", **sh(f"echo up; while [ ! -e {flag} ]; do sleep 0.02; done; echo x > $FETCHML_OUTPUT_DIR/f; exit 5")
        )
        await node.scheduler.heard("phase", "a")
        before = node.marks.find({"a-1-0"})
        await node.restart_agent()
        assert [(a["task_id"], a["phase"]) for a in node.scheduler.all("hello")[-1]["attempts"]] == [("a", "running")]
        assert min(before) in node.marks.find({"a-1-0"})
        flag.touch()
        report = await node.scheduler.ended("a")
        assert report["exit_code"] == 5
        assert report["artifacts"]["file_count"] == 1
        assert await node.output("a") == b"up\n"

    on_node(story)


def test_an_end_is_reported_until_it_is_acknowledged() -> None:
    async def story(node: Node) -> None:
        first = await node.run("a", **sh("echo x > $FETCHML_OUTPUT_DIR/f; exit 6"))
        await node.restart_agent()
        again = await node.scheduler.ended("a", count=2)
        assert [(a["task_id"], a["phase"]) for a in node.scheduler.all("hello")[-1]["attempts"]] == [
            ("a", "collecting")
        ]
        assert again == first
        node.ack("a")
        await until(lambda: not os.listdir(node.node_dir / "attempts"), "its directory to go")
        await node.restart_agent()
        assert node.scheduler.all("hello")[-1]["attempts"] == []
        assert len(node.scheduler.all("ended", "a")) == 2

    on_node(story)


def test_a_lost_scheduler_is_found_again_and_told_everything() -> None:
    async def story(node: Node) -> None:
        node.launch("a", "/bin/sleep 60")
        await node.scheduler.heard("phase", "a")
        await node.run("b", "/bin/true")
        node.scheduler.close()
        node.scheduler.said.clear()
        await node.scheduler.open()
        hello = await node.scheduler.heard("hello")
        assert {(a["task_id"], a["phase"]) for a in hello["attempts"]} == {("a", "running"), ("b", "collecting")}
        await node.scheduler.ended("b")

    on_node(story)


def test_a_repeated_order_of_an_attempt_that_is_over_starts_nothing() -> None:
    async def story(node: Node) -> None:
        node.launch("a", "/bin/true")
        order = node.scheduler.said_last
        await node.scheduler.ended("a")
        node.ack("a")
        node.scheduler.repeat(order)
        await node.run("b", "/bin/true")  # what came before it has been taken in
        assert len(node.scheduler.all("ended", "a")) == 1
        assert [run.key.task_id for run in node.agent._core.runs.values()] == ["b"]

    on_node(story)


def test_a_gap_in_what_the_scheduler_says_is_mended_by_a_new_hello() -> None:
    async def story(node: Node) -> None:
        node.launch("a", "/bin/sleep 60")
        await node.scheduler.heard("phase", "a")
        node.scheduler.skip_one()
        node.launch("b", "/bin/true")
        hello = await node.scheduler.heard("hello", count=2)
        assert [(a["task_id"], a["phase"]) for a in hello["attempts"]] == [("a", "running")]
        assert (await node.run("b", "/bin/true"))["exit_code"] == 0

    on_node(story)


def test_a_killed_runner_is_replaced_and_the_end_is_unknown() -> None:
    async def story(node: Node) -> None:
        flag = node.directory / "go"
        node.launch("a", **sh(f"while [ ! -e {flag} ]; do sleep 0.02; done"))
        await node.scheduler.heard("phase", "a")
        pid = (await node.agent.ping())["runner_pid"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: node.agent._runner.pid != pid and node.agent._runner.connected, "the next runner")
        assert node.marks.find({"a-1-0"})
        assert (await node.run("b", "/bin/true"))["exit_code"] == 0
        flag.touch()
        report = await node.scheduler.ended("a")
        assert report["word"] == "EXIT_UNKNOWN"
        assert "infrastructure" not in report

    on_node(story)


def test_what_a_restart_of_the_machine_ended_is_nobodys_failure() -> None:
    async def story(node: Node) -> None:
        node.launch("a", "/bin/sleep 60")
        await node.scheduler.heard("phase", "a")
        pid = (await node.agent.ping())["runner_pid"]
        await node.agent.shutdown()
        for one in [pid, *node.marks.find({"a-1-0"})]:
            os.kill(one, signal.SIGKILL)
        await until(lambda: not alive(pid), "the runner's end")
        journal = node.node_dir / "journal"
        journal.write_text(journal.read_text().replace(boot_id(), "another"))
        await node.start_agent(hello=2)
        report = await node.scheduler.ended("a")
        assert (report["word"], report["infrastructure"]) == ("WORKER_LOST", True)

    on_node(story)


def test_what_a_dead_agent_left_unfinished_is_removed() -> None:
    async def story(node: Node) -> None:
        stranger = node.node_dir / "attempts" / "z-1-0" / "work" / "deep"
        stranger.mkdir(parents=True)
        (stranger / "file").write_text("x")
        stranger.chmod(0o000)
        await node.restart_agent()
        await until(lambda: not os.listdir(node.node_dir / "trash"), "the trash to be emptied")
        assert os.listdir(node.node_dir / "attempts") == []

    on_node(story)


def test_the_runner_gets_a_lease_with_every_answered_beat() -> None:
    async def story(node: Node) -> None:
        lease = node.node_dir / "lease"
        until_t = await until(lambda: float((lease.read_text().split() or ["", "0"])[1]), "a lease")
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert now + 55 < until_t <= now + 60
        await until(lambda: float(lease.read_text().split()[1]) > until_t, "a longer lease")
        node.scheduler.answers_beats = False
        beats = len(node.scheduler.all("beat"))
        await node.scheduler.heard("beat", count=beats + 2)
        frozen = lease.read_text()
        await node.scheduler.heard("beat", count=beats + 5)
        assert lease.read_text() == frozen

    on_node(story, requeue_after_s=90)


def test_leaving_lets_the_runner_and_its_tasks_be() -> None:
    async def story(node: Node) -> None:
        node.launch("a", "/bin/sleep 60")
        await node.scheduler.heard("phase", "a")
        pid = (await node.agent.ping())["runner_pid"]
        await node.restart_agent()
        assert (await node.agent.ping())["runner_pid"] == pid
        assert alive(pid)
        assert not node.scheduler.all("ended")
        assert Path(f"/proc/{pid}/environ").read_bytes().count(b"\0") == 2

    on_node(story)


AGENT_PROCESS = """
import asyncio, json, sys
from actors.agent import Agent

async def main():
    agent = Agent(json.loads(sys.argv[1]))
    await agent.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_task_outlives_an_agent_that_is_killed() -> None:
    async def story(node: Node) -> None:
        await node.agent.shutdown()
        killed = await asyncio.create_subprocess_exec(sys.executable, "-c", AGENT_PROCESS, json.dumps(node.settings))
        await node.scheduler.heard("hello", count=2)
        flag = node.directory / "go"
        node.launch("a", **sh(f"echo $$; while [ ! -e {flag} ]; do sleep 0.02; done; exit 5"))
        await node.scheduler.heard("phase", "a")
        killed.kill()
        await killed.wait()
        await node.start_agent(hello=3)
        pid = int((await node.read("a", wait_s=10.0)).blob)
        assert alive(pid)
        flag.touch()
        assert (await node.scheduler.ended("a"))["exit_code"] == 5

    on_node(story)
