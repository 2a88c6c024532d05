"""A stream is resumed across the death of the head: nothing missed, nothing twice."""

import contextlib
import http.client
import json
import os
import random
import signal
import sys
import threading
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Shell, until

pytestmark = pytest.mark.e2e


class Following(threading.Thread):
    """What a browser's EventSource does: read, and come back with the last id. Hangs up now and then if `restless`."""

    def __init__(self, shell: Shell, restless: random.Random | None = None) -> None:
        super().__init__(daemon=True)
        self.shell = shell
        self.key = (shell.data_dir / "admin.key").read_text().strip()
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.last = ""
        self.connections = 0
        self.wanted = True
        self.restless = restless

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
        until_length = len(self.events) + self.restless.randint(1, 20) if self.restless else sys.maxsize
        while self.wanted and len(self.events) < until_length and (line := answer.readline()):
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


RANKS = {"queued": 0, "preparing": 1, "running": 2, "collecting": 3, "completed": 4}


def test_who_comes_and_goes_is_told_every_event_once_and_of_no_task_what_it_was_before(shell: Shell) -> None:
    shell.start()
    following = [Following(shell, random.Random(seed)) for seed in range(4)]
    for one in following:
        one.start()
    until("the streams have begun", lambda: all(one.last for one in following))
    begin = max(int(one.last) for one in following)
    names = _submit_many(shell, 150)
    until("some tasks have ended", lambda: len(following[0].ended()) > 20)
    for head in _heads(shell):
        os.kill(head, signal.SIGKILL)
    until("all are told of", lambda: all(one.ended() >= names for one in following))
    for one in following:
        one.wanted = False
    names.add(_submit(shell))
    for one in following:
        one.join(30)
    recorded = [event for event in _record(shell) if event[0] > begin]
    for one in following:
        assert one.connections > 10
        numbered = [(number, event) for number, event in one.events if "action" in event and number > begin]
        told = [(number, event["action"], event["task"]["id"]) for number, event in numbered]
        assert told == recorded[: len(told)]
        assert len(told) >= 3 * 150
        ranks: dict[str, int] = {}
        for number, event in one.events:
            if "task" in event:
                name, rank = event["task"]["id"], RANKS[event["task"]["status"]]
                assert ranks.get(name, 0) <= rank, (number, event["task"])
                ranks[name] = rank


def _submit_many(shell: Shell, count: int) -> set[str]:
    bodies = [{"job_name": "many", "entrypoint": "true", "cpu": 0} for _ in range(count)]
    return {one["task"]["id"] for one in _call(shell, "POST", "/v1/tasks/batch", bodies)}


def _record(shell: Shell) -> list[tuple[int, str, str]]:
    """Number, action and task of all events about tasks, oldest first."""
    found: list[tuple[int, str, str]] = []
    while True:
        page = _call(shell, "GET", f"/v1/audit/events?limit=500&offset={len(found)}")
        found += [(one["sequence_num"], one["action"], one["resource"]) for one in page["events"]]
        if len(found) >= page["total"]:
            return sorted(one for one in set(found) if one[1].startswith("task."))


def _call(shell: Shell, method: str, path: str, body: list[dict[str, Any]] | None = None) -> Any:
    key = (shell.data_dir / "admin.key").read_text().strip()
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", shell.port, timeout=30)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status < 300, said
        return json.loads(said)


def _submit(shell: Shell) -> str:
    return shell.fetchmld("submit", "-q", "--name", "short", "--", "true").strip()


def _heads(shell: Shell) -> set[int]:
    """The processes that serve the port."""
    return {
        found.pid
        for found in psutil.net_connections("tcp")
        if found.pid and found.status == psutil.CONN_LISTEN and found.laddr[1:] == (shell.port,)
    }
