"""A ledger to measure on: many tasks that were submitted, ran and ended, and some that still wait."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fetchmld.core.messages import Fact
from fetchmld.core.model import Capacity
from fetchmld.core.state import capacity_data
from fetchmld.store.ledger import Ledger

WORKER: Final = "wbench"
_TOO_LARGE: Final = 4_096  # cores: a daemon on this record starts none of those that wait


def write_record(
    ledger_dir: Path, events: int, live: int, segment_bytes: int = 64 * 2**20, batch_facts: int = 2_000
) -> None:
    """`events` facts in `ledger_dir`, after which `live` tasks wait. Not synced: only its bytes matter."""
    with Ledger.open(ledger_dir, segment_bytes=segment_bytes, sync=lambda _file: None) as ledger:
        batch: list[Fact] = []
        for fact in facts(events, live):
            batch.append(fact)
            if len(batch) == batch_facts:
                ledger.append(batch)
                batch = []
        ledger.append(batch)


def facts(events: int, live: int) -> Iterator[Fact]:
    """One worker, then the waiting tasks spread evenly among others that run from submission to end."""
    at_us = time.time_ns() // 1000 - events * 1000
    capacity = capacity_data(Capacity(64, 256, 64, 2))
    join = {"capacity": capacity, "boot_id": "b", "hostname": "bench", "attempts": []}
    yield Fact("scheduler_drain", "worker.join", WORKER, metadata=join, at_us=at_us, clock_us=0)
    whole, rest = divmod(events - 1 - live, 3)
    made, waiting = 1, 0
    for number in range(whole):
        while waiting * whole < live * number:
            yield _submit(f"w{waiting:09d}", _TOO_LARGE, at_us + made * 1000, made)
            waiting, made = waiting + 1, made + 1
        for fact in _life(f"t{number:09d}", at_us + made * 1000, made):
            yield fact
            made += 1
    for _ in range(live - waiting + rest):
        yield _submit(f"w{waiting:09d}", _TOO_LARGE, at_us + made * 1000, made)
        waiting, made = waiting + 1, made + 1


def submission(task_id: str, cpu: int, at_us: int, clock_us: int) -> Fact:
    """One `task.submit` of the usual size."""
    return _submit(task_id, cpu, at_us, clock_us)


def _submit(task_id: str, cpu: int, at_us: int, clock_us: int) -> Fact:
    request = {
        "job_name": f"train-{task_id}",
        "cpu": cpu,
        "entrypoint": "/srv/models/train.py",
        "args": "--epochs 12 --lr 0.0003 --batch-size 64",
        "metadata": {"team": "vision", "ticket": "ML-1234"},
    }
    metadata = {"request": request, "priority": 5, "trace_id": f"{clock_us:032x}"}
    return Fact("job_queued", "task.submit", task_id, "ada", True, "127.0.0.1", "", metadata, at_us, clock_us)


def _life(task_id: str, at_us: int, clock_us: int) -> Iterator[Fact]:
    yield _submit(task_id, 1, at_us, clock_us)
    assignments = [{"rank": 0, "worker_id": WORKER, "gpus": []}]
    start = {"attempt": 1, "assignments": assignments, "aged": 5.016}
    yield Fact("job_started", "task.start", task_id, "ada", metadata=start, at_us=at_us, clock_us=clock_us)
    usage = {"user_s": 12.31, "system_s": 0.84, "rss_max_bytes": 734003200}
    log = {"worker_id": WORKER, "file": "packed/000012", "offset": 48213, "length": 4121}
    end = {"attempt": 1, "report": {"exit_code": 0, "ended_at": at_us / 1e6, "usage": usage, "log": log}}
    yield Fact("job_completed", "task.completed", task_id, "ada", metadata=end, at_us=at_us, clock_us=clock_us)
