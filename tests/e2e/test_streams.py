"""A stream is resumed across the death of the head: nothing missed, nothing twice."""

import contextlib
import http.client
import json
import os
import signal
import threading
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Shell, until

pytestmark = pytest.mark.e2e


class Following(threading.Thread):
    """What a browser's EventSource does: read, and come back with the last id."""

    def __init__(self, shell: Shell) -> None:
        super().__init__(daemon=True)
        self.shell = shell
        self.key = (shell.data_dir / "admin.key").read_text().strip()
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.last = ""
        self.connections = 0
        self.wanted = True

    def run(self) -> None:
        while self.wanted:
            connection = http.client.HTTPConnection("127.0.0.1", self.shell.port, timeout=30)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                self._read_one(connection)

    def _read_one(self, connection: http.client.HTTPConnection) -> None:
        headers = {"X-API-Key": self.key} | ({"Last-Event-ID": self.last} if self.last else {})
        connection.request("GET", "/v1/scheduler/status/stream", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            return
        self.connections += 1
        number = ""
        while self.wanted and (line := answer.readline()):
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                number = value
            elif name == "data" and number:
                self.events.append((int(number), json.loads(value)))
                self.last, number = number, ""  # an event that broke off has not been seen

    def ended(self) -> set[str]:
        return {event["task"]["id"] for _, event in list(self.events) if event["type"] == "task_complete"}


def test_a_stream_goes_on_after_the_death_of_the_head(shell: Shell) -> None:
    shell.start()
    following = Following(shell)
    following.start()
    until("the stream has begun", lambda: following.last)
    before = [_submit(shell) for _ in range(3)]
    until("the first tasks are told of", lambda: following.ended() >= set(before))
    (head,) = _heads(shell)
    os.kill(head, signal.SIGKILL)
    until("another head listens", lambda: _heads(shell) - {head})  # until then a command is told that nothing does
    after = [_submit(shell) for _ in range(3)]
    until("the others are told of", lambda: following.ended() >= set(after))
    following.wanted = False
    _submit(shell)  # wakes the reader, which looks whether it is still wanted
    following.join(30)
    assert following.connections >= 2
    numbers = [number for number, event in following.events if event["type"] != "snapshot"]
    assert numbers == sorted(set(numbers))
    assert not [event for _, event in following.events if event["type"] == "resync"]
    told = [(event["task"]["id"], event["action"]) for _, event in following.events if "action" in event]
    for task_id in before + after:
        actions = [action for told_of, action in told if told_of == task_id]
        assert actions == ["task.submit", "task.start", "task.completed"], task_id


def _submit(shell: Shell) -> str:
    return shell.fetchmld("submit", "-q", "--name", "short", "--", "true").strip()


def _heads(shell: Shell) -> set[int]:
    """The processes that serve the port."""
    return {
        found.pid
        for found in psutil.net_connections("tcp")
        if found.pid and found.status == psutil.CONN_LISTEN and found.laddr[1:] == (shell.port,)
    }
