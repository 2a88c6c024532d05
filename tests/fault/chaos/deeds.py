"""What clients do: every operation of the contract, each with a body that suits, and some that must be refused."""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fault.chaos import socket_line
from tests.fault.chaos.line import Line, Said

TASK: Final = "/v1/tasks/{taskId}"
JOB: Final = "/v1/scheduler/jobs/{jobId}"
PLUGIN: Final = "/v1/plugins/{pluginName}"
RESERVATIONS: Final = "/v1/scheduler/reservations"
SERVICES: Final = "/v1/jupyter/services"
WORKER: Final = "/v1/scheduler/workers/{workerId}"
UNDRAIN: Final = f"POST {WORKER}/undrain"  # of our own making: without it a drained worker stays empty
RELEASE: Final = f"DELETE {RESERVATIONS}/{{reservationId}}"  # likewise
STRANGE: Final = "aaaaaaaaaaaa"  # no task's id
USERS: Final = ("user", "operator", "admin")
EVERYBODY: Final = (*USERS, "auditor")


@dataclass(slots=True)
class World:
    """What all clients of a run share. Only the job's folder and the plugin's name come from outside."""

    address: tuple[str, int]
    jobs: Path  # where jobs write
    nodes: int  # that there are
    gpus: int  # of each
    plugin: str
    tasks: dict[str, list[str]] = field(default_factory=dict)  # every client's acknowledged tasks

    def others(self, client: str) -> list[str]:
        return [task for name, tasks in self.tasks.items() if name[:2] != client[:2] for task in tasks]


@dataclass(slots=True)
class Client:
    name: str
    role: str
    line: Line
    dice: random.Random
    world: World
    pause: Callable[[], None]  # before something is asked again
    reservations: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    made: int = 0

    @property
    def tasks(self) -> list[str]:
        return self.world.tasks.setdefault(self.name, [])

    def a_task(self) -> str:
        """One of its own, the newest more often."""
        if not self.tasks:
            create_task(self)
        return self.dice.choice(self.tasks[-8:] if self.dice.random() < 0.8 else self.tasks) if self.tasks else STRANGE

    def insist(self, operation: str, names: dict[str, str] | None = None, body: Any = None, key: str = "") -> Said:
        """Ask until somebody answers, as a client does that does not want to be left in doubt; or do not, now and then."""
        said = self.line.ask(operation, names, body, key)
        for _ in range(60 if self.dice.random() < 0.9 else 0):
            if said.status not in (0, 503) and not (said.status == 409 and "under way" in said.answer["error"]):
                break
            self.pause()
            said = self.line.ask(operation, names, body, key)
        return said

    def make(self, operation: str, body: Any) -> Said:
        """With a key it may be asked again; without one once is all."""
        self.made += 1
        if self.dice.random() < 0.3:
            return self.line.ask(operation, None, body)
        key = f"{self.name}-{self.made}"
        said = self.insist(operation, None, body, key)
        if self.dice.random() < 0.1 and said.status == 201:  # as if the answer had been lost
            self.insist(operation, None, body, key)
        if self.dice.random() < 0.05 and isinstance(body, dict) and said.status == 201:
            self.line.ask(operation, None, {**body, "name" if "name" in body else "job_name": "other"}, key)
        return said


# -- tasks


def create_task(client: Client) -> None:
    body = _a_body(client)
    said = client.make("POST /v1/tasks", body)
    if said.status == 201:
        client.tasks.append(said.answer["id"])


def _a_body(client: Client) -> Any:
    dice = client.dice
    if dice.random() < 0.05:
        return dice.choice(["{", {"priority": 3}, {"job_name": "x", "priority": 11}, {"job_name": "no blanks"}])
    lasts_s = dice.choice([0.0, 0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 6.0])
    code = dice.choice([0, 0, 0, 0, 0, 0, 0, 3])
    deaf = " deaf" if dice.random() < 0.05 else ""
    script = Path(__file__).with_name("job.py")
    body: dict[str, Any] = {
        "job_name": f"{client.name}-{client.made}",
        "entrypoint": f"{sys.executable} -S -E",
        "args": f"{script} {client.world.jobs} {lasts_s} {code}{deaf}",
        "cpu": dice.choice([0, 1, 1, 1, 2]),
        "priority": dice.randint(1, 10),
    }
    if dice.random() < 0.2 and client.world.gpus:
        body["gpu"] = dice.randint(1, client.world.gpus)
        if client.reservations and dice.random() < 0.4:
            body |= {"reservation_id": client.reservations[-1], "gpu": 1}
    if dice.random() < 0.1:
        body["max_retries"] = 1
    if dice.random() < 0.1 and client.tasks:
        body["depends_on"] = [{"task_id": client.a_task(), "condition": "any"}]
    if dice.random() < 0.1 and client.world.nodes > 1:
        body |= {"node_count": 2, "cpu": 1}
    if dice.random() < 0.05:
        body["plugin_configs"] = {client.world.plugin: {}}
    return body


