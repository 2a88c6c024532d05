"""The runner as a process: what it starts, what it ends, what it says, and what survives its death."""

import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from fetchmld.runner import proctree
from fetchmld.runner.frames import encode_line
from fetchmld.runner.logs import read_live, read_place
from fetchmld.runner.loop import boottime
from tests.runner.client import RunnerClient, alive, until


def output(runner: RunnerClient, ended: dict[str, object]) -> bytes:
    owner = str(ended["key"]).rpartition("-")[0] + "-"
    return read_place(f"{runner.node_dir}/logs", ended["log"], owner, 0, 1 << 22)  # type: ignore[arg-type]


def live_output(runner: RunnerClient, slot: int) -> bytes:
    return read_live(f"{runner.node_dir}/logs", slot, 0, 1 << 22)[0]


def numbers(runner: RunnerClient, slot: int, count: int) -> list[int]:
    """The first `count` lines of a live log, as the numbers that they are."""
    lines = until(lambda: (found := live_output(runner, slot).split())[: len(found) >= count and count], "lines")
    return [int(line) for line in lines[:count]]


def test_an_exit_status_arrives_with_its_usage(runner: RunnerClient) -> None:
    ended = runner.run("t-1-0", "/bin/sh", "-c", "exit 3")
    assert ended["code"] == 3
    assert ended["word"] == ""
    assert ended["usage"]["rss_max_bytes"] > 0
    assert abs(ended["at"] - time.time()) < 10


def test_a_signal_is_no_exit_code(runner: RunnerClient) -> None:
    ended = runner.run("t-1-0", "/bin/sh", "-c", "kill -SEGV $$")
    assert ended["signal"] == signal.SIGSEGV
    assert "code" not in ended


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * 2**20])
def test_output_is_kept_byte_for_byte(runner: RunnerClient, size: int) -> None:
    code = f"import sys; sys.stdout.buffer.write(bytes(i * 7 % 256 for i in range({size})))"
    runner.python("t-1-0", code)
    ended = runner.take("exited")
    assert ended["log"]["length"] == size
    assert output(runner, ended) == bytes(i * 7 % 256 for i in range(size))


def test_both_streams_go_to_one_log_and_input_is_empty(runner: RunnerClient) -> None:
    ended = runner.run("t-1-0", "/bin/sh", "-c", "echo out; cat; echo err >&2")
    assert output(runner, ended) == b"out\nerr\n"


def test_one_place_never_gives_another_attempts_bytes(runner: RunnerClient) -> None:
    first = runner.run("t-1-0", "/bin/echo", "secret")
    runner.run("u-1-0", "/bin/echo", "public")
    with pytest.raises(ValueError, match="does not hold"):
        read_place(f"{runner.node_dir}/logs", first["log"], "u-1-", 0, 100)
    with pytest.raises(ValueError, match="no place"):
        read_place(f"{runner.node_dir}/logs", {"file": "../journal", "offset": 0, "length": 9}, "u-1-", 0, 100)


def test_a_recycled_log_starts_empty(fresh: RunnerClient) -> None:
    for number in range(5):
        ended = fresh.run(f"t-{number}-0", "/bin/echo", str(number))
        assert output(fresh, ended) == f"{number}\n".encode()
        fresh.forget(ended["key"])
    assert len(os.listdir(fresh.node_dir / "logs" / "live")) == 1


def test_a_child_gets_what_it_was_given_and_nothing_else(runner: RunnerClient) -> None:
    ended = runner.run("t-1-0", "/usr/bin/env")
    names = {line.split(b"=")[0] for line in output(runner, ended).splitlines()}
    assert names == {b"PATH", proctree.MARK.encode()}
    ended = runner.run("t-2-0", "/bin/ls", "/proc/self/fd")
    assert output(runner, ended).split() == [b"0", b"1", b"2", b"3"]  # the last is that of ls itself
    ended = runner.run(
        "t-3-0", "/bin/sh", "-c", "cat /proc/self/oom_score_adj; grep -E 'SigIgn|SigBlk' /proc/self/status"
    )
    adjustment, _, blocked, _, ignored = output(runner, ended).split()
    assert adjustment == b"500"  # where memory is short, jobs go before us
    assert int(blocked, 16) == 0
    # 32 and 33 are the C library's own: make leaves them ignored, and no program can set them back
    assert int(ignored, 16) & ~(1 << 31 | 1 << 32) == 0


