"""`start` and `stop` around a process that behaves like the daemon."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetchmld.cli import launching
from fetchmld.cli.stopping import Running, start_ticks
from tests.cli.conftest import Run

FAKE = Path(__file__).parent / "fake_daemon.py"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def data_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory whose daemon is the fake one, ended with the test."""
    monkeypatch.setattr(launching, "DAEMON", (str(FAKE),))
    monkeypatch.setenv("FAKE_DAEMON", "ready")
    directory = home / "data"
    yield directory
    if found := Running.find(directory):
        os.kill(found.pid, signal.SIGKILL)
        os.close(found.pidfd)


@pytest.mark.parametrize("kind", ["ready", "slow"])
def test_start_says_where_it_is_and_what_to_do_next(
    run: Run, data_dir: Path, port: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DAEMON", kind)
    ran = run("start", "--head", "--data-dir", str(data_dir), "--port", str(port))
    assert ran.code == 0, ran.err
    assert f"ready at http://127.0.0.1:{port}" in ran.out
    assert str(data_dir / "admin.key") in ran.out
    assert f"--data-dir {data_dir} submit --name hello" in ran.out
    stopped = run("stop", "--data-dir", str(data_dir))
    assert stopped.code == 0
    assert "Stopped" in stopped.out
    assert "No daemon runs" in run("stop", "--data-dir", str(data_dir)).out


def test_the_settings_arrive(run: Run, data_dir: Path, port: int, tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("grace_s = 3\nnum_cpus = 2\n")
    words = ["--num-cpus", "7", "--dataset-root", str(tmp_path / "sets"), "--config", str(file)]
    ran = run("--data-dir", str(data_dir), "start", "--head", "--port", str(port), "--json", *words)
    assert json.loads(ran.out)["url"] == f"http://127.0.0.1:{port}"
    assert json.loads(ran.out)["key_file"] == str(data_dir / "admin.key")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/settings") as answer:
        settings = json.load(answer)["settings"]
    assert settings["num_cpus"] == 7
    assert settings["grace_s"] == 3
    assert settings["dataset_roots"] == [str(data_dir / "datasets"), str(tmp_path / "sets")]


def test_the_daemons_own_sentence_is_the_error(run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "refuse")
    ran = run("start", "--head", "--data-dir", str(data_dir))
    assert ran.code == 5
    assert f"{data_dir} is held by the daemon with pid 1" in ran.err
    assert not data_dir.exists()


@pytest.mark.parametrize("kind", ["crash", "mute"])
def test_a_daemon_that_dies_at_once_is_an_error(
    run: Run, data_dir: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DAEMON", kind)
    ran = run("start", "--head", "--data-dir", str(data_dir))
    assert ran.code == 1
    assert "while starting" in ran.err
    assert kind != "crash" or "no such module: actors" in ran.err


def test_blocking_ends_with_the_daemon(data_dir: Path, port: int, home: Path) -> None:
    code = (
        "from fetchmld.cli import launching, main\n"
        f"launching.DAEMON = ({str(FAKE)!r},)\n"
        f"main(['start', '--head', '--block', '--data-dir', {str(data_dir)!r}, '--port', '{port}'])"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "HOME": str(home), "FAKE_DAEMON": "ready", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert any("Ctrl-C stops it" in line for line in child.stderr)
        found = Running.find(data_dir)
        assert found is not None
        os.close(found.pidfd)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
    assert Running.find(data_dir) is None


def test_start_must_be_told_what_to_start(run: Run) -> None:
    assert "--head" in run("start").err
    for address in ("h", "h:", ":1", "h:x", "h:0", "h:65536", "http://h:1"):
        joined = run("start", "--address", address)
        assert (joined.code, "is not HOST:PORT" in joined.err) == (2, True), address
    assert run("start", "--address", "h:1", "--head").code == 2


def test_a_token_is_read_before_anything_starts(run: Run, tmp_path: Path) -> None:
    for content in (None, b"", b"\xff"):
        file = tmp_path / "token"
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        ran = run("start", "--address", "h:1", "--token-file", str(file))
        assert ran.code == 5
        assert str(file) in ran.err


def test_a_bad_setting_starts_nothing(run: Run, data_dir: Path) -> None:
    ran = run("start", "--head", "--data-dir", str(data_dir), "--port", "99999")
    assert ran.code == 5
    assert "port" in ran.err
    assert not data_dir.exists()


def test_a_pid_that_belongs_to_someone_else_now_is_left_alone(run: Run, home: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        ticks = start_ticks(other.pid)
        assert ticks is not None
        said = {"pid": other.pid, "start_ticks": ticks - 1, "url": "http://127.0.0.1:1"}
        (home / "daemon.json").write_text(json.dumps(said))
        assert "No daemon runs" in run("stop", "--data-dir", str(home)).out
        assert other.poll() is None
        other.kill()


def joined(home: Path, **more: object) -> None:
    """A daemon of a machine that joined has this home's data directory: this very process."""
    (home / ".fetchml").mkdir(exist_ok=True)
    about = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "joined": "10.0.0.1:9102", "worker_id": "w1"}
    (home / ".fetchml" / "daemon.json").write_text(json.dumps({**about, **more}))


def test_a_machine_that_joined_says_whether_its_head_is_there(run: Run, home: Path) -> None:
    joined(home)
    assert "up" in run("status").out.split()
    joined(home, lost="the head does not answer", lost_at=time.time() - 3700)
    said = run("status").out
    assert "up" not in said.split()
    assert "lost 1h01m ago: the head does not answer" in said


def test_a_machine_that_joined_has_no_api(run: Run, client: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined(home)
    monkeypatch.delenv("FETCHML_ADDRESS")
    for words in (("workers",), ("submit", "--", "true"), ("audit", "verify")):
        ran = run(*words)
        assert ran.code == 6
        assert "a worker of the head at 10.0.0.1:9102" in ran.err
        assert "FETCHML_ADDRESS" in ran.err
        assert "start --head" not in ran.err


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"pid": "x"}', '{"pid": -5, "start_ticks": 1}'])
def test_a_broken_daemon_file_names_nobody(home: Path, said: str) -> None:
    (home / "daemon.json").write_text(said)
    assert Running.find(home) is None


def test_a_daemon_that_does_not_end_is_a_time_out(run: Run, home: Path) -> None:
    stubborn = [
        sys.executable,
        "-c",
        "import signal,time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
    ]
    with subprocess.Popen(stubborn, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        said = {"pid": child.pid, "start_ticks": start_ticks(child.pid), "url": "http://127.0.0.1:1"}
        (home / "daemon.json").write_text(json.dumps(said))
        ran = run("stop", "--data-dir", str(home), "--timeout", "0.1")
        child.kill()
    assert ran.code == 8
    assert "SIGTERM" in ran.err
