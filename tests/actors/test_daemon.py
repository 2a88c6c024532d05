"""The daemon as its starter sees it: one line on standard output, a directory that is its own, and no process left."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors.daemon import url
from actors.data_dir import DataDir, Refused
from actors.ray_processes import kill_marked, marked, wait_for_all
from fetchmld.config import Config
from tests.actors.conftest import ROOT, until

SAID_WITHIN_S = 90


@dataclass(slots=True)
class Started:
    process: "subprocess.Popen[bytes]"
    said: dict[str, Any]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """The seconds that a clean stop took."""
        began = time.monotonic()
        self.process.terminate()
        assert self.process.wait(30) == 0
        return time.monotonic() - began


def start(data_dir: Path, port: int) -> Started:
    """Start a daemon and read its line."""
    settings = Config(data_dir=data_dir, port=port, num_cpus=2).model_dump_json()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "actors.daemon", "--settings-file", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as pipe:
        pipe.write(settings.encode())
    with process.stdout as pipe:
        assert select.select([pipe], [], [], SAID_WITHIN_S)[0], "it says nothing"
        return Started(process, json.loads(pipe.readline() or b"{}"))


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory; afterwards everything that ran on it is ended, the runner too."""
    path = tmp_path / "data"
    yield path
    if (path / "run_dir").exists():
        run_dir = Path((path / "run_dir").read_text().strip())
        left = kill_marked(run_dir)
        end_runner(path)
        shutil.rmtree(run_dir)
        assert left == 0


def end_runner(data_dir: Path) -> None:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(data_dir) in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.ray
def test_a_daemon_refuses_a_second_and_survives_every_kill(data_dir: Path, port: int) -> None:
    first = start(data_dir, port)
    try:
        assert first.said["ready"]["url"] == f"http://127.0.0.1:{port}"
        assert first.said["ready"]["pid"] == first.process.pid
        about = json.loads((data_dir / "daemon.json").read_text())
        assert {"pid", "start_ticks", "url", "run_dir", "ray_address", "started_at"} <= about.keys()
        until("it is ready", lambda: is_ready(port))

        second = start(data_dir, port)
        assert f"pid {first.process.pid} already runs on {data_dir}" in second.said["error"]
        assert second.process.wait(10) == second.said["exit_code"] == 5
    finally:
        first.kill()  # alone: its actors and Ray live on

    orphans = marked(Path(about["run_dir"]))
    assert orphans
    again = start(data_dir, port)
    try:
        assert "ready" in again.said
        assert not set(orphans) & set(marked(Path(about["run_dir"])))
        until("it is ready", lambda: is_ready(port))
        for pid in marked(Path(about["run_dir"])):  # everything but the daemon
            with contextlib.suppress(ProcessLookupError):  # some end with those before them
                os.kill(pid, signal.SIGKILL)
        until("its own file says where", lambda: json.loads((data_dir / "daemon.json").read_text()) != about)
        until("it is ready again", lambda: is_ready(port))
    finally:
        took_s = again.stop()
    assert took_s < 10
    assert not (data_dir / "daemon.json").exists()


@pytest.mark.ray
def test_who_asks_while_the_head_is_replaced_waits_and_is_not_refused(data_dir: Path, port: int) -> None:
    daemon = start(data_dir, port)
    try:
        run_dir = Path(json.loads((data_dir / "daemon.json").read_text())["run_dir"])
        for _ in range(3):
            old = head_of(run_dir)
            pidfd = os.pidfd_open(old)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert wait_for_all([pidfd], 10)  # nobody accepts from here on
            os.close(pidfd)
            lines = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(20)]
            for line in lines:
                line.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert [line.recv(15) for line in lines] == [b"HTTP/1.1 200 OK"] * 20
            for line in lines:
                line.close()
            assert head_of(run_dir) != old
    finally:
        daemon.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def head_of(run_dir: Path) -> int:
    """The process of the head's actor."""
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in marked(run_dir)}
    (found,) = [pid for pid, name in names.items() if name.startswith(b"ray::head")]
    return found


@pytest.mark.ray
def test_a_start_that_fails_says_so_in_one_sentence(data_dir: Path, port: int) -> None:
    with contextlib.suppress(Refused), DataDir(data_dir).held():
        pass
    (data_dir / "ledger").write_text("this is no directory")
    failed = start(data_dir, port)
    assert failed.said["error"].startswith("the scheduler actor cannot start: ")
    assert "\n" not in failed.said["error"]
    assert failed.process.wait(30) == failed.said["exit_code"] == 1


# -- without Ray


def test_a_directory_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(Refused, match="is not empty and was not made by FetchML"), DataDir(tmp_path).held():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="is not a directory"), DataDir(tmp_path / "file").held():
        pass


def test_one_at_a_time_holds_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data"
    with DataDir(path).held():
        assert path.stat().st_mode & 0o777 == 0o700
        with pytest.raises(Refused, match=f"pid {os.getpid()} already runs on"), DataDir(path).held():
            pass
    with DataDir(path).held():
        assert json.loads((path / "fetchml.json").read_text())["format"] == 1


@pytest.mark.parametrize(("text", "reason"), [('{"format": 2}', "has format 2"), ("nonsense", "is damaged")])
def test_a_marker_of_another_kind_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "fetchml.json").write_text(text)
    with pytest.raises(Refused, match=reason), DataDir(tmp_path).held():
        pass


def test_the_key_and_the_workers_id_are_made_once(tmp_path: Path) -> None:
    directory = DataDir(tmp_path)
    directory.make_admin_key()
    key = directory.admin_key.read_text().strip()
    assert key.startswith("fml_")
    assert len(key) == len("fml_") + 64
    assert directory.admin_key.stat().st_mode & 0o777 == 0o600
    directory.make_admin_key()
    assert directory.admin_key.read_text().strip() == key
    assert directory.worker_id() == directory.worker_id() == (tmp_path / "node" / "id").read_text().strip()


def test_the_url_is_one_that_a_client_here_can_use() -> None:
    assert url("127.0.0.1", 1) == "http://127.0.0.1:1"
    assert url("0.0.0.0", 2) == "http://127.0.0.1:2"
    assert url("::", 3) == url("::1", 3) == "http://[::1]:3"