def test_limits_hold(runner: RunnerClient) -> None:
    ended = runner.run("t-1-0", "/bin/sh", "-c", "ulimit -n", limits=[[resource.RLIMIT_NOFILE, 77, 77]])
    assert output(runner, ended) == b"77\n"


@pytest.mark.parametrize(
    ("options", "step", "error"),
    [
        ({"path": "/nope"}, "execute", 2),
        ({"path": "/etc/passwd"}, "execute", 13),
        ({"cwd": "/nope"}, "directory", 2),
        ({"argv": ["a\0b"]}, "execute", 22),
    ],
)
def test_a_start_that_fails_says_where(runner: RunnerClient, options: dict[str, object], step: str, error: int) -> None:
    runner.start("t-1-0", "/bin/true", **options)
    failed = runner.take("start_failed", "t-1-0")
    assert (failed["step"], failed["errno"]) == (step, error)
    runner.disconnect()
    assert runner.connect().state["running"] == []


def test_asking_twice_starts_once(runner: RunnerClient) -> None:
    runner.start("t-1-0", "/bin/sleep", "60")
    runner.start("t-1-0", "/bin/sleep", "60")
    started = runner.take("started")
    runner.start("u-1-0", "/bin/true")
    runner.take("exited", "u-1-0")
    assert not [message for message in runner.messages if message["event"] == "started" and message["key"] == "t-1-0"]
    assert list(runner.marks.find({"t-1-0"})) == [started["pid"]]


def test_stop_reaches_the_whole_tree(runner: RunnerClient) -> None:
    """A leader, a child that ignores SIGTERM, one in a session of its own, and one that daemonised."""
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def stay():\n"
        "    print(os.getpid(), flush=True); time.sleep(60)\n"
        "if os.fork() == 0: stay()\n"
        "if os.fork() == 0: os.setsid(); stay()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: stay()\n"
        "    os._exit(0)\n"
        "stay()"
    )
    runner.python("t-1-0", code)
    slot = runner.take("started")["slot"]
    pids = numbers(runner, slot, 4)
    runner.send({"do": "stop", "key": "t-1-0", "word": "CANCELLED", "detail": "asked", "grace_s": 0.2})
    ended = runner.take("exited")
    assert (ended["word"], ended["detail"], ended["signal"]) == ("CANCELLED", "asked", signal.SIGKILL)
    assert [pid for pid in pids if alive(pid)] == []


def test_what_outlives_its_leader_is_killed_before_the_end_is_told(runner: RunnerClient) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: print(os.getpid(), flush=True); time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(0.05); print(0, flush=True); os._exit(7)"
    )
    runner.python("t-1-0", code)
    ended = runner.take("exited")
    assert ended["code"] == 7
    assert [pid for pid in map(int, output(runner, ended).split()) if pid and alive(pid)] == []


def test_a_daemon_of_one_attempt_does_not_fall_with_another(runner: RunnerClient) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: print(os.getpid(), flush=True); time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(60)"
    )
    runner.python("t-1-0", code)
    daemon = numbers(runner, runner.take("started")["slot"], 1)[0]
    runner.run("u-1-0", "/bin/true")
    assert alive(daemon)
    runner.send({"do": "stop", "key": "t-1-0", "word": "CANCELLED", "grace_s": 5.0})
    runner.take("exited", "t-1-0")
    assert not alive(daemon)


def test_a_program_may_use_its_grace(runner: RunnerClient) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        "print(1, flush=True); time.sleep(60)"
    )
    runner.python("t-1-0", code)
    numbers(runner, runner.take("started")["slot"], 1)
    runner.send({"do": "stop", "key": "t-1-0", "word": "CANCELLED", "grace_s": 10.0})
    ended = runner.take("exited")
    assert (ended["code"], ended["word"]) == (9, "CANCELLED")