def list_tasks(client: Client) -> None:
    dice = client.dice
    limit, offset = str(dice.choice([5, 20, 100])), str(dice.choice([0, 0, 0, 0, 7, 30]))
    if dice.random() < 0.4:
        status = dice.choice(["queued", "running", "completed", "failed"])
        client.line.ask("GET /v1/tasks", limit=limit, offset=offset, status=status)
    else:
        client.line.ask("GET /v1/tasks", limit=limit, offset=offset)


def read_task(client: Client) -> None:
    others = client.world.others(client.name)
    if client.role == "user" and others and client.dice.random() < 0.1:
        client.line.ask(f"GET {TASK}", {"taskId": client.dice.choice(others)}, stranger="yes")
    else:
        client.line.ask(f"GET {TASK}", {"taskId": client.a_task()})


def delete_task(client: Client) -> None:
    others = client.world.others(client.name)
    if client.role == "user" and others and client.dice.random() < 0.2:
        client.line.ask(f"DELETE {TASK}", {"taskId": client.dice.choice(others)})
        return
    task = client.a_task()
    client.insist(f"DELETE {TASK}", {"taskId": task})
    client.line.ask(f"GET {TASK}", {"taskId": task})


def set_priority(client: Client) -> None:
    others = client.world.others(client.name)
    task = client.a_task() if client.role == "user" or not others else client.dice.choice(others[-20:])
    if client.role == "user" and others and client.dice.random() < 0.1:
        task = client.dice.choice(others)
    client.insist(f"PATCH {JOB}/priority", {"jobId": task}, {"priority": client.dice.randint(1, 10)})
    if task in client.tasks or client.role != "user":
        client.line.ask(f"GET {TASK}", {"taskId": task})


def stream_job(client: Client) -> None:
    """To its end, coming back where the line broke."""
    task, last = client.a_task(), ""
    for _ in range(3):
        said = client.line.follow(f"GET {JOB}/stream", {"jobId": task}, last)
        last = next((event["id"] for event in reversed(said.events) if event["id"]), last)
        if said.status not in (0, 200) or any(event["event"] == "task_complete" for event in said.events):
            return
        client.pause()


# -- the scheduler


def ask(operation: str) -> Callable[[Client], None]:
    def plain(client: Client) -> None:
        client.line.ask(operation)

    return plain


def stream_status(client: Client) -> None:
    client.line.follow("GET /v1/scheduler/status/stream", events_max=client.dice.randint(2, 15))


def listen(client: Client) -> None:
    said = client.line.begin("GET /ws")
    try:
        said.status, messages = socket_line.listen(client.world.address, client.line.headers(said))
        said.answer = {"messages": len(messages)}
    except OSError:
        pass
    client.line.note(said)


def workers(client: Client) -> list[str]:
    said = client.line.ask("GET /v1/scheduler/workers")
    return [worker["id"] for worker in said.answer] if said.status == 200 else []


def list_workers(client: Client) -> None:
    workers(client)


def read_worker(client: Client) -> None:
    client.line.ask(f"GET {WORKER}", {"workerId": client.dice.choice(workers(client) or ["none"])})


def drain_worker(client: Client) -> None:
    """For a moment; who may not, tries."""
    worker = {"workerId": client.dice.choice(workers(client) or ["none"])}
    said = client.insist(f"DELETE {WORKER}", worker)
    if said.status != 403:
        client.line.ask(f"GET {WORKER}", worker)
        client.pause()
        client.insist(UNDRAIN, worker)
        client.line.ask(f"GET {WORKER}", worker)


def create_reservation(client: Client) -> None:
    count = client.dice.choice([1, 1, 1, 1000])
    said = client.make(f"POST {RESERVATIONS}", {"gpu_count": count, "expires_minutes": 1})
    if said.status == 201:
        client.reservations.append(said.answer["id"])
        client.line.ask(f"GET {RESERVATIONS}")
        if client.dice.random() < 0.5:
            create_task(client)
        client.insist(RELEASE, {"reservationId": said.answer["id"]})


# -- the rest


def create_experiment(client: Client) -> None:
    client.make("POST /v1/experiments", {"name": f"{client.name} {client.made}", "description": "of a chaos"})
    client.line.ask("GET /v1/experiments")


