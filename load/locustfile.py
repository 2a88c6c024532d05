"""People at work, for Locust: they submit, look, list, follow and cancel, in the shares in which people do.

Open loop: each user begins something at random moments, on the average `RATE` times a second, whether or not what it began
before has been answered. Locust counts from each request's own start, not from when it was due. `load/users.py` runs it,
brings a daemon along and looks afterwards at its memory and whether every accepted task ended; or by hand:

    FETCHML_API_KEY=... locust -f load/locustfile.py --headless -u 50 -r 10 -t 10m --host http://127.0.0.1:9101
"""

import os
import random
import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, constant, task

RATE: Final = float(os.environ.get("FETCHML_LOAD_RATE", "1"))  # of beginnings, per user and second
UNDER_WAY_MAX: Final = 32  # of one user; one who has more counts a failure
KNOWN_MAX: Final = 200
FOLLOW_MAX_S: Final = 20.0
JOBS: Final = ((60, "/bin/true", ""), (25, "/bin/sleep", "0.2"), (10, "/bin/sleep", "2"), (5, "/bin/false", ""))


class Person(FastHttpUser):  # type: ignore[misc]  # Locust has no types
    """One person with their own tasks, and what they do, in per cent."""

    wait_time = constant(0)
    connection_timeout = 10.0
    network_timeout = 60.0
    concurrency = UNDER_WAY_MAX
    default_headers = {"X-API-Key": os.environ.get("FETCHML_API_KEY", "")}

    def on_start(self) -> None:
        self.mine: list[str] = []
        self.pool = Pool(UNDER_WAY_MAX)
        self.does: list[tuple[int, Callable[[], Any]]] = [
            (30, self.submit), (25, self.look), (20, self.list_), (8, self.follow), (5, self.cancel),
            (5, self.queue), (4, self.explain), (3, self.read_log),
        ]  # fmt: skip
        self.due = time.monotonic()

    def on_stop(self) -> None:
        self.pool.join(timeout=FOLLOW_MAX_S)

    @task  # type: ignore[untyped-decorator]
    def arrive(self) -> None:
        """Begin the next thing when it is due."""
        self.due += random.expovariate(RATE)
        gevent.sleep(max(0.0, self.due - time.monotonic()))
        (what,) = random.choices([one for _, one in self.does], [share for share, _ in self.does])
        if self.pool.free_count() > 0:
            self.pool.spawn(what)
        else:
            self.environment.events.request.fire(
                request_type="ALL", name="begun in time", response_time=0, response_length=0, context={},
                exception=RuntimeError(f"{UNDER_WAY_MAX} things of one user are under way"),
            )  # fmt: skip

    def submit(self) -> None:
        (job,) = random.choices(JOBS, [share for share, _, _ in JOBS])
        body = {"job_name": "load", "entrypoint": job[1], "args": job[2], "cpu": 0, "priority": random.randint(1, 10)}
        with self.client.post("/v1/tasks", json=body, name="POST /v1/tasks", catch_response=True) as answer:
            if answer.status_code == 201:
                self.mine = [*self.mine[-KNOWN_MAX:], answer.json()["id"]]

    def look(self) -> None:
        self._ask("GET", "/v1/tasks/{id}")

    def list_(self) -> None:
        query = random.choice(("limit=50", "limit=20&status=running", "limit=50&offset=50", "limit=20&status=failed"))
        self.client.get(f"/v1/tasks?{query}", name="GET /v1/tasks")

    def follow(self) -> None:
        """To the task's end, or for a while."""
        if not self.mine:
            return
        url, name = f"/v1/scheduler/jobs/{self.mine[-1]}/stream", "GET .../stream"
        with self.client.get(url, name=name, stream=True, catch_response=True) as answer:
            if answer.status_code == 200:
                with gevent.Timeout(FOLLOW_MAX_S, False):
                    while (line := answer.stream.readline()) and line.strip() != b"event: task_complete":
                        pass
            if answer.status_code in (200, 204, 404):  # it may have been taken off the list meanwhile
                answer.success()

    def cancel(self) -> None:
        self._ask("DELETE", "/v1/tasks/{id}", (204, 404, 409))

    def queue(self) -> None:
        self.client.get("/v1/queue")

    def explain(self) -> None:
        self._ask("GET", "/v1/tasks/{id}/explain")

    def read_log(self) -> None:
        self._ask("GET", "/v1/tasks/{id}/logs")

    def _ask(self, method: str, path: str, good: tuple[int, ...] = (200, 404)) -> None:
        """About one of the tasks; it may have been taken off the list meanwhile."""
        if self.mine:
            url = path.replace("{id}", random.choice(self.mine))
            with self.client.request(method, url, name=f"{method} {path}", catch_response=True) as answer:
                if answer.status_code in good:
                    answer.success()