def test_a_time_limit_ends_it(runner: RunnerClient) -> None:
    ended = runner.run("t-1-0", "/bin/sleep", "60", time_limit_s=0.1)
    assert ended["word"] == "TIME_LIMIT"
    assert "0.1 s" in ended["detail"]


def test_a_lease_that_runs_out_ends_it(fresh: RunnerClient) -> None:
    fresh.send({"do": "lease", "until": boottime() + 10.5})
    ended = fresh.run("t-1-0", "/bin/sleep", "60")
    assert ended["word"] == "LEASE_EXPIRED"


def test_a_newer_agent_replaces_the_older_and_hears_of_unacknowledged_ends(runner: RunnerClient) -> None:
    ended = runner.run("t-1-0", "/bin/sh", "-c", "exit 4")
    runner.start("u-1-0", "/bin/sleep", "60")
    pid = runner.take("started", "u-1-0")["pid"]
    runner.disconnect()
    state = runner.connect().state
    assert state["ended"] == [{name: value for name, value in ended.items() if name != "event"}]
    assert [(found["key"], found["pid"]) for found in state["running"]] == [("u-1-0", pid)]
    runner.forget("t-1-0")
    runner.disconnect()
    assert runner.connect().state["ended"] == []


def test_a_killed_runner_leaves_its_attempts_to_the_next(fresh: RunnerClient) -> None:
    reported = fresh.run("done-1-0", "/bin/echo", "done")
    fresh.start("t-1-0", "/bin/sh", "-c", "echo before; sleep 60")
    pid = fresh.take("started", "t-1-0")["pid"]
    fresh.kill_runner()
    assert alive(pid)
    state = fresh.connect().state
    assert [(found["key"], found["pid"]) for found in state["running"]] == [("t-1-0", pid)]
    assert [found["key"] for found in state["ended"]] == [reported["key"]]
    fresh.send({"do": "stop", "key": "t-1-0", "word": "CANCELLED", "grace_s": 5.0})
    ended = fresh.take("exited")
    assert ended["word"] == "CANCELLED"
    assert output(fresh, ended) == b"before\n"
    assert not alive(pid)


def test_an_end_without_a_runner_is_unknown(fresh: RunnerClient) -> None:
    fresh.start("t-1-0", "/bin/sh", "-c", "echo 1; read x < /dev/null; sleep 60")
    started = fresh.take("started")
    numbers(fresh, started["slot"], 1)
    fresh.kill_runner()
    for pid in fresh.marks.find({"t-1-0"}):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not fresh.marks.find({"t-1-0"}), "the attempt's end")
    fresh.connect()
    found = fresh.state["ended"] or [fresh.take("exited")]
    assert (found[0]["word"], "code" in found[0], "signal" in found[0]) == ("EXIT_UNKNOWN", False, False)
    assert output(fresh, found[0]) == b"1\n"


def test_an_adopted_attempt_that_ends_by_itself_is_unknown_and_swept(fresh: RunnerClient, short_dir: Path) -> None:
    flag = short_dir / "go"
    script = f"setsid sleep 60 & echo $!; while [ ! -e {flag} ]; do sleep 0.02; done"
    fresh.start("t-1-0", "/bin/sh", "-c", script)
    child = numbers(fresh, fresh.take("started")["slot"], 1)[0]
    fresh.kill_runner()
    fresh.connect()
    flag.touch()
    ended = fresh.take("exited")
    assert ended["word"] == "EXIT_UNKNOWN"
    assert not alive(child)


def test_a_pid_alone_is_never_adopted(fresh: RunnerClient) -> None:
    """A journal that names a process of somebody else: other start time, same pid."""
    fresh.start("t-1-0", "/bin/sleep", "60")
    pid = fresh.take("started")["pid"]
    fresh.kill_runner()
    journal = fresh.node_dir / "journal"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    for record in records:
        record["key"], record["cell"] = "x-1-0", -1
        if record["j"] == "start":
            record["asked_t"], record["started_t"] = record["started_t"] + 0.02, record["started_t"] + 0.03
    journal.write_text("".join(encode_line(record) for record in records))
    fresh.connect()
    ended = (fresh.state["ended"] or [fresh.take("exited")])[0]
    assert (ended["key"], ended["word"]) == ("x-1-0", "EXIT_UNKNOWN")
    assert alive(pid), "it is not ours to end"