def start_service(client: Client) -> None:
    body = {"name": f"{client.name}-{client.made}", "workspace": f"w{client.made}"}
    said = client.make(f"POST {SERVICES}", body)
    if said.status == 201:
        client.services.append(said.answer["id"])


def stop_service(client: Client) -> None:
    if not client.services:
        start_service(client)
    service = client.services.pop() if client.services else STRANGE
    client.insist(f"DELETE {SERVICES}/{{serviceId}}", {"serviceId": service})


def of_plugin(operation: str) -> Callable[[Client], None]:
    def plain(client: Client) -> None:
        client.line.ask(operation, {"pluginName": client.world.plugin})

    return plain


def put_plugin(client: Client) -> None:
    title = client.dice.choice(["Scores", "Marks", "x" * 100])  # the last is too long
    body = {"enabled": True, "mode": "sidecar", "settings": {"title": title}}
    client.insist(f"PUT {PLUGIN}/config", {"pluginName": client.world.plugin}, body)
    client.line.ask(f"GET {PLUGIN}", {"pluginName": client.world.plugin})


def disable_plugin(client: Client) -> None:
    client.insist(f"DELETE {PLUGIN}/config", {"pluginName": client.world.plugin})
    client.line.ask(f"GET {PLUGIN}/config", {"pluginName": client.world.plugin})


def list_events(client: Client) -> None:
    client.line.ask("GET /v1/audit/events", limit=str(client.dice.choice([5, 50])))


@dataclass(slots=True, frozen=True)
class Deed:
    do: Callable[[Client], None]
    roles: tuple[str, ...]  # who does it, now and then although they may not
    weight: int = 2


DEEDS: Final[dict[str, Deed]] = {
    "GET /health": Deed(ask("GET /health"), EVERYBODY, 1),
    "GET /v1/tasks": Deed(list_tasks, EVERYBODY, 6),
    "POST /v1/tasks": Deed(create_task, USERS, 14),
    f"GET {TASK}": Deed(read_task, USERS, 14),
    f"DELETE {TASK}": Deed(delete_task, USERS, 4),
    "GET /v1/queue": Deed(ask("GET /v1/queue"), EVERYBODY),
    "GET /v1/plugins": Deed(ask("GET /v1/plugins"), EVERYBODY, 1),
    f"GET {PLUGIN}": Deed(of_plugin(f"GET {PLUGIN}"), EVERYBODY, 1),
    f"GET {PLUGIN}/config": Deed(of_plugin(f"GET {PLUGIN}/config"), EVERYBODY, 1),
    f"PUT {PLUGIN}/config": Deed(put_plugin, ("admin", "user"), 1),
    f"DELETE {PLUGIN}/config": Deed(disable_plugin, ("admin", "user"), 1),
    f"GET {PLUGIN}/health": Deed(of_plugin(f"GET {PLUGIN}/health"), EVERYBODY, 1),
    "GET /v1/scheduler/status": Deed(ask("GET /v1/scheduler/status"), EVERYBODY),
    "GET /v1/scheduler/status/stream": Deed(stream_status, EVERYBODY, 1),
    "GET /v1/scheduler/workers": Deed(list_workers, EVERYBODY, 1),
    f"GET {WORKER}": Deed(read_worker, EVERYBODY, 1),
    f"DELETE {WORKER}": Deed(drain_worker, ("operator", "user"), 1),
    f"GET {RESERVATIONS}": Deed(ask(f"GET {RESERVATIONS}"), EVERYBODY, 1),
    f"POST {RESERVATIONS}": Deed(create_reservation, USERS, 1),
    f"PATCH {JOB}/priority": Deed(set_priority, USERS, 5),
    f"GET {JOB}/stream": Deed(stream_job, USERS, 2),
    "GET /v1/audit/events": Deed(list_events, ("auditor", "admin", "user")),
    "POST /v1/audit/verify": Deed(ask("POST /v1/audit/verify"), ("auditor", "admin"), 1),
    "GET /v1/audit/chain-root": Deed(ask("GET /v1/audit/chain-root"), ("auditor", "admin")),
    "GET /v1/experiments": Deed(ask("GET /v1/experiments"), EVERYBODY, 1),
    "POST /v1/experiments": Deed(create_experiment, USERS, 1),
    f"GET {SERVICES}": Deed(ask(f"GET {SERVICES}"), USERS, 1),
    f"POST {SERVICES}": Deed(start_service, ("user",), 1),
    f"DELETE {SERVICES}/{{serviceId}}": Deed(stop_service, ("user",), 1),
    "GET /ws": Deed(listen, EVERYBODY, 1),
}
