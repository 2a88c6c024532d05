"""A ledger as a month of use leaves it: tasks' lives, logins, files, experiments and a few rare events, seeded.

Few users do most of it, most tasks complete, some are requeued, fail or are cancelled, and the newest still wait or run.
Owns the mixture; knows nothing of the index.
"""

import heapq
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fetchmld.core.messages import Fact
from fetchmld.store.ledger import Ledger

START_US: Final = 1_760_000_000_000_000
MONTH_US: Final = 30 * 86_400_000_000
USERS: Final = 500
WORKERS: Final = 64
BATCH_FACTS: Final = 2_000
SEGMENT_BYTES: Final = 64 * 2**20
RARE_USER: Final = "user-rare"
RESERVATIONS: Final = 200
_PLUGINS: Final[tuple[dict[str, Any], ...]] = ({}, {}, {}, {}, {}, {"mlflow": {"mode": "sidecar"}}, {"tensorboard": {}})
# Beside the tasks: how often, per task submitted, something else happens.
_OTHERS: Final = (("auth_attempt", 0.35), ("file_access", 0.15), ("scheduler_drain", 0.002), ("audit_verified", 0.0005))


def write(directory: Path, events: int, seed: int) -> None:
    """A ledger of `events` events in `directory`, which must not hold one yet. Each batch is one frame."""
    facts = islice(Month(events, seed).facts(), events)
    ledger = Ledger.open(directory, segment_bytes=SEGMENT_BYTES)
    while batch := list(islice(facts, BATCH_FACTS)):
        ledger.append(batch)
    ledger.close()


class Month:
    """The facts in the order in which they happen."""

    def __init__(self, events: int, seed: int) -> None:
        self._dice = random.Random(seed)
        self._gap_us = MONTH_US / (events / 3.5)
        self._weights = [1 / (rank + 1) for rank in range(USERS)]
        self._users = [f"user-{rank:03d}" for rank in range(USERS)]
        self._due: list[tuple[int, int, Fact]] = []
        self._number = 0

    def facts(self) -> Iterator[Fact]:
        """Without end."""
        at_us = START_US
        while True:
            users = self._dice.choices(self._users, self._weights, k=1_000)
            for user in users:
                at_us += max(int(self._dice.expovariate(1 / self._gap_us)), 1)
                while self._due and self._due[0][0] <= at_us:
                    yield heapq.heappop(self._due)[2]
                yield self._task(RARE_USER if self._number % 25_000 == 12_345 else user, at_us)
                yield from self._others(user, at_us)

    def _task(self, user: str, at_us: int) -> Fact:
        dice, number = self._dice, self._number
        self._number += 1
        task_id = f"{dice.getrandbits(60):012x}"[-12:]
        request = _request(dice, number)
        self._live(task_id, user, at_us)
        metadata = {"request": request, "priority": request["priority"], "trace_id": f"{dice.getrandbits(128):032x}"}
        return _fact("job_queued", "task.submit", task_id, user, at_us, metadata)

    def _live(self, task_id: str, user: str, at_us: int) -> None:
        """What becomes of it: attempts, and an end, except that one in a thousand waits for ever."""
        dice, attempt = self._dice, 1
        if dice.random() < 0.001:
            return
        at_us += int(dice.expovariate(1 / 60e6))
        while dice.random() < 0.03:
            self._later(_start(dice, task_id, user, at_us, attempt))
            at_us += int(dice.expovariate(1 / 600e6))
            metadata = {"attempt": attempt, "cause": "WORKER_LOST", "hold_s": 10.0, "infrastructure": True}
            self._later(_fact("job_queued", "task.requeue", task_id, user, at_us, metadata))
            attempt += 1
            at_us += 10_000_000
        self._later(_start(dice, task_id, user, at_us, attempt))
        at_us += int(dice.expovariate(1 / 1800e6))
        self._later(_end(dice, task_id, user, at_us, attempt))
        if dice.random() < 0.002:
            self._later(_fact("job_completed", "task.deleted", task_id, user, at_us + 60_000_000, {}))

    def _others(self, user: str, at_us: int) -> Iterator[Fact]:
        dice = self._dice
        for kind, share in _OTHERS:
            if dice.random() < share:
                metadata = {"trace_id": f"{dice.getrandbits(128):032x}"}
                action = {"auth_attempt": "auth.success", "file_access": "dataset.read"}.get(kind, "audit.verify")
                fact = _fact(kind, action, f"key:{user}", user, at_us, metadata)
                if kind == "auth_attempt" and dice.random() < 0.1:
                    fact.action, fact.success, fact.error, fact.user_id = "auth.failure", False, "not known", ""
                yield fact
        if self._number % 5_000 == 1:
            yield _fact("file_access", "experiment.create", f"exp{self._number}", user, at_us, {"name": "a study"})
        if self._number % 20_000 == 1:
            yield _fact("plugin_configured", "plugin.update", "mlflow", "admin", at_us, {"enabled": True})

    def _later(self, fact: Fact) -> None:
        heapq.heappush(self._due, (fact.at_us, self._dice.getrandbits(62), fact))


def _request(dice: random.Random, number: int) -> dict[str, Any]:
    request: dict[str, Any] = {
        "job_name": f"train-{number % 977}",
        "entrypoint": f"python train.py --seed {number} --epochs {dice.randrange(1, 90)} --data data/imagenet",
        "priority": dice.choice((1, 3, 5, 5, 5, 5, 5, 7, 9, 10)),
        "cpu": dice.choice((1, 2, 4, 8)),
        "memory_gb": dice.choice((2, 4, 16)),
        "gpu": dice.choice((0, 0, 1, 2)),
        "max_retries": 2,
        "env": {"OMP_NUM_THREADS": "4", "RUN": f"{dice.getrandbits(40):010x}"},
    }
    if plugins := dice.choice(_PLUGINS):
        request["plugin_configs"] = plugins
    if dice.random() < 0.03:
        request["node_count"] = dice.choice((2, 2, 4, 16))
    if dice.random() < 0.01:
        request["reservation_id"] = f"res-{dice.randrange(RESERVATIONS):03d}"
    return request


def _start(dice: random.Random, task_id: str, user: str, at_us: int, attempt: int) -> Fact:
    worker = f"node-{dice.randrange(WORKERS):03d}"
    assignments = [{"rank": 0, "worker_id": worker, "gpus": [dice.randrange(8)]}]
    metadata = {"attempt": attempt, "assignments": assignments, "aged": 5.0 + dice.randrange(100) / 100}
    return _fact("job_started", "task.start", task_id, user, at_us, metadata)


def _end(dice: random.Random, task_id: str, user: str, at_us: int, attempt: int) -> Fact:
    how = dice.choices(("completed", "failed", "cancelled"), (80, 15, 5))[0]
    usage = {"user_s": dice.randrange(10**6) / 100, "system_s": 1.25, "rss_max_bytes": dice.randrange(2**33)}
    report = {"exit_code": int(how != "completed"), "usage": usage, "ended_at": at_us / 1e6}
    fact = _fact("job_completed", f"task.{how}", task_id, user, at_us, {"attempt": attempt, "report": report})
    if how != "completed":
        fact.success, fact.error = False, "EXIT_NONZERO: 1" if how == "failed" else f"CANCELLED: by {user}"
    return fact


def _fact(kind: Any, action: str, resource: str, user: str, at_us: int, metadata: dict[str, Any]) -> Fact:
    address = "10.0.3.7" if kind == "auth_attempt" else ""
    clock_us = at_us - START_US
    return Fact(kind, action, resource, user, ip_address=address, metadata=metadata, at_us=at_us, clock_us=clock_us)