@pytest.mark.parametrize("written", ["intent", "start"])
def test_what_a_restart_of_the_machine_ended_is_lost_with_it(fresh: RunnerClient, written: str) -> None:
    """A journal of another boot: the attempt's end is known, and was not its own doing."""
    fresh.start("t-1-0", "/bin/sleep", "60")
    pid = fresh.take("started")["pid"]
    fresh.kill_runner()
    os.kill(pid, signal.SIGKILL)
    journal = fresh.node_dir / "journal"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    kept = [record for record in records if record["j"] in ("intent", written)]
    journal.write_text("".join(encode_line({**record, "boot": "another"}) for record in kept))
    fresh.connect()
    ended = (fresh.state["ended"] or [fresh.take("exited")])[0]
    assert (ended["key"], ended["word"]) == ("t-1-0", "WORKER_LOST")
    assert "code" not in ended
    assert "signal" not in ended


def test_a_start_that_was_not_written_down_is_found_by_its_mark(fresh: RunnerClient) -> None:
    fresh.start("t-1-0", "/bin/sleep", "60")
    pid = fresh.take("started")["pid"]
    fresh.kill_runner()
    journal = fresh.node_dir / "journal"
    intents = [line for line in journal.read_text().splitlines(keepends=True) if '"intent"' in line]
    journal.write_text("".join(intents) + '{"j":"start","ke')
    assert [found["pid"] for found in fresh.connect().state["running"]] == [pid]


def test_an_idle_runner_without_an_agent_leaves(short_dir: Path) -> None:
    runner = RunnerClient(short_dir, idle_s=0.1)
    try:
        runner.connect()
        runner.disconnect()
        until(lambda: not alive(runner.pid), "the runner to leave")
        assert not os.path.exists(runner.socket_path)
    finally:
        runner.close()


def test_it_leaves_on_request_only_when_idle(fresh: RunnerClient) -> None:
    fresh.start("t-1-0", "/bin/sleep", "60")
    fresh.take("started")
    fresh.send({"do": "stop_if_idle"})
    assert fresh.take("bye")["idle"] is False
    os.kill(fresh.pid, signal.SIGTERM)
    fresh.send({"do": "stop", "key": "t-1-0", "word": "CANCELLED"})
    fresh.take("exited")
    fresh.forget("t-1-0")
    fresh.send({"do": "stop_if_idle"})
    assert fresh.take("bye")["idle"] is True
    until(lambda: not alive(fresh.pid), "the runner to leave")


def test_a_second_runner_on_the_same_directory_gives_way(fresh: RunnerClient) -> None:
    fresh.launch()
    until(lambda: "another runner" in (fresh.node_dir / "runner.log").read_text(), "the second one to say so")
    fresh.run("t-1-0", "/bin/true")


def test_it_is_small_and_out_of_our_tree(runner: RunnerClient) -> None:
    status = Path(f"/proc/{runner.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert int(fields["VmRSS"].split()[0]) < 20_000
    assert int(fields["PPid"]) != os.getpid()
    assert os.getsid(runner.pid) == runner.pid
    ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)} - {"/dev/null"}
    assert not ours & {os.readlink(f"/proc/{runner.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{runner.pid}/fd")}


def test_a_removed_socket_comes_back(fresh: RunnerClient) -> None:
    os.unlink(fresh.socket_path)
    fresh.disconnect()
    until(lambda: os.path.exists(fresh.socket_path), "the socket")
    pid = fresh.pid
    assert fresh.connect().pid == pid


def test_many_at_once(runner: RunnerClient) -> None:
    count = 200
    for number in range(count):
        runner.start(f"t{number}-1-0", "/bin/true")
    ends = [runner.take("exited") for _ in range(count)]
    assert {end["key"] for end in ends} == {f"t{number}-1-0" for number in range(count)}
    assert {end["code"] for end in ends} == {0}
    runner.forget(*(end["key"] for end in ends))
