"""A small agent for tests: a real runner process in a directory of its own, and a connection to it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fetchmld.runner.frames import Decoder, Message, encode
from fetchmld.runner.isolation import tree_name
from fetchmld.runner.process import command
from fetchmld.runner.proctree import Marks, stat_of

WAIT_S = 15.0


def until(condition: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
    """The first true value of `condition`; fails after `wait_s`."""
    end = time.monotonic() + wait_s
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {wait_s} s for {what}"
        time.sleep(0.005)
    return value


def alive(pid: int) -> bool:
    """Whether the process is there and is not only waiting to be reaped."""
    stat = stat_of(pid)
    return stat is not None and stat.state not in "ZX"


def cgroups_of(node_dir: Path) -> list[Path]:
    """Every cgroup of that node's runner, the inner ones first."""
    return sorted(Path("/sys/fs/cgroup").glob(f"**/{tree_name(str(node_dir))}/**/"), reverse=True)


class RunnerClient:
    """Starts a runner on `directory` where none runs, and speaks to it."""

    def __init__(self, directory: Path, idle_s: float = 60.0) -> None:
        self.node_dir = directory / "node"
        self.marks = Marks(str(self.node_dir))
        self.socket_path = str(directory / "runner.sock")
        self.idle_s = idle_s
        self.keys: set[str] = set()
        self.messages: list[Message] = []
        self.state: Message = {}
        self._socket: socket.socket | None = None
        self.pid = 0

    def launch(self) -> None:
        subprocess.run(command(str(self.node_dir), self.socket_path, self.idle_s), check=True, env={}, timeout=WAIT_S)

    def connect(self) -> "RunnerClient":
        """Connect, starting a runner if need be, and take its state."""
        if not self._try_connect():
            self.launch()
            until(self._try_connect, "the runner's socket")
        self.send({"do": "hello"})
        self.state = self.take("state")
        self.pid = self.state["pid"]
        return self

    def _try_connect(self) -> bool:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self.socket_path)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return False
        connection.settimeout(0.1)
        self._socket, self._decoder, self.messages = connection, Decoder(), []
        return True

    def disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, *messages: Message) -> None:
        assert self._socket is not None
        self._socket.sendall(encode(list(messages)))

    def start(self, key: str, *argv: str, **options: Any) -> None:
        self.keys.add(key)
        order = {"do": "start", "key": key, "path": argv[0], "argv": list(argv), "env": {"PATH": "/usr/bin:/bin"}}
        self.send({**order, "cwd": "/", "grace_s": 5.0, **options})

    def python(self, key: str, code: str, **options: Any) -> None:
        self.start(key, sys.executable, "-S", "-E", "-c", code, **options)

    def take(self, event: str, key: str = "", wait_s: float = WAIT_S) -> Message:
        """The next message of that kind about `key`, taken out of what has arrived."""
        end = time.monotonic() + wait_s
        while True:
            for message in self.messages:
                if message["event"] == event and key in ("", message.get("key")):
                    self.messages.remove(message)
                    return message
            assert time.monotonic() < end, f"waited {wait_s} s for {event} {key}; have {self.messages}"
            self._receive()

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            return
        assert data, "the runner closed the connection"
        self.messages += self._decoder.feed(data)

    def run(self, key: str, *argv: str, **options: Any) -> Message:
        """Start it, wait for its end, and give that."""
        self.start(key, *argv, **options)
        return self.take("exited", key)

    def forget(self, *keys: str) -> None:
        self.send({"do": "forget", "keys": list(keys)})

    def tidy(self) -> None:
        """Leave the runner as it was at the start: nothing runs, nothing waits to be acknowledged."""
        self.disconnect()
        self.connect()
        for found in self.state["running"]:
            self.send({"do": "stop", "key": found["key"], "word": "CANCELLED", "grace_s": 0.0})
            self.take("exited", found["key"])
        self.forget(*self.keys)
        self.keys.clear()
        self.disconnect()
        assert not self.connect().state["ended"]

    def kill_runner(self) -> None:
        """As the kernel would: no handler runs, the attempts stay."""
        self.disconnect()
        os.kill(self.pid, signal.SIGKILL)
        until(lambda: not alive(self.pid) and not self._answers(), "the death of all its threads")

    def _answers(self) -> bool:
        found = self._try_connect()
        self.disconnect()
        return found

    def close(self) -> None:
        """End the runner and everything that bears the mark of an attempt of ours."""
        self.disconnect()
        for pid in [self.pid, *self.marks.find(self.keys)]:
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.marks.find(self.keys), "the attempts' death")
        for path in cgroups_of(self.node_dir):
            path.rmdir()
